"""What a worker process is asked to do, and the part of it that timing and layer profiling share."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from hwbench import plugins
from hwbench.children import Emit
from hwbench.files import read_bytes
from hwbench.protocols import BuildRequest, Engine
from hwbench.records.base import Record
from hwbench.records.device import Device
from hwbench.records.measurement import RunSettings
from hwbench.records.model import Model, ModelFiles
from hwbench.units import Clock, MonotonicClock

T = TypeVar("T")
Arrays = dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]

OUTPUTS = "outputs.npz"
BUILD = "build"  # scratch space of the runtime


class Job(Record, frozen=True, kw_only=True):
    """One engine, one precision, one model.

    ``layer_iterations`` is only read by the per-layer worker; ``ask_memory``: what the runtime says of its own memory
    is wanted too, which takes another inference or another build.
    """

    engine: str
    precision: str
    model: Model
    files: ModelFiles
    device: Device
    settings: RunSettings
    layer_iterations: int = 0
    ask_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The worker's surroundings: pinned, engine imported, inputs in memory."""

    engine: Engine
    request: BuildRequest
    inputs: Arrays
    runtime_s: float  # importing the engine and its runtime


def prepare(job: Job, folder: Path, emit: Emit, *, profile_layers: bool) -> Prepared:
    """Pin the process, import the engine's runtime and read the inputs."""
    emit({"event": "phase", "phase": "start"})
    if job.settings.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job.settings.cpus)
    runtime_s, engine = timed(MonotonicClock(), lambda: _started(job.engine))
    with np.load(io.BytesIO(read_bytes(Path(job.files.folder) / job.files.inputs)), allow_pickle=False) as archive:
        inputs: Arrays = {name: archive[name] for name in archive.files}
    workdir = folder / BUILD
    shutil.rmtree(workdir, ignore_errors=True)  # what an interrupted run left would make a cold compile warm
    workdir.mkdir()
    request = BuildRequest(
        model=job.model,
        files=job.files,
        device=job.device,
        precision=job.precision,
        threads=job.settings.threads,
        streams=job.settings.streams,
        profile_layers=profile_layers,
        workdir=workdir,
    )
    return Prepared(engine=engine, request=request, inputs=inputs, runtime_s=runtime_s)


def _started(name: str) -> Engine:
    engine: Engine = plugins.load("engines", name)
    engine.start()
    return engine


def timed(clock: Clock, call: Callable[[], T]) -> tuple[float, T]:
    """Call and return the seconds it took, and what it returned."""
    started = clock.now_ns()
    result = call()
    return (clock.now_ns() - started) / 1e9, result
