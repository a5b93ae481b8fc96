"""The plateau detector on made-up series: still, drifting, heating up, without a thermometer."""

import math

import pytest

from hwbench.measure.plateau import PlateauDetector
from hwbench.records.base import Missing
from hwbench.stats import slope

NO_SENSOR = Missing(code="not_exposed", why="there is no thermometer")
WINDOW_S = 2.5


def detector():
    return PlateauDetector(median_change=0.01, slope_c_per_10s=0.5)


def settled_at(median_s, temperature_c, windows=200):
    """Return after how many seconds a series is taken for settled; None if never."""
    found = detector()
    for number in range(1, windows + 1):
        t_s = number * WINDOW_S
        if found.add(t_s, median_s(t_s), temperature_c(t_s)):
            return t_s
    return None


def test_still_from_the_start_takes_ten_seconds_to_be_seen():
    assert settled_at(lambda t: 0.01, lambda t: 60.0) == pytest.approx(WINDOW_S + 10)


def test_without_a_thermometer_three_windows_do():
    assert settled_at(lambda t: 0.01, lambda t: NO_SENSOR) == pytest.approx(3 * WINDOW_S)


def test_a_machine_that_heats_up_is_waited_for():
    """40 °C to 80 °C with a time constant of 60 s: the slope is below 0.05 °C/s after 60 ln(40 / 60 / 0.05) s."""
    found = settled_at(lambda t: 0.01, lambda t: 80 - 40 * math.exp(-t / 60))
    exact = 60 * math.log(40 / 60 / 0.05)
    assert exact <= found <= exact + 10 + WINDOW_S  # seen over the ten seconds before


def test_cooling_down_is_no_plateau_either():
    assert settled_at(lambda t: 0.01, lambda t: 90 - 0.06 * t, windows=100) is None


def test_a_temperature_that_creeps_below_the_limit_passes():
    assert settled_at(lambda t: 0.01, lambda t: 60 + 0.04 * t) == pytest.approx(WINDOW_S + 10)


def test_a_median_that_rises_by_two_per_cent_a_window_never_settles():
    assert settled_at(lambda t: 0.01 * 1.02 ** (t / WINDOW_S), lambda t: NO_SENSOR) is None


def test_one_small_change_between_large_ones_is_chance():
    medians = [0.0100, 0.0110, 0.0110, 0.0120, 0.0120, 0.0130]
    found = detector()
    assert [found.add(i * WINDOW_S, m, NO_SENSOR) for i, m in enumerate(medians)] == [False] * 6


def test_a_faster_trend_under_noise_is_found_by_the_line():
    found = detector()
    for number in range(20):
        found.add(number * WINDOW_S, 0.01, 60 + 0.1 * number * WINDOW_S + (0.05 if number % 2 else -0.05))
    assert found.slope == pytest.approx(1.0, abs=0.25)
    assert not found.settled


def test_slope_of_an_exact_line():
    assert slope([(0.0, 1.0), (2.0, 5.0), (4.0, 9.0)]) == pytest.approx(2.0)


def test_what_is_not_known_yet_has_a_reason():
    found = detector()
    found.add(1.0, 0.01, 50.0)
    assert isinstance(found.change, Missing)
    assert isinstance(found.slope, Missing)


def test_one_unreadable_temperature_is_passed_over():
    found = settled_at(lambda t: 0.01, lambda t: NO_SENSOR if t == pytest.approx(10) else 40 + 0.2 * t, windows=100)
    assert found is None


def test_readings_with_a_hole_settle_when_they_stand_still():
    found = settled_at(lambda t: 0.01, lambda t: NO_SENSOR if t == pytest.approx(10) else 60.0)
    assert found == pytest.approx(WINDOW_S + 10)
