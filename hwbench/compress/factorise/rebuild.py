"""The pieces of a layer put into the graph in its place."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from hwbench.compress.factorise.site import Piece, Sizes, as_weight
from hwbench.graph.linear import Array, Linear, add_constant


def replace(layer: Linear, pieces: Sequence[Piece], factors: Sequence[Array]) -> tuple[str, ...]:
    """Put ``pieces`` in the place of ``layer`` and return their names: ``conv1.down``, ``conv1.up``.

    The last one is the node itself, renamed: its output and its bias stay as they are. The weight goes, unless somebody
    else reads it.
    """
    node, name = layer.node, layer.name
    weight, source = node.inputs[1], layer.input
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    assert weight is not None
    names = tuple(_free_name(graph, f"{name}.{piece.suffix}") for piece in pieces)
    for called, piece, factor in zip(names[:-1], pieces[:-1], factors[:-1], strict=True):
        constant = add_constant(node, f"{called}.weight", as_weight(node, piece, factor), like=weight)
        result = ir.Value(name=_free_value(graph, called), type=source.type, shape=_shape(source, piece))
        attributes = _attributes(node, piece)
        made = ir.Node("", node.op_type, [source, constant], attributes, name=called, outputs=[result])
        made.metadata_props.update(node.metadata_props)
        graph.insert_before(node, made)
        source = result
    last = add_constant(node, f"{names[-1]}.weight", as_weight(node, pieces[-1], factors[-1]), like=weight)
    node.replace_input_with(0, source)
    node.replace_input_with(1, last)
    for attribute in _attributes(node, pieces[-1]):
        node.attributes[attribute.name] = attribute
    node.attributes.pop("auto_pad", None)
    node.name = names[-1]
    _drop(graph, weight)
    return names


def _attributes(node: ir.Node, piece: Piece) -> list[ir.Attr]:
    if node.op_type != "Conv":
        return [attribute for name, attribute in node.attributes.items() if name == "transB"]
    kernel, strides, dilations, begins, ends = piece.window.columns()
    return [
        ir.AttrInt64s("kernel_shape", kernel),
        ir.AttrInt64s("strides", strides),
        ir.AttrInt64s("dilations", dilations),
        ir.AttrInt64s("pads", begins + ends),
        ir.AttrInt64("group", piece.groups),
    ]


def _shape(source: ir.Value, piece: Piece) -> ir.Shape:
    assert source.shape is not None
    sizes: Sizes = tuple(source.shape.numpy())
    if piece.window.kernel:
        return ir.Shape((sizes[0], piece.outputs, *piece.window.moved_over(sizes[2:])))
    return ir.Shape((*sizes[:-1], piece.outputs))


def _drop(graph: ir.Graph, weight: ir.Value) -> None:
    """Take a constant out that nobody reads any more."""
    if weight.uses() or weight.is_graph_output() or weight.is_graph_input():
        return
    producer = weight.producer()
    if producer is not None:
        graph.remove(producer, safe=True)
    elif graph.initializers.get(weight.name or "") is weight:
        graph.initializers.pop(weight.name or "")


def _free_name(graph: ir.Graph, name: str) -> str:
    taken = {node.name for node in graph}
    while name in taken:
        name += "_again"
    return name


def _free_value(graph: ir.Graph, name: str) -> str:
    taken = {value.name for node in graph for value in node.outputs} | set(graph.initializers)
    taken |= {value.name for value in graph.inputs}
    while name in taken:
        name += "_again"
    return name
