"""Which groups of channels can be taken away without changing a shape: by zeros in the weights of who reads them.

A channel that nobody's weights take up is as good as gone, whatever is in it, as long as everything on its way treats
channels apart. A normalisation over the channels does not: its mean and variance count all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from hwbench.graph.linear import Linear, integer, linear_layers, uses
from hwbench.graph.lower import fold_batch_norms
from hwbench.records.base import Missing
from hwbench.structure.groups import Group, channel_groups

_FROM_AXIS_ON = {"LayerNormalization", "RMSNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization"}
_ALONG_AXIS = {"Softmax", "LogSoftmax", "Hardmax", "LpNormalization"}
_OVER_CHANNELS = {"LRN", "GroupNormalization"}


def masked_exactly(group: Group, layers: Mapping[str, Linear]) -> Missing | None:
    """Say why zeros in the readers of a group do not do what cutting it does; None where they do.

    Args:
        group: of the network with BatchNorm folded.
        layers: its layers with weights, by name.
    """
    axes: dict[ir.Value, set[int]] = {}
    for member in group.members:
        if member.reader is None:
            axes.setdefault(member.value, set()).add(member.axis)
    for value, places in axes.items():
        for node, _ in uses(value):
            reason = _reader(node, value, places, group, layers, axes)
            if reason is not None:
                return reason
    if not any(name in layers and not follows(layers[name]) for name in group.consumers):
        return Missing(code="no_reader", why="no layer with weights reads its channels, so that none can be masked")
    return None


def follows(layer: Linear) -> bool:
    """Say whether a layer is a depthwise convolution, whose output channels are those of its input."""
    return layer.spatial and layer.groups > 1 and layer.input_channels == layer.groups


def _reader(
    node: ir.Node,
    value: ir.Value,
    places: set[int],
    group: Group,
    layers: Mapping[str, Linear],
    axes: Mapping[ir.Value, set[int]],
) -> Missing | None:
    name = node.name or ""
    if name in group.consumers and name in layers:
        return None
    rank = len(value.shape) if value.shape is not None else max(places) + 1
    if any(_mixes(node, axis, rank) for axis in places):
        return Missing(
            code="normalised",
            why=f"'{name}' ({node.op_type}) normalises over its channels, and would count those that are masked",
        )
    if not any(output in axes for output in node.outputs):
        return Missing(code="mixed", why=f"'{name}' ({node.op_type}) takes its channels together without weights")
    return None


def _mixes(node: ir.Node, axis: int, rank: int) -> bool:
    """Say whether a node lets indices of an axis act on each other and keeps them apart in its result."""
    if node.op_type in _OVER_CHANNELS:
        return axis == 1
    if node.op_type in _FROM_AXIS_ON:
        return axis >= integer(node, "axis", -1) % rank
    if node.op_type in _ALONG_AXIS:
        return axis == integer(node, "axis", -1) % rank
    return False


def refused_widths(hub: ir.Model) -> dict[str, Missing]:
    """Return the width sites (``width:GROUP``) of a network whose losses cannot be found by zeros, and why.

    They are what ``space_of(model, ..., refused=...)`` is to leave out.
    """
    model = hub.clone()
    fold_batch_norms(model)
    layers = {layer.name: layer for layer in linear_layers(model) if isinstance(layer, Linear)}
    reasons = {f"width:{group.name}": masked_exactly(group, layers) for group in channel_groups(model).groups}
    return {name: reason for name, reason in reasons.items() if reason is not None}
