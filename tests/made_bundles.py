"""Bundles for the tests: a small network lowered to the file it came as, which ONNX Runtime runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx_graphs

from hwbench.bundles.describe import manifest_of
from hwbench.bundles.examples import example_for
from hwbench.bundles.writer import Contents, write_bundle
from hwbench.devices import environment
from hwbench.graph.importer import import_model
from hwbench.protocols import LowerRequest
from hwbench.records.base import Missing
from hwbench.records.model import ImportJob
from hwbench.records.quantization import Lowered, PrecisionPlan
from hwbench.testing import example_cpu


def imported(folder, made=None):
    """Bring a small network in."""
    source = onnx_graphs.save(made if made is not None else onnx_graphs.convnet(), folder)
    job = ImportJob(model=str(source), batch_size=None, shapes={}, input_data=None, seed=0)
    return import_model(job, folder / "imported")


def contents(folder, made=None, *, engine="onnxruntime", file="model.onnx", licence=None, off=0.0, settings=None):
    """Import a network, take its graph as the engine, and run it for the expected outputs."""
    found = imported(folder, made)
    built = folder / "built"
    (built / file).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(found.files.folder) / found.files.runtime_graph, built / file)
    request = LowerRequest(
        model=found.model, files=found.files, plan=PrecisionPlan(default="float", floating="fp32"),
        calibration=None, device=example_cpu(), folder=built,
    )  # fmt: skip
    lowered = Lowered(files=(file,), arithmetic="fp32", settings=settings or {}, layers=(), same_bytes=True)
    manifest = manifest_of("net-fp32", engine, request, lowered, environment.capture())
    example = example_for(manifest, None)
    told = example if isinstance(example, Missing) else True
    inputs, expected = Path(found.files.folder) / found.files.inputs, folder / "expected.npz"
    np.savez(expected, **{name: array + off for name, array in outputs(built / file, inputs).items()})
    return Contents(
        manifest=msgspec.structs.replace(manifest, run_example=told), engine=built, inputs=inputs, expected=expected,
        example=None if isinstance(example, Missing) else example, licence=licence,
    )  # fmt: skip


def outputs(model, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    with np.load(inputs) as arrays:
        found = session.run(None, dict(arrays))
    return {port.name: array for port, array in zip(session.get_outputs(), found, strict=True)}


def bundle(folder, name="net", made=None, **changes):
    """Write a bundle and return where it is; the scratch lies beside it."""
    scratch = folder / f"scratch-{Path(name).stem}"
    scratch.mkdir(parents=True, exist_ok=True)
    write_bundle(contents(scratch, made, **changes), folder / name)
    return folder / name
