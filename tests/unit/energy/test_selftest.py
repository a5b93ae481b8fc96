"""The checks of the self-test on sensors that are known: good ones pass, each bad one fails its own check."""

import math
import random

import pytest
from synthetic_traces import channel, counter_samples, power_samples, span, square, trace_of

from hwbench.energy.choose import Chosen
from hwbench.energy.recorder import Recorder
from hwbench.energy.selftest import checks
from hwbench.energy.selftest.course import Course, go
from hwbench.records.base import Missing
from hwbench.records.energy import Mark
from hwbench.records.selftest import SelfTest, verdict
from hwbench.testing import FakeClock

IDLE_W, LOAD_W = 20.0, 100.0
END_S = 80.0


def watts(t_s):
    """Idle 1-11, load 14-24, idle 27-37, then square waves of 10 periods each from 40, 52 and 64 on."""
    ripple = 0.2 * math.sin(37.0 * t_s)  # a load that stood perfectly still would look like a dead sensor
    if 12 <= t_s < 26:
        return LOAD_W + ripple
    for start_s, duty in ((40, 0.25), (52, 0.5), (64, 0.75)):
        if start_s <= t_s < start_s + 9.7:
            return square(t_s - start_s, period_s=0.97, high_w=LOAD_W, duty=duty, low_w=IDLE_W) + ripple
    return IDLE_W + ripple


def marks(cpu_s=0.1, latency=None):
    made = [*span("idle_before", 1, 11), *span("load", 14, 24), *span("idle_after", 27, 37)]
    for start_s, duty in ((40, 0.25), (52, 0.5), (64, 0.75)):
        made += span("duty", start_s, start_s + 9.7, {"busy": duty})
    for name, values in (latency or LATENCY).items():
        made += [Mark(t_s=79.0, mark=name, facts={"median_s": value}) for value in values]
    return [*made, Mark(t_s=END_S, mark="recorder", facts={"cpu_s": cpu_s, "span_s": END_S})]


LATENCY = {
    "latency_with": [1.001e-3, 0.999e-3, 1.002e-3, 0.998e-3],
    "latency_without": [1e-3, 1.002e-3, 0.999e-3, 1e-3],
    "latency_control": [1.001e-3, 0.998e-3, 1.001e-3, 1e-3],
}
COUNTER = channel("counter", "energy", period_s=0.1, lsb=0.001)
POWER = channel("power", role="check", period_s=0.1, lsb=0.01)


def trace(counter=None, power=None, **of_marks):
    samples = {
        "counter": counter if counter is not None else counter_samples(watts, END_S, 0.1),
        "power": power if power is not None else power_samples(watts, END_S, 0.1, sensed_s=0.1),
    }
    return trace_of([COUNTER, POWER], samples, marks(**of_marks))


def by_name(found):
    return {check.name: check for check in checks.all_checks(found)}


@pytest.fixture(scope="module")
def good():
    return by_name(trace())


def test_a_good_meter_passes_everything(good):
    assert {name: check.found for name, check in good.items() if check.status != "passed"} == {}
    assert list(good) == [
        "load_above_idle", "idle_the_same", "halves_agree", "longer_is_steadier", "duty_is_linear", "counter_and_power",
        "counter_rises", "update_period", "recorder_is_light", "latency_is_unchanged",
    ]  # fmt: skip


def test_the_numbers_behind_the_words(good):
    assert good["load_above_idle"].values["load_w"] == pytest.approx(100, rel=0.01)
    assert good["duty_is_linear"].values["r_squared"] > 0.999
    assert good["duty_is_linear"].values["intercept_w"] == pytest.approx(20, abs=1)
    assert good["counter_and_power"].values["ratio"] == pytest.approx(1, abs=0.01)
    assert good["update_period"].values["counter_period_s"] == pytest.approx(0.1, rel=0.01)


def failing(found):
    return {name for name, check in by_name(found).items() if check.status == "failed"}


def test_a_sensor_that_sees_no_load():
    noise = random.Random(0)
    flat = [(0.1 * i, 50 + noise.gauss(0, 1)) for i in range(800)]
    only = trace_of([channel(lsb=0.01)], {"board": flat}, marks())
    assert {"load_above_idle", "duty_is_linear"} <= failing(only)


def test_idle_that_shifts():
    def shifted(t_s):
        return watts(t_s) + (3 if t_s > 26 else 0)

    found = trace(counter=counter_samples(shifted, END_S, 0.1), power=power_samples(shifted, END_S, sensed_s=0.1))
    assert "idle_the_same" in failing(found)


def test_a_load_that_drifts():
    def drifting(t_s):
        return watts(t_s) * (1 + (0.01 * (t_s - 14) if 14 <= t_s < 24 else 0))

    found = trace(counter=counter_samples(drifting, END_S, 0.1), power=power_samples(drifting, END_S, sensed_s=0.1))
    assert "halves_agree" in failing(found)


def test_a_sensor_that_is_not_linear():
    def bent(t_s):
        return 20 + 80 * ((watts(t_s) - 20) / 80) if t_s < 40 else 20 + 40 * (t_s >= 60)

    only = trace_of([channel(lsb=0.01)], {"board": power_samples(bent, END_S)}, marks())
    assert "duty_is_linear" in failing(only)


def test_a_counter_that_falls_short_of_the_power():
    assert "counter_and_power" in failing(trace(counter=counter_samples(watts, END_S, 0.1, gain=0.9)))


def test_a_counter_that_goes_backwards():
    samples = counter_samples(watts, END_S, 0.1)
    samples[200] = samples[200]._replace(value=samples[199].value - 50)
    assert failing(trace(counter=samples)) >= {"counter_rises"}


def test_a_sensor_slower_than_it_says():
    slow = counter_samples(watts, END_S, 1.0, read_s=0.1)
    assert "update_period" in failing(trace(counter=slow))


def test_a_heavy_recorder():
    assert failing(trace(cpu_s=0.02 * END_S)) == {"recorder_is_light"}


def test_a_recorder_that_slows_the_work():
    slower = {**LATENCY, "latency_with": [1.05 * value for value in LATENCY["latency_with"]]}
    assert failing(trace(latency=slower)) == {"latency_is_unchanged"}


def test_a_meter_whose_spread_does_not_fall():
    noise = random.Random(1)
    level, samples = 100.0, []
    for i in range(800):
        if i % 30 == 0:  # wanders for longer than a window: averaging does not help
            level = 100 + noise.uniform(-20, 20)
        samples.append((0.1 * i, level))
    only = trace_of([channel(lsb=0.01)], {"board": samples}, marks())
    assert "longer_is_steadier" in failing(only)


def test_what_cannot_be_told_is_no_pass():
    found = by_name(trace_of([channel(lsb=0.01)], {"board": power_samples(watts, END_S)}, marks()[:2]))
    assert found["counter_rises"].status == "cannot_tell"
    assert found["load_above_idle"].status == "cannot_tell"
    assert "no counter" in found["counter_rises"].found


def test_the_verdict():
    assert verdict(Missing(code="no_rapl", why="none"), ()) == "skipped"
    assert verdict("rapl", ()) == "passed"
    with pytest.raises(ValueError, match="status"):
        SelfTest(
            schema_version=1, hwbench="1", created_at="now", device="x", meter=Missing(code="a", why="b"),
            boundary="b", load="l", status="passed",
        )  # fmt: skip


class Machine(FakeClock):
    """Works in calls, idles in sleep; the recorder is polled as time goes by."""

    def __init__(self):
        super().__init__()
        self.energy_j, self.polls = 1000.0, []

    def spend(self, seconds, power_w):
        while seconds > 1e-12:
            step = min(0.05, seconds)
            self.advance(step)
            self.energy_j += power_w * step
            seconds -= step
            for poll in self.polls[-1:]:
                poll()

    def sleep(self, seconds):
        self.spend(seconds, IDLE_W)

    def work(self):
        self.spend(0.005, LOAD_W)


class Source:
    every_s = None
    channels = (COUNTER,)

    def __init__(self, machine):
        self.machine = machine

    def read(self):
        return (self.machine.energy_j,)


class Instrument:
    meter, boundary, provenance, settings = "machine", "all", "measured_onboard", {}

    def __init__(self, machine):
        self.sources, self.closed = (Source(machine),), False

    def close(self):
        self.closed = True


def test_the_course(monkeypatch):
    machine = Machine()
    opened = []

    def reopen():
        opened.append(Instrument(machine))
        return Chosen(instrument=opened[-1])

    enter = Recorder.__enter__  # under a real clock its thread polls; here the machine does it
    monkeypatch.setattr(Recorder, "__enter__", lambda self: (machine.polls.append(self.poll), enter(self))[1])
    said = []
    instrument = Instrument(machine)
    raw = go(Course(work=machine.work, probe=machine.work, clock=machine, cpus=(), say=said.append), reopen, instrument)
    assert instrument.closed
    assert opened
    assert all(one.closed for one in opened)
    found = by_name(raw)
    assert {name for name, check in found.items() if check.status == "failed"} == set()
    assert found["duty_is_linear"].values["r_squared"] > 0.99
    assert [round(end.facts["busy"], 2) for _, end in raw.windows("duty")] == [0.25, 0.5, 0.75]
    assert "square wave, 50%" in said
