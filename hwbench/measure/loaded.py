"""The opening of every worker that times: baseline memory, load, compile, bind, the first inference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hwbench.children import Emit, spawned_ns
from hwbench.inference import inference
from hwbench.measure.job import Job, Prepared, prepare, timed
from hwbench.measure.memory import MemoryTrack
from hwbench.protocols import Bound, Runner
from hwbench.records.measurement import Phases
from hwbench.units import Clock


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How this process came to its first answer; moments by ``time.perf_counter_ns``, which processes share."""

    spawned_ns: int  # the parent started it
    began_ns: int  # Python and hwbench were imported
    runtime_s: float  # importing the engine's runtime
    phases: Phases
    ready_ns: int  # the first inference was finished


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An engine that has answered once; ``bound`` holds one executable a stream, the first of which was called."""

    prepared: Prepared
    runner: Runner
    bound: tuple[Bound, ...]
    opening: Opening
    memory: MemoryTrack  # in its third phase: loaded


def load(job: Job, folder: Path, emit: Emit, clock: Clock) -> Loaded:
    """Bring the engine of ``job`` to its first answer, each phase with its own time and memory mark.

    Raises:
        EngineError: the runtime refuses the model, or fails at the first inference.
    """
    began_ns, memory = clock.now_ns(), MemoryTrack()
    prepared = prepare(job, folder, emit, profile_layers=False)
    memory.baseline()
    emit({"event": "phase", "phase": "load"})
    load_s, program = timed(clock, lambda: prepared.engine.load(prepared.request))
    emit({"event": "phase", "phase": "compile"})
    compile_s, runner = timed(clock, program.compile)
    with inference(job.engine):
        bound = tuple(runner.bind(prepared.inputs) for _ in range(job.settings.streams))
        first_s, _ = timed(clock, bound[0].run)
        ready_ns = clock.now_ns()
    memory.loaded()
    phases = Phases(
        load_s=program.load_phase or load_s, compile_s=program.compile_phase or compile_s, first_inference_s=first_s
    )
    opening = Opening(
        spawned_ns=spawned_ns(), began_ns=began_ns, runtime_s=prepared.runtime_s, phases=phases, ready_ns=ready_ns
    )
    return Loaded(prepared=prepared, runner=runner, bound=bound, opening=opening, memory=memory)


def model_bytes(job: Job) -> int:
    """Return the size of what the runtime reads from disk: the graph and, where it lies apart, its weights."""
    folder = Path(job.files.folder)
    if job.model.artefact is not None:
        return sum((folder / name).stat().st_size for name in job.model.artefact.files)
    parts = (folder / job.files.runtime_graph, folder / f"{job.files.runtime_graph}.data")
    return sum(Path(part).stat().st_size for part in parts if part.exists())
