"""SmoothQuant: outliers among the channels of an activation move into the weights that read them.

What a linear layer reads is divided by s, channel by channel, and its weights are multiplied by s. The division costs
nothing where it goes into constants before it: the gain and shift of a normalisation, whole or as a Mul and an Add, the
factor of a Mul, or the weights of a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from hwbench.quantize.linear import (
    Array,
    Linear,
    Outcome,
    Skipped,
    add_constant,
    constant,
    integer,
    linear_layers,
    linear_of,
    per_channel,
    rank,
    set_constant,
)
from hwbench.quantize.statistics import ChannelStatistics

_COMMUTES = ("Relu", "LeakyRelu", "Identity")
_NORMS = ("LayerNormalization", "RMSNormalization")

_Divide = Callable[[Array], None]  # takes s


def smooth(
    model: ir.Model, statistics: Mapping[str, ChannelStatistics], alpha: float, *, insert: bool = False
) -> Outcome:
    """Smooth the inputs of Gemm and MatMul layers, in place; the function stays the same but for rounding.

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) (Xiao et al. 2022, arXiv:2211.10438, eq. 4), with the largest weight over
    all layers that read the tensor, since they share s. A channel without activations or weights stays as it is.

    Args:
        model: the graph.
        statistics: of the inputs of the layers, by tensor name; ``absmax`` is read. They hold for the graph as it
            is given: what is smoothed has others afterwards.
        alpha: how much of the difficulty moves to the weights, between 0 and 1; 0.5 is the paper's.
        insert: put a Mul by 1 / s before the layers where nothing can take the division. It costs a pass over memory.
    """
    readers: dict[str, list[Linear]] = {}
    skipped: list[Skipped] = []
    order: list[str] = []
    for layer in linear_layers(model):
        if isinstance(layer, Skipped):
            skipped.append(layer)
            continue
        order.append(layer.name)
        if layer.spatial:
            skipped.append(Skipped(layer=layer.name, reason="only Gemm and MatMul are smoothed"))
        else:
            readers.setdefault(layer.input.name or "", []).append(layer)
    changed: set[str] = set()
    for name, layers in readers.items():
        reason = _smooth(layers, statistics.get(name), alpha, changed, insert=insert)
        if reason:
            skipped += [Skipped(layer=layer.name, reason=reason) for layer in layers]
    return Outcome(
        changed=tuple(name for name in order if name in changed),
        skipped=tuple(item for item in skipped if item.layer not in changed),
    )


def _smooth(
    layers: list[Linear], seen: ChannelStatistics | None, alpha: float, changed: set[str], *, insert: bool
) -> str | None:
    """Smooth the tensor that ``layers`` read, and add the names of what was changed; or say why not."""
    value = layers[0].input
    blocks = [layer.blocks() for layer in layers]
    if seen is None:
        return "nothing is known about its input"
    if any(seen.absmax.shape != (layer.input_channels,) for layer in layers):
        return "the statistics of its input have another number of channels"
    found = _absorber(value, {id(layer.node) for layer in layers}, seen.absmax.size)
    if isinstance(found, str) and not insert:
        return found
    scale = _scale(seen.absmax, np.max([np.abs(block).max(axis=(0, 1, 3)) for block in blocks], axis=0), alpha)
    if isinstance(found, str):
        _insert(layers, scale)
    else:
        name, divide = found
        divide(scale)
        changed.update(name)
    for layer, block in zip(layers, blocks, strict=True):
        current = layer.blocks() if layer.name in changed else block
        layer.set_blocks(current * scale[None, None, :, None])
    changed.update(layer.name for layer in layers)
    return None


def _scale(activations: Array, weights: Array, alpha: float) -> Array:
    scale = np.ones_like(weights)
    usable = (activations > 0) & (weights > 0) & np.isfinite(activations)
    scale[usable] = activations[usable] ** alpha / weights[usable] ** (1 - alpha)
    return scale


def _absorber(value: ir.Value, readers: set[int], channels: int) -> tuple[list[str], _Divide] | str:
    """Return who can divide ``value`` by s, with the layers that this changes, or why nobody can.

    ``readers``: the ids of the nodes that may read the value, since their weights are multiplied by s.
    """
    if value.is_graph_output():
        return f"its input '{value.name}' is an output of the network"
    others = [use.node for use in value.uses() if id(use.node) not in readers or use.idx != 0]
    if others:
        return f"{others[0].op_type} '{others[0].name}' reads its input too"
    node = value.producer()
    if node is None or node.domain or node.op_type not in _FOLDS:
        what = "an input of the network" if node is None else f"made by {node.op_type} '{node.name}'"
        return f"its input is {what}, which takes no factor"
    return _FOLDS[node.op_type](node, channels)


def _into_norm(node: ir.Node, channels: int) -> tuple[list[str], _Divide] | str:
    """LayerNormalization and RMSNormalization over the last axis: the gain, and the shift."""
    arrays = [constant(value) for value in node.inputs[1:] if value is not None]
    last = node.outputs[0].shape
    axis = integer(node, "axis", -1)
    alone = axis == -1 or (last is not None and axis == len(last) - 1)
    if not alone or not arrays or any(array is None or array.shape != (channels,) for array in arrays):
        return f"{node.op_type} '{node.name}' has no constant gain and shift for each channel"

    def divide(scale: Array) -> None:
        for index, value in enumerate(node.inputs):
            array = constant(value) if index else None
            if array is not None:
                set_constant(node, index, array / scale)

    return [], divide


def _into_linear(node: ir.Node, channels: int) -> tuple[list[str], _Divide] | str:
    """A linear layer, without a nonlinearity between: its output channels."""
    layer = linear_of(node)
    if not isinstance(layer, Linear) or layer.spatial or layer.output_channels != channels:
        return f"{node.op_type} '{node.name}' has no constant weights to fold into"

    def divide(scale: Array) -> None:
        layer.set_blocks(layer.blocks() / scale[None, :, None, None])
        bias = layer.bias()
        if bias is not None:
            layer.set_bias(bias / scale)

    return [layer.name], divide


def _into_product(node: ir.Node, channels: int) -> tuple[list[str], _Divide] | str:
    """A Mul: its constant, or one of its factors."""
    reason = f"neither factor of Mul '{node.name}' can be divided"
    for index, value in enumerate(node.inputs):
        array = constant(value)
        if array is not None:
            return _into_constant(node, index, array, channels) or reason
    for value in node.inputs:
        shape = None if value is None else value.shape
        if value is None or shape is None or not len(shape) or shape[-1] != channels:
            continue
        found = _absorber(value, {id(node)}, channels)
        if not isinstance(found, str) and len(value.uses()) == 1:
            return found
    return reason


def _into_sum(node: ir.Node, channels: int) -> tuple[list[str], _Divide] | str:
    """An Add of a constant: the bias of a layer, or the shift of a normalisation with its Mul before it."""
    constants = [(index, array) for index, value in enumerate(node.inputs) if (array := constant(value)) is not None]
    if len(constants) != 1:
        return f"Add '{node.name}' adds two activations"
    index, array = constants[0]
    other = node.inputs[1 - index]
    assert other is not None
    producer = other.producer()
    layer = None if producer is None else linear_of(producer)
    if producer is not None and isinstance(layer, Linear) and layer.add is node:
        return _into_linear(producer, channels)
    here = _into_constant(node, index, array, channels)
    before = _absorber(other, {id(node)} if 1 - index == 0 else set(), channels) if index else _swapped(other, node, channels)
    if here is None:
        return f"the constant of Add '{node.name}' is not one number for each channel"
    if isinstance(before, str):
        return before

    def divide(scale: Array) -> None:
        here[1](scale)
        before[1](scale)

    return before[0], divide
