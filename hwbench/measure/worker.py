"""Time one engine, in this process and no other.

Import the runtime, load, compile, first inference, warm up, sample: each phase has its own time and its own memory
mark. The timed window holds nothing but inferences; energy meters and the host's state are read at its edges.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from hwbench.children import Emit, Throttle, serve
from hwbench.energy.choose import Chosen, choose
from hwbench.energy.recorder import Recorder, Window
from hwbench.measure.host import read_host
from hwbench.measure.job import OUTPUTS, Job, inference, prepare
from hwbench.measure.loop import Call, Concurrent, sample, sample_streams, sub_window_rates, undisturbed
from hwbench.measure.memory import MemoryTrack
from hwbench.measure.stop import make_stopper
from hwbench.protocols import Tensors
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyReading
from hwbench.records.measurement import Phases, RunSettings, Throughput, TimedRun
from hwbench.stats import mean_interval
from hwbench.units import Clock, MonotonicClock

T = TypeVar("T")

_CLOCK = "time.perf_counter_ns"
_PROGRESS_PERIOD_S = 0.5


def work(job: Job, folder: Path, emit: Emit) -> TimedRun:
    """Do the job and return what was seen."""
    clock = MonotonicClock()
    memory = MemoryTrack()
    prepared = prepare(job, folder, emit, profile_layers=False)
    memory.baseline()
    emit({"event": "phase", "phase": "load"})
    load_s, program = timed(clock, lambda: prepared.engine.load(prepared.request))
    emit({"event": "phase", "phase": "compile"})
    compile_s, runner = timed(clock, program.compile)
    chosen = choose(job.settings.meter, job.device)
    with inference(job.engine):
        bound = [runner.bind(prepared.inputs) for _ in range(job.settings.streams)]
        first_s, _ = timed(clock, bound[0].run)
        memory.loaded()
        finite = _save_outputs(bound[0].outputs(), folder / OUTPUTS)
        started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        memory.start_run()
        window = _Window(job.settings, chosen, [item.run for item in bound], clock, emit)
        window.run()
        used = memory.finish(model_bytes(job))  # before anything else is read from the runtime
    result = TimedRun(
        built=runner.built(),
        started_at=started_at,
        phases=Phases(
            load_s=program.load_phase or load_s, compile_s=program.compile_phase or compile_s, first_inference_s=first_s
        ),
        warmup_ns=tuple(window.warmup),
        samples_ns=tuple(window.samples),
        timed_region=runner.timed_region,
        clock=_CLOCK,
        stopped_by=job.settings.stop.name,
        target_reached=window.stopper.reached(window.samples, window.window_s),
        window_s=window.window_s,
        process_cpu_s=window.process_cpu_s,
        throughput=_throughput(job, window.streams),
        outputs_finite=finite,
        memory=used,
        energy=window.energy,
        host_before=window.before,
        host_after=window.after,
    )
    runner.close()
    return result


class _Window:
    """Warm-up, then the timed window with what is read at its edges."""

    def __init__(
        self,
        settings: RunSettings,
        chosen: Chosen,
        calls: list[Call],
        clock: Clock,
        emit: Emit,
    ) -> None:
        self.settings = settings
        self.chosen = chosen
        self.calls = calls
        self.clock = clock
        self.emit = emit
        self.throttle = Throttle(_PROGRESS_PERIOD_S)
        self.warmup = array("q")
        self.streams: Concurrent | None = None

    def run(self) -> None:
        with undisturbed():
            self._warm_up()
            stopper = make_stopper(self.settings.stop)
            self.before = read_host(cpus=self.settings.cpus)
            cpu_before = time.process_time()
            instrument = None if isinstance(self.chosen.instrument, Missing) else self.chosen.instrument
            recorder = Recorder(instrument, clock=self.clock, busy_cpus=self.settings.cpus)
            with recorder, recorder.window() as window:
                opened = self.clock.now_ns()
                if self.settings.mode == "latency":
                    self.samples = sample(self.calls[0], self.clock, stopper, self._tick("measure"))
                else:
                    self.streams = sample_streams(self.calls, self.clock, stopper, self._tick("measure"))
                    self.samples = self.streams.samples
                self.window_s = (self.clock.now_ns() - opened) / 1e9
            self.process_cpu_s = time.process_time() - cpu_before
            self.after = read_host(cpus=self.settings.cpus)
            self.stopper = stopper
            self.energy = energy_of(self.chosen, window)

    def _warm_up(self) -> None:
        stopper = make_stopper(self.settings.warmup)
        if self.settings.mode == "latency":
            self.warmup = sample(self.calls[0], self.clock, stopper, self._tick("warm-up"))
        else:
            self.warmup = sample_streams(self.calls, self.clock, stopper, self._tick("warm-up")).samples

    def _tick(self, phase: str) -> Callable[[float], None]:
        def tick(fraction: float) -> None:
            if self.throttle.ready():
                self.emit({"event": "progress", "phase": phase, "fraction": fraction})

        return tick


def energy_of(chosen: Chosen, window: Window) -> EnergyReading | Missing:
    """Return the reading of a window, or why nothing was read."""
    if isinstance(chosen.instrument, Missing):
        return chosen.instrument
    reading = window.reading()
    return reading if isinstance(reading, Missing) else msgspec.structs.replace(reading, not_used=chosen.not_used)


def _throughput(job: Job, streams: Concurrent | None) -> Throughput | Missing:
    if streams is None:
        return Missing(code="other_mode", why="measured in latency mode", cure="--mode throughput")
    inferences, rates = len(streams.completions_s), sub_window_rates(streams)
    low, high = mean_interval(rates)
    batch = job.model.batch_size
    per_s = inferences / streams.window_s
    return Throughput(
        streams=job.settings.streams,
        batch_size=batch,
        inferences=inferences,
        window_s=streams.window_s,
        inferences_per_s=per_s,
        low_per_s=max(0.0, low),
        high_per_s=high,
        items_per_s=batch if isinstance(batch, Missing) else per_s * batch,
        sub_window_per_s=rates,
    )


def timed(clock: Clock, call: Callable[[], T]) -> tuple[float, T]:
    """Call and return the seconds it took, and what it returned."""
    started = clock.now_ns()
    result = call()
    return (clock.now_ns() - started) / 1e9, result


def _save_outputs(outputs: Tensors, path: Path) -> bool:
    """Write the outputs, and say whether all their numbers are finite.

    What numpy can only pickle (text, maps) is written as text, and parity says so.
    """
    plain = {name: np.asarray(array) for name, array in outputs.items()}
    plain = {name: array.astype(np.float32) if array.dtype.kind == "V" else array for name, array in plain.items()}
    np.savez(path, **{name: array.astype(str) if array.dtype.kind == "O" else array for name, array in plain.items()})  # type: ignore[arg-type]
    return all(bool(np.isfinite(array).all()) for array in plain.values() if array.dtype.kind in "fc")


def model_bytes(job: Job) -> int:
    """Return the size of what the runtime reads from disk: the graph and, where it lies apart, its weights."""
    folder = Path(job.files.folder)
    parts = (folder / job.files.runtime_graph, folder / f"{job.files.runtime_graph}.data")
    return sum(Path(part).stat().st_size for part in parts if part.exists())


if __name__ == "__main__":
    serve(work, Job)
