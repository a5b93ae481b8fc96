"""What ONNX Runtime executes: the nodes of its optimised graph, or of its profile, held against the layers of the hub.

The optimiser renames as it rewrites. What it leaves of a source node is its name or that of a tensor, with endings:
``conv1_token_1`` (moved to channels-last), ``<tensor>_nchwc``, ``<tensor>_QuantizeLinear_Output``, ``<tensor>_pre_q``.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwbench.graph.members import assign_members
from hwbench.records.base import Missing
from hwbench.records.measurement import BuiltLayer
from hwbench.records.model import Layer

# Put in by the optimiser or the quantiser, under the names of tensors, unless a source node is called just so.
_INSERTED = {"Cast", "DequantizeLinear", "QuantizeLinear", "ReorderInput", "ReorderOutput", "Reshape", "Transpose"}
_ENDINGS = re.compile(
    r"(_nchwc|_token_\d+|_QuantizeLinear_Output|_DequantizeLinear_Output|_pre_q|_post_dq|_q_to_dq|_products"
    r"|/MatMulScaleFusion/)$"
)
_ELEMENT = {
    "float": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "double": "fp64",
    "int8": "int8",
    "uint8": "int8",
}
_INTEGER = re.compile(
    r"QLinear\w+|QGemm|QAttention|MatMulInteger(ToFloat)?|ConvInteger|DynamicQuantize(MatMul|LSTM)|NhwcMaxPool"
)
_PACKED = Missing(
    code="not_told",
    why="MatMulNBits unpacks its weights inside the kernel, and does not tell in what that multiplies",
)


def precision_of(op: str, outputs: Sequence[str]) -> str | Missing:
    """Return in what a kernel computes: an operator on integers is int8 whatever it gives, others as their outputs are.

    Args:
        op: the operator.
        outputs: the elements of its outputs, as ONNX writes them (``float``, ``uint8``).
    """
    if op == "MatMulNBits":
        return _PACKED
    if _INTEGER.fullmatch(op):
        return "int8"
    if not outputs:
        return Missing(code="not_told", why="ONNX Runtime does not give the type of its output")
    return statistics.mode(_ELEMENT.get(kind, kind) for kind in outputs)


def units_of(graph: Any, layers: Sequence[Layer], merged: Mapping[str, str]) -> tuple[BuiltLayer, ...]:
    """Return the nodes of an optimised graph as executed units."""
    types = _types(graph)
    titles = [node.name or node.output[0] for node in graph.node]
    members = assign_members(layers, merged, anchors_of(graph.node, titles, layers))
    return tuple(
        BuiltLayer(
            name=title,
            op=node.op_type,
            members=belongs,
            kernel=f"CPUExecutionProvider/{node.op_type}",
            precision=precision_of(node.op_type, [types[name] for name in node.output if name in types]),
        )
        for node, title, belongs in zip(graph.node, titles, members, strict=True)
    )


def _types(graph: Any) -> dict[str, str]:
    """Return the elements of the tensors, as ONNX writes them.

    ONNX Runtime does not write down those that it puts in: a dequantised one is of floats, a quantised one like its
    zero point, and what else is not told of the type of the first input whose type is known.
    """
    import onnx

    names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: names[value.type.tensor_type.elem_type] for value in values}
    types.update({weight.name: names[weight.data_type] for weight in graph.initializer})
    for node in graph.node:
        inputs = [types[name] for name in node.input if name in types]
        if node.op_type == "DequantizeLinear":
            found = ["float"]
        else:
            found = inputs[-1:] if node.op_type == "QuantizeLinear" else inputs[:1]
        types.update({name: found[0] for name in node.output if found and name not in types})
    return types


def executed_precision(units: Sequence[BuiltLayer], layers: Sequence[Layer]) -> str | None:
    """Return in what the units do most of the multiply-adds, or None where they do not tell."""
    macs = {layer.name: layer.macs for layer in layers if not isinstance(layer.macs, Missing)}
    found: Counter[str | None] = Counter()
    for unit in units:
        told = None if isinstance(unit.precision, Missing) else unit.precision
        found[told] += sum(macs.get(name, 0) for name in unit.members)
    return found.most_common(1)[0][0] if found.total() else None


def anchors_of(nodes: Sequence[Any], names: Sequence[str], layers: Sequence[Layer]) -> list[list[str]]:
    """Return, for each executed node, the source names it may go by.

    Args:
        nodes: of the optimised graph.
        names: of the executed nodes: all of them, or those that a profile saw.
        layers: the source layers.
    """
    sources = {layer.name for layer in layers}
    made = {node.name or node.output[0]: node for node in nodes}
    return [_anchors(made.get(name), name, sources) for name in names]


def _anchors(node: Any, name: str, sources: set[str]) -> list[str]:
    if node is None:
        return [name, _plain(name)]
    if node.op_type in _INSERTED and name not in sources:
        return []
    return [word for made in (*node.output, name) for word in (made, _plain(made))]


def _plain(name: str) -> str:
    """Return a name without the endings that the optimiser has given it."""
    while (shorter := _ENDINGS.sub("", name)) != name:
        name = shorter
    return name


def optimised_graph(path: Path) -> Any:
    """Return the graph that ONNX Runtime made of the model, or None where it left no such file."""
    import onnx

    return onnx.load(path, load_external_data=False).graph if path.exists() else None
