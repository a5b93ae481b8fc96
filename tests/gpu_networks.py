"""Networks for tests on a GPU, and the engines that run them: on the GPU, and on the CPU, which is right."""

import numpy as np
import pytest

from hwbench import plugins
from hwbench.errors import Unsupported
from hwbench.graph.importer import import_model
from hwbench.protocols import BuildRequest
from hwbench.records.model import ImportJob
from hwbench.testing import example_cpu

TOLERANCE = {"fp32": 1e-3, "tf32": 2e-2, "fp16": 2e-2, "bf16": 1e-1, "int8": 1e-1}  # of the largest output


def zoo(name, folder, batch_size=None):
    return import_model(ImportJob(model=name, batch_size=batch_size, shapes={}, input_data=None, seed=0), folder)


def inputs_of(imported):
    with np.load(f"{imported.files.folder}/{imported.files.inputs}") as archive:
        return {name: archive[name] for name in archive.files}


def built(name, imported, device, folder, precision="fp32"):
    """The model made to run. What an engine has not on this GPU is skipped; what it makes of it must be right."""
    engine = plugins.load("engines", name)
    support = engine.supports(imported.model, imported.files, device)
    if not support.usable:
        pytest.skip(f"{name}: {support}")
    engine.start()
    folder.mkdir(parents=True, exist_ok=True)
    request = BuildRequest(
        model=imported.model, files=imported.files, device=device, precision=precision, threads=1, streams=1,
        profile_layers=False, workdir=folder,
    )  # fmt: skip
    compiling = False
    try:
        program = engine.load(request)
        compiling = True
        return program.compile()
    except Unsupported as error:
        if compiling and precision != "tf32":  # which is allowed, not ordered: other kernels may have been faster
            raise
        pytest.skip(f"{name}: {error.message}")


def on_the_cpu(imported, folder):
    """The outputs for the model's inputs, by torch on the CPU."""
    runner = built("torch-eager", imported, example_cpu(), folder)
    return runner.bind(inputs_of(imported)).outputs()


def assert_close(found, right, tolerance):
    assert found.keys() == right.keys()
    for name, array in found.items():
        expected = right[name].astype(np.float64)
        scale = float(np.abs(expected).max())
        assert np.abs(array - expected).max() <= tolerance * scale, f"{name}: off by more than {tolerance:g}"


def assert_as_on_the_cpu(name, model, precision, device, folder):
    imported = zoo(model, folder / "model", batch_size=2)
    right = on_the_cpu(imported, folder / "cpu")
    runner = built(name, imported, device, folder / "gpu", precision)
    bound = runner.bind(inputs_of(imported))
    for _ in range(3):
        bound.run()
    assert runner.built().precision == precision
    assert_close(bound.outputs(), right, TOLERANCE[precision])
    return runner
