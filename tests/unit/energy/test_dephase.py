"""Sensors that look at a part of the time, and loads of their own period (K5)."""

from __future__ import annotations

import math
import random

import pytest
from synthetic_traces import channel as synthetic
from synthetic_traces import trace_of

from hwbench.energy.account import energy_between
from hwbench.energy.dephase import dephasing, plan, sees_all
from hwbench.energy.integrate import Sample
from hwbench.energy.trace import Trace
from hwbench.records.base import Missing
from hwbench.records.energy import Channel, TraceHeader

PERIOD_S, SENSED_S, HIGH_W = 0.1, 0.025, 300.0


def power(period_s=PERIOD_S, sensed_s=SENSED_S):
    averaging_s = sensed_s if isinstance(sensed_s, float) else 0.0
    return Channel(
        name="power", quantity="power", role="total", source="simulated", period_s=period_s, sensed_s=sensed_s,
        averaging_s=averaging_s, lsb=0.001, gain=0.029,
    )  # fmt: skip


class Load:
    """Inferences that draw 300 W in their first half and nothing in their second; nothing is drawn in pauses."""

    def __init__(self, inference_s):
        self.inference_s = inference_s
        self.groups: list[tuple[float, float]] = []

    def add(self, start_s, inferences):
        self.groups.append((start_s, start_s + inferences * self.inference_s))
        return self.groups[-1][1]

    def energy_j(self, start_s, end_s):
        return math.fsum(
            self._since(min(end_s, b) - a) - self._since(max(start_s, a) - a)
            for a, b in self.groups
            if b > start_s and a < end_s
        )

    def _since(self, t_s):
        whole, rest_s = divmod(t_s, self.inference_s)
        return HIGH_W * (whole * self.inference_s / 2 + min(rest_s, self.inference_s / 2))


def run(inference_s, *, plan, window_s=60.0, phase_s=0.0, period_s=PERIOD_S, sensed_s=SENSED_S):
    """Return the power that a sensor shows while the load works (truly 150 W), by hwbench's own account."""
    load, t_s = Load(inference_s), phase_s
    if plan is None:
        t_s = load.add(t_s, math.ceil(window_s / inference_s))
    else:
        for group in range(plan.groups):
            t_s += plan.pause_s(group, t_s - phase_s) if group else 0.0
            t_s = load.add(t_s, plan.inferences)
    readings = [
        Sample(k * period_s, load.energy_j(k * period_s - sensed_s, k * period_s) / sensed_s)
        for k in range(int((t_s + 1) / period_s) + 1)
    ]
    channel = power(period_s, sensed_s)
    header = TraceHeader(
        schema_version=1, meter="fake", boundary="all", provenance="measured_onboard", clock="none", started_at="",
        channels=(channel,),
    )  # fmt: skip
    reading = energy_between(Trace(header, {"power": readings}), phase_s, t_s)
    busy_s = math.fsum(b - a for a, b in load.groups)
    return reading.energy_j / busy_s


class TestK5:
    """25 of every 100 ms, 0 and 300 W, half and half: 150 W."""

    def test_a_load_of_the_sensors_own_period_reads_anything(self):
        shown = [run(0.1, plan=None, phase_s=phase_s) for phase_s in (0.0, 0.025, 0.05, 0.075)]
        assert min(shown) == pytest.approx(0, abs=1)
        assert max(shown) == pytest.approx(300, abs=1)

    def test_a_longer_window_does_not_help(self):
        assert abs(run(0.1, plan=None, window_s=600, phase_s=0.03) - 150) > 80

    @pytest.mark.parametrize("phase_s", [0.0, 0.013, 0.025, 0.05, 0.08])
    def test_four_groups_a_sensing_window_apart(self, phase_s):
        plan = dephasing(power(), 0.1, 60.0)
        assert plan.groups % 4 == 0
        pause_s = plan.pause_s(1, plan.inferences * 0.1)
        assert pause_s == pytest.approx(SENSED_S), "a group is a whole number of periods: the pause is one window"
        assert run(0.1, plan=plan, phase_s=phase_s) == pytest.approx(150, abs=1)


@pytest.mark.parametrize("sensed_s", [0.025, 0.0176])
@pytest.mark.parametrize(
    "inference_s", [0.0071428, 0.013, 0.025, 0.0333333, 0.05, 0.08, 0.097, 0.0999, 0.1, 0.1001, 0.15, 0.2, 0.3, 0.5]
)
def test_any_load_is_seen_whole(inference_s, sensed_s):
    chance = random.Random(int(inference_s * 1e6))
    plan = dephasing(power(sensed_s=sensed_s), inference_s, 60.0)
    for _ in range(3):
        phase_s = chance.uniform(0, 0.2)
        assert run(inference_s, plan=plan, phase_s=phase_s, sensed_s=sensed_s) == pytest.approx(150, abs=1)
    assert plan.pause_share < 0.015


def test_where_the_sensed_part_is_not_known_it_is_still_better():
    unknown = Missing(code="not_known", why="nobody has looked")
    plan = dephasing(power(sensed_s=unknown), 0.1, 60.0)
    phases = [group * plan.step_s % PERIOD_S for group in range(plan.groups)]
    gaps = [b - a for a, b in zip(sorted(phases), sorted(phases)[1:], strict=False)]
    assert max(gaps) < 2.7 * PERIOD_S / plan.groups, "phases lie evenly"
    assert run(0.1, plan=plan, phase_s=0.03) == pytest.approx(150, abs=10)


class TestNotNeeded:
    def test_a_sensor_that_looks_all_the_time(self):
        assert dephasing(power(sensed_s=0.1), 0.1, 10.0) is None

    def test_many_inferences_within_one_look(self):
        assert dephasing(power(), 0.0025, 10.0) is None
        assert dephasing(power(), 0.0026, 10.0) is not None

    def test_an_unknown_period_cannot_be_met(self):
        unknown = Missing(code="not_known", why="nobody has looked")
        assert dephasing(power(period_s=unknown), 0.1, 10.0) is None
        assert not sees_all(power(period_s=unknown), 0.1), "not needed and not possible are two things"


class TestPlan:
    """Which sensor's clock counts, and whether its phase can be steered to."""

    DETECTED = {"update_period": "0.1 s (detected: 29 changes, read every 1 ms)"}  # noqa: RUF012 - a constant

    def plan(self, *channels, read_s=0.05, load_period_s=0.1, settings=None):
        samples = {channel.name: [(read_s * i, float(i)) for i in range(200)] for channel in channels}
        return plan(trace_of(channels, samples, settings=settings or {}), load_period_s, 10.0)

    def test_the_powers_clock_counts_and_not_the_counters(self):
        counter = synthetic("energy_counter", "energy", period_s=0.02, sensed_s=0.005)
        check = synthetic("power_instant", role="check", period_s=0.1, sensed_s=0.025)
        found = self.plan(counter, check, settings=self.DETECTED)
        assert (found.period_s, found.step_s) == (0.1, 0.025)

    def test_a_counter_behind_a_sensor_that_sees_all_needs_no_pauses(self):
        counter = synthetic("energy_counter", "energy", period_s=0.02, sensed_s=0.005)
        assert self.plan(counter, synthetic("power_instant", role="check"), settings=self.DETECTED) is None

    def test_a_period_that_was_not_detected_gets_pauses_by_chance(self):
        found = self.plan(synthetic(sensed_s=0.025))
        assert found.step_s is None
        assert found.groups == 10
        assert "not detected" in found.why
        pauses = [found.pause_s(1, 1.0) for _ in range(400)]
        assert min(pauses) < 0.01
        assert 0.09 < max(pauses) <= 0.1
        assert sum(pauses) / 400 == pytest.approx(0.05, abs=0.01)

    def test_a_sensor_that_is_read_rarely_looks_as_often_as_it_is_read(self):
        """INA3221: a cycle of 6.6 ms, read every 50 ms. Pauses of up to 6.6 ms would show but a part of the load."""
        cycle = {"update_period": "0.0066 s (detected: 29 changes, read every 1 ms)"}
        found = self.plan(synthetic(period_s=0.0066, sensed_s=0.0011), settings=cycle)
        assert found.step_s is None
        assert found.period_s == pytest.approx(0.05)

    def test_chance_turns_an_error_into_scatter(self):
        """Single windows scatter, and they do so around the truth."""
        shown = [run(0.1, plan=self.plan(synthetic(sensed_s=0.025)), phase_s=0.03, period_s=0.1) for _ in range(24)]
        assert sum(shown) / 24 == pytest.approx(150, abs=40)
        assert max(shown) - min(shown) > 10


def test_the_plan_fills_the_window_with_whole_inferences():
    for inference_s in (0.004, 0.03, 0.1, 0.7, 3.0, 30.0):
        plan = dephasing(power(), inference_s, 10.0)
        assert plan.groups * plan.inferences * inference_s >= 10.0 - 1e-6
        assert plan.inferences * inference_s >= 10 * PERIOD_S - 1e-6
        assert plan.why


def test_a_pause_is_the_rest_to_the_wanted_phase():
    plan = dephasing(power(), 0.1, 10.0)
    assert plan.pause_s(1, 2.5) == pytest.approx(0.025)
    assert plan.pause_s(1, 2.51) == pytest.approx(0.015), "a group that took longer"
    assert plan.pause_s(1, 2.53) == pytest.approx(0.095), "too long: the next period"
    assert plan.pause_s(2, 5.05) == pytest.approx(0.0)
