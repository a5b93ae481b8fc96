"""Files of LiteRT as models: what the importer makes of them, for tests of the engine alone."""

from pathlib import Path

import numpy as np

from hwbench.engines.litert import LiteRt
from hwbench.protocols import BuildRequest
from hwbench.records.model import Artefact, Model, ModelFiles


def as_model(path, *, shapes=None, batch_size=None, settings=None):
    """Return a ``.tflite`` file as a model and its files."""
    facts = LiteRt().describe(Path(path), shapes or {}, batch_size)
    artefact = Artefact(engine="litert", sha256="0" * 64, files=facts.files, label=".tflite", settings=settings or {})
    model = Model(
        name=Path(path).stem,
        source=str(path),
        kind="engine",
        source_sha256="0" * 64,
        hub_sha256="0" * 64,
        weights="as_given",
        opset=0,
        inputs=facts.inputs,
        outputs=facts.outputs,
        input_origin="random",
        inputs_sha256="0" * 64,
        arithmetic=facts.arithmetic,
        batch_size=1,
        layers=facts.layers,
        parameters=facts.parameters,
        weight_bytes=facts.weight_bytes,
        artefact=artefact,
    )
    return model, ModelFiles(folder=str(Path(path).parent), runtime_graph=Path(path).name)


def request_of(path, workdir, *, precision="auto", threads=1, streams=1, profile_layers=False, **options):
    """Return the request to build a ``.tflite`` file."""
    model, files = as_model(path, **options)
    return BuildRequest(
        model=model,
        files=files,
        precision=precision,
        threads=threads,
        streams=streams,
        profile_layers=profile_layers,
        workdir=Path(workdir),
    )


def random_values(specs, seed=0):
    """Return random values that fit ``specs``: over the whole range of integers, standard normal of floats."""
    chance = np.random.default_rng(seed)

    def values(spec):
        kind = np.dtype(spec.dtype)
        if kind.kind in "iu":
            info = np.iinfo(kind)
            return chance.integers(info.min, info.max + 1, spec.shape, dtype=kind)
        return chance.standard_normal(spec.shape).astype(kind)

    return {spec.name: values(spec) for spec in specs}
