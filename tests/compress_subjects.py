"""Networks on the bench, for tests of compression: built-in models, models of ONNX files, graphs made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from hwbench.compress.base import Subject
from hwbench.data.samples import Samples
from hwbench.graph.importer import import_model
from hwbench.records.model import ImportJob

Array = np.ndarray[Any, np.dtype[Any]]


def imported(model: str, folder: Path, *, batch: int | None = 4, shapes: dict[str, tuple[int, ...]] | None = None):
    """Bring a model in as hwbench does, and return its hub."""
    job = ImportJob(model=model, batch_size=batch, shapes=shapes or {}, input_data=None, seed=0)
    result = import_model(job, folder / "import")
    return ir.load(folder / "import" / result.files.hub)


def subject_of(model: ir.Model, folder: Path, *, samples: Samples | None = None, seed: int = 0) -> Subject:
    """Return a network on the bench; its batch is that of its first input."""
    first = next(value for value in model.graph.inputs if not value.is_initializer())
    return Subject(
        model=model,
        original=ir.from_proto(ir.to_proto(model)),
        batch=int(first.shape[0]),
        samples=samples,
        folder=folder,
        report=lambda what, fraction: None,
        seed=seed,
    )


def random_samples(model: ir.Model, count: int, *, classes: int | None = None, seed: int = 0) -> Samples:
    """Return samples that fit a model: normal numbers, small integers where it takes integers (ids, masks)."""
    rng = np.random.default_rng(seed)
    given = [value for value in model.graph.inputs if not value.is_initializer()]
    inputs = {value.name: _random(rng, value, (count, *tuple(value.shape.numpy())[1:])) for value in given}
    labels = None if classes is None else rng.integers(0, classes, count)
    return Samples(inputs=inputs, labels=labels, batch=int(given[0].shape[0]))


def run_ort(model: ir.Model, inputs: dict[str, Array]) -> list[Array]:
    """Run a model as it is, without ONNX Runtime's rewrites."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, inputs)


def _random(rng: np.random.Generator, value: ir.Value, shape: tuple[int, ...]) -> Array:
    dtype = value.dtype.numpy()
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.normal(size=shape).astype(dtype)
