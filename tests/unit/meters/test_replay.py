import json
import time

import pytest

from hwbench.energy.imports import import_trace
from hwbench.energy.integrate import Sample
from hwbench.energy.recorder import Recorder
from hwbench.energy.trace import Trace, write_trace
from hwbench.meters.replay import Replay
from hwbench.records.base import Missing
from hwbench.records.energy import TRACE_SCHEMA, Channel, TraceHeader
from hwbench.testing import FakeClock, MeterContract, example_cpu, let


def write(path, key, values, period_s=0.1, start_s=0.0):
    lines = [json.dumps({"t_s": start_s + i * period_s, key: value}) for i, value in enumerate(values)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def ramp(tmp_path):
    """0 to 100 W in 10 s."""
    return write(tmp_path / "ramp.jsonl", "power_w", [float(i) for i in range(101)], start_s=1234.5)


@pytest.fixture
def counter(tmp_path):
    """50 W for 10 s."""
    return write(tmp_path / "counter.jsonl", "energy_j", [5.0 * i for i in range(101)])


def measure(meter, *seconds):
    """Windows of so many seconds, one after the other; the reading of the last."""
    instrument = meter.open(example_cpu())
    if isinstance(instrument, Missing):
        return instrument
    with Recorder(instrument, clock=meter.clock) as recorder:
        for length in seconds:
            with recorder.window() as window:
                let(recorder, meter.clock, length)
    return window.reading()


class TestReplayContract(MeterContract):
    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def meter(self, counter, clock):
        return Replay(counter, clock)

    work_s = 1.0


class TestReplayWithoutATrace(MeterContract):
    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def meter(self, clock, monkeypatch):
        monkeypatch.delenv("HWBENCH_REPLAY_TRACE", raising=False)
        return Replay(clock=clock)


def test_power_trace(ramp, clock):
    reading = measure(Replay(ramp, clock), 10)
    assert reading.energy_j == pytest.approx(500, rel=0.01)
    assert reading.provenance == "replayed"
    assert reading.boundary == "whatever ramp.jsonl was recorded on (replay: trace)"
    assert reading.clock == "FakeClock"
    assert reading.update_period_s == pytest.approx(0.1)
    assert reading.flags == ("gain_unknown",)
    assert reading.relative_uncertainty == pytest.approx(2 * 0.1 / 6**0.5 / 10)


def test_time_starts_when_the_instrument_is_opened(ramp, clock):
    clock.advance(1000)
    assert measure(Replay(ramp, clock), 2).energy_j == pytest.approx(20, rel=0.05)
    assert measure(Replay(ramp, clock), 5, 1).energy_j == pytest.approx(55, rel=0.05)  # from second 5 to second 6


def test_counter_trace_between_its_readings(counter, clock):
    assert measure(Replay(counter, clock), 1.037, 2.5).energy_j == pytest.approx(125, rel=0.02)


def test_a_trace_is_not_repeated(ramp, clock):
    meter = Replay(ramp, clock)
    assert measure(meter, 9).energy_j == pytest.approx(405, rel=0.01)
    assert measure(meter, 9, 1.5).code == "trace_too_short"


def test_an_empty_window(ramp, clock):
    assert measure(Replay(ramp, clock), 0).code == "window_too_short"


def test_a_short_window_is_flagged(ramp, clock):
    meter = Replay(ramp, clock)
    assert "window_too_short" in measure(meter, 0.9).flags


def test_gaps_are_declared(tmp_path, clock):
    trace = tmp_path / "gap.jsonl"
    times = [i / 10 for i in range(101) if not 30 < i < 60]
    trace.write_text("".join(f'{{"t_s": {t}, "power_w": 50}}\n' for t in times))
    reading = measure(Replay(trace, clock), 10)
    assert reading.energy_j == pytest.approx(500)
    assert "low_coverage" in reading.flags
    assert reading.relative_uncertainty > 0.3


def test_a_counter_that_rests_has_no_reading(tmp_path, clock):
    trace = write(tmp_path / "rest.jsonl", "energy_j", [0.0, 1.0, 2.0, *[3.0] * 50])
    meter = Replay(trace, clock)
    assert measure(meter, 1, 2).code == "counter_constant"


def test_the_trace_comes_from_the_environment(ramp, clock, monkeypatch):
    monkeypatch.setenv("HWBENCH_REPLAY_TRACE", str(ramp))
    meter = Replay(clock=clock)
    assert meter.supports(example_cpu()).usable
    assert measure(meter, 10).energy_j == pytest.approx(500, rel=0.01)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "trace_too_short"),
        ('{"t_s": 0, "power_w": 1}\n', "trace_too_short"),
        ('{"t_s": 0, "power_w": 1}\nnonsense\n', "trace_unreadable"),
        ('{"t_s": 0, "power_w": 1}\n{"t_s": 1}\n', "trace_unreadable"),
        ('{"t_s": 0, "power_w": 1}\n{"t_s": 1, "energy_j": 1}\n', "trace_unreadable"),
        ('{"t_s": 0, "power_w": 1, "energy_j": 1}\n{"t_s": 1, "power_w": 1, "energy_j": 1}\n', "trace_unreadable"),
        ('{"t_s": 0, "power_w": 1}\n{"t_s": 0, "power_w": 1}\n', "trace_unreadable"),
        ('{"t_s": 0, "power_w": 1}\n{"t_s": 1, "power_w": -1}\n', "trace_unreadable"),
        ('{"t_s": 0, "power_w": 1}\n{"t_s": 1, "power_w": NaN}\n', "trace_unreadable"),
        ('{"t_s": 0, "power_mw": 1}\n', "trace_unreadable"),
        ('{"t_s": 0, "energy_j": 0}\n{"t_s": 1, "energy_j": 0}\n', "counter_constant"),
    ],
)
def test_bad_traces_say_why(tmp_path, clock, text, code):
    trace = tmp_path / "bad.jsonl"
    trace.write_text(text)
    meter = Replay(trace, clock)
    assert [reason.code for reason in meter.supports(example_cpu()).reasons] == [code]
    reading = measure(meter, 0.5)
    assert isinstance(reading, Missing)
    assert reading.code == code


def test_a_bad_line_is_named(tmp_path, clock):
    trace = tmp_path / "bad.jsonl"
    trace.write_text('{"t_s": 0, "power_w": 1}\n\n{"t_s": "x"}\n')
    assert "line 3" in str(Replay(trace, clock).supports(example_cpu()))


def test_no_such_file(tmp_path, clock):
    assert measure(Replay(tmp_path / "nowhere.jsonl", clock), 1).code == "no_trace"


def test_wall_clock_steps_do_not_matter(ramp, clock, monkeypatch):
    def forbidden():
        raise AssertionError("a duration was read from the wall clock")

    monkeypatch.setattr(time, "time", forbidden)
    monkeypatch.setattr(time, "time_ns", forbidden)
    assert measure(Replay(ramp, clock), 10).window_s == pytest.approx(10)


def recorded(tmp_path, channels, samples, marks=(), faults=None):
    header = TraceHeader(
        schema_version=TRACE_SCHEMA,
        meter="rapl",
        boundary="CPU packages",
        provenance="vendor_modelled",
        clock="MonotonicClock",
        started_at="2026-01-01T00:00:00.000+00:00",
        channels=channels,
        settings={"flags": "vm"},
    )
    path = tmp_path / "own.jsonl"
    write_trace(path, Trace(header, samples, faults or {}, list(marks)))
    return path


def package(name="package-0", role="total", quantity="energy"):
    return Channel(name=name, quantity=quantity, role=role, source="a test", period_s=0.1)


def ticks(watts, start_s=3.0, count=101):
    return [Sample(start_s + i / 10, watts * i / 10) for i in range(count)]


def test_a_trace_of_ours_is_played_with_all_its_channels(tmp_path, clock):
    channels = (package(), package("dram-0"), package("core", role="part"))
    samples = {"package-0": ticks(40.0), "dram-0": ticks(10.0), "core": ticks(30.0)}
    reading = measure(Replay(recorded(tmp_path, channels, samples), clock), 2, 5)
    assert reading.energy_j == pytest.approx(250, rel=0.03)
    assert reading.domains_j["core"] == pytest.approx(150, rel=0.03)
    assert reading.provenance == "replayed"
    assert reading.boundary == "CPU packages (replay: package-0 + dram-0)"
    assert reading.flags == ("vm",)


def test_a_fault_of_a_trace_of_ours_is_played_too(tmp_path, clock):
    fault = Missing(code="counter_unreadable", why="the file went away")
    path = recorded(tmp_path, (package(),), {"package-0": ticks(40.0, count=31)}, faults={"package-0": (6.05, fault)})
    assert measure(Replay(path, clock), 2).energy_j == pytest.approx(80, rel=0.06)
    assert measure(Replay(path, clock), 5).code == "counter_unreadable"


@pytest.mark.parametrize(
    ("channels", "samples", "code"),
    [
        ((), {}, "no_total"),
        ((package(role="part"),), {"package-0": ticks(40.0)}, "no_total"),
        ((package(),), {"package-0": ticks(40.0, count=1)}, "no_total"),
    ],
)
def test_a_trace_of_ours_without_a_total(tmp_path, clock, channels, samples, code):
    meter = Replay(recorded(tmp_path, channels, samples), clock)
    assert [reason.code for reason in meter.supports(example_cpu()).reasons] == [code]


def test_a_truncated_trace_of_ours(tmp_path, clock):
    path = recorded(tmp_path, (package(),), {"package-0": ticks(40.0)})
    path.write_bytes(path.read_bytes()[:-20])
    assert measure(Replay(path, clock), 1).code == "trace_unreadable"


def test_what_is_imported_can_be_replayed(tmp_path, clock):
    table = tmp_path / "meter.csv"
    table.write_text("t_s,power_mw\n" + "".join(f"{i / 10},50000\n" for i in range(101)))
    write_trace(tmp_path / "imported.jsonl", import_trace(table))
    assert measure(Replay(tmp_path / "imported.jsonl", clock), 10).energy_j == pytest.approx(500)
