import math

import pytest

from hwbench.energy.uncertainty import GAIN, edges, expanded, quantisation


@pytest.mark.parametrize(("window_s", "relative"), [(1, 0.041), (5, 0.0082), (10, 0.0041), (60, 0.00068)])
def test_edges_of_a_slow_counter(window_s, relative):
    assert edges(0.1, window_s) == pytest.approx(relative, rel=0.01)


def test_quantisation_of_two_readings():
    assert quantisation(1.0, 2, 10.0) == pytest.approx(math.sqrt(2) / math.sqrt(12) / 10)


def test_parts_add_as_squares_and_are_doubled():
    assert expanded(0.03, 0.04) == pytest.approx(0.10)


def test_every_gain_has_a_basis():
    for gain in GAIN.values():
        assert 0 < gain.standard < 1
        assert gain.basis
