"""Multiply-adds, moved bytes and arithmetic of the nodes of a ``.tflite`` file, by the conventions of the hub.

The conventions are those of :mod:`hwbench.graph.count`. LiteRT's convolutions have their channels last: weights are
``[out, height, width, in / groups]``, those of a depthwise one ``[1, height, width, out]``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from hwbench.engines.litert_file import FileNode, FileTensor, TfliteFile
from hwbench.records.base import Missing
from hwbench.records.model import Layer

Shapes = Mapping[int, tuple[int, ...]]  # of every tensor, with the open axes fixed

_BITS = {
    "float64": 64, "int64": 64, "uint64": 64, "complex64": 64, "complex128": 128, "float32": 32, "int32": 32,
    "uint32": 32, "float16": 16, "bfloat16": 16, "int16": 16, "uint16": 16, "int8": 8, "uint8": 8, "bool": 8,
    "int4": 4, "uint4": 4, "int2": 2,
}  # fmt: skip
_FLOATS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
_INTEGERS = {"int8": "int8", "uint8": "int8", "int16": "int16"}
_SHAPE_DATA = {"int32", "int64", "bool"}
_VIEWS = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "BITCAST"}
_SELECTIONS = {"GATHER", "GATHER_ND", "EMBEDDING_LOOKUP", "SLICE", "STRIDED_SLICE"}
_CONTROL = {"IF", "WHILE", "CALL", "CALL_ONCE", "STABLEHLO_WHILE", "STABLEHLO_CASE", "STABLEHLO_COMPOSITE"}
_UNCOUNTED = {
    "LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "RNN", "BIDIRECTIONAL_SEQUENCE_RNN",
    "UNIDIRECTIONAL_SEQUENCE_RNN", "SVDF", "EMBEDDING_LOOKUP_SPARSE", "DELEGATE", "RFFT2D",
}  # fmt: skip


def _conv(shapes: Sequence[tuple[int, ...]], out: tuple[int, ...]) -> int:
    return math.prod(out) * math.prod(shapes[1][1:])


def _depthwise(shapes: Sequence[tuple[int, ...]], out: tuple[int, ...]) -> int:
    return math.prod(out) * math.prod(shapes[1][1:-1])


def _fully_connected(shapes: Sequence[tuple[int, ...]], out: tuple[int, ...]) -> int:
    return math.prod(out) * shapes[1][-1]


def _transposed(shapes: Sequence[tuple[int, ...]], _out: tuple[int, ...]) -> int:
    """Inputs are the output's shape, the weights ``[out, height, width, in]`` and the data."""
    return math.prod(shapes[2]) * math.prod(shapes[1][:-1])


def _conv_3d(shapes: Sequence[tuple[int, ...]], out: tuple[int, ...]) -> int:
    return math.prod(out) * math.prod(shapes[1][:-1])


def _batch_matmul(shapes: Sequence[tuple[int, ...]], out: tuple[int, ...]) -> int:
    """The common axis is the one of the left side's last two that is not the output's rows (``adj_x`` swaps them)."""
    rows, columns = shapes[0][-2:]
    return math.prod(out) * (columns if rows == out[-2] else rows)


_COUNTERS: dict[str, Callable[[Sequence[tuple[int, ...]], tuple[int, ...]], int]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transposed,
    "CONV_3D": _conv_3d,
    "BATCH_MATMUL": _batch_matmul,
}
PRODUCTS = frozenset(_COUNTERS)


def macs_of(node: FileNode, shapes: Shapes) -> int | Missing:
    """Return the multiply-adds of one execution of ``node``, or why they are not known."""
    if node.op in _CONTROL:
        return Missing(code="control_flow", why=f"what {node.op} costs depends on what it calls")
    if node.custom or node.op in _UNCOUNTED or node.op.startswith("STABLEHLO_"):
        return Missing(code="unknown_op", why=f"hwbench does not know what {node.op} costs")
    counter = _COUNTERS.get(node.op)
    if counter is None:
        return 0
    try:
        return counter([shapes[index] for index in node.inputs], shapes[node.outputs[0]])
    except (IndexError, ValueError):
        return Missing(code="malformed_node", why=f"{node.op} '{node.name}' has inputs of other shapes than it takes")


def moved_bytes_of(node: FileNode, tensors: Sequence[FileTensor], shapes: Shapes) -> int | Missing:
    """Return the bytes that one execution of ``node`` must move at least, or why they are not known."""
    if node.op in _VIEWS:
        return 0
    if isinstance(macs_of(node, shapes), Missing) and node.op not in _UNCOUNTED:
        return Missing(code="unknown_op", why=f"hwbench does not know what {node.op} moves")
    sizes = {index: _bytes(tensors[index], shapes[index]) for index in (*node.inputs, *node.outputs)}
    if None in sizes.values():
        return Missing(code="unknown_dtype", why=f"the elements of a tensor of '{node.name}' have no known size")
    written = sum(sizes[index] or 0 for index in set(node.outputs))
    read = {index: sizes[index] or 0 for index in node.inputs}
    if node.op in _SELECTIONS:
        largest = max(read, key=read.__getitem__, default=-1)
        read[largest] = min(read.get(largest, 0), written)
    return sum(read.values()) + written


def _bytes(tensor: FileTensor, shape: tuple[int, ...]) -> int | None:
    bits = _BITS.get(tensor.dtype)
    return None if bits is None else (math.prod(shape) * bits + 7) // 8


def precision_of(node: FileNode, tensors: Sequence[FileTensor]) -> str:
    """Return in what a node computes, as the types of its tensors say.

    ``int8-dynamic``: activations in floating point that are quantised on the way, times weights in integers. Weights
    that a node of their own dequantises leave the arithmetic in floating point.
    """
    kinds = [tensors[index].dtype for index in node.inputs]
    if node.op == "TRANSPOSE_CONV":
        kinds = kinds[2:0:-1]
    out = tensors[node.outputs[0]].dtype if node.outputs else "none"
    first = kinds[0] if kinds else out
    if node.op in PRODUCTS and first in _FLOATS and len(kinds) > 1 and kinds[1] not in _FLOATS:
        return "int8-dynamic"
    if first not in _FLOATS and (out in _FLOATS or not any(tensors[index].quantised for index in node.inputs[:1])):
        return _FLOATS.get(out, out)
    return _FLOATS.get(first) or _INTEGERS.get(first) or first


def arithmetic_of(nodes: Iterable[tuple[FileNode, int | Missing]], tensors: Sequence[FileTensor]) -> str:
    """Return the precision of most multiply-adds; where there are none, of most nodes."""
    by_macs: Counter[str] = Counter()
    by_count: Counter[str] = Counter()
    for node, macs in nodes:
        precision = precision_of(node, tensors)
        by_count[precision] += 1
        by_macs[precision] += 0 if isinstance(macs, Missing) else macs
    found = +by_macs or by_count
    return max(sorted(found), key=found.__getitem__) if found else "fp32"


def layers_of(file: TfliteFile, shapes: Shapes) -> tuple[Layer, ...]:
    """Return the file's nodes as layers; a constant that several use belongs to the first."""
    counted: set[int] = set()
    return tuple(
        Layer(
            name=node.name,
            op=node.op,
            module=node.module,
            inputs=tuple(file.tensors[index].name for index in node.inputs),
            outputs=tuple(file.tensors[index].name for index in node.outputs),
            parameters=_new_parameters(node, file.tensors, counted),
            macs=macs_of(node, shapes),
            moved_bytes=moved_bytes_of(node, file.tensors, shapes),
        )
        for node in file.nodes
    )


def _new_parameters(node: FileNode, tensors: Sequence[FileTensor], counted: set[int]) -> int:
    """Return the elements of the constants used here and not in ``counted``; scalars and shape data do not count."""
    total = 0
    for tensor in (tensors[index] for index in node.inputs):
        is_data = tensor.dtype not in _SHAPE_DATA or tensor.quantised  # a bias of int32 has a scale
        if tensor.constant_bytes and tensor.shape and is_data and tensor.index not in counted:
            counted.add(tensor.index)
            total += math.prod(tensor.shape)
    return total
