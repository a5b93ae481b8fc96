"""Layers that follow each other, or that are added up, made one layer.

``chain_at`` looks back from a layer over BatchNorms and, where that is allowed, activations; ``sum_at`` looks at both
sides of an Add. Both say what would come out, or why nothing can; ``merge`` carries it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hwbench.graph.linear import Linear, add_constant, constant, rank
from hwbench.records.base import Missing
from hwbench.structure.affine import Affine, Array, NoMerge, beside, scaling
from hwbench.structure.links import Link, behind_activations, joined, link_of, only_reader, with_norms
from hwbench.structure.reach import dead_without, remove_nodes

LONGEST = 3  # layers: a bottleneck's expansion, depthwise convolution and projection


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Layers that can be one. ``activations`` go; ``moved``: padding moves to the front. Neither: it is exact.

    ``parts``: the layers of a chain from the input on, or one link that is a sum. ``last``: the one whose name stays.
    ``kernel`` is what comes out; multiply-adds are those of one item of the batch, or of one row of a matrix product.
    """

    parts: tuple[Link, ...]
    last: Linear
    activations: tuple[ir.Node, ...]
    moved: bool
    kernel: tuple[int, ...]
    macs_before: int
    macs_after: int

    @property
    def exact(self) -> bool:
        """Whether the network computes the same as before."""
        return not self.activations and not self.moved

    @property
    def layers(self) -> tuple[Linear, ...]:
        """The layers with weights that become one."""
        return tuple(layer for part in self.parts for layer in part.layers)

    def link(self) -> Link:
        """Compute the layer that they become."""
        link = self.parts[-1]
        for before in reversed(self.parts[:-1]):
            link = joined(before, link, move_padding=self.moved)
        return link


def chain_at(
    layer: Linear, *, activations: bool = False, move_padding: bool = False, more_macs: bool = False
) -> Merge | Missing | None:
    """Return how a layer and those before it become one: the shortest chain that does not take more multiply-adds.

    None: no layer comes directly before it.
    """
    shape = link_of(layer.output)
    parts, removed = [shape] if shape else [], list[ir.Node]()
    moved, reason = False, None
    while shape is not None and len(parts) < LONGEST:
        between = list(behind_activations(shape.input))
        source = _input(between[-1]) if between else shape.input
        before = with_norms(source)
        if before is None:
            return reason
        if between and not activations:
            return reason or _activation(between, before)
        if not (only_reader(source) and only_reader(shape.input)):
            return reason or Missing(code="used_outside", why=f"'{source.name}' is also read elsewhere")
        try:
            shape, late = _joined(before, shape, move_padding=move_padding)
        except NoMerge as no:
            return reason or no.reason
        parts, removed, moved = [before, *parts], [*between, *removed], moved or late
        found = _merge(parts, layer, removed, shape.affine, moved=moved)
        if more_macs or found.macs_after <= found.macs_before:
            return found
        reason = _more(found)
    return reason


def sum_at(add: ir.Node, *, more_macs: bool = False) -> Merge | Missing | None:
    """Return how the two sides of an Add become one layer; None: they do not start from one value, or have no layer."""
    if add.op_type != "Add" or add.domain or any(each is None or constant(each) is not None for each in add.inputs):
        return None
    one, other = (_side(each) for each in add.inputs if each is not None)
    if one.input is not other.input or not (one.layers or other.layers):
        return None
    layer = max((*one.layers, *other.layers), key=lambda each: each.weight.size)
    if any(len(side.affine.kernel) != rank(side.input, default=0) - 2 for side in (one, other)) and layer.spatial:
        return None
    if not layer.spatial and rank(one.input, default=0) != 2 and any(_scales(side) for side in (one, other)):
        return None  # BatchNorm counts channels on axis 1, a matrix product on the last
    try:
        affine = beside(_fitted(one, layer), _fitted(other, layer))
    except NoMerge as no:
        return no.reason
    layers = (*one.layers, *other.layers)
    nodes = tuple(dict.fromkeys((*one.nodes, *other.nodes, add)))
    link = Link(nodes=nodes, input=one.input, output=add.outputs[0], affine=affine, layers=layers)
    found = _merge([link], layer, (), affine, moved=False)
    return found if more_macs or found.macs_after <= found.macs_before else _more(found)


def merge(model: ir.Model, plan: Merge) -> dict[str, int]:
    """Make one layer of several, in place.

    It has the name of the last of them (of the largest, for an Add), and its result the name that it had.

    Returns:
        The initialisers that are gone, and their lengths along axis 0.
    """
    link, layer = plan.link(), plan.last
    result, like = link.output, layer.node.inputs[1]
    end = result.producer()
    assert end is not None
    assert like is not None
    biased = bool(link.affine.bias.any()) or any(each.bias() is not None for each in plan.layers)
    names = _constant_names(layer)
    nodes = _nodes(layer, link, biased=biased)
    model.graph.insert_before(end, nodes)
    made, name = nodes[-1].outputs[0], result.name
    made.shape, made.type = result.shape, result.type
    ir.convenience.replace_all_uses_with(result, made, replace_graph_outputs=True)
    result.name, made.name = f"{name}.unused", name
    gone = remove_nodes(model, dead_without(list(model.graph), (*link.nodes, *plan.activations), link.input))
    nodes[0].replace_input_with(1, add_constant(nodes[0], names[0], _as_stored(layer, link.affine), like=like))
    if biased:
        holder, index = (nodes[1], 1) if len(nodes) > 1 else (nodes[0], 2)
        holder.replace_input_with(index, add_constant(holder, names[1], link.affine.bias, like=like))
    lengths = {name: 1 if not value.shape else int(value.shape.numpy()[0]) for name, value in gone.items()}
    return {name: length for name, length in lengths.items() if name not in model.graph.initializers}


def _joined(before: Link, shape: Link, *, move_padding: bool) -> tuple[Link, bool]:
    """Return both as one, in shapes only, and whether padding had to move."""
    try:
        return joined(before, shape, shapes_only=True), False
    except NoMerge as no:
        if no.reason.code != "border" or not move_padding:
            raise
    return joined(before, shape, move_padding=True, shapes_only=True), True


def _merge(parts: Sequence[Link], last: Linear, removed: Sequence[ir.Node], shape: Affine, *, moved: bool) -> Merge:
    return Merge(
        parts=tuple(parts),
        last=last,
        activations=tuple(removed),
        moved=moved,
        kernel=shape.kernel,
        macs_before=sum(part.macs for part in parts),
        macs_after=shape.macs,
    )


def _more(found: Merge) -> Missing:
    return Missing(
        code="more_macs",
        why=f"one layer would take {found.macs_after} multiply-adds, the {len(found.layers)} take {found.macs_before}",
        cure="allow_more_macs=true",
    )


def _activation(between: Sequence[ir.Node], before: Link) -> Missing:
    names = ", ".join(f"{node.op_type} '{node.name}'" for node in between)
    return Missing(
        code="activation", why=f"{names} lies between it and '{before.layers[-1].name}'", cure="activations=remove"
    )


def _side(value: ir.Value) -> Link:
    """Return what one side of a sum does to the value that it starts from: a layer, a sum, a BatchNorm, or nothing."""
    if only_reader(value):
        found = with_norms(value) or link_of(value)
        if found is not None:
            return found
        producer = value.producer()
        inner = None if producer is None else sum_at(producer, more_macs=True)
        if isinstance(inner, Merge):
            return inner.parts[0]
    size = () if value.shape is None or len(value.shape) < 3 else tuple(value.shape.numpy()[2:])
    return Link(nodes=(), input=value, output=value, affine=scaling(np.ones(1), np.zeros(1), size), layers=())


def _scales(side: Link) -> bool:
    return bool(side.nodes) and not side.layers


def _fitted(side: Link, layer: Linear) -> Affine:
    """Return a side's arithmetic; what does nothing is made as wide as the layer's input."""
    if side.nodes:
        return side.affine
    size = side.affine.size_in if layer.spatial else ()
    return scaling(np.ones(layer.input_channels), np.zeros(layer.input_channels), size)


def _nodes(layer: Linear, link: Link, *, biased: bool) -> list[ir.Node]:
    """Return the nodes of the merged layer, without its constants."""
    node, affine = layer.node, link.affine
    attributes: dict[str, int | tuple[int, ...]] = {}
    if node.op_type == "Gemm":
        attributes = {"transB": 1 - layer.output_axis}
    elif node.op_type == "Conv":
        attributes = {
            "kernel_shape": affine.kernel,
            "strides": affine.strides,
            "dilations": affine.dilations,
            "pads": (*affine.begins, *affine.ends),
            "group": affine.groups,
        }
    holds = biased and node.op_type != "MatMul"
    given = [link.input, None, *([None] if holds else [])]
    main = ir.node(node.op_type, given, attributes, name=node.name, num_outputs=1)
    main.metadata_props.update(node.metadata_props)
    if holds or not biased:
        return [main]
    name = f"{node.name}.bias" if layer.add is None else layer.add.name
    product = main.outputs[0]
    product.name = f"{link.output.name}.product"
    product.shape, product.type = link.output.shape, link.output.type
    add = ir.node("Add", [product, None], name=name, num_outputs=1)
    add.metadata_props.update((layer.add or node).metadata_props)
    return [main, add]


def _constant_names(layer: Linear) -> tuple[str, str]:
    """Return how the layer's weight and bias are called, or shall be."""
    weight, holder = layer.node.inputs[1], layer.add or layer.node
    bias = holder.inputs[layer.bias_index] if layer.takes_bias and len(holder.inputs) > layer.bias_index else None
    return (
        (weight.name if weight is not None else None) or f"{layer.name}.weight",
        (bias.name if bias is not None else None) or f"{layer.name}.bias",
    )


def _as_stored(layer: Linear, affine: Affine) -> Array:
    """Return the weights as the layer's operator has them."""
    if layer.spatial:
        return affine.weight
    dense = affine.in_groups(1)
    return dense if layer.output_axis == 0 else np.ascontiguousarray(dense.T)


def _input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value
