"""What networks draw, read from synthetic meters whose truth is known, with a clock that obeys."""

from __future__ import annotations

import msgspec
import pytest
from synthetic_traces import channel

from hwbench.energy.account import energy_between
from hwbench.energy.recorder import Recorder
from hwbench.records.base import Missing
from hwbench.records.planning import Drawn
from hwbench.tables.metering import PERIODS, Metering, metering
from hwbench.testing import FakeClock, example_cpu

WATTS = 12.0


class Counter:
    """Counts the joules of a steady load, and shows them every ``period_s``."""

    every_s = None

    def __init__(self, clock, period_s, watts=lambda: WATTS):
        self.clock, self.period_s, self.watts = clock, period_s, watts
        self.channels = (channel("package", "energy", period_s=period_s, lsb=1e-6),)
        self.energy_j, self.at_ns = 0.0, clock.now_ns()

    def read(self):
        now_ns = self.clock.now_ns()
        step_ns = round(self.period_s * 1e9)
        shown_ns = now_ns // step_ns * step_ns
        if shown_ns > self.at_ns:
            self.energy_j += self.watts() * (shown_ns - self.at_ns) / 1e9
            self.at_ns = shown_ns
        return (100.0 + self.energy_j,)


class Instrument:
    meter, boundary = "synthetic", "the package"

    def __init__(self, source, provenance="measured_onboard"):
        self.sources, self.provenance, self.settings = (source,), provenance, {}

    def close(self):
        pass


def drawn(clock, source, each_s=0.004, **changes):
    calls = []

    def call():
        calls.append(clock.now_ns())
        clock.sleep(each_s)

    with Recorder(Instrument(source, **changes), clock=clock) as recorder:
        meter = Metering(recorder, None, clock)
        return meter.of(call), meter


@pytest.mark.parametrize("period_s", [0.001, 0.02, 0.1])
def test_the_energy_of_an_inference_is_that_of_the_load(period_s):
    clock = FakeClock()
    found, meter = drawn(clock, Counter(clock, period_s))
    assert isinstance(found, Drawn)
    assert found.energy_j == pytest.approx(WATTS * 0.004, rel=2.5 / PERIODS)
    assert found.window_s >= PERIODS * period_s * 0.99
    assert (found.meter, found.boundary.split(" (")[0]) == ("synthetic", "the package")
    again = meter.seconds
    assert again >= 0.5


def test_a_meter_that_stands_still_says_so():
    clock = FakeClock()
    found, _ = drawn(clock, Counter(clock, 0.001, watts=lambda: 0.0))
    assert isinstance(found, Missing)
    assert found.code == "counter_constant"


def test_a_meter_that_is_too_slow_is_no_meter_of_networks():
    clock = FakeClock()
    found, meter = drawn(clock, Counter(clock, 30.0))
    assert isinstance(found, Missing), found
    assert meter.seconds == 20.0
    assert meter.of(lambda: pytest.fail("the next network is not run for nothing")) == found


@pytest.mark.parametrize("flag", ["low_coverage", "sensor_stale", "aliasing_risk"])
def test_a_reading_that_may_not_be_of_the_load_is_refused(monkeypatch, flag):
    periods = []

    def between(trace, start_s, end_s, *, load_period_s):
        periods.append(load_period_s)
        found = energy_between(trace, start_s, end_s, load_period_s=load_period_s)
        return found if isinstance(found, Missing) else msgspec.structs.replace(found, flags=(*found.flags, flag))

    monkeypatch.setattr("hwbench.energy.recorder.energy_between", between)
    clock = FakeClock()
    found, _ = drawn(clock, Counter(clock, 0.001))
    assert isinstance(found, Missing)
    assert found.code == flag
    assert periods[-1] == pytest.approx(0.004), "a part-time sensor is held against how long an inference takes"


def test_a_recording_that_is_played_again_is_no_measurement():
    clock = FakeClock()
    found, _ = drawn(clock, Counter(clock, 0.001), provenance="replayed")
    assert found.code == "replayed"


def test_nobody_reads_where_energy_was_not_asked_for():
    clock = FakeClock()
    with metering("none", example_cpu(), clock, ()) as meter:
        found = meter.of(lambda: pytest.fail("nothing is run"))
    assert found.code == "not_asked"
