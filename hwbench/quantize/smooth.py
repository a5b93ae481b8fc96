"""SmoothQuant: outliers among the channels of an activation move into the weights that read them.

What a linear layer reads is divided by s, channel by channel, and its weights are multiplied by s. The division costs
nothing where it goes into constants before it: the gain and shift of a normalisation, whole or as a Mul and an Add, the
factor of a Mul, or the weights of a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hwbench.graph.linear import (
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
    uses,
)
from hwbench.quantize.statistics import ChannelStatistics


def smooth(
    model: ir.Model, statistics: Mapping[str, ChannelStatistics], alpha: float, *, insert: bool = False
) -> Outcome:
    """Smooth the inputs of Gemm and MatMul layers, in place; the function stays the same but for rounding.

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) (Xiao et al. 2022, arXiv:2211.10438), with the largest weight over all
    layers that read the tensor, since they share s. A channel without activations or weights stays as it is.

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
    channels = layers[0].input_channels
    if seen is None:
        return "nothing is known about its input"
    if seen.absmax.shape != (channels,):
        return f"the statistics of its input are of {seen.absmax.size} channels, not {channels}"
    fold = _fold(layers[0].input, {(id(layer.node), 0) for layer in layers}, channels)
    if isinstance(fold, str) and not insert:
        return fold
    weights = np.max([np.abs(layer.blocks()).max(axis=(0, 1, 3)) for layer in layers], axis=0)
    scale = _scale(seen.absmax, weights, alpha)
    if isinstance(fold, str):
        _insert(layers, scale)
    else:
        fold.divide(scale)
        changed.update(fold.layers)
    for layer in layers:
        layer.set_blocks(layer.blocks() * scale[None, None, :, None])
        changed.add(layer.name)
    return None


def _scale(activations: Array, weights: Array, alpha: float) -> Array:
    scale = np.ones_like(weights)
    usable = (activations > 0) & (weights > 0)
    scale[usable] = activations[usable] ** alpha / weights[usable] ** (1 - alpha)
    return scale


def _insert(layers: list[Linear], scale: Array) -> None:
    first, value = layers[0].node, layers[0].input
    assert isinstance(first.graph, ir.Graph)
    assert first.inputs[1] is not None
    name = f"{value.name}.smoothed"
    factor = add_constant(first, f"{name}.factor", 1 / scale, like=first.inputs[1])
    node = ir.Node(
        "", "Mul", [value, factor], name=name, outputs=[ir.Value(name=name, shape=value.shape, type=value.type)]
    )
    first.graph.insert_before(first, node)
    for layer in layers:
        layer.node.replace_input_with(0, node.outputs[0])


@dataclass(frozen=True)
class _Fold:
    """How a tensor can be divided by s, and the layers whose weights that changes."""

    divide: Callable[[Array], None]
    layers: tuple[str, ...] = ()


def _fold(value: ir.Value | None, readers: set[tuple[int, int]], channels: int) -> _Fold | str:
    """Return how ``value`` can be divided by s, or why it cannot.

    ``readers``: who may read it, as the id of a node and which of its inputs; others would see the division.
    """
    if value is None or value.is_graph_output():
        return "its input is an output of the network"
    others = [node for node, index in uses(value) if (id(node), index) not in readers]
    if others:
        return f"{others[0].op_type} '{others[0].name}' reads its input too"
    node = value.producer()
    if node is None or node.domain or node.op_type not in _FOLDS:
        made = "an input of the network" if node is None else f"made by {node.op_type} '{node.name}'"
        return f"its input is {made}, which cannot be divided by constants"
    if value.shape is not None and (not len(value.shape) or value.shape[-1] != channels):
        return f"its input has no {channels} channels on the last axis where {node.op_type} '{node.name}' makes it"
    return _FOLDS[node.op_type](node, channels)


def _into_norm(node: ir.Node, channels: int) -> _Fold | str:
    """A normalisation over the last axis: its gain, and its shift."""
    arrays = {index: constant(value) for index, value in enumerate(node.inputs) if index and value is not None}
    axis, axes = integer(node, "axis", -1), rank(node.outputs[0], default=0)
    if (
        axis not in {-1, axes - 1}
        or 1 not in arrays
        or any(a is None or a.shape != (channels,) for a in arrays.values())
    ):
        return f"{node.op_type} '{node.name}' has no constant gain and shift for each channel"

    def divide(scale: Array) -> None:
        for index, array in arrays.items():
            assert array is not None
            set_constant(node, index, array / scale)

    return _Fold(divide)


def _into_linear(node: ir.Node, channels: int) -> _Fold | str:
    """A linear layer with no nonlinearity between: its output channels."""
    layer = linear_of(node)
    if not isinstance(layer, Linear) or layer.spatial or layer.output_channels != channels:
        return f"{node.op_type} '{node.name}', which makes its input, has no constant weights to divide"

    def divide(scale: Array) -> None:
        bias = layer.bias()
        layer.set_blocks(layer.blocks() / scale[None, :, None, None])
        if bias is not None:
            layer.set_bias(bias / scale)

    return _Fold(divide, (layer.name,))


def _into_product(node: ir.Node, channels: int) -> _Fold | str:
    """A Mul: its constant, or whichever of its two factors can be divided."""
    for index, value in enumerate(node.inputs):
        if constant(value) is not None:
            return _into_constant(node, index, channels)
    found: _Fold | str = f"Mul '{node.name}' has no factor that can be divided"
    for index, value in enumerate(node.inputs):
        found = _fold(value, {(id(node), index)}, channels)
        if isinstance(found, _Fold):
            break
    return found


def _into_sum(node: ir.Node, channels: int) -> _Fold | str:
    """An Add of a constant: a layer's bias, or the shift of a normalisation, whose gain is in a Mul before."""
    index = 0 if constant(node.inputs[0]) is not None else 1
    other = node.inputs[1 - index]
    producer = None if other is None else other.producer()
    layer = None if producer is None else linear_of(producer)
    if producer is not None and isinstance(layer, Linear) and layer.add is node:
        return _into_linear(producer, channels)
    shift = _into_constant(node, index, channels)
    rest = _fold(other, {(id(node), 1 - index)}, channels)
    if isinstance(shift, str) or isinstance(rest, str):
        return shift if isinstance(shift, str) else rest
    shift_divide, rest_divide = shift.divide, rest.divide

    def divide(scale: Array) -> None:
        shift_divide(scale)
        rest_divide(scale)

    return _Fold(divide, rest.layers)


def _into_constant(node: ir.Node, index: int, channels: int) -> _Fold | str:
    array = constant(node.inputs[index])
    if array is None or not per_channel(array, channels) or array.ndim > rank(node.outputs[0], default=array.ndim):
        return f"{node.op_type} '{node.name}' has no constant of one number for each channel"
    held = array
    return _Fold(lambda scale: set_constant(node, index, held / scale))


def _through(node: ir.Node, channels: int) -> _Fold | str:
    """An operator that commutes with positive factors."""
    return _fold(node.inputs[0], {(id(node), 0)}, channels)


_FOLDS: dict[str, Callable[[ir.Node, int], _Fold | str]] = {
    "LayerNormalization": _into_norm,
    "RMSNormalization": _into_norm,
    "MatMul": _into_linear,
    "Gemm": _into_linear,
    "Mul": _into_product,
    "Add": _into_sum,
    "Relu": _through,
    "LeakyRelu": _through,
    "Identity": _through,
}
