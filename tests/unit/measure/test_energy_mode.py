import itertools
from dataclasses import dataclass, field

import fixtures_results
import msgspec
import pytest
from synthetic_traces import channel

from hwbench.energy.choose import Chosen
from hwbench.energy.protocol import TRACE, energy_run_of
from hwbench.energy.recorder import Recorder
from hwbench.energy.trace import read_trace
from hwbench.errors import DeviceError
from hwbench.measure.modes import energy
from hwbench.measure.session import Session
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyRun
from hwbench.testing import FakeClock

IDLE_W, LOAD_W, INFERENCE_S = 20.0, 100.0, 0.02


class Machine(FakeClock):
    """Idles while time is slept away, and works in calls; the recorder is polled as its thread would."""

    def __init__(self):
        super().__init__()
        self.energy_j = 500.0
        self.recorder = None
        self.pauses = []

    def spend(self, seconds, watts, step_s=0.01):
        while seconds > 1e-12:
            step = min(step_s, seconds)
            self.advance(step)
            self.energy_j += watts * step
            seconds -= step
            if self.recorder is not None:
                self.recorder.poll()

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.spend(seconds, IDLE_W, 0.05)

    def call(self):
        self.spend(INFERENCE_S, LOAD_W)


class Counter:
    """The machine's energy counter; ``sensed_s`` is what its sensor looks at."""

    every_s = None

    def __init__(self, machine, sensed_s):
        self.machine = machine
        self.channels = (channel("board", "energy", period_s=0.1, sensed_s=sensed_s, lsb=0.001, gain=0.02),)

    def read(self):
        return (self.machine.energy_j,)


@dataclass
class Instrument:
    sources: tuple
    meter: str = "machine"
    boundary: str = "all of it"
    provenance: str = "measured_onboard"
    settings: dict = field(default_factory=dict)

    def close(self):
        pass


DETECTED = {"update_period": "0.1 s (detected: 29 changes, read every 1 ms)"}


def go(tmp_path, meter="auto", sensed_s=0.1, reason=None, reasons=None, told=None, every_s=None, **mode_settings):
    machine = Machine()
    counter = Counter(machine, sensed_s)
    counter.every_s = every_s
    instrument = reason or Instrument(sources=(counter,), settings=told or {})
    chosen = Chosen(instrument=instrument, not_used={"rapl": "machine comes first"}, reasons=reasons or {})
    folder = tmp_path / "runs" / "stub-fp32"
    folder.mkdir(parents=True, exist_ok=True)
    settings = fixtures_results.make_settings(meter=meter, threads=1, cpus=(0,))
    settings = msgspec.structs.replace(
        settings, mode="energy", mode_settings={"repeats": 5.0, "max_warmup_s": 180.0} | mode_settings
    )
    ticks = itertools.count()
    with Recorder(None if reason else instrument, clock=machine) as recorder:
        machine.recorder = recorder
        session = Session(
            calls=(machine.call,),
            settings=settings,
            batch_size=1,
            clock=machine,
            recorder=recorder,
            chosen=chosen,
            emit=lambda event: None,
            folder=folder,
            host=lambda: fixtures_results.make_host(next(ticks) * 1e-3),
        )
        return machine, energy.run(session), folder / TRACE


def test_a_run(tmp_path):
    _, seen, path = go(tmp_path, repeats=5, max_warmup_s=60)
    run = seen.parts["energy_run"]
    assert isinstance(run, EnergyRun)
    assert run.total_j.value == pytest.approx(LOAD_W * INFERENCE_S, rel=1e-3)
    assert run.dynamic_j.value == pytest.approx((LOAD_W - IDLE_W) * INFERENCE_S, rel=1e-3)
    assert run.total_j.n == 5
    assert {window.inferences for window in run.windows} == {500}  # whole, and 10 s of them
    assert run.plateau.reached
    assert run.idle.window_s == pytest.approx(10, abs=0.1)
    assert run.power.averaging_s == pytest.approx(1.0, abs=0.05)
    assert run.not_used == {"rapl": "machine comes first"}
    assert run.trace == "runs/stub-fp32/energy.jsonl"
    assert set(run.flags) <= {"clocks_not_locked"}  # the host's governor is schedutil
    assert len(seen.samples_ns) == 2500
    assert "series" not in seen.parts, "every sample was kept"
    assert seen.edges.window_s == pytest.approx(50, rel=0.01)
    assert seen.edges.recorded.reading().energy_j == pytest.approx(5000, rel=0.01)
    assert energy_run_of(path) == run, "computed again from the file, it is the same"


def test_the_order_of_things(tmp_path):
    _, _, path = go(tmp_path, repeats=2, window_s=2)
    names = [name for name, _ in itertools.groupby(mark.mark for mark in read_trace(path).marks)]
    looks = [name for name in names if name != "warmup.look"]
    window = ["window.start", "window.end"]
    assert looks == [
        "host", "idle_before.start", "idle_before.end", "host", "warmup.start", "warmup.end", "host", *window, *window,
        "host", "tail.start", "tail.end", "host", "idle_after.start", "idle_after.end", "host", "recorder",
    ]  # fmt: skip


def test_settings_are_obeyed(tmp_path):
    _, seen, _ = go(tmp_path, repeats=3, window_s=4, max_warmup_s=4)
    run = seen.parts["energy_run"]
    assert len(run.windows) == 3
    assert {window.inferences for window in run.windows} == {200}
    assert run.idle.window_s == pytest.approx(4, abs=0.1)
    assert run.plateau.reached is False
    assert {"window_too_short", "few_repeats", "no_plateau"} <= set(run.flags)


def test_a_better_meter_that_may_not_be_read_is_told(tmp_path):
    denied = {"rapl": Missing(code="permission_denied", why="it is for root")}
    _, seen, _ = go(tmp_path, reasons=denied, repeats=2, window_s=1, max_warmup_s=2)
    assert "permission_fallback" in seen.parts["energy_run"].flags


def test_at_least_fifty_inferences(tmp_path):
    _, seen, _ = go(tmp_path, repeats=2, window_s=0.1, max_warmup_s=2)
    assert {window.inferences for window in seen.parts["energy_run"].windows} == {50}


def test_a_part_time_sensor_gets_pauses(tmp_path):
    machine, seen, _ = go(tmp_path, sensed_s=0.025, told=DETECTED, every_s=0.05, repeats=2, max_warmup_s=40)
    run = seen.parts["energy_run"]
    assert "dephased" in run.flags
    assert "aliasing_risk" not in run.flags
    assert any(0 < pause < 0.1 for pause in machine.pauses)
    assert all(0 < window.paused_s < 1 for window in run.windows)
    assert run.total_j.value == pytest.approx(LOAD_W * INFERENCE_S, rel=2e-3)  # the pauses' energy is taken off


def test_a_part_time_sensor_of_undetected_period_gets_pauses_by_chance(tmp_path):
    machine, seen, _ = go(tmp_path, sensed_s=0.025, every_s=0.05, repeats=2, max_warmup_s=40)
    run = seen.parts["energy_run"]
    assert {"dephased", "aliasing_risk"} <= set(run.flags)
    pauses = [pause for pause in machine.pauses if 0 < pause < 0.1]
    assert len(pauses) > 10
    assert len(set(pauses)) == len(pauses)
    assert run.total_j.value == pytest.approx(LOAD_W * INFERENCE_S, rel=2e-3)


def test_pauses_leave_at_least_fifty_inferences(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.INFERENCE_S", 0.5)
    _, seen, _ = go(tmp_path, sensed_s=0.025, told=DETECTED, every_s=0.05, repeats=2, window_s=0.1, max_warmup_s=2)
    assert all(window.inferences >= 50 for window in seen.parts["energy_run"].windows)


def test_of_a_very_fast_model_some_samples_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "MOST_SAMPLES", 300)
    _, seen, _ = go(tmp_path, repeats=2, max_warmup_s=2)
    series = seen.parts["series"]
    assert series.kept_every == 4
    assert len(seen.samples_ns) == 250
    assert [part.inferences for part in series.bins] == [500, 500]
    assert series.bins[0].median_s == pytest.approx(INFERENCE_S)
    assert series.bins[1].start_s == pytest.approx(10, abs=0.1)
    assert {window.inferences for window in seen.parts["energy_run"].windows} == {500}


def test_no_meter_is_refused_before_any_work(tmp_path):
    reason = Missing(code="permission_denied", why="the counters are for root", cure="chmod a+r")
    with pytest.raises(DeviceError, match="the counters are for root") as refusal:
        go(tmp_path, reason=reason)
    assert "chmod a+r" in refusal.value.hint
    assert "--meter external" in refusal.value.hint
    assert not (tmp_path / "runs" / "stub-fp32" / TRACE).exists()


def test_external_meter_gets_marks_and_pulses_alone(tmp_path):
    reason = Missing(code="external", why="later")
    _, seen, path = go(tmp_path, meter="external", reason=reason, repeats=2, window_s=2)
    trace = read_trace(path)
    pulses = trace.windows("pulse")
    lengths = [end.t_s - start.t_s for start, end in pulses]
    assert [round(length) for length in lengths] == [2, 4, 2, 2, 4, 2]
    assert pulses[2][1].t_s < trace.windows("warmup")[0][0].t_s < trace.windows("tail")[0][1].t_s < pulses[3][0].t_s
    assert trace.samples == {}
    assert seen.parts["energy_run"].code == "no_readings"
    assert "hwbench energy import" in seen.parts["energy_run"].cure
