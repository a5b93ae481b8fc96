"""Build one engine by one plan and put it into a bundle, in a process of its own.

The engine is written down, read again by the runtime as whoever deploys it will, and run once on the model's inputs:
what it puts out goes into the bundle, to be held against what it puts out elsewhere. Of a device that is not attached
(:mod:`hwbench.build.elsewhere`) the graph it was built from is run in its place.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from hwbench import plugins
from hwbench.build.elsewhere import Ran, not_ran
from hwbench.bundles.describe import Words, manifest_of
from hwbench.bundles.examples import example_for
from hwbench.bundles.layout import EXPECTED
from hwbench.bundles.writer import Contents, write_bundle
from hwbench.children import Emit, serve
from hwbench.errors import Unsupported
from hwbench.inference import run_once
from hwbench.protocols import BuildRequest, Builds, Engine, LowerRequest, Runner, TakesKernels
from hwbench.records.base import Missing
from hwbench.records.build import BundleJob, EngineBuilt
from hwbench.records.bundle import NOT_GIVEN, NOT_NEEDED, Manifest
from hwbench.records.model import ModelFiles
from hwbench.units import Clock, MonotonicClock


def work(job: BundleJob, folder: Path, emit: Emit) -> EngineBuilt:
    """Do the job and leave the bundle at ``job.target``.

    Raises:
        Unsupported: the engine cannot build this plan.
        EngineError: its runtime fails at building, loading or running.
        StorageError: the bundle cannot be written.
    """
    clock: Clock = MonotonicClock()
    engine: Engine = plugins.load("engines", job.engine)
    builder = _builder(engine)
    _check_kernels(engine, job)
    engine.start()
    request = LowerRequest(
        model=job.imported.model,
        files=job.imported.files,
        plan=job.plan,
        calibration=job.calibration,
        device=job.device,
        folder=_empty(folder / "engine"),
        options=job.options,
    )
    emit({"event": "phase", "phase": "build"})
    started = clock.now_ns()
    lowered = builder.lower(request)
    lowered_at = clock.now_ns()
    words = Words(
        preprocessing=job.preprocessing_note or NOT_GIVEN, postprocessing=job.postprocessing_note or NOT_GIVEN
    )
    manifest = manifest_of(job.name, job.engine, request, lowered, job.environment, words=words)
    emit({"event": "phase", "phase": "load"})
    inputs = Path(job.imported.files.folder) / job.imported.files.inputs
    if job.attached:
        ran = _ran(engine, job, manifest, request.folder, folder)
    else:
        ran = not_ran(job, lowered, request.folder, folder)
    manifest = msgspec.structs.replace(manifest, expected=ran.expected, graph_checked=ran.graph_checked)
    example = example_for(manifest, engine)
    manifest = msgspec.structs.replace(manifest, run_example=example if isinstance(example, Missing) else True)
    contents = Contents(
        manifest=manifest,
        engine=request.folder,
        inputs=inputs,
        expected=folder / EXPECTED,
        example=None if isinstance(example, Missing) else example,
        licence=None if job.licence is None else Path(job.licence),
    )
    write_bundle(contents, Path(job.target), replace=job.replace)
    assert manifest.model.artefact is not None
    return EngineBuilt(
        artefact=manifest.model.artefact,
        lowered=lowered,
        built=ran.built,
        size_bytes=sum(manifest.sizes.values()),
        lower_s=(lowered_at - started) / 1e9,
        load_s=ran.load_s,
        graph_checked=ran.graph_checked,
    )


def _ran(engine: Engine, job: BundleJob, manifest: Manifest, where: Path, folder: Path) -> Ran:
    """Load the engine and run it once; its outputs are left in ``folder``."""
    clock: Clock = MonotonicClock()
    started = clock.now_ns()
    runner = _loaded(engine, job, manifest, where, _empty(folder / "scratch"))
    load_s = (clock.now_ns() - started) / 1e9
    inputs = Path(job.imported.files.folder) / job.imported.files.inputs
    _run_once(runner, job.engine, inputs, folder / EXPECTED)
    built = runner.built()
    runner.close()
    return Ran(built=built, load_s=load_s, expected="engine", graph_checked=NOT_NEEDED)


def _builder(engine: Engine) -> Builds:
    if not isinstance(engine, Builds):
        raise Unsupported(f"the engine '{engine.name}' runs models and cannot save what it runs")
    return engine


def _check_kernels(engine: Engine, job: BundleJob) -> None:
    if job.plan.kernels and not isinstance(engine, TakesKernels):
        raise Unsupported(
            f"the plan has sparse kernels for {len(job.plan.kernels)} layers, and '{engine.name}' takes none",
            hint="leave [kernels] out, or name an engine that takes them: --engine tensorrt",
        )


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _loaded(engine: Engine, job: BundleJob, manifest: Manifest, folder: Path, scratch: Path) -> Runner:
    artefact = manifest.model.artefact
    assert artefact is not None
    files = ModelFiles(
        folder=str(folder), hub=artefact.files[0], runtime_graph=artefact.files[0], merged=job.imported.files.merged
    )
    request = BuildRequest(
        model=manifest.model,
        files=files,
        device=job.device,
        precision="auto",
        threads=job.threads,
        streams=1,
        profile_layers=False,
        workdir=scratch,
    )
    return engine.load(request).compile()


def _run_once(runner: Runner, engine: str, inputs: Path, target: Path) -> None:
    with np.load(inputs, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(target, **run_once(runner, engine, arrays))  # type: ignore[arg-type]


if __name__ == "__main__":
    serve(work, BundleJob)
