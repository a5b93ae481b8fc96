"""Requests to build files of LiteRT, and values to run them on."""

from pathlib import Path

import numpy as np

from hwbench.protocols import BuildRequest
from hwbench.testing import example_cpu
from hwbench.testing.tflite import as_model


def request_of(path, workdir, *, precision="auto", threads=1, streams=1, profile_layers=False, **options):
    """Return the request to build a ``.tflite`` file."""
    model, files = as_model(Path(path), **options)
    return BuildRequest(
        model=model,
        files=files,
        device=example_cpu(),
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
