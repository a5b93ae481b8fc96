"""The range estimators, against closed forms, a slow reference, and their invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.quantize.estimators import (
    MovingExtremes,
    divergences,
    entropy,
    estimate,
    least_squares,
    least_squares_magnitude,
    percentile,
)
from hwbench.quantize.histogram import Histogram
from hwbench.records.quantization import CalibrationSettings

ESTIMATORS = ("minmax", "ema", "percentile", "mse", "entropy")


def histogram_of(values: object) -> Histogram:
    histogram = Histogram()
    histogram.add(np.asarray(values, dtype=np.float32))
    return histogram


def range_of(values: object, estimator: str, **settings: object):
    array = np.asarray(values, dtype=np.float32)
    moving = MovingExtremes(momentum=0.9)
    moving.saw(float(array.min()), float(array.max()))
    return estimate(histogram_of(array), moving, CalibrationSettings(estimator=estimator, **settings))


def squared_error(values: np.ndarray, low: float, high: float, steps: int) -> float:
    """What a quantiser with that range really does to the values."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / steps
    zero = np.rint(-low / scale)
    return float(np.mean((values - (np.clip(np.rint(values / scale) + zero, 0, steps) - zero) * scale) ** 2))


class TestMse:
    @pytest.mark.parametrize(
        ("draw", "bits", "clip"),
        [
            ("normal", 8, 3.9240),
            ("normal", 4, 2.5591),
            ("laplace", 8, 9.8968),
            ("laplace", 4, 5.0286),
        ],
    )
    def test_finds_the_optimal_clip_of_known_distributions(self, draw, bits, clip):
        """Banner et al. 2019, section 3: the optima for 2^bits steps, in sigma and in b."""
        values = getattr(np.random.default_rng(0), draw)(size=4_000_000)
        assert least_squares_magnitude(histogram_of(values), 2**bits) == pytest.approx(clip, rel=0.03)

    def test_does_not_clip_a_uniform_tensor(self):
        values = np.random.default_rng(0).uniform(-1, 1, 100_000)
        low, high = least_squares(histogram_of(values))
        assert (low, high) == (pytest.approx(-1, abs=1 / 254), pytest.approx(1, abs=1 / 254))  # half a step
        assert range_of(values, "mse").magnitude == pytest.approx(1, abs=1 / 254)

    @pytest.mark.parametrize("seed", range(4))
    def test_no_other_clip_is_much_better_on_the_real_grid(self, seed):
        """Against brute force with a real quantiser, on skewed data with outliers."""
        generator = np.random.default_rng(seed)
        values = np.concatenate((generator.gamma(2, 1, 20_000) - 1, generator.normal(0, 9, 40)))
        found = range_of(values, "mse")
        mine = squared_error(values, found.low, found.high, 255)
        best = min(
            squared_error(values, low, high, 255)
            for low in np.linspace(values.min(), -0.2, 25)
            for high in np.linspace(2, values.max(), 25)
        )
        assert mine <= best * 1.05
        assert mine < squared_error(values, values.min(), values.max(), 255)

    def test_zeros_do_not_count(self):
        values = np.random.default_rng(0).gamma(2, 1, 50_000)
        spiked = np.concatenate((values, np.zeros(5_000_000)))
        assert range_of(spiked, "mse").high == range_of(values, "mse").high


class TestPercentile:
    def test_of_evenly_spread_values(self):
        values = np.linspace(-100, 100, 200_001)
        low, high, magnitude = percentile(histogram_of(values), 99)
        assert (low, high, magnitude) == (
            pytest.approx(-99, abs=0.1), pytest.approx(99, abs=0.1), pytest.approx(99, abs=0.1)
        )  # fmt: skip

    def test_is_numpys_on_real_looking_data(self):
        values = np.random.default_rng(0).standard_normal(100_000) ** 3
        low, high, magnitude = percentile(histogram_of(values), 99.9)
        width = histogram_of(values).width
        assert low == pytest.approx(np.percentile(values, 0.05), abs=2 * width)
        assert high == pytest.approx(np.percentile(values, 99.95), abs=2 * width)
        assert magnitude == pytest.approx(np.percentile(np.abs(values), 99.9), abs=2 * width)

    def test_zeros_count_as_values(self):
        found = range_of([0.0] * 99_999 + [5.0], "percentile")
        assert found.high == 0.0

    def test_a_hundred_is_everything(self):
        assert range_of([-1.5, 2.25, 0.0], "percentile", percentile=100.0).high == 2.25


def reference_divergence(counts: list[int], clip: int, levels: int) -> float:
    """KL for one clip, written as it is said, bin by bin."""
    p = [float(count) for count in counts[:clip]]
    p[-1] += sum(counts[clip:])
    q = [0.0] * clip
    for level in range(levels):
        members = [
            i for i in range(clip) if math.ceil(level * clip / levels) <= i < math.ceil((level + 1) * clip / levels)
        ]
        there = [i for i in members if p[i] > 0]
        for i in there:
            q[i] = sum(counts[j] for j in members) / len(there)
    if not any(counts[:clip]):
        return math.inf
    if p[-1] > 0 and q[-1] == 0:
        q[-1] = 0.5
    ps, qs = sum(p), sum(q)
    return sum(p[i] / ps * math.log((p[i] / ps) / (q[i] / qs)) for i in range(clip) if p[i] > 0)


class TestEntropy:
    @settings(max_examples=80, deadline=None)
    @given(
        st.lists(st.one_of(st.just(0), st.integers(0, 1000)), min_size=4, max_size=40).filter(any), st.integers(2, 4)
    )
    def test_all_clips_at_once_are_each_clip_by_itself(self, counts, levels):
        found = divergences(np.array(counts), levels)
        truth = [reference_divergence(counts, clip, levels) for clip in range(levels, len(counts) + 1)]
        np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-9)

    def test_on_a_full_histogram(self):
        counts = np.histogram(np.abs(np.random.default_rng(1).standard_normal(50_000)), 400)[0]
        found = divergences(counts, 128)
        for clip in (128, 200, 333, 400):
            truth = reference_divergence(counts.tolist(), clip, 128)
            assert found[clip - 128] == pytest.approx(truth, rel=1e-9, abs=1e-12)

    def test_cuts_a_far_outlier_and_keeps_a_flat_tensor(self):
        generator = np.random.default_rng(0)
        flat = generator.uniform(-1, 1, 100_000)
        assert entropy(histogram_of(flat)) == pytest.approx(1, abs=0.02)
        assert entropy(histogram_of(np.append(generator.standard_normal(100_000), 100.0))) < 50

    def test_few_bins_are_kept_whole(self):
        assert range_of([1e-3] * 10 + [1.0], "entropy").magnitude <= 1.0


class TestMovingAverage:
    def test_follows_the_batches(self):
        moving = MovingExtremes(momentum=0.9)
        for low, high in ((-1.0, 1.0), (-3.0, 2.0), (0.0, 0.0)):
            moving.saw(low, high)
        assert moving.low == pytest.approx(0.9 * (0.9 * -1 + 0.1 * -3))
        assert moving.high == pytest.approx(0.9 * (0.9 * 1 + 0.1 * 2))


class TestEveryEstimator:
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @settings(max_examples=30, deadline=None)
    @given(values=st.lists(st.floats(-1024, 1024, width=32, allow_subnormal=False), min_size=1, max_size=60))
    def test_clips_lie_inside_the_extremes(self, estimator, values):
        found = range_of(values, estimator)
        array = np.array(values, dtype=np.float32)
        assert (found.seen_low, found.seen_high) == (array.min(), array.max())
        assert found.seen_low <= found.low <= found.high <= found.seen_high
        assert 0 <= found.magnitude <= np.abs(array).max()

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_all_zero(self, estimator):
        found = range_of(np.zeros(9), estimator)
        assert (found.low, found.high, found.magnitude) == (0.0, 0.0, 0.0)

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @pytest.mark.parametrize("value", [3.5, -0.25])
    def test_constant(self, estimator, value):
        found = range_of(np.full(100, value), estimator)
        assert (found.low, found.high) == (value, value)
        assert found.magnitude == pytest.approx(abs(value), rel=1e-3)

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_one_sided(self, estimator):
        values = np.random.default_rng(0).gamma(2, 1, 10_000)
        found, mirrored = range_of(values, estimator), range_of(-values, estimator)
        assert found.low >= 0.0
        assert found.high > 4
        assert mirrored.low == pytest.approx(-found.high, rel=1e-3)
        assert mirrored.magnitude == pytest.approx(found.magnitude, rel=1e-3)
