"""Multiply-adds and moved bytes of one node, from the shapes of its tensors.

**Multiply-adds** (:func:`macs_of`) count linear algebra alone: convolutions, matrix products, recurrent cells and
attention. The usual conventions of the field hold (they give the published 4.09 G for ResNet-50):

* one multiply-add is one, that is two operations;
* bias additions, scales and zero points count nothing; neither does any operator in
  :data:`~hwbench.graph.op_kinds.NO_MACS` (pointwise, reductions, normalisation, pooling, movement): what bounds
  such work is the bytes it moves, not its arithmetic;
* products with padding count like any other, and so do masked positions of an attention.

**Moved bytes** (:func:`moved_bytes_of`) are what must cross memory at least once: every distinct input, weight and
output tensor, whole, in its stored type. Exceptions: a view (``Reshape``) moves nothing, ``Shape`` reads no element,
and a selection (``Gather``, ``Slice``) reads only as many elements of its data as it writes.

What cannot be counted is a ``Missing``: ``unknown_op``, ``unknown_shape``, ``unknown_dtype``, ``control_flow`` (depends
on the data), ``contraction_order`` (an Einsum of three or more operands) or ``malformed_node``.

To teach hwbench an operator, write a function ``node -> int`` and enter it in :data:`COUNTERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from hwbench.graph.op_kinds import CONTROL_FLOW, NO_MACS, Op
from hwbench.records.base import Missing

Counter = Callable[[ir.Node], int]
Dims = tuple[int, ...]


class _Uncountable(Exception):
    """Carries the reason out of a counter; never leaves this module."""

    def __init__(self, code: str, why: str, cure: str | None = None) -> None:
        super().__init__(why)
        self.reason = Missing(code=code, why=why, cure=cure)


def macs_of(node: ir.Node) -> int | Missing:
    """Return the multiply-adds of one execution of ``node``, or why they are not known."""
    op = op_of(node)
    counter = COUNTERS.get(op)
    if counter is None:
        return 0 if op in NO_MACS else _unknown_op(node)
    try:
        return counter(node)
    except _Uncountable as unknown:
        return unknown.reason


def moved_bytes_of(node: ir.Node) -> int | Missing:
    """Return the bytes that one execution of ``node`` must move at least, or why they are not known."""
    op = op_of(node)
    kind = NO_MACS.get(op)
    if kind is None and op not in COUNTERS:
        return _unknown_op(node)
    if kind == "view":
        return 0
    try:
        inputs = _distinct(node.inputs)
        written = sum(_bytes(value) for value in _distinct(node.outputs))
        if kind == "metadata":
            return written
        if kind == "selection":
            data = _bytes(_input(node, 0))
            return min(data, written) + sum(_bytes(value) for value in inputs if value is not node.inputs[0]) + written
        return sum(_bytes(value) for value in inputs) + written
    except _Uncountable as unknown:
        return unknown.reason


def op_of(node: ir.Node) -> Op:
    """Return the key of ``node`` in the tables."""
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


def _unknown_op(node: ir.Node) -> Missing:
    if op_of(node) in CONTROL_FLOW:
        return Missing(code="control_flow", why=f"what {node.op_type} costs depends on the data")
    name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return Missing(code="unknown_op", why=f"hwbench does not know what {name} costs")


# Shapes and sizes


def _distinct(values: object) -> list[ir.Value]:
    """Return the tensors that are there, each once; an omitted optional one is None or has no name."""
    found: dict[int, ir.Value] = {}
    for value in values:  # type: ignore[attr-defined]
        if value is not None and value.name != "":
            found[id(value)] = value
    return list(found.values())


def _has_input(node: ir.Node, index: int) -> bool:
    return index < len(node.inputs) and node.inputs[index] is not None


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise _Uncountable("malformed_node", f"{node.op_type} '{node.name}' has no input {index}")
    return value


def _output(node: ir.Node) -> ir.Value:
    if not node.outputs:
        raise _Uncountable("malformed_node", f"{node.op_type} '{node.name}' has no output")
    return node.outputs[0]


def _dims(value: ir.Value, *, rank: int = 0) -> Dims:
    """Return the shape of ``value``, which must have at least ``rank`` axes."""
    shape = value.shape
    if shape is None:
        raise _Uncountable("unknown_shape", f"the shape of '{value.name}' is not known")
    if not shape.is_static():
        raise _Uncountable(
            "unknown_shape",
            f"the shape of '{value.name}' is {shape}: not all fixed",
            "give dynamic inputs a size with --shapes",
        )
    dims = tuple(shape.numpy())
    if len(dims) < rank:
        raise _Uncountable("malformed_node", f"'{value.name}' has {len(dims)} axes where {rank} are needed")
    return dims


def _in(node: ir.Node, index: int, *, rank: int = 0) -> Dims:
    return _dims(_input(node, index), rank=rank)


def _out(node: ir.Node, *, rank: int = 0) -> Dims:
    return _dims(_output(node), rank=rank)


def _bytes(value: ir.Value) -> int:
    dtype = value.dtype
    if dtype is None or dtype in {ir.DataType.UNDEFINED, ir.DataType.STRING}:
        raise _Uncountable("unknown_dtype", f"the elements of '{value.name}' have no known size")
    return math.ceil(math.prod(_dims(value)) * dtype.itemsize)


def _int(node: ir.Node, name: str, default: int | None = None) -> int:
    attribute = node.attributes.get(name)
    if attribute is not None:
        return attribute.as_int()
    if default is None:
        raise _Uncountable("malformed_node", f"{node.op_type} '{node.name}' has no attribute '{name}'")
    return default


# Multiply-adds, one function an operator family


def _conv(weight: int) -> Counter:
    """Output elements x (input channels of a group x kernel); weights are ``[out, in/group, *kernel]``."""
    return lambda node: math.prod(_out(node)) * math.prod(_in(node, weight, rank=3)[1:])


def _conv_transpose(node: ir.Node) -> int:
    """Input elements x (output channels of a group x kernel); products later cropped by ``pads`` are included."""
    return math.prod(_in(node, 0)) * math.prod(_in(node, 1, rank=3)[1:])


def _matmul(node: ir.Node) -> int:
    """Output elements x the common axis, the last of the first input; covers broadcasting and 1-D operands."""
    return math.prod(_out(node)) * _in(node, 0, rank=1)[-1]


def _gemm(node: ir.Node) -> int:
    """Like a matrix product, where ``transA`` may put the common axis last but one."""
    transposed = bool(_int(node, "transA", 0))
    return math.prod(_out(node)) * _in(node, 0, rank=2)[-2 if transposed else -1]


def _matmul_n_bits(node: ir.Node) -> int:
    return math.prod(_out(node)) * _int(node, "K")


def _recurrent(node: ir.Node) -> int:
    """Steps x batch x all elements of W and R: gates and directions are axes of theirs. Short sequences count whole."""
    time, batch = _in(node, 0, rank=3)[:2]  # ``layout`` only swaps the two
    return time * batch * (math.prod(_in(node, 1)) + math.prod(_in(node, 2)))


def _einsum(node: ir.Node) -> int:
    """Two operands: the product of all index sizes. One operand only sums or permutes, and counts nothing."""
    attribute = node.attributes.get("equation")
    equation = "" if attribute is None else attribute.as_string().replace(" ", "")
    terms = equation.split("->", maxsplit=1)[0].split(",")
    if len(terms) != len(node.inputs):
        raise _Uncountable("malformed_node", f"Einsum '{node.name}' has {len(node.inputs)} inputs for '{equation}'")
    if len(terms) == 1:
        return 0
    if len(terms) > 2:
        raise _Uncountable(
            "contraction_order", f"the cost of '{equation}' depends on the order a runtime contracts it in"
        )
    sizes: dict[str, int] = {}
    for index, term in enumerate(terms):
        dims = _in(node, index)
        labels = _einsum_labels(term, len(dims))
        if len(labels) != len(dims):
            raise _Uncountable("malformed_node", f"Einsum '{node.name}': '{term}' does not fit {list(dims)}")
        for label, size in zip(labels, dims, strict=True):
            sizes[label] = max(sizes.get(label, 1), size)
    return math.prod(sizes.values())


def _einsum_labels(term: str, rank: int) -> list[str]:
    """Split ``b...ij`` into labels; axes under the dots are numbered from the right, as broadcasting aligns them."""
    if "..." not in term:
        return list(term)
    before, after = term.split("...", maxsplit=1)
    hidden = rank - len(before) - len(after)
    return [*before, *(f"...{axis}" for axis in range(hidden, 0, -1)), *after]


def _attention(node: ir.Node) -> int:
    """ONNX's Attention: Q K^T and the product with V, over all query heads and the whole key length, past included."""
    query, key, value = (_in(node, index, rank=3) for index in range(3))
    if len(query) == 4:
        batch, heads, steps, width = query
        keys, value_width = key[-2], value[-1]
    else:
        batch, steps, hidden = query
        heads = _int(node, "q_num_heads")
        width = hidden // heads
        keys, value_width = key[1], value[-1] // _int(node, "kv_num_heads")
    past = _in(node, 4, rank=4)[2] if _has_input(node, 4) else 0
    return batch * heads * steps * (keys + past) * (width + value_width)


def _ms_attention(node: ir.Node) -> int:
    """com.microsoft Attention without a past: the packed projection, then Q K^T and the product with V."""
    if _has_input(node, 4):
        raise _Uncountable("unknown_op", "hwbench does not count com.microsoft.Attention with a past")
    batch, steps, width = _in(node, 0, rank=3)[:3]
    packed = _in(node, 1, rank=2)[-1]
    value_width = _out(node, rank=3)[-1]
    return batch * steps * (width * packed + steps * (packed - value_width) // 2 + steps * value_width)


def _ms_multi_head_attention(node: ir.Node) -> int:
    """com.microsoft MultiHeadAttention with separate 3-D query, key and value and no past."""
    if any(_has_input(node, index) for index in (6, 7)) or not (_has_input(node, 1) and _has_input(node, 2)):
        raise _Uncountable("unknown_op", "hwbench counts MultiHeadAttention only unpacked and without a past")
    batch, steps, width = _in(node, 0, rank=3)[:3]
    key, value = _in(node, 1, rank=3), _in(node, 2, rank=3)
    if len(key) != 3 or len(value) != 3:
        raise _Uncountable("unknown_op", "hwbench counts MultiHeadAttention only with 3-D key and value")
    return batch * steps * key[1] * (width + value[2])


COUNTERS: dict[Op, Counter] = {
    ("", "Conv"): _conv(1),
    ("", "DeformConv"): _conv(1),  # the interpolation of the sampling points counts nothing, like any resampling
    ("", "ConvInteger"): _conv(1),
    ("", "QLinearConv"): _conv(3),
    ("", "ConvTranspose"): _conv_transpose,
    ("", "MatMul"): _matmul,
    ("", "MatMulInteger"): _matmul,
    ("", "QLinearMatMul"): _matmul,
    ("", "Gemm"): _gemm,
    ("", "Einsum"): _einsum,
    ("", "RNN"): _recurrent,
    ("", "GRU"): _recurrent,
    ("", "LSTM"): _recurrent,
    ("", "Attention"): _attention,
    ("com.microsoft", "FusedConv"): _conv(1),
    ("com.microsoft", "FusedMatMul"): _gemm,
    ("com.microsoft", "FusedGemm"): _gemm,
    ("com.microsoft", "QGemm"): _gemm,
    ("com.microsoft", "DynamicQuantizeMatMul"): _matmul,
    ("com.microsoft", "MatMulIntegerToFloat"): _matmul,
    ("com.microsoft", "MatMulNBits"): _matmul_n_bits,
    ("com.microsoft", "Attention"): _ms_attention,
    ("com.microsoft", "MultiHeadAttention"): _ms_multi_head_attention,
}
"""Operators that do linear algebra, and how their multiply-adds are counted."""
