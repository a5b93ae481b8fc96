"""Output channels as units that training may remove: as groups that can be cut, or of one layer, to be set to zero."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Subject
from hwbench.graph.linear import Linear, linear_layers
from hwbench.records.base import Missing
from hwbench.structure.groups import Group, channel_groups
from hwbench.train.places import norm_behind
from hwbench.train.unit_groups import Slice, UnitGroup

Array = np.ndarray[Any, np.dtype[Any]]

# By operator, the inputs that go with an output channel. Not those that divide: nothing is divided by zero.
_REST = {"BatchNormalization": {1, 2}, "Add": {0, 1}, "Sub": {0, 1}, "Mul": {0, 1}}
_BIAS = 2  # of Conv, ConvTranspose and Gemm


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Units that go together; ``group``: what they can be cut as, None where they can only be set to zero."""

    units: UnitGroup
    layers: tuple[str, ...]  # whose output channels they are
    group: Group | None


def choices(subject: Subject, layers: Collection[str]) -> list[Choice]:
    """Return the units of some layers. Those of a group can be cut when all layers that make it are among them."""
    linear = subject.layers()
    found: list[Choice] = []
    for group in channel_groups(subject.model).groups:
        makers = {name: linear[name] for name in group.producers if name in linear}
        if makers and set(group.producers) <= set(layers):
            found.append(Choice(units=_units_of_group(group, makers), layers=tuple(makers), group=group))
    done = {name for choice in found for name in choice.layers}
    for name, layer in linear.items():
        if name in layers and name not in done:
            found.append(Choice(units=units_of_layer(subject.model, layer), layers=(name,), group=None))
    return found


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


def gone(units: UnitGroup, removed: Collection[int]) -> dict[str, tuple[int, ...]]:
    """Return by tensor and axis (``conv1.weight/0``) the indices of some units' weights."""
    return {
        f"{part.tensor}/{part.axis}": tuple(np.flatnonzero(np.isin(part.units, list(removed))).tolist())
        for part in units.weights
    }


def _hindrance(layer: Linear, last: set[str]) -> Missing | None:
    if layer.name in last:
        return Missing(code="output", why="its channels are the network's outputs, or are added to them")
    if layer.output_channels < 2:
        return Missing(code="one_channel", why="it has one output channel")
    return None


def _units_of_group(group: Group, makers: Mapping[str, Linear]) -> UnitGroup:
    weights: list[Slice] = []
    rest: list[Slice] = []
    for member in group.members:
        if member.reader is None or member.value.const_value is None:
            continue
        node, index = member.reader
        owner = np.full(member.value.const_value.shape.numpy()[member.axis], -1, np.int64)
        for unit, indices in enumerate(member.indices):
            owner[indices] = unit
        part = Slice(tensor=member.tensor, axis=member.axis, units=owner)
        layer = makers.get(node.name or "")
        if layer is None:
            rest += [part] if index in _REST.get(node.op_type, ()) else []
        elif index == _BIAS:
            rest.append(part)
        elif member.axis == layer.output_axis:
            weights.append(part)
    return UnitGroup(name=group.name, size=group.size, weights=weights, rest=rest)
