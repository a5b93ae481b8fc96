"""Which nodes of a graph in half precision stay in fp32, and why.

With ranges from calibration, whatever was seen beyond the half's largest number; without, what is known to go wrong:
sums of squares, epsilons that the half rounds to nothing, constants that it cannot hold, positions and sizes computed
in floating point. LayerNormalization and Softmax are left alone: TensorRT is taken to add up in fp32 inside
them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

import numpy as np
import onnx_ir as ir

from hwbench.engines.tensorrt_graph import constant_of, is_float32
from hwbench.engines.tensorrt_halves import LARGEST, SMALLEST
from hwbench.quantize.tensors import masks_in
from hwbench.records.quantization import TensorRange

_SQUARES = "squares are added up"
_EPSILON = "a constant is too small for the half"
_CONSTANT = "a constant is too large for the half"
_RANGE = "values beyond the half were seen"
_INDEX = "a position or a size is computed in it"
_BODY = "it has a body of its own"
_DOMAIN = "what it computes is not known"
_NO_HALF = "it has no such type"

_NEVER: Final = frozenset(
    {"Bernoulli", "DFT", "EyeLike", "MelWeightMatrix", "Multinomial", "NonMaxSuppression", "RandomNormal"}
    | {"RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range", "STFT"}
)
_SUMS: Final = frozenset({"ReduceMean", "ReduceSum"})
_WIDE_SUMS: Final = frozenset(
    {"CumSum", "LpNormalization", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"}
)
_GROWS: Final = frozenset({"Exp", "Pow"})
_AFTER: Final = frozenset({"Add", "Pow", "Reciprocal", "Sqrt"})  # between a sum of squares and the division by it
_INTEGERS: Final = frozenset(
    {ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.UINT8}
)

Islands = dict[ir.Node, str]


def islands(graph: ir.Graph, kind: str, ranges: Mapping[str, TensorRange], *, refused: Collection[str] = ()) -> Islands:
    """Return the nodes that stay in fp32 and the reason of each.

    Args:
        graph: the float graph; it is not changed.
        kind: fp16 or bf16.
        ranges: of its tensors, empty where there was no calibration.
        refused: operators that the builder does not take in ``kind``.
    """
    found: Islands = {}
    rules: tuple[Callable[[ir.Node], str | None], ...] = (
        lambda node: _DOMAIN if node.domain not in {"", "ai.onnx"} else None,
        lambda node: _BODY if _has_body(node) else None,
        lambda node: _NO_HALF if node.op_type in _NEVER or node.op_type in refused else None,
        lambda node: _SQUARES if node.op_type in _WIDE_SUMS or _sums_squares(node) or _is_summed(node) else None,
        lambda node: _EPSILON if _reads_epsilon(node, kind) else None,
        lambda node: _RANGE if _overflows(node, kind, ranges) else None,
    )
    masks = masks_in(graph)
    for node in graph:
        why = next((why for rule in rules if (why := rule(node))), None)
        if why is None and _reads_too_large(node, kind) and not masks.issuperset(node.outputs):
            why = _CONSTANT
        if why is not None:
            found[node] = why
    _spread(graph, found)
    for node in _indices(graph):
        found.setdefault(node, _INDEX)
    return found


def _has_body(node: ir.Node) -> bool:
    kinds = {attribute.type for attribute in node.attributes.values()}
    return bool(kinds & {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})


def _sums_squares(node: ir.Node) -> bool:
    maker = node.inputs[0].producer() if node.op_type in _SUMS and node.inputs[0] is not None else None
    return maker is not None and _grows(maker)


def _is_summed(node: ir.Node) -> bool:
    """Say whether squares or exponentials go into a sum and nowhere else."""
    readers = [reader for reader, _ in node.outputs[0].uses()] if node.outputs else []
    return (
        _grows(node)
        and bool(readers)
        and all(reader.op_type in _SUMS | {"Div"} for reader in readers)
        and any(reader.op_type in _SUMS for reader in readers)
    )


def _grows(node: ir.Node) -> bool:
    return node.op_type in _GROWS or (node.op_type == "Mul" and node.inputs[0] is node.inputs[1])


def _scalars(node: ir.Node) -> Iterator[float]:
    for value in node.inputs:
        array = constant_of(value) if is_float32(value) else None
        if array is not None and array.size == 1:
            yield float(array.reshape(-1)[0])


def _reads_epsilon(node: ir.Node, kind: str) -> bool:
    return any(0 < abs(number) < SMALLEST[kind] for number in _scalars(node))


def _reads_too_large(node: ir.Node, kind: str) -> bool:
    for value in node.inputs:
        array = constant_of(value) if is_float32(value) else None
        if array is not None and array.size and np.any(np.abs(array[np.isfinite(array)]) > LARGEST[kind]):
            return True
    return False


def _overflows(node: ir.Node, kind: str, ranges: Mapping[str, TensorRange]) -> bool:
    names = [value.name or "" for value in (*node.inputs, *node.outputs) if value is not None]
    known = [ranges[name] for name in names if name in ranges]
    return any(max(abs(each.seen_low), abs(each.seen_high)) > LARGEST[kind] for each in known)


def _spread(graph: ir.Graph, found: Islands) -> None:
    """Let what follows a sum of squares, up to the division by it, stay in fp32 too."""
    for node in graph:
        if node in found or node.op_type not in _AFTER | {"Div"} or node.domain:
            continue
        sources = node.inputs[1:2] if node.op_type == "Div" else node.inputs
        makers = [value.producer() for value in sources if value is not None]
        if any(maker is not None and found.get(maker) in {_SQUARES, _EPSILON} for maker in makers):
            others = [value for value in node.inputs if value is not None and not value.is_initializer()]
            if node.op_type == "Div" or len(others) == 1:
                found[node] = _SQUARES


def _indices(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes whose floats do nothing but become integers."""
    found: set[ir.Node] = set()
    for node in reversed(graph):
        floats = [value for value in node.outputs if is_float32(value)]
        if floats and len(floats) == len(node.outputs) and all(_is_counted(value, found) for value in floats):
            found.add(node)
    return found


def _is_counted(value: ir.Value, found: set[ir.Node]) -> bool:
    readers = [node for node, _ in value.uses()]
    counted = all(
        node in found
        or (node.op_type == "Cast" and node.outputs[0].dtype in _INTEGERS)
        or (node.op_type in {"Resize", "Upsample"} and value is not node.inputs[0])
        for node in readers
    )
    return bool(readers) and counted and not value.is_graph_output()
