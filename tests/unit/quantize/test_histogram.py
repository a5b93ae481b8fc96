"""The growing histogram: streaming gives what the whole gives, whatever the order and the sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.quantize.histogram import BINS, Histogram

finite = st.integers(-(2**30), 2**30).map(float) | st.floats(-8, 8, allow_subnormal=False, width=32)
batches = st.lists(st.lists(finite, min_size=1, max_size=20), min_size=1, max_size=6)


def filled(*parts: object) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(np.asarray(part, dtype=np.float32))
    return histogram


def state(histogram: Histogram) -> tuple[object, ...]:
    return histogram.bound, histogram.zeros, histogram.low, histogram.high, histogram.counts.tolist()


class TestStreaming:
    @settings(max_examples=60, deadline=None)
    @given(batches)
    def test_is_the_whole(self, parts):
        assert state(filled(*parts)) == state(filled(np.concatenate(parts)))

    @settings(max_examples=60, deadline=None)
    @given(batches)
    def test_does_not_hang_on_the_order(self, parts):
        assert state(filled(*parts)) == state(filled(*reversed(parts)))

    @settings(max_examples=60, deadline=None)
    @given(batches)
    def test_every_value_is_counted_once_and_in_its_bin(self, parts):
        histogram = filled(*parts)
        values = np.concatenate(parts).astype(np.float32)
        assert histogram.total == len(values)
        if histogram.bound:
            edges = np.linspace(-histogram.bound, histogram.bound, BINS + 1)
            truth, _ = np.histogram(values[values != 0].astype(np.float64), edges)
            assert histogram.counts.tolist() == truth.tolist()

    def test_many_doublings_at_once(self):
        histogram = filled([1e-20, -1e-20], [3e10])
        assert histogram.counts.sum() == 3
        assert histogram.counts[BINS // 2] == 1  # the smallest positive bin
        assert histogram.counts[BINS // 2 - 1] == 1


class TestExtremes:
    def test_zeros_are_apart(self):
        histogram = filled([0.0, 0.0, -0.0, 1.0, -2.0])
        assert (histogram.zeros, int(histogram.counts.sum())) == (3, 2)
        assert (histogram.low, histogram.high) == (-2.0, 1.0)

    def test_nothing_but_zeros(self):
        histogram = filled([0.0, 0.0])
        assert (histogram.total, histogram.bound, histogram.width) == (2, 0.0, 0.0)
        assert len(histogram.magnitudes()) == 0

    def test_a_value_on_the_bound_is_inside(self):
        for value in (1.0, -1.0, 2.0**-40, np.float32(3.4e38), np.float32(1e-44)):
            assert filled([value]).counts.sum() == 1

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_what_is_no_number_is_refused(self, bad):
        with pytest.raises(ValueError, match="finite"):
            filled([1.0, bad])

    def test_extremes_may_be_known_without_the_values(self):
        histogram = filled([1.0])
        histogram.saw(-3.0, 7.0)
        assert (histogram.low, histogram.high, histogram.total) == (-3.0, 7.0, 1)

    def test_sides_reach_to_the_extremes(self):
        histogram = filled([3.0, -1.0])
        assert histogram.bound == 4.0
        assert histogram.side(1).nonzero()[0].tolist() == [3072]
        assert len(histogram.side(1)) == 3073
        assert len(histogram.side(-1)) == 1025
        assert histogram.magnitudes().sum() == 2
