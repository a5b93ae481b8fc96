"""Output channels of single layers as units that training may set to zero."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Subject
from hwbench.graph.linear import Linear, linear_layers
from hwbench.records.base import Missing
from hwbench.train.places import norm_behind
from hwbench.train.units import Slice, UnitGroup


def channels_legal(subject: Subject) -> dict[str, Missing | None]:
    """Return the layers whose output channels can be taken away, or why not."""
    last = last_layers(subject.model)
    return {name: _hindrance(layer, last) for name, layer in subject.layers().items()}


def last_layers(model: ir.Model) -> set[str]:
    """Return the layers with weights whose outputs reach an output of the graph and no other such layer before it."""
    linear = {layer.name for layer in linear_layers(model) if isinstance(layer, Linear)}
    todo, seen, found = list(model.graph.outputs), set[ir.Value](), set[str]()
    while todo:
        value = todo.pop()
        node = value.producer()
        if node is None or value in seen:
            continue
        seen.add(value)
        if node.name in linear:
            found.add(node.name or "")
        else:
            todo += [given for given in node.inputs if given is not None]
    return found


def units_of_layer(model: ir.Model, layer: Linear) -> UnitGroup:
    """Return the output channels of a layer, with its bias and the BatchNormalization that alone reads it.

    Of a transposed convolution in groups, a unit is one channel of every group.
    """
    weight = layer.node.inputs[1]
    assert weight is not None
    groups = layer.groups if layer.node.op_type == "ConvTranspose" else 1
    size = layer.output_channels // groups
    holder, norm = layer.add or layer.node, norm_behind(model, layer.name)
    values = [holder.inputs[layer.bias_index] if layer.takes_bias and len(holder.inputs) > layer.bias_index else None]
    values += [] if norm is None else list(norm.inputs[1:3])
    rest = [
        Slice(tensor=value.name or "", axis=-1, units=np.tile(np.arange(size), groups))
        for value in values
        if value is not None and value.shape is not None and tuple(value.shape)[-1:] == (layer.output_channels,)
    ]
    made = Slice(tensor=weight.name or "", axis=layer.output_axis, units=np.arange(size))
    return UnitGroup(name=layer.name, size=size, weights=[made], rest=rest)


def _hindrance(layer: Linear, last: set[str]) -> Missing | None:
    if layer.name in last:
        return Missing(code="output", why="its channels are the network's outputs, or are added to them")
    if layer.output_channels < 2:
        return Missing(code="one_channel", why="it has one output channel")
    return None
