"""Keep one engine loaded and time blocks of inferences when asked; sleep on the pipe in between.

What came before a block was another process's work: caches hold its data and runtimes' threads have gone to sleep. So
each block begins with a few inferences that are not timed.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from hwbench.children import Emit, serve
from hwbench.dialogue import answer, questions
from hwbench.energy.choose import Chosen, choose
from hwbench.energy.recorder import Recorder
from hwbench.measure.job import Job, inference, prepare
from hwbench.measure.loop import Call, sample, undisturbed
from hwbench.measure.memory import MemoryTrack
from hwbench.measure.stop import Count, Duration, make_stopper
from hwbench.measure.worker import energy_of, model_bytes, timed
from hwbench.records.base import Missing
from hwbench.records.comparison import Block, BlockQuestion, ProcessRun, Ready
from hwbench.records.measurement import Phases
from hwbench.units import Clock, MonotonicClock

_SETTLE_S = 0.02  # untimed, at the start of a block
_SETTLE_COUNT = 2


def work(job: Job, folder: Path, emit: Emit) -> ProcessRun:
    """Load, warm up, answer until nobody asks any more."""
    clock = MonotonicClock()
    memory = MemoryTrack()
    prepared = prepare(job, folder, emit, profile_layers=False)
    memory.baseline()
    emit({"event": "phase", "phase": "load"})
    load_s, program = timed(clock, lambda: prepared.engine.load(prepared.request))
    emit({"event": "phase", "phase": "compile"})
    compile_s, runner = timed(clock, program.compile)
    with inference(job.engine), undisturbed():
        bound = runner.bind(prepared.inputs)
        first_s, _ = timed(clock, bound.run)
        memory.loaded()
        memory.start_run()
        warmup = sample(bound.run, clock, make_stopper(job.settings.warmup), _silent)
        chosen = choose(job.settings.meter, job.device)
        instrument = None if isinstance(chosen.instrument, Missing) else chosen.instrument
        answer(emit, Ready(latency_s=statistics.fmean(warmup[len(warmup) // 2 :]) / 1e9))
        with Recorder(instrument, clock=clock, busy_cpus=job.settings.cpus) as recorder:
            for question in questions(BlockQuestion):
                answer(emit, _block(bound.run, clock, question.count, chosen, recorder))
        used = memory.finish(model_bytes(job))
    result = ProcessRun(
        built=runner.built(),
        phases=Phases(
            load_s=program.load_phase or load_s, compile_s=program.compile_phase or compile_s, first_inference_s=first_s
        ),
        memory=used,
        timed_region=runner.timed_region,
    )
    runner.close()
    return result


def _block(call: Call, clock: Clock, count: int, chosen: Chosen, recorder: Recorder) -> Block:
    sample(call, clock, Duration(seconds=_SETTLE_S, min_count=_SETTLE_COUNT), _silent)
    with recorder.window() as window:
        samples = sample(call, clock, Count(count=count), _silent)
    return Block(samples_ns=tuple(samples), energy=energy_of(chosen, window))


def _silent(fraction: float) -> None:
    """Nobody watches."""


if __name__ == "__main__":
    serve(work, Job)
