"""Bring in what is an engine already: a bundle, or a file of a runtime. Nothing in it is changed.

Its shapes are fixed. What the user asks for and it has not is refused; there is nothing to fall back on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hwbench import plugins
from hwbench.bundles.hashing import artefact_sha256, file_sha256
from hwbench.bundles.layout import INPUTS
from hwbench.bundles.reader import artefact_in, bundle_sha256, unpack
from hwbench.bundles.runtimes import version_warnings
from hwbench.errors import EngineError, ModelError, UsageError
from hwbench.graph.inputs import Arrays, random_arrays, read_inputs, specs_in
from hwbench.graph.parts import common_batch, save_inputs
from hwbench.graph.spec import ModelSpec
from hwbench.protocols import ArtefactFacts, Engine, ReadsArtefacts
from hwbench.records.base import Missing
from hwbench.records.model import Artefact, ImportJob, ImportResult, InputOrigin, Model, ModelFiles, TensorSpec

_PLACE = "engine"  # folder inside the import's own
_FIXED = "a built engine has fixed shapes: build another from the source model"


def import_bundle(spec: ModelSpec, job: ImportJob, folder: Path) -> ImportResult:
    """Check a bundle, and lay out its engine with the description of the network that it was built from.

    Raises:
        UsageError: another batch size, other shapes or inputs are asked for than it has.
        ModelError: it is damaged, or the runtime here cannot load it.
    """
    unpacked = unpack(Path(spec.where), folder / _PLACE)
    manifest = unpacked.manifest
    artefact = artefact_in(manifest)
    model = manifest.model
    _require_shapes(spec, job, model.inputs, model.batch_size)
    warnings = version_warnings(manifest, artefact.engine)
    origin: InputOrigin = "example"
    if job.input_data is not None:
        save_inputs(read_inputs(Path(job.input_data), model.inputs), unpacked.folder / INPUTS)
        origin = "file"
    model = msgspec.structs.replace(
        model,
        name=manifest.name,
        source=spec.text,
        kind="bundle",
        source_sha256=bundle_sha256(Path(spec.where)),
        input_origin=origin,
        inputs_sha256=file_sha256(unpacked.folder / INPUTS),
        warnings=(*model.warnings, *warnings),
    )
    return ImportResult(model=model, files=_files(unpacked.folder, artefact, manifest.merged))


def import_engine(spec: ModelSpec, job: ImportJob, folder: Path) -> ImportResult:
    """Take a runtime's own file as it is, described by the engine plugin that reads such files.

    Raises:
        UsageError: the shapes or inputs do not fit.
        ModelError: it is broken, or no runtime that reads it is here.
    """
    path = Path(spec.where)
    name = spec.engine or ""
    facts = _described(_reader(name, path), path, job)
    place = folder / _PLACE
    for file in facts.files:
        if file == INPUTS:
            raise ModelError(f"'{path}' has a file called {INPUTS}, which is what its inputs are to be called")
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.parent / file, place / file)
    artefact = Artefact(
        engine=name,
        sha256=artefact_sha256(place, facts.files),
        files=facts.files,
        label=path.suffix.lower().removeprefix("."),
    )
    arrays, origin = _inputs(facts.inputs, job)
    save_inputs(arrays, place / INPUTS)
    model = Model(
        name=spec.name,
        source=spec.text,
        kind="engine",
        source_sha256=file_sha256(path),
        hub_sha256=artefact.sha256,
        weights="as_given",
        opset=0,
        inputs=facts.inputs,
        outputs=facts.outputs,
        input_origin=origin,
        inputs_sha256=file_sha256(place / INPUTS),
        arithmetic=facts.arithmetic,
        batch_size=common_batch(facts.inputs),
        layers=facts.layers,
        parameters=facts.parameters,
        weight_bytes=facts.weight_bytes,
        artefact=artefact,
    )
    return ImportResult(model=model, files=_files(place, artefact, {}))


def _files(place: Path, artefact: Artefact, merged: Mapping[str, str]) -> ModelFiles:
    first = artefact.files[0]
    return ModelFiles(folder=str(place.resolve()), hub=first, runtime_graph=first, merged=dict(merged), inputs=INPUTS)


def _require_shapes(spec: ModelSpec, job: ImportJob, inputs: tuple[TensorSpec, ...], batch_size: int | Missing) -> None:
    if job.batch_size is not None and job.batch_size != batch_size:
        has = f"no common batch ({batch_size.why})" if isinstance(batch_size, Missing) else f"a batch of {batch_size}"
        raise UsageError(f"--batch-size {job.batch_size}: '{spec.text}' has {has}", hint=_FIXED)
    shapes = {item.name: item.shape for item in inputs}
    for name, shape in job.shapes.items():
        if name not in shapes:
            raise UsageError(f"--shapes names '{name}', which is no input", hint=f"inputs: {', '.join(shapes)}")
        if shape != shapes[name]:
            raise UsageError(
                f"--shapes gives '{name}' {list(shape)}, '{spec.text}' takes {list(shapes[name])}", hint=_FIXED
            )


def _reader(name: str, path: Path) -> ReadsArtefacts:
    """Return the plugin that reads files like this one."""
    if name not in plugins.available("engines"):
        raise EngineError(f"'{path}' is a file of the engine '{name}', which is not registered here")
    engine: Engine = plugins.load("engines", name)
    support = engine.installed()
    if not support.usable:
        reason = support.reasons[0]
        raise EngineError(f"'{path}' is a file of the engine '{name}': {reason.why}", hint=reason.cure)
    if not isinstance(engine, ReadsArtefacts):
        raise EngineError(f"the engine '{name}' does not take files as they are, such as '{path}'")
    return engine


def _described(engine: ReadsArtefacts, path: Path, job: ImportJob) -> ArtefactFacts:
    """Ask for the facts, with the shapes of the given inputs where the file leaves axes open."""
    given = {} if job.input_data is None else specs_in(Path(job.input_data))
    return engine.describe(path, {name: spec.shape for name, spec in given.items()} | job.shapes, job.batch_size)


def _inputs(specs: tuple[TensorSpec, ...], job: ImportJob) -> tuple[Arrays, InputOrigin]:
    if job.input_data is not None:
        return read_inputs(Path(job.input_data), specs), "file"
    return random_arrays(specs, {}, job.seed), "random"
