"""The layers of a hub graph: one :class:`~hwbench.records.model.Layer` a node, with its cost.

``Constant`` nodes are data, not layers, and are left out. A node without a name goes by its first output's.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from hwbench.graph.count import macs_of, moved_bytes_of
from hwbench.graph.names import module_of
from hwbench.records.model import Layer

_SHAPE_DATA = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL})


def layers_of(model: ir.Model) -> tuple[Layer, ...]:
    """Return the layers in the graph's order.

    ``parameters`` are the elements of the weights a node uses, inside its subgraphs too: its initialisers, but
    for scalars, shape data (64- and 32-bit integers) and the statistics of a BatchNorm, which nobody trains. One that
    several nodes share belongs to the first, so that the sum over layers counts it once. Shapes must have been
    inferred: where one is not known, the layer's cost is a ``Missing``.
    """
    counted: set[int] = set()
    return tuple(_layer(node, counted) for node in model.graph if not _is_constant(node))


def _is_constant(node: ir.Node) -> bool:
    return node.op_type == "Constant" and node.domain in {"", "ai.onnx"}


def _layer(node: ir.Node, counted: set[int]) -> Layer:
    outputs = tuple(value.name for value in node.outputs if value.name)
    return Layer(
        name=node.name or (outputs[0] if outputs else node.op_type),
        op=node.op_type,
        module=module_of(node),
        inputs=tuple(value.name for value in node.inputs if value is not None and value.name),
        outputs=outputs,
        parameters=_new_parameters(node, counted),
        macs=macs_of(node),
        moved_bytes=moved_bytes_of(node),
    )


def weights_of(model: ir.Model) -> list[tuple[ir.Node, list[ir.Value]]]:
    """Return each layer with the weights whose elements :func:`layers_of` counts as its parameters."""
    counted: set[int] = set()
    return [(node, _new_weights(node, counted)) for node in model.graph if not _is_constant(node)]


def _new_parameters(node: ir.Node, counted: set[int]) -> int:
    return sum(value.const_value.size for value in _new_weights(node, counted) if value.const_value is not None)


def _new_weights(node: ir.Node, counted: set[int]) -> list[ir.Value]:
    """Return the weights used here that are not in ``counted``, and add them to it."""
    found = []
    for value in _used_values(node):
        if value.is_initializer() and value.const_value is not None and id(value) not in counted:
            counted.add(id(value))
            if value.const_value.dtype not in _SHAPE_DATA and len(value.const_value.shape):
                found.append(value)
    return found


def _used_values(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the inputs of ``node`` and of every node in its subgraphs, without BatchNorm statistics."""
    inputs = node.inputs[:3] if node.op_type == "BatchNormalization" else node.inputs
    yield from (value for value in inputs if value is not None)
    for graph in _subgraphs(node):
        for inner in graph:
            yield from _used_values(inner)


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
