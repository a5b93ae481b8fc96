"""BatchNorm into the layer before it, or behind it, and per-channel factors and shifts into the layer before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hwbench.graph.linear import Array, Linear, constant, integer, linear_layers, linear_of
from hwbench.graph.lower import fold_batch_norm, layer_before
from hwbench.records.base import Missing
from hwbench.structure.rewrites.base import (
    BOUNDARY,
    HELD,
    Bench,
    Place,
    bypass,
    can_replace,
    only_reader,
    place,
    refused,
    sizes,
)

_VIEWS = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"})
_NO_LAYER = Missing(
    code="no_layer_beside_it",
    why="no convolution or matrix product with constant weights reaches it alone, or takes its result alone",
)
_SHARED = Missing(code="shared_weight", why="the layer's weights are read by another node too")


@dataclass(frozen=True)
class _Affine:
    """y = scale x + shift, a number a channel."""

    scale: Array
    shift: Array


def batch_norms(bench: Bench) -> Iterator[Place]:
    """Yield BatchNorms: into the layer before (Jacob et al. 2018, arXiv:1712.05877, eq. 14), else into that behind."""
    for node in bench.nodes("BatchNormalization"):
        producer = layer_before(node)
        if producer is not None:
            if bench.holds(*producer.inputs, *node.inputs[1:]):
                yield refused(HELD, node, producer)
            else:
                yield place(f"folded into '{producer.name}'", _folded(node, producer), node, producer)
            continue
        yield _beside(bench, node)


def _folded(node: ir.Node, producer: ir.Node) -> Callable[[], None]:
    return lambda: fold_batch_norm(node, producer)


def _beside(bench: Bench, node: ir.Node) -> Place:
    affine = _affine_of(node)
    if affine is None:
        why = "its scale, shift or statistics are not constant, or it trains"
        return refused(Missing(code="not_constant", why=why), node)
    before = _layer_making(node.inputs[0])
    if before is not None and only_reader(before.output) is node and _fits(before, affine):
        return _into(bench, node, before, affine)
    reader = only_reader(node.outputs[0])
    behind = linear_of(reader) if reader is not None else None
    if not isinstance(behind, Linear) or behind.input is not node.outputs[0]:
        return refused(_NO_LAYER, node)
    reason = HELD if bench.holds(*behind.node.inputs) else _not_ahead(behind, affine)
    if reason is not None:
        return refused(reason, node)
    return place(f"folded into '{behind.name}' behind it", _ahead(node, behind, affine), node, behind.node)


def _not_ahead(layer: Linear, affine: _Affine) -> Missing | None:
    """Say why a BatchNorm cannot go into the layer behind it."""
    if _weights_shared(layer):
        return _SHARED
    if layer.node.op_type == "ConvTranspose" or (not layer.spatial and len(sizes(layer.input) or ()) != 2):
        return _NO_LAYER  # the channels of the BatchNorm are not the inputs of its weights
    if layer.spatial and affine.shift.any() and _padded(layer.node):
        return Missing(code="padding", why=f"'{layer.name}' pads with zeros, which the BatchNorm does not shift")
    if affine.shift.any() and not layer.takes_bias:
        return Missing(code="no_bias", why=f"'{layer.name}' has no bias to take the shift")
    return None


def _ahead(node: ir.Node, layer: Linear, affine: _Affine) -> Callable[[], None]:
    def make() -> None:
        blocks = layer.blocks()
        groups, _, inputs, _ = blocks.shape
        shift = np.einsum("goik,gi->go", blocks, affine.shift.reshape(groups, inputs)).reshape(-1)
        if affine.shift.any():
            bias = layer.bias()
            _set_bias(layer, shift if bias is None else bias + shift)
        layer.set_blocks(blocks * affine.scale.reshape(groups, 1, inputs, 1))
        source = node.inputs[0]
        assert source is not None
        bypass(node, source)

    return make


def factors(bench: Bench) -> Iterator[Place]:
    """Yield Mul, Div, Add and Sub by a constant, one number a channel, behind a layer; one number also behind views.

    With y = s (W x + b) + t:  W' = s W,  b' = s b + t.
    """
    for layer in linear_layers(bench.model):
        if not isinstance(layer, Linear) or layer.node.graph is not bench.graph:
            continue
        node, viewed = _next(layer.output)
        if node is None or node.op_type not in {"Mul", "Div", "Add", "Sub"} or node.domain not in {"", "ai.onnx"}:
            continue
        affine = _affine_behind(node, layer, viewed=viewed)
        if affine is not None:
            yield _into(bench, node, layer, affine)


def _next(value: ir.Value) -> tuple[ir.Node | None, bool]:
    """Return what alone reads a value, behind nodes that only give it another shape, and whether there are any."""
    node, viewed = only_reader(value), False
    while node is not None and node.op_type in _VIEWS and node.inputs[0] is value:
        value, viewed = node.outputs[0], True
        node = only_reader(value)
    return node, viewed


def _affine_behind(node: ir.Node, layer: Linear, *, viewed: bool) -> _Affine | None:
    index = next((i for i, value in enumerate(node.inputs) if constant(value) is not None), None)
    if index is None or (index == 0 and node.op_type in {"Div", "Sub"}):
        return None
    array, value = constant(node.inputs[index]), node.inputs[1 - index]
    assert array is not None
    if sizes(value) is None or sizes(value) != sizes(node.outputs[0]) or not np.isfinite(array).all():
        return None
    numbers = _by_channel(array, layer, len(sizes(value) or ()), viewed=viewed)
    if numbers is None or (node.op_type == "Div" and not numbers.all()):
        return None
    one, zero = np.ones_like(numbers), np.zeros_like(numbers)
    made = {
        "Mul": _Affine(numbers, zero),
        "Div": _Affine(1 / numbers if node.op_type == "Div" else one, zero),
        "Add": _Affine(one, numbers),
        "Sub": _Affine(one, -numbers),
    }[node.op_type]
    return made if layer.takes_bias or not made.shift.any() else None


def _by_channel(array: Array, layer: Linear, rank: int, *, viewed: bool) -> Array | None:
    channels = layer.output_channels
    if array.size == 1:
        return np.full(channels, array.reshape(-1)[0])
    if viewed or array.ndim > rank:
        return None
    axis = 1 if layer.spatial else rank - 1
    shape = (1,) * (rank - array.ndim) + array.shape
    fits = all(size == (channels if position == axis else 1) for position, size in enumerate(shape))
    return array.reshape(-1) if fits else None


def _into(bench: Bench, node: ir.Node, layer: Linear, affine: _Affine) -> Place:
    value = next(v for v in node.inputs if v is not None and ir.convenience.get_const_tensor(v) is None)
    if not can_replace(node.outputs[0], value):
        return refused(BOUNDARY, node, layer.node)
    if _weights_shared(layer):
        return refused(_SHARED, node, layer.node)
    if bench.holds(*layer.node.inputs, *(layer.add.inputs if layer.add is not None else ())):
        return refused(HELD, node, layer.node)

    def make() -> None:
        blocks, bias = layer.blocks(), layer.bias()
        groups, outputs, _, _ = blocks.shape
        if bias is not None or affine.shift.any():
            _set_bias(layer, affine.shift if bias is None else affine.scale * bias + affine.shift)
        layer.set_blocks(blocks * affine.scale.reshape(groups, outputs, 1, 1))
        bypass(node, value)

    return place(f"{node.op_type} folded into '{layer.name}'", make, node, layer.node)


def _set_bias(layer: Linear, bias: Array) -> None:
    layer.set_bias(bias, name=f"{layer.name}.bias")


def _layer_making(value: ir.Value | None) -> Linear | None:
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "Add" and not node.domain:  # perhaps the bias of a MatMul
        makers = [other.producer() for other in node.inputs if other is not None]
        node = next((maker for maker in makers if maker is not None and maker.op_type == "MatMul"), node)
    found = None if node is None else linear_of(node)
    return found if isinstance(found, Linear) and found.output is value else None


def _fits(layer: Linear, affine: _Affine) -> bool:
    """Say whether the channels of a BatchNorm, axis 1, are those of the layer, and it can take a shift."""
    ranked = layer.spatial or len(sizes(layer.output) or ()) == 2
    takes = layer.takes_bias or not affine.shift.any()
    return ranked and takes and affine.scale.size == layer.output_channels


def _affine_of(norm: ir.Node) -> _Affine | None:
    if integer(norm, "training_mode", 0) or len(norm.outputs) != 1 or not integer(norm, "spatial", 1):
        return None
    arrays = [constant(value) for value in norm.inputs[1:5]]
    if any(array is None or not np.isfinite(array).all() for array in arrays) or len(arrays) < 4:
        return None
    gamma, beta, mean, variance = (array for array in arrays if array is not None)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    return _Affine(scale, beta - scale * mean) if np.isfinite(scale).all() else None


def _padded(node: ir.Node) -> bool:
    automatic = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    pads = node.attributes["pads"].as_ints() if "pads" in node.attributes else []
    return automatic in {"SAME_UPPER", "SAME_LOWER"} or (automatic == "NOTSET" and any(pads))


def _weights_shared(layer: Linear) -> bool:
    given = [layer.node.inputs[1], *layer.node.inputs[2:3], *(layer.add.inputs if layer.add is not None else ())]
    return any(
        value is not None and ir.convenience.get_const_tensor(value) is not None and len(value.uses()) > 1
        for value in given
    )
