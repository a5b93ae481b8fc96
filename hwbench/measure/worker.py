"""Time one engine in one mode, in this process and no other.

Import the runtime, load, compile, first inference (:mod:`hwbench.measure.loaded`), then the mode
(:mod:`hwbench.measure.modes`). The timed window holds nothing but inferences; energy meters and the host's state are
read at its edges.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from hwbench.children import Emit, serve
from hwbench.energy.choose import choose
from hwbench.energy.protocol import TRACE
from hwbench.energy.recorder import Recorder
from hwbench.energy.trace import write_trace
from hwbench.inference import inference
from hwbench.measure.gpu_memory import GpuMemoryTrack, gpu_track, told
from hwbench.measure.job import OUTPUTS, Job
from hwbench.measure.loaded import load, model_bytes
from hwbench.measure.loop import undisturbed
from hwbench.measure.modes import MODES
from hwbench.measure.runtime_memory import runtime_memory
from hwbench.measure.session import Session, energy_of, host_reader
from hwbench.measure.transfers import transfers
from hwbench.protocols import Tensors
from hwbench.records.base import Missing
from hwbench.records.measurement import TimedRun
from hwbench.units import MonotonicClock

NOT_ASKED = Missing(code="not_asked", why="the runtime was not asked for its memory")
CLOCK = "time.perf_counter_ns"


def work(job: Job, folder: Path, emit: Emit) -> TimedRun:
    """Do the job and return what was seen."""
    with gpu_track(job.device) as gpu:  # before the process has a CUDA context
        return _run(job, folder, emit, gpu)


def _run(job: Job, folder: Path, emit: Emit, gpu: GpuMemoryTrack | None) -> TimedRun:
    clock, settings = MonotonicClock(), job.settings
    loaded = load(job, folder, emit, clock)
    gpu_loading = told(gpu)
    with inference(job.engine):
        finite = save_outputs(loaded.bound[0].outputs(), folder / OUTPUTS)
        chosen = choose(settings.meter, job.device)
        instrument = None if isinstance(chosen.instrument, Missing) else chosen.instrument
        started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        loaded.memory.start_run()
        if gpu is not None:
            gpu.start_run()
        with undisturbed(), Recorder(instrument, clock=clock, busy_cpus=settings.cpus) as recorder:
            session = Session(
                calls=tuple(item.run for item in loaded.bound),
                settings=settings,
                batch_size=job.model.batch_size,
                clock=clock,
                recorder=recorder,
                chosen=chosen,
                emit=emit,
                folder=folder,
                opening=loaded.opening,
                host=host_reader(settings, clock, job.device),
            )
            seen = MODES[settings.mode](session)
        used, gpu_used = loaded.memory.finish(model_bytes(job)), told(gpu)  # before the runtime is asked anything else
        if instrument is not None and settings.mode != "energy":  # which has written its own
            write_trace(folder / TRACE, recorder.trace)
    copies = transfers(job.engine, loaded.runner, loaded.prepared.inputs)
    asked = runtime_memory(job.engine, loaded.runner, loaded.prepared.inputs) if job.ask_memory else NOT_ASKED
    result = TimedRun(
        built=loaded.runner.built(),
        started_at=started_at,
        phases=loaded.opening.phases,
        warmup_ns=tuple(seen.warmup_ns),
        samples_ns=tuple(seen.samples_ns),
        timed_region=loaded.runner.timed_region,
        clock=CLOCK,
        stopped_by=settings.stop.name,
        target_reached=seen.target_reached,
        window_s=seen.edges.window_s,
        process_cpu_s=seen.edges.process_cpu_s,
        outputs_finite=finite,
        memory=used,
        energy=energy_of(chosen, seen.edges.recorded),
        host_before=seen.edges.host_before,
        host_after=seen.edges.host_after,
        transfers=copies,
        runtime_memory=asked,
        gpu_memory_loading=gpu_loading,
        gpu_memory=gpu_used,
        **seen.parts,  # type: ignore[arg-type]  # fields by name
    )
    loaded.runner.close()
    return result


def save_outputs(outputs: Tensors, path: Path) -> bool:
    """Write the outputs, and say whether all their numbers are finite.

    What numpy can only pickle (text, maps) is written as text, and parity says so.
    """
    plain = {name: np.asarray(array) for name, array in outputs.items()}
    plain = {name: array.astype(np.float32) if array.dtype.kind == "V" else array for name, array in plain.items()}
    np.savez(path, **{name: array.astype(str) if array.dtype.kind == "O" else array for name, array in plain.items()})  # type: ignore[arg-type]
    return all(bool(np.isfinite(array).all()) for array in plain.values() if array.dtype.kind in "fc")


if __name__ == "__main__":
    serve(work, Job)
