"""Run one engine over all samples, in a process of its own, and keep everything it puts out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hwbench import plugins
from hwbench.children import Emit, Throttle, serve
from hwbench.data.store import stored_inputs
from hwbench.errors import EngineError, Unsupported
from hwbench.graph.expose import expose
from hwbench.inference import run_once
from hwbench.protocols import BuildRequest, Engine, Runner, ShowsLayers
from hwbench.records.model import Model, ModelFiles
from hwbench.records.verification import RunJob, RunResult
from hwbench.verify.stores import OUTPUTS, Array

_PROGRESS_PERIOD_S = 0.5


def work(job: RunJob, folder: Path, emit: Emit) -> RunResult:
    """Build the engine, feed it every sample, and write its outputs into ``folder``.

    Raises:
        EngineError: it cannot be built or fails while running.
    """
    if job.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job.cpus)
    emit({"event": "phase", "phase": "build"})
    engine: Engine = plugins.load("engines", job.engine)
    engine.start()
    workdir = folder / "build"
    workdir.mkdir(exist_ok=True)
    model, files = _exposed(engine, job, folder) if job.expose else (job.model, job.files)
    request = BuildRequest(
        model=model,
        files=files,
        device=job.device,
        precision=job.precision,
        threads=job.threads,
        streams=1,
        profile_layers=False,
        workdir=workdir,
    )
    runner = engine.load(request).compile()
    inputs = stored_inputs(Path(job.data_folder))
    assert isinstance(job.model.batch_size, int)
    if job.expose:
        outputs = run_once(
            runner, job.engine, {name: np.array(array[: job.model.batch_size]) for name, array in inputs.items()}
        )
    else:
        outputs = _all(runner, job, inputs, job.model.batch_size, emit)
    np.savez(folder / OUTPUTS, **outputs)  # type: ignore[arg-type]
    built = runner.built()
    runner.close()
    digest = hashlib.sha256()
    for name in sorted(outputs):
        digest.update(name.encode() + outputs[name].tobytes())
    finite = all(bool(np.isfinite(array).all()) for array in outputs.values() if array.dtype.kind in "fc")
    return RunResult(built=built, outputs_sha256=digest.hexdigest(), finite=finite)


def _exposed(engine: Engine, job: RunJob, folder: Path) -> tuple[Model, ModelFiles]:
    """Return the network with every layer an output: its graph, or the file of an engine that can show it."""
    if job.model.artefact is None:
        return expose(job.model, job.files, folder)
    if not isinstance(engine, ShowsLayers):
        raise Unsupported(f"a saved engine of {engine.name} puts out nothing between its layers")
    return engine.show_layers(job.model, job.files, folder)


def _all(runner: Runner, job: RunJob, inputs: Mapping[str, Array], batch: int, emit: Emit) -> dict[str, Array]:
    """Return every output over all samples; the last batch is filled up with its own last sample."""
    parts: dict[str, list[Array]] = {}
    throttle = Throttle(_PROGRESS_PERIOD_S)
    for start in range(0, job.samples, batch):
        size = min(batch, job.samples - start)
        rows = np.minimum(np.arange(start, start + batch), start + size - 1)
        for name, array in run_once(
            runner, job.engine, {name: np.array(array[rows]) for name, array in inputs.items()}
        ).items():
            if array.ndim == 0 or len(array) != batch:
                raise EngineError(
                    f"output '{name}' has shape {list(array.shape)}: its first axis is not the batch of {batch}",
                    hint="outputs are judged sample by sample",
                )
            parts.setdefault(name, []).append(array[:size])
        if throttle.ready():
            emit({"event": "progress", "phase": "run", "fraction": (start + size) / job.samples})
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


if __name__ == "__main__":
    serve(work, RunJob)
