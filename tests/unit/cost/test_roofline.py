"""The roofline's arithmetic."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.cost.roofline import attainable_ops_per_s, bound_s, intensity_ops_per_byte, ridge_ops_per_byte

RATES = st.floats(1e6, 1e15)
COUNTS = st.integers(0, 10**13)


def test_a_multiply_add_is_two_operations():
    assert bound_s(500, 0, peak_ops_per_s=1000, bandwidth_bytes_per_s=1) == 1.0
    assert intensity_ops_per_byte(macs=500, moved_bytes=100) == 10.0


def test_memory_bound_work_is_bound_by_its_bytes():
    assert bound_s(1, 3000, peak_ops_per_s=1e12, bandwidth_bytes_per_s=1000) == 3.0


@pytest.mark.parametrize(
    ("intensity", "attained"), [(0.0, 0.0), (1.0, 10.0), (10.0, 100.0), (1000.0, 100.0), (math.inf, 100.0)]
)
def test_attainable_rises_to_the_peak_and_stays(intensity, attained):
    assert attainable_ops_per_s(intensity, peak_ops_per_s=100, bandwidth_bytes_per_s=10) == attained


def test_ridge_is_where_the_two_bounds_meet():
    ridge = ridge_ops_per_byte(100.0, 10.0)
    assert attainable_ops_per_s(ridge, 100.0, 10.0) == 100.0
    assert attainable_ops_per_s(0.99 * ridge, 100.0, 10.0) < 100.0


def test_work_that_moves_nothing_has_infinite_intensity():
    assert intensity_ops_per_byte(5, 0) == math.inf


@given(macs=st.integers(1, 10**13), moved=st.integers(1, 10**13), peak=RATES, bandwidth=RATES)
def test_bound_and_attainable_agree(macs, moved, peak, bandwidth):
    attained = attainable_ops_per_s(intensity_ops_per_byte(macs, moved), peak, bandwidth)
    assert 2 * macs / bound_s(macs, moved, peak, bandwidth) == pytest.approx(attained)


@given(macs=COUNTS, moved=COUNTS, peak=RATES, bandwidth=RATES)
def test_faster_hardware_never_raises_the_bound(macs, moved, peak, bandwidth):
    assert bound_s(macs, moved, 2 * peak, 2 * bandwidth) <= bound_s(macs, moved, peak, bandwidth)


@pytest.mark.parametrize(("peak", "bandwidth"), [(0, 1), (1, 0), (-1, 1), (math.nan, 1)])
def test_a_rate_that_is_none_is_refused(peak, bandwidth):
    with pytest.raises(ValueError, match="must be positive"):
        bound_s(1, 1, peak, bandwidth)
