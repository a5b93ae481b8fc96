"""The arithmetic of a graph: in what precision most of its multiply-adds are written down.

A runtime may compute in another; what it really did is read back from it. This is what the model asks for, and it
cannot be told from the types of the inputs and outputs: a token model takes integers and gives integers, a quantised
one takes and gives fp32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

from hwbench.graph.count import op_of
from hwbench.records.base import Missing
from hwbench.records.model import Layer

_NAMES = {
    "FLOAT": "fp32",
    "FLOAT16": "fp16",
    "BFLOAT16": "bf16",
    "DOUBLE": "fp64",
    "INT8": "int8",
    "UINT8": "int8",
    "INT4": "int4",
    "UINT4": "int4",
}
_MICROSOFT = "com.microsoft"
_INTEGER_OPS = {("", "ConvInteger"), ("", "MatMulInteger"), ("", "QLinearConv"), ("", "QLinearMatMul")} | {
    (_MICROSOFT, name) for name in ("QGemm", "QAttention", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")
}
_DEQUANTIZE = {("", "DequantizeLinear"), (_MICROSOFT, "DequantizeLinear")}
_VIEWS = {("", name) for name in ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")}


def arithmetic_of(model: ir.Model, layers: Sequence[Layer]) -> str:
    """Return the precision of most multiply-adds: ``fp32``, ``fp16``, ``bf16``, ``fp64``, ``int8`` or numpy's name.

    Layers weigh by their ``macs``. A product of two dequantised operands counts as what they were quantised to, which
    is how runtimes run it; dequantised weights alone leave the arithmetic in floating point. Where no layer could be
    counted, the type of most floating tensors decides; ``fp32`` where there are none either.
    """
    nodes = {node.name or node.outputs[0].name: node for node in model.graph if node.outputs}
    found: Counter[str] = Counter()
    for layer in layers:
        node = nodes.get(layer.name)
        if node is not None and not isinstance(layer.macs, Missing) and layer.macs > 0:
            found[_of_node(node)] += layer.macs
    found = found or _floating_tensors(model)
    return max(sorted(found), key=found.__getitem__) if found else "fp32"


def _of_node(node: ir.Node) -> str:
    if op_of(node) in _INTEGER_OPS:
        return "int8"
    operands = [value for value in node.inputs[:2] if value is not None]
    quantised = [_quantised_as(value) for value in operands]
    if quantised and all(kind is not None for kind in quantised):
        return quantised[0] or ""
    kinds = [value.dtype for value in (*operands, *node.outputs) if value.dtype is not None]
    floating = [kind for kind in kinds if kind.is_floating_point()]
    return _name((floating or kinds)[0]) if kinds else "fp32"


def _quantised_as(value: ir.Value) -> str | None:
    """Return the stored type of a tensor that comes dequantised, seen through changes of its shape alone."""
    node = value.producer()
    while node is not None and op_of(node) in _VIEWS and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or op_of(node) not in _DEQUANTIZE or node.inputs[0] is None:
        return None
    kind = node.inputs[0].dtype
    return None if kind is None else _name(kind)


def _floating_tensors(model: ir.Model) -> Counter[str]:
    values = [value for node in model.graph.all_nodes() for value in (*node.inputs, *node.outputs)]
    tensors = {id(value): value for value in values if value is not None}.values()
    kinds = [value.dtype for value in tensors if value.dtype is not None]
    return Counter(_name(kind) for kind in kinds if kind.is_floating_point())


def _name(kind: ir.DataType) -> str:
    return _NAMES.get(kind.name) or ("fp8" if kind.name.startswith("FLOAT8") else kind.name.lower())
