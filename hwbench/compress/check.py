"""The compressed graph held against itself: ONNX Runtime beside the torch view, on the same inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Array, Subject
from hwbench.errors import EngineError, ModelError
from hwbench.records.compression import GraphCheck

_REPORT = "nothing was kept; please report this, with the model and the command"
# Of the largest output: float32 sums in another order stay well below, and runtimes round halves at other places.
_TOLERANCE, _TOLERANCE_OF_HALVES = 1e-3, 3e-2
_HALVES = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def check_graph(subject: Subject, path: Path, inputs: Mapping[str, Array], layers: int) -> GraphCheck:
    """Run the saved graph and the view on one batch, and compare.

    Raises:
        ModelError: they differ, or put out NaN: the graph that was made is not the one that was meant.
        EngineError: onnxruntime is missing or refuses the graph.
    """
    import torch

    ours = _onnxruntime(path, inputs, subject.threads)
    with torch.no_grad():
        theirs = [output.cpu().numpy() for output in subject.view()(*subject.tensors(inputs))]
    worst = 0.0
    for value, one, other in zip(subject.model.graph.outputs, ours, theirs, strict=True):
        worst = max(worst, _difference(one, other, value))
    if worst > _tolerance(subject.model):
        raise ModelError(
            f"the compressed graph differs between ONNX Runtime and torch by {worst:.2g} of the largest output",
            hint=_REPORT,
        )
    return GraphCheck(outputs=len(ours), max_relative=worst, layers=layers)


def check_batch(
    path: Path, as_compressed: Path, subject: Subject, inputs: Mapping[str, Array], batch: int, batched: Collection[str]
) -> None:
    """Run the graph that users get on the first ``batch`` samples: they must come out as in the graph it was made of.

    ``batched``: the inputs whose first axis is the batch; the others go in whole.

    Raises:
        ModelError: they do not.
        EngineError: onnxruntime refuses the graph.
    """
    fewer = {
        name: np.ascontiguousarray(np.resize(array, (batch, *array.shape[1:]))) if name in batched else array
        for name, array in inputs.items()
    }
    whole, part = _onnxruntime(as_compressed, inputs, subject.threads), _onnxruntime(path, fewer, subject.threads)
    tolerance = _tolerance(subject.model)
    for one, other in zip(part, whole, strict=True):
        rows = slice(min(len(one), len(other))) if one.ndim and one.shape != other.shape else ...
        mine, theirs = one[rows].astype(np.float64), other[rows].astype(np.float64)
        largest = float(np.abs(theirs).max(initial=0.0)) or 1.0
        if mine.shape != theirs.shape or np.abs(mine - theirs).max(initial=0.0) > tolerance * largest:
            raise ModelError(f"the network puts out something else at a batch of {batch}", hint=_REPORT)


def _tolerance(model: ir.Model) -> float:
    halves = any(value.dtype in _HALVES for value in model.graph.initializers.values())
    return _TOLERANCE_OF_HALVES if halves else _TOLERANCE


def _difference(one: Array, other: Array, value: ir.Value) -> float:
    if one.shape != other.shape:
        raise ModelError(f"'{value.name}' is {list(one.shape)} in ONNX Runtime and {list(other.shape)} in torch")
    if one.dtype.kind != "f":
        return float(np.mean(one != other)) if one.size else 0.0
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise ModelError(f"'{value.name}' of the compressed network holds NaN or infinity")
    largest = float(np.abs(other).max(initial=0.0))
    return float(np.abs(one.astype(np.float64) - other).max(initial=0.0)) / (largest or 1.0)


def _onnxruntime(path: Path, inputs: Mapping[str, Array], threads: int) -> list[Array]:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError("compressing checks its result with onnxruntime", hint="pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        outputs: list[Array] = session.run(None, dict(inputs))
    except Exception as error:
        raise EngineError(f"onnxruntime refuses the compressed graph: {str(error).strip()[:300]}") from error
    return outputs
