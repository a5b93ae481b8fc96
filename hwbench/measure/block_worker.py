"""Keep one engine loaded and time blocks of inferences when asked; sleep on the pipe in between.

What came before a block was another process's work: caches hold its data and runtimes' threads have gone to sleep. So
each block begins with a few inferences that are not timed.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import psutil

from hwbench.children import Emit, serve
from hwbench.dialogue import answer, questions
from hwbench.energy.choose import Chosen, choose
from hwbench.energy.recorder import Recorder
from hwbench.inference import inference
from hwbench.measure.gpu_memory import GpuMemoryTrack, gpu_track, told
from hwbench.measure.job import OUTPUTS, Job
from hwbench.measure.loaded import load, model_bytes
from hwbench.measure.loop import Call, sample, undisturbed
from hwbench.measure.session import energy_of
from hwbench.measure.stop import Count, Duration, make_stopper
from hwbench.measure.worker import save_outputs
from hwbench.records.base import Missing
from hwbench.records.comparison import Block, BlockQuestion, ProcessRun, Ready
from hwbench.units import Clock, MonotonicClock

_SETTLE_S = 0.02  # untimed, at the start of a block
_SETTLE_COUNT = 2


def work(job: Job, folder: Path, emit: Emit) -> ProcessRun:
    """Load, warm up, answer until nobody asks any more."""
    with gpu_track(job.device) as gpu:  # before the process has a CUDA context
        return _answered(job, folder, emit, gpu)


def _answered(job: Job, folder: Path, emit: Emit, gpu: GpuMemoryTrack | None) -> ProcessRun:
    clock = MonotonicClock()
    loaded = load(job, folder, emit, clock)
    gpu_loading = told(gpu)
    call = loaded.bound[0].run
    with inference(job.engine), undisturbed():
        finite = save_outputs(loaded.bound[0].outputs(), folder / OUTPUTS)
        loaded.memory.start_run()
        if gpu is not None:
            gpu.start_run()
        warmup = sample(call, clock, make_stopper(job.settings.warmup), _silent)
        chosen = choose(job.settings.meter, job.device)
        instrument = None if isinstance(chosen.instrument, Missing) else chosen.instrument
        resident_bytes = psutil.Process().memory_info().rss
        answer(emit, Ready(latency_s=statistics.fmean(warmup[len(warmup) // 2 :]) / 1e9, resident_bytes=resident_bytes))
        with Recorder(instrument, clock=clock, busy_cpus=job.settings.cpus) as recorder:
            for question in questions(BlockQuestion):
                answer(emit, _block(call, clock, question.count, chosen, recorder))
        gpu_used = told(gpu)
        used = loaded.memory.finish(model_bytes(job))
    result = ProcessRun(
        built=loaded.runner.built(),
        phases=loaded.opening.phases,
        memory=used,
        gpu_memory_loading=gpu_loading,
        gpu_memory=gpu_used,
        timed_region=loaded.runner.timed_region,
        outputs_finite=finite,
    )
    loaded.runner.close()
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
