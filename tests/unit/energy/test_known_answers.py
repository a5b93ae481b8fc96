"""The seventeen known answers that an energy instrument must give, one named test each, on the public functions.

Here: K1 to K13 and K17, and of K16 what the records say. Elsewhere, beside what they are about:

* K14 (INA3221 trees of each JetPack): ``tests/unit/meters/test_ina3221.py``, ``test_k14_*``
* K15 (Android gauges: unit, sign, charging): ``tests/unit/energy/test_import_android.py``, ``test_k15_*``
* K16 (an estimate in no measured table): ``tests/unit/report/test_energy_rank.py``, ``test_k16_*``

K5 through the mode that makes the pauses is in ``tests/unit/energy/test_dephase.py`` as well.
"""

import math
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_traces import Schedule, channel, counter_samples, energy_j, power_samples, span, square, trace_of
from sysfs import Machine

from hwbench.energy.account import energy_between
from hwbench.energy.dephase import dephasing
from hwbench.energy.integrate import (
    Sample,
    counter_faults,
    counter_step,
    integrate_counter,
    integrate_power,
    poll_interval_s,
)
from hwbench.energy.protocol import energy_run
from hwbench.energy.recorder import Recorder
from hwbench.meters.estimate import estimate
from hwbench.meters.rapl import Rapl
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyEstimate, EnergyReading
from hwbench.records.profile import Figure
from hwbench.testing import example_cpu, opened
from hwbench.units import MonotonicClock


def test_k1_constant_power_with_jitter():
    """50 W for 10 s, readings jittered about 10 Hz, edges not on readings: 500 J exactly."""
    rng = random.Random(1)
    samples = [(0.1 * i + rng.uniform(-0.04, 0.04), 50.0) for i in range(-10, 150)]
    reading = energy_between(trace_of([channel()], {"board": samples}), 1.2345, 11.2345)
    assert reading.energy_j == pytest.approx(500.0, abs=1e-9)
    assert reading.coverage == 1.0


def test_k2_a_ramp_is_integrated_by_trapezoids():
    """0 to 100 W in 10 s, read every 0.1 s: 500 J; the left sum would say 495 J."""
    samples = [(0.1 * i, i) for i in range(101)]
    reading = energy_between(trace_of([channel()], {"board": samples}), 0.0, 10.0)
    assert reading.energy_j == pytest.approx(500.0, abs=1e-9)
    left_j = sum(value * 0.1 for _, value in samples[:-1])
    assert left_j == pytest.approx(495.0)


@pytest.mark.parametrize("phase_s", [0.0, 0.123, 0.5, 0.777])
def test_k3_a_square_wave_sampled_well(phase_s):
    """0/100 W, half and half, period 1 s, ten whole periods, 100 Hz: 500 J, half a reading an edge."""
    samples = power_samples(square, 13, 0.01, start_s=-1)
    board = channel(period_s=0.01, sensed_s=0.0)
    reading = energy_between(trace_of([board], {"board": samples}), phase_s, phase_s + 10, load_period_s=1.0)
    assert reading.energy_j == pytest.approx(500.0, abs=2 * 0.5 * 0.01 * 100 + 1e-9)
    assert "aliasing_risk" not in reading.flags


@pytest.mark.parametrize(("phase_s", "seen_j"), [(0.1, 1000.0), (0.6, 0.0)])
def test_k4_a_square_wave_sampled_at_its_own_period(phase_s, seen_j):
    """The result is anything from 0 to 1000 J, and says ``aliasing_risk``."""
    samples = power_samples(square, 12, 1.0, start_s=phase_s - 1)
    result = integrate_power(samples, 0.7, 10.7, period_s=1.0, load_period_s=1.0)
    assert result.energy_j == pytest.approx(seen_j)
    assert 0 <= result.energy_j <= 1000
    assert "aliasing_risk" in result.flags


def test_k4_aliasing_begins_at_half_the_load_period():
    """A sensor that changes every half load period or slower is at risk; a faster one is not."""
    for period_s, risk in ((0.5, True), (0.49, False)):
        board = channel(period_s=period_s, sensed_s=0.0)
        trace = trace_of([board], {"board": power_samples(lambda t: 50 + 40 * square(t), 12, period_s)})
        assert ("aliasing_risk" in energy_between(trace, 1, 11, load_period_s=1.0).flags) is risk


def load_300(t_s):
    return square(t_s, period_s=0.1, high_w=300.0)


def test_k5_a_part_time_sensor_without_pauses_is_wrong():
    """25 of every 100 ms seen, load of 0/300 W with a period of 100 ms: anything from 0 to 300 W, and flagged."""
    board = channel(sensed_s=0.025)
    seen = []
    for phase_s in (0.03, 0.055, 0.08, 0.105):
        samples = power_samples(lambda t: 1 + load_300(t), 15, 0.1, start_s=phase_s, sensed_s=0.025)
        reading = energy_between(trace_of([board], {"board": samples}), 2, 12, load_period_s=0.1)
        assert "aliasing_risk" in reading.flags
        seen.append(reading.energy_j / reading.window_s)
    assert max(seen) > 290
    assert min(seen) < 10


def test_k5_pauses_of_the_sensing_window_put_it_right():
    """Four groups, each a quarter of a period later: 150 W, one way or the other by 1 W."""
    board = channel(sensed_s=0.025)
    plan = dephasing(board, 0.1, 60.0)
    for phase_s in (0.0, 0.03, 0.055, 0.08):
        groups, now_s = [], 1.0
        for group in range(plan.groups):
            now_s += plan.pause_s(group, now_s - 1.0) if group else 0.0
            groups.append((now_s, now_s + plan.inferences * 0.1))
            now_s = groups[-1][1]

        def watts(t_s, groups=groups):
            start_s = next((a for a, b in groups if a <= t_s < b), None)
            return 0.0 if start_s is None else load_300(t_s - start_s)

        samples = power_samples(watts, now_s + 2, 0.1, start_s=phase_s, sensed_s=0.025)
        reading = energy_between(trace_of([board], {"board": samples}), 1.0, now_s)
        worked_s = sum(b - a for a, b in groups)
        assert reading.energy_j / worked_s == pytest.approx(150.0, abs=1.0)


def test_k6_a_counter_that_wraps():
    """[max - 100, 50] µJ: 150 µJ, give or take one unit."""
    range_uj = 262_143_328_850
    assert counter_step(range_uj - 100, 50, range_uj) == pytest.approx(150, abs=1)
    board = channel("board", "energy", range=range_uj * 1e-6, lsb=1e-6, period_s=0.001)
    trace = trace_of([board], {"board": [(0.0, (range_uj - 100) * 1e-6), (1.0, 50e-6)]})
    assert energy_between(trace, 0.0, 1.0).energy_j == pytest.approx(150e-6, abs=1e-6)


def test_k6_two_wraps_in_one_poll_are_prevented_and_refused():
    """The poll interval leaves a margin of four; where it was missed, there is no energy."""
    range_j, most_w = 65_536.0, 1000.0
    assert poll_interval_s(range_j, most_w) * most_w <= range_j / 4
    board = channel("board", "energy", range=range_j, max_w=most_w, period_s=0.001)
    trace = trace_of([board], {"board": [(0.0, 10.0), (150.0, 20.0)]})
    assert counter_faults(trace.of(board), board).code == "wrap_ambiguous"
    assert energy_between(trace, 0.0, 150.0).code == "wrap_ambiguous"


def test_k7_a_counter_that_goes_backwards():
    """Without a range nobody can say what happened: no negative energy, and the reason."""
    board = channel("board", "energy", period_s=1.0)
    trace = trace_of([board], {"board": [(float(i), v) for i, v in enumerate([100, 110, 120, 3, 140, 150, 160])]})
    assert energy_between(trace, 0.0, 6.0).code == "counter_backwards"
    skipped = integrate_counter(trace.of(board), 0.0, 6.0)
    assert skipped.energy_j == pytest.approx(60.0)
    assert "counter_backwards" in skipped.flags


@pytest.mark.parametrize("value", [0.0, 17.5])
def test_k8_a_counter_that_never_moves(value):
    """KVM answers some reads with zero, for ever: there is no sensor, and no energy."""
    board = channel("board", "energy")
    trace = trace_of([board], {"board": [(0.1 * i, value) for i in range(200)]})
    assert energy_between(trace, 1.0, 11.0).code == "counter_constant"
    run = energy_run(Schedule().trace(board, samples={"board": [(0.1 * i, value) for i in range(1000)]}))
    assert run.total_j.code == "counter_constant"


def test_k9_a_stale_counter_declares_how_far_off_it_may_be():
    """Updated every 100 ms, a window of 1 s at 100 W: off by 10 J at most, and u is 4.1 J at the least."""
    board = channel("board", "energy", lsb=1e-3)
    held = counter_samples(lambda _: 100.0, 20, 0.1, read_s=0.01)
    rng = random.Random(2)
    for _ in range(300):
        start_s = rng.uniform(1, 15)
        edges = [max(s for s in held if s[0] <= t) for t in (start_s, start_s + 1.0)]
        trace = trace_of([board], {"board": [(start_s, edges[0][1]), (start_s + 1.0, edges[1][1])]})
        reading = energy_between(trace, start_s, start_s + 1.0)
        assert abs(reading.energy_j - 100) <= 10 + 1e-9
        standard_j = reading.relative_uncertainty / 2 * reading.energy_j
        assert standard_j >= 100 * 0.1 / math.sqrt(6) * (1 - 1e-9)
        assert standard_j >= 4.08


powers = st.lists(st.floats(1, 500), min_size=21, max_size=21)


@settings(deadline=None, max_examples=60)
@given(powers, st.floats(0.6, 19.4), st.sampled_from(["power", "energy"]))
def test_k10_neighbouring_windows_add_up(values, middle_s, quantity):
    """E[a, b] + E[b, c] = E[a, c], for any b."""
    board = channel("board", quantity, period_s=1.0)
    given_values = values if quantity == "power" else [sum(values[: i + 1]) for i in range(len(values))]
    trace = trace_of([board], {"board": [(float(i), v) for i, v in enumerate(given_values)]})
    parts = [energy_between(trace, a, b).energy_j for a, b in ((0.5, middle_s), (middle_s, 19.5))]
    assert sum(parts) == pytest.approx(energy_between(trace, 0.5, 19.5).energy_j, rel=1e-9)


def test_k10_live_windows_add_up_within_their_uncertainty():
    """The same for a counter that is read at the edges alone: within u."""
    board = channel("board", "energy", lsb=1e-3)
    held = counter_samples(lambda _: 100.0, 30, 0.1, read_s=0.01)

    def at(t_s):
        return (t_s, max(s for s in held if s[0] <= t_s)[1])

    def read(a, b):
        return energy_between(trace_of([board], {"board": [at(a), at(b)]}), a, b)

    whole, first, second = read(2.03, 22.07), read(2.03, 11.011), read(11.011, 22.07)
    within_j = sum(r.relative_uncertainty * r.energy_j for r in (whole, first, second))
    assert abs(first.energy_j + second.energy_j - whole.energy_j) <= within_j


def test_k11_nested_domains_count_each_joule_once(tmp_path):
    """Package, core, platform, the same through MMIO, mirrored dies: the sum is packages and DRAM."""
    machine = Machine(tmp_path)
    zones = {
        "intel-rapl:0": ("package-0", 30.0), "intel-rapl:0:0": ("core", 20.0), "intel-rapl:0:1": ("dram", 4.0),
        "intel-rapl:1": ("psys", 50.0), "intel-rapl-mmio:0": ("package-0", 30.0),
        "intel-rapl:2": ("package-1-die-0", 25.0), "intel-rapl:3": ("package-1-die-1", 25.0),
    }  # fmt: skip
    for number, (entry, (name, watts)) in enumerate(zones.items()):
        folder = machine.put(f"sys/class/powercap/{entry}", name=name, max_energy_range_uj=262_143_328_850)
        start_uj = 7e9 if name.startswith("package-1") else (number + 1) * 10e9
        machine.move(str((folder / "energy_uj").relative_to(tmp_path)), lambda t, s=start_uj, w=watts: s + w * t * 1e6)
    with opened(Rapl(tmp_path, machine), example_cpu(), machine) as recorder, recorder.window() as window:
        machine.advance(10)
    reading = window.reading()
    assert reading.energy_j == pytest.approx(10 * (30 + 4 + 25))
    assert "mirrored_dies" in reading.flags


def step(t_s):
    return 300.0 if t_s >= 10 else 100.0


def test_k12_an_averaging_sensor_on_a_plateau():
    """The mean over one second of a step from 100 to 300 W: a plateau window says 300 W, an early one less."""
    board = channel(averaging_s=1.0)
    trace = trace_of([board], {"board": power_samples(step, 40, averaging_s=1.0)})

    def mean_w(start_s, end_s):
        return energy_between(trace, start_s, end_s).energy_j / (end_s - start_s)

    assert mean_w(15, 25) == pytest.approx(300.0)
    naive = integrate_power(trace.of(board), 10, 12, period_s=0.1).energy_j / 2
    assert naive < 260  # what the readings in the window say
    assert mean_w(10, 12) == pytest.approx(300.0, abs=13)  # the lag put right, the edge still blurred
    assert "averaging_blurs_edges" in energy_between(trace, 10, 12).flags


def test_k12_the_protocol_gives_the_plateau_value():
    """Load on both sides of every window for as long as the sensor averages: 300 W, with no reserve."""
    schedule = Schedule(idle_w=100, load_w=300, window_s=10, tail_s=3)
    board = channel(averaging_s=1.0, period_s=0.1)
    run = energy_run(
        schedule.trace(board, samples={"board": power_samples(schedule.watts, schedule.end_s, averaging_s=1.0)})
    )
    assert run.power.average_w == pytest.approx(300.0)
    assert run.dynamic_j.value == pytest.approx(2.0)
    assert "edges_not_settled" not in run.flags
    assert "averaging_blurs_edges" not in run.flags


def test_k13_missing_readings():
    """30 % of the readings lost: the same mean, a coverage of 0.7, and a larger u."""
    samples = power_samples(lambda _: 50.0, 10)
    whole = energy_between(trace_of([channel()], {"board": samples}), 0, 10)
    lost = energy_between(trace_of([channel()], {"board": [s for s in samples if not 3.05 < s.t_s < 5.95]}), 0, 10)
    assert lost.energy_j == pytest.approx(whole.energy_j)
    assert lost.coverage == pytest.approx(0.7)
    assert lost.relative_uncertainty > whole.relative_uncertainty
    assert "low_coverage" in lost.flags


def test_k16_an_estimate_is_another_kind_of_thing():
    """It has a record of its own, which no reading is; its band is part of it."""
    figure = Figure(value=5.0, source="a data sheet", basis="vendor")
    guess = estimate({"tdp_per_core": figure}, cpu_time_s=10.0, window_s=10.0, inferences=100, cores=1)
    assert isinstance(guess, EnergyEstimate)
    assert not isinstance(guess, EnergyReading)
    assert guess.__struct_config__.tag == "estimate"
    assert guess.low_j < guess.energy_per_inference_j < guess.high_j


class _Ramp:
    """Joules at 50 W by the monotonic clock."""

    every_s = 0.01
    channels = (channel("board", "energy", period_s=0.001, lsb=1e-6),)

    def __init__(self):
        self.began_ns = time.perf_counter_ns()

    def read(self):
        return ((time.perf_counter_ns() - self.began_ns) / 1e9 * 50,)


class _Instrument:
    meter, boundary, provenance, settings = "ramp", "all", "measured_onboard", {}

    def __init__(self):
        self.sources = (_Ramp(),)

    def close(self):
        pass


def test_k17_a_wall_clock_that_is_stepped_changes_nothing(monkeypatch):
    """Times are those of the monotonic clock; the wall clock may go back an hour."""
    walls = iter([1e9, 1e9 - 3600, 2e9, 0.0] * 1000)
    monkeypatch.setattr(time, "time", lambda: next(walls))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(walls) * 1e9))
    with Recorder(_Instrument(), clock=MonotonicClock()) as recorder, recorder.window() as window:
        time.sleep(0.2)
    reading = window.reading()
    assert reading.window_s == pytest.approx(0.2, abs=0.1)
    assert reading.energy_j / reading.window_s == pytest.approx(50.0, rel=0.02)


def test_the_synthetic_sensors_are_what_they_say():
    """The tests' own tools: a known answer for them too."""
    assert energy_j(lambda _: 7.0, 1, 3) == pytest.approx(14.0)
    assert power_samples(lambda t: t, 1, 0.5, averaging_s=0.5)[-1].value == pytest.approx(0.75)
    assert counter_samples(lambda _: 10.0, 1, 0.1)[-1] == Sample(1.0, pytest.approx(1010.0))
    assert isinstance(energy_run(trace_of([], {}, span("window", 0, 1))), Missing)
