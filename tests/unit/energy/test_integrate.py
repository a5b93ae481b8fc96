import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.energy.integrate import (
    Sample,
    counter_step,
    integrate_counter,
    integrate_power,
    poll_interval_s,
    update_period_s,
    wrap_time_s,
)
from hwbench.energy.uncertainty import edges, gaps
from hwbench.records.base import Missing


def every(period_s, end_s, value, start_s=0.0):
    """Readings of ``value(t)`` every ``period_s`` up to and with ``end_s``."""
    return [Sample(start_s + i * period_s, value(start_s + i * period_s)) for i in range(round(end_s / period_s) + 1)]


def square(t_s, *, period_s=1.0, high_w=100.0):
    return high_w if (t_s + 1e-9) % period_s < period_s / 2 else 0.0


def riemann(samples, start_s, end_s):
    """The mistake: each reading holds until the next one, nothing is interpolated."""
    inside = [s for s in samples if start_s <= s.t_s < end_s]
    return sum(s.value * 0.1 for s in inside)


# K1 to K4: power readings


def test_constant_power_with_jitter_and_edges_between_samples():
    rng = random.Random(1)
    samples = [Sample(0.1 * i + rng.uniform(-0.04, 0.04), 50.0) for i in range(-10, 150)]
    result = integrate_power(samples, 1.2345, 11.2345, period_s=0.1)
    assert result.energy_j == pytest.approx(500.0, abs=1e-9)
    assert result.coverage == 1.0
    assert result.flags == ()


def test_ramp_is_a_trapezoid_and_not_a_left_sum():
    samples = every(0.1, 10, lambda t: 10 * t)
    assert integrate_power(samples, 0, 10, period_s=0.1).energy_j == pytest.approx(500.0, abs=1e-9)
    assert riemann(samples, 0, 10) == pytest.approx(495.0)


def test_edges_are_interpolated():
    samples = every(0.1, 10, lambda t: 10 * t)
    result = integrate_power(samples, 2.03, 7.58, period_s=0.1)
    assert result.energy_j == pytest.approx(5 * (7.58**2 - 2.03**2), abs=1e-9)


def test_square_wave_sampled_well():
    samples = every(0.01, 10, square)
    result = integrate_power(samples, 0, 10, period_s=0.01, load_period_s=1.0)
    half_a_sample_j = 0.5 * 0.01 * 100
    assert result.energy_j == pytest.approx(500.0, abs=half_a_sample_j * 1.001)
    assert result.flags == ()


@pytest.mark.parametrize(("phase_s", "energy_j"), [(0.1, 1000.0), (0.6, 0.0)])
def test_square_wave_sampled_once_a_period_may_say_anything_and_is_flagged(phase_s, energy_j):
    samples = every(1.0, 12, square, start_s=phase_s - 1)
    result = integrate_power(samples, 0.7, 10.7, period_s=1.0, load_period_s=1.0)
    assert result.energy_j == pytest.approx(energy_j)
    assert "aliasing_risk" in result.flags


def test_aliasing_limit_is_half_the_load_period():
    samples = every(0.1, 10, lambda t: 1.0)
    assert integrate_power(samples, 0, 10, period_s=0.1, load_period_s=0.2).flags == ("aliasing_risk",)
    assert integrate_power(samples, 0, 10, period_s=0.1, load_period_s=0.21).flags == ()


def test_readings_of_one_update_count_once():
    updates = [0.0, 100.0, 0.0, 100.0, 50.0]
    oversampled = [Sample(0.01 * i, updates[i // 10]) for i in range(50)]
    slow = [Sample(0.1 * i, value) for i, value in enumerate(updates)]
    expected = integrate_power(slow, 0, 0.4, period_s=0.1).energy_j
    assert expected == pytest.approx(22.5)
    result = integrate_power(oversampled, 0, 0.4, period_s=0.1)
    assert result.energy_j == pytest.approx(expected)
    assert result.coverage == 1.0


# K6 to K9: counters


def test_wrap():
    range_uj = 262_143_328_850
    assert counter_step(range_uj - 100, 50, range_uj) == pytest.approx(150, abs=1)
    samples = [Sample(0, (range_uj - 100) * 1e-6), Sample(1, 50e-6)]
    result = integrate_counter(samples, 0, 1, range_j=range_uj * 1e-6)
    assert result.energy_j == pytest.approx(150e-6, abs=1e-6)
    assert result.flags == ()


def test_two_wraps_between_polls_cannot_happen():
    range_j, power_w = 65_536.0, 1000.0
    assert poll_interval_s(range_j, power_w) * power_w <= range_j / 4
    assert wrap_time_s(range_j, power_w) == pytest.approx(65.536)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([100, 110, 120, 3, 140, 150, 160], id="glitch"),
        pytest.param([100, 110, 120, 0, 10, 20, 30], id="restart"),
    ],
)
def test_backwards_without_a_range_is_left_out_and_flagged(values):
    samples = [Sample(float(i), v) for i, v in enumerate(values)]
    result = integrate_counter(samples, 0, 6)
    assert result.energy_j == pytest.approx(60.0)  # 10 W in what was trusted, over the whole window
    assert result.coverage == pytest.approx(4 / 6)
    assert result.flags == ("counter_backwards", "low_coverage")


@pytest.mark.parametrize("value", [0.0, 17.5])
def test_constant_counter_has_no_energy(value):
    result = integrate_counter([Sample(float(i), value) for i in range(10)], 0, 9)
    assert isinstance(result, Missing)
    assert result.code == "counter_constant"


def test_counter_that_rests_within_the_window_is_flagged():
    samples = [Sample(0, 0.0), Sample(1, 10.0), Sample(2, 10.0), Sample(3, 10.0)]
    result = integrate_counter(samples, 1.5, 3)
    assert result.energy_j == 0
    assert result.flags == ("sensor_stale",)


def test_stale_counter_read_at_the_edges_only():
    """A counter updated every 100 ms, 100 W, a window of 1 s: off by one update at the worst, and that is declared."""
    rng = random.Random(2)
    errors = []
    for _ in range(4000):
        start = rng.uniform(0, 10)
        end = start + 1 + rng.uniform(0, 0.1)
        held = [100 * 0.1 * math.floor(t / 0.1) for t in (start, end)]
        read = integrate_counter([Sample(start, held[0]), Sample(end, held[1])], start, end)
        errors.append(read.energy_j - 100 * (end - start))
    declared_j = edges(0.1, 1.0) * 100
    assert max(map(abs, errors)) <= 10.0
    assert declared_j >= 100 * 0.1 / math.sqrt(6) * (1 - 1e-12)
    spread_j = math.sqrt(sum(e * e for e in errors) / len(errors))
    assert spread_j == pytest.approx(declared_j, rel=0.1)  # the declared value is what happens


def test_a_counter_counts_from_its_last_change():
    samples = [Sample(0.01 * i, 10.0 * math.floor(0.1 * i + 1e-9)) for i in range(301)]
    result = integrate_counter(samples, 0.537, 1.537)
    assert result.energy_j == pytest.approx(100.0, abs=1e-9)
    assert update_period_s(samples, counter=True) == pytest.approx(0.1)
    assert update_period_s(samples, counter=False) == pytest.approx(0.01)


# K10, K13: windows and gaps

powers = st.lists(st.floats(0, 500), min_size=11, max_size=11)


@settings(deadline=None)
@given(powers, st.floats(0.5, 9.5))
def test_neighbouring_power_windows_add_up(values, middle):
    samples = [Sample(float(i), v) for i, v in enumerate(values)]
    parts = [integrate_power(samples, a, b, period_s=1.0).energy_j for a, b in ((0, middle), (middle, 10))]
    assert sum(parts) == pytest.approx(integrate_power(samples, 0, 10, period_s=1.0).energy_j, abs=1e-8)


@settings(deadline=None)
@given(powers, st.floats(0.5, 9.5))
def test_neighbouring_counter_windows_add_up(steps, middle):
    samples = [Sample(float(i), sum(steps[:i]) + (i == 10)) for i in range(11)]
    parts = [integrate_counter(samples, a, b).energy_j for a, b in ((0, middle), (middle, 10))]
    assert sum(parts) == pytest.approx(integrate_counter(samples, 0, 10).energy_j, abs=1e-8)


def test_a_gap_lowers_the_coverage_and_not_the_mean():
    samples = [s for s in every(0.1, 10, lambda t: 50.0) if not 3.05 < s.t_s < 5.95]
    result = integrate_power(samples, 0, 10, period_s=0.1)
    assert result.energy_j == pytest.approx(500.0)
    assert result.coverage == pytest.approx(0.7)
    assert result.flags == ("low_coverage",)
    assert gaps(result.coverage) > gaps(1.0) == 0


def test_gaps_of_two_periods_are_bridged():
    samples = every(0.1, 10, lambda t: 10 * t)
    assert integrate_power([*samples[:30], *samples[31:]], 0, 10, period_s=0.1).coverage == 1.0
    missing_two = integrate_power([*samples[:30], *samples[32:]], 0, 10, period_s=0.1)
    assert missing_two.coverage == pytest.approx(0.97)
    assert missing_two.flags == ("low_coverage",)


def test_the_last_reading_holds_for_two_periods_and_no_longer():
    samples = every(0.1, 1, lambda t: 50.0)
    held = integrate_power(samples, 0.5, 1.2, period_s=0.1)
    assert held.coverage == 1.0
    assert held.energy_j == pytest.approx(35.0)
    assert integrate_power(samples, 0.5, 1.5, period_s=0.1).coverage == pytest.approx(0.5)
    before = integrate_power(samples, -0.2, 0.3, period_s=0.1)
    assert before.coverage == 1.0
    assert before.energy_j == pytest.approx(25.0)


@pytest.mark.parametrize("samples", [[], [Sample(0.0, 5.0), Sample(1.0, 6.0)]])
def test_no_reading_in_the_window(samples):
    for result in (integrate_power(samples, 50, 60, period_s=1.0), integrate_counter(samples, 50, 60)):
        assert isinstance(result, Missing)
        assert result.code == "no_samples"


def test_nonsense_is_a_bug():
    with pytest.raises(ValueError, match="end after it starts"):
        integrate_power([], 1, 1, period_s=1)
    with pytest.raises(ValueError, match="order of time"):
        integrate_counter([Sample(1, 1), Sample(1, 2)], 0, 1)
