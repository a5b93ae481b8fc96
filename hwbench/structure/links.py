"""Layers of a graph as arithmetic: what makes a value, and how such layers hang together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from hwbench.graph.linear import Linear, constant, integer, linear_of, uses
from hwbench.structure.affine import Affine, after, scaling
from hwbench.structure.reach import known

ACTIVATIONS = {
    *("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish"),
    *("Tanh", "Mish", "Softplus", "Softsign", "ThresholdedRelu", "Swish"),
}


@dataclass(frozen=True, kw_only=True)
class Link:
    """Nodes that together are one affine layer. ``last``: the layer with weights nearest to the output, if any."""

    nodes: tuple[ir.Node, ...]
    input: ir.Value
    output: ir.Value
    affine: Affine
    layers: tuple[Linear, ...]

    @property
    def macs(self) -> int:
        """The multiply-adds of its layers with weights, for one item of the batch."""
        return sum(affine_of(layer).macs for layer in self.layers)


def link_of(value: ir.Value | None) -> Link | None:
    """Return the layer that puts a value out: a Conv, Gemm or MatMul with constant weights, or a BatchNorm."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.domain:
        return None
    if node.op_type == "BatchNormalization":
        return _norm(node)
    layer = _layer(value, node)
    if layer is None:
        return None
    if layer.spatial and not known(layer.input, value):
        return None
    nodes = (layer.node,) if layer.add is None else (layer.node, layer.add)
    link = Link(nodes=nodes, input=layer.input, output=value, affine=affine_of(layer), layers=(layer,))
    return _with_pad(link) if layer.spatial else link


def _with_pad(link: Link) -> Link:
    """Return a convolution with the Pad before it, where that pads space with zeros and nobody else reads it."""
    pad = link.input.producer()
    source = None if pad is None else pad.inputs[0]
    if pad is None or source is None or pad.domain or pad.op_type != "Pad" or not only_reader(link.input):
        return link
    amounts = _zeros_padded(pad)
    if amounts is None or source.shape is None or not known(source):
        return link
    axes, affine = len(link.affine.kernel), link.affine
    begins, ends = amounts[2 : 2 + axes], amounts[4 + axes :]
    if any(amounts[:2]) or any(amounts[2 + axes : 4 + axes]) or min((*begins, *ends)) < 0:
        return link
    padded = replace(
        affine,
        begins=tuple(a + b for a, b in zip(affine.begins, begins, strict=True)),
        ends=tuple(a + b for a, b in zip(affine.ends, ends, strict=True)),
        size_in=tuple(source.shape.numpy()[2:]),
    )
    return replace(link, nodes=(pad, *link.nodes), input=source, affine=padded)


def _zeros_padded(pad: ir.Node) -> list[int] | None:
    """Return by how many zeros a Pad enlarges each axis, begins first; None where that is not known, or no zeros."""
    mode = pad.attributes.get("mode")
    amounts = None if len(pad.inputs) < 2 or pad.inputs[1] is None else ir.convenience.get_const_tensor(pad.inputs[1])
    filler = pad.inputs[2] if len(pad.inputs) > 2 else None
    zero = constant(filler)
    plain = (mode is None or mode.as_string() == "constant") and not any(pad.inputs[3:])
    if not plain or amounts is None or (filler is not None and (zero is None or zero.any())):
        return None
    return [int(amount) for amount in amounts.numpy()]


def _layer(value: ir.Value, node: ir.Node) -> Linear | None:
    """Return the layer whose result, with its bias, is ``value``."""
    makers = [each.producer() for each in node.inputs if each is not None] if node.op_type == "Add" else [node]
    for maker in makers:
        layer = None if maker is None else linear_of(maker)
        if isinstance(layer, Linear) and layer.output is value and layer.node.op_type != "ConvTranspose":
            return layer
    return None


def joined(first: Link, second: Link, *, move_padding: bool = False, shapes_only: bool = False) -> Link:
    """Return two layers as one, where the second reads the first.

    Raises:
        NoMerge: they are none.
    """
    return Link(
        nodes=(*first.nodes, *second.nodes),
        input=first.input,
        output=second.output,
        affine=after(first.affine, second.affine, move_padding=move_padding, shapes_only=shapes_only),
        layers=(*first.layers, *second.layers),
    )


def with_norms(value: ir.Value | None) -> Link | None:
    """Return the layer with weights that puts a value out, and the BatchNorms behind it, as one."""
    last = link_of(value)
    while last is not None and not last.layers:
        before = link_of(last.input) if only_reader(last.input) else None
        last = None if before is None else joined(before, last)
    return last


def only_reader(value: ir.Value) -> bool:
    """Say whether a value is read once, and not put out."""
    return len(uses(value)) == 1 and len(value.uses()) == 1 and not value.is_graph_output()


def behind_activations(value: ir.Value) -> Iterator[ir.Node]:
    """Go back through activations that alone read what comes before them."""
    while only_reader(value):
        node = value.producer()
        source = None if node is None else node.inputs[0]
        if node is None or source is None or node.domain or node.op_type not in ACTIVATIONS:
            return
        yield node
        value = source


def affine_of(layer: Linear) -> Affine:
    """Return the arithmetic of a layer with weights."""
    bias = layer.bias()
    bias = np.zeros(layer.output_channels) if bias is None else bias
    if not layer.spatial:
        weight = layer.blocks()[0, :, :, 0]
        return replace(scaling(np.ones(1), np.zeros(1), ()), weight=weight, bias=bias, groups=1)
    source, result = layer.input.shape, layer.node.outputs[0].shape
    assert source is not None
    assert result is not None
    size, out = source.numpy()[2:], result.numpy()[2:]
    weight, axes = layer.weight, range(len(size))
    strides, dilations = (_numbers(layer.node, name, len(size)) for name in ("strides", "dilations"))
    reach = [dilations[axis] * (weight.shape[2 + axis] - 1) + 1 for axis in axes]
    begins, ends = _pads(layer.node, [strides[a] * (out[a] - 1) + reach[a] - size[a] for a in axes])
    return Affine(
        weight=weight, bias=bias, groups=layer.groups, strides=strides, dilations=dilations, begins=begins, ends=ends,
        size_in=tuple(size), size_out=tuple(out),
    )  # fmt: skip


def _norm(node: ir.Node) -> Link | None:
    value, result = node.inputs[0], node.outputs[0]
    arrays = [constant(each) for each in node.inputs[1:5]]
    if value is None or not known(value) or len(node.outputs) > 1 or integer(node, "training_mode", 0):
        return None
    if any(array is None or not np.isfinite(array).all() for array in arrays):
        return None
    scale, shift, mean, variance = (array for array in arrays if array is not None)
    factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    assert value.shape is not None
    affine = scaling(factor, shift - mean * factor, tuple(value.shape.numpy()[2:]))
    return Link(nodes=(node,), input=value, output=result, affine=affine, layers=())


def _numbers(node: ir.Node, name: str, axes: int) -> tuple[int, ...]:
    attribute = node.attributes.get(name)
    return (1,) * axes if attribute is None else tuple(attribute.as_ints())


def _pads(node: ir.Node, needed: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the padding at begin and end; ``needed``: what the output's size takes, for those that are computed."""
    attribute = node.attributes.get("auto_pad")
    automatic = "NOTSET" if attribute is None else attribute.as_string()
    if automatic == "NOTSET":
        pads = _numbers(node, "pads", 0) or (0,) * (2 * len(needed))
        return pads[: len(needed)], pads[len(needed) :]
    if automatic == "VALID":
        return (0,) * len(needed), (0,) * len(needed)
    total = [max(0, size) for size in needed]
    small, large = tuple(size // 2 for size in total), tuple(size - size // 2 for size in total)
    return (small, large) if automatic == "SAME_UPPER" else (large, small)
