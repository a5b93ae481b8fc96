"""Cross-layer equalisation: two layers in a row share out the sizes of their weights, channel by channel.

Where a channel's weights are large in the first layer and small in the second, one scale for all channels wastes most
of its steps. Dividing the channel by s in the first layer and multiplying it by s in the second changes nothing as long
as what lies between commutes with a positive factor, as ReLU and pooling do. A clip at a fixed height (ReLU6) does not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from hwbench.graph.linear import (
    Array,
    Linear,
    Outcome,
    Skipped,
    constant,
    integer,
    linear_layers,
    linear_of,
    rank,
    uses,
)

_ANYWHERE = ("Relu", "LeakyRelu", "Identity")  # they commute with a positive factor for each channel, on any axis
_IN_SPACE = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_ROUNDS = 40
_BIAS_GROWTH = 4.0
_SETTLED = 1e-3  # of a scale, as its distance from 1


def equalize(model: ir.Model) -> Outcome:
    """Equalise the weights of layers that follow each other, in place; the function stays the same but for rounding.

    For a channel with the largest weights r1 in the first layer and r2 in the second, s = sqrt(r1 r2) / r2, so that
    both become sqrt(r1 r2) (Nagel et al. 2019, arXiv:1906.04721, eq. 11); repeated over all pairs, since a layer may
    belong to two, until no scale is further than 1e-3 from 1. A channel without weights on either side stays, and none
    is enlarged so far that its bias exceeds four times the largest of its layer: where weights are all but zero, the
    bias would set the range of the whole tensor.
    """
    pairs: list[tuple[Linear, Linear]] = []
    skipped: list[Skipped] = []
    for layer in linear_layers(model):
        second = layer if isinstance(layer, Skipped) else _follower(layer)
        if isinstance(second, Skipped):
            skipped.append(second)
        elif isinstance(layer, Linear):
            pairs.append((layer, second))
    layers = {layer.name: layer for pair in pairs for layer in pair}
    blocks = {name: layer.blocks() for name, layer in layers.items()}
    biases = {name: layer.bias() for name, layer in layers.items()}
    limits = {name: _BIAS_GROWTH * np.abs(bias).max() for name, bias in biases.items() if bias is not None}
    links = [(first.name, second.name) for first, second in pairs]
    for _ in range(_ROUNDS):
        moved = [_balance(blocks, biases, limits, first, second) for first, second in links]
        if max(moved, default=0.0) < _SETTLED:
            break
    for name, layer in layers.items():
        layer.set_blocks(blocks[name])
        bias = biases[name]
        if bias is not None:
            layer.set_bias(bias)
    order = [layer.name for layer in linear_layers(model) if isinstance(layer, Linear) and layer.name in layers]
    return Outcome(changed=tuple(order), skipped=tuple(item for item in skipped if item.layer not in layers))


def _balance(
    blocks: dict[str, Array], biases: dict[str, Array | None], limits: dict[str, float], first: str, second: str
) -> float:
    """Scale the channels between two layers, and return how far the furthest scale was from 1."""
    giving, taking, bias = blocks[first], blocks[second], biases[first]
    r1 = np.abs(giving).max(axis=(2, 3)).reshape(-1)
    r2 = np.abs(taking).max(axis=(1, 3)).reshape(-1)
    scale = np.ones_like(r1)
    np.divide(np.sqrt(r1 * r2), r2, out=scale, where=(r1 > 0) & (r2 > 0))
    if bias is not None:
        if limits[first] > 0:
            scale = np.maximum(scale, np.abs(bias) / limits[first])
        biases[first] = bias / scale
    blocks[first] = giving / scale.reshape(giving.shape[0], giving.shape[1], 1, 1)
    blocks[second] = taking * scale.reshape(taking.shape[0], 1, taking.shape[2], 1)
    return float(np.abs(scale - 1).max())


def _follower(first: Linear) -> Linear | Skipped:
    """Return the layer behind ``first`` that alone reads its channels, or why there is none."""
    spatial = first.spatial
    for value, reader in _readers(first.output):
        if reader is None:
            return Skipped(layer=first.name, reason=_crowd(value))
        found = linear_of(reader)
        if isinstance(found, Skipped):
            return Skipped(layer=first.name, reason=f"what follows, '{found.layer}', cannot be scaled: {found.reason}")
        if found is not None:
            fits = found.spatial == spatial and found.input_channels == first.output_channels
            return found if fits else Skipped(layer=first.name, reason=f"its channels mix before '{found.name}'")
        if not _commutes(reader, spatial):
            return Skipped(layer=first.name, reason=f"{reader.op_type} '{reader.name}' lies between it and the next")
        spatial = spatial and reader.op_type != "Flatten"
    raise AssertionError("unreachable: the chain ends at a node or at an output")


def _readers(value: ir.Value) -> Iterator[tuple[ir.Value, ir.Node | None]]:
    """Go along the chain of nodes that begins at ``value`` as long as each result has one reader; then None."""
    while True:
        found = uses(value)
        if value.is_graph_output() or len(found) != 1 or found[0][1] != 0:
            yield value, None
            return
        reader = found[0][0]
        yield value, reader
        value = reader.outputs[0]


def _crowd(value: ir.Value) -> str:
    if value.is_graph_output():
        return f"'{value.name}' is an output of the network"
    found = uses(value)
    if len(found) == 1:
        return f"{found[0][0].op_type} '{found[0][0].name}' does not take it as its first input"
    return f"'{value.name}' has {len(found)} readers"


def _commutes(node: ir.Node, spatial: bool) -> bool:
    """Say whether a node gives s times its result for s times a channel of its input, for every s > 0."""
    if node.domain or len(node.outputs) != 1:
        return False
    if node.op_type == "Clip":
        return _is_relu(node)
    if node.op_type == "Pad":
        return spatial and _pads_space_with_zeros(node)
    if node.op_type == "Flatten":
        return spatial and integer(node, "axis", 1) == 1
    return node.op_type in _ANYWHERE or (spatial and node.op_type in _IN_SPACE)


def _is_relu(clip: ir.Node) -> bool:
    """Say whether a Clip has no upper end and 0 or nothing below."""
    bounds = [constant(value) if value is not None else None for value in clip.inputs[1:3]]
    given = [value is not None for value in clip.inputs[1:3]]
    low = given[:1] == [True] and (bounds[0] is None or float(bounds[0].reshape(-1)[0]) not in {0.0, -np.inf})
    high = given[1:] == [True] and (bounds[1] is None or float(bounds[1].reshape(-1)[0]) != np.inf)
    return not (low or high or "min" in clip.attributes or "max" in clip.attributes)


def _pads_space_with_zeros(pad: ir.Node) -> bool:
    """Say whether a Pad adds no channels, and only zeros (or copies of what is there).

    The amounts are often computed in the graph, so the shapes are asked, which inference has found from them.
    """
    before, after = pad.inputs[0], pad.outputs[0]
    if before is None or before.shape is None or after.shape is None or rank(before, default=0) < 3:
        return False
    filling = pad.inputs[2] if len(pad.inputs) > 2 else None
    value = None if filling is None else constant(filling)
    zeros = "value" not in pad.attributes and (filling is None or (value is not None and not value.any()))
    return before.shape[1] == after.shape[1] and isinstance(before.shape[1], int) and zeros
