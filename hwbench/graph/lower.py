"""The hub made ready for a runtime: what every runtime would do anyway, done here so that layer names survive it.

BatchNorm after a convolution or a linear layer is folded into its weights. Runtimes do the same, but some of them
name the result after a temporary, and then no layer of the source can be told from their tables.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hwbench.graph.initializers import add_initializer

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def fold_batch_norms(model: ir.Model) -> dict[str, str]:
    """Fold BatchNorms into the convolutions and linear layers before them, in place.

    With s = gamma / sqrt(var + eps):  W' = s W,  b' = s (b - mean) + beta  (Jacob et al. 2018, arXiv:1712.05877, eq.
    14), computed in float64. A BatchNorm stays when its input has another consumer, when it trains, or when a weight
    is not a constant. Weights that other nodes use too are left to them unchanged.

    Returns:
        The name of each folded BatchNorm and of the layer it went into.
    """
    merged: dict[str, str] = {}
    for node in list(model.graph):
        producer = layer_before(node)
        if producer is not None:
            merged[node.name or ""] = producer.name or ""
            fold_batch_norm(node, producer)
    return merged


def layer_before(node: ir.Node) -> ir.Node | None:
    """Return the layer that ``node`` can be folded into, where it is a BatchNorm and there is one."""
    producer = _foldable_into(node)
    return producer if producer is not None and _constant_and_fitting(node, producer) else None


def fold_batch_norm(norm: ir.Node, producer: ir.Node) -> None:
    """Fold a BatchNorm into the layer that :func:`layer_before` has returned for it, in place."""
    graph = norm.graph
    assert isinstance(graph, ir.Graph)
    _fold(graph, producer, norm)
    graph.remove(norm, safe=True)


@np.errstate(all="ignore")
def norm_scale(norm: ir.Node) -> Array:
    """Return what a BatchNorm of constants multiplies each channel by, float64: gamma / sqrt(var + eps)."""
    gamma, variance = _float64(norm.inputs[1]), _float64(norm.inputs[4])
    return gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))


def _foldable_into(node: ir.Node) -> ir.Node | None:
    """Return the layer that feeds ``node``, where that is a BatchNorm at inference and the layer's only consumer."""
    if node.op_type != "BatchNormalization" or node.domain or len(node.inputs) != 5 or len(node.outputs) != 1:
        return None
    if _int(node, "training_mode", 0) or not _int(node, "spatial", 1):
        return None
    source = node.inputs[0]
    producer = source.producer() if source is not None else None
    if source is None or producer is None or len(source.uses()) != 1 or source.is_graph_output():
        return None
    plain = not producer.domain and producer.graph is node.graph and len(producer.inputs) > 1
    return producer if plain and _scaled_axis(producer) is not None else None


def _constant_and_fitting(norm: ir.Node, producer: ir.Node) -> bool:
    """Say whether all weights are constants, and the BatchNorm has one scale, shift, mean and variance a channel."""
    weight = _constant(producer.inputs[1])
    if weight is None or weight.ndim < 2:
        return False
    channels = weight.shape[_scaled_axis(producer) or 0]
    for value in producer.inputs[2:3]:
        bias = _constant(value)
        if value is not None and (bias is None or not _adds_per_channel(producer, bias.shape, channels)):
            return False
    statistics = [_constant(value) for value in norm.inputs[1:5]]
    return all(array is not None and array.shape == (channels,) for array in statistics)


def _adds_per_channel(producer: ir.Node, bias: tuple[int, ...], channels: int) -> bool:
    """Say whether a bias of this shape fits: a Gemm's may be anything that broadcasts to rows x channels."""
    return bias == (channels,) or (
        producer.op_type == "Gemm" and len(bias) < 3 and bias[-1:] in {(), (1,), (channels,)}
    )


def _scaled_axis(node: ir.Node) -> int | None:
    """Return the weight axis that holds the output channels, or None where folding is not that simple."""
    if node.op_type == "Conv":
        return 0
    plain = node.attributes.get_float("alpha", 1.0) == 1.0 and node.attributes.get_float("beta", 1.0) == 1.0
    if node.op_type == "Gemm" and plain and not _int(node, "transA", 0):
        return 0 if _int(node, "transB", 0) else 1
    return None


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else default


def _constant(value: ir.Value | None) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
    if value is None or value.const_value is None or not value.const_value.dtype.is_floating_point():
        return None
    return value.const_value.numpy()


def _float64(value: ir.Value | None) -> Array:
    constant = _constant(value)
    assert constant is not None
    return constant.astype(np.float64)


@np.errstate(all="ignore")  # weights that are no numbers have been warned about
def _fold(graph: ir.Graph, producer: ir.Node, norm: ir.Node) -> None:
    beta, mean = _float64(norm.inputs[2]), _float64(norm.inputs[3])
    scale = norm_scale(norm)
    weight = _float64(producer.inputs[1])
    bias = _float64(producer.inputs[2]) if len(producer.inputs) > 2 and producer.inputs[2] is not None else 0.0
    axis = _scaled_axis(producer)
    along = [1] * weight.ndim
    along[axis or 0] = -1
    producer.resize_inputs(3)
    kind = producer.inputs[1].const_value.numpy().dtype  # type: ignore[union-attr]
    replaced = (*producer.inputs[1:3], *norm.inputs[1:5])
    for index, kind_of, array in (
        (1, "weight", weight * scale.reshape(along)),
        (2, "bias", scale * (bias - mean) + beta),
    ):
        value = add_initializer(graph, f"{producer.name}.folded_{kind_of}", array.astype(kind))
        producer.replace_input_with(index, value)
    result = norm.outputs[0]
    name = result.name
    ir.convenience.replace_all_uses_with(result, producer.outputs[0], replace_graph_outputs=True)
    result.name = f"{name}.unused"
    producer.outputs[0].name = name
    producer.outputs[0].shape = producer.outputs[0].shape or result.shape
    producer.outputs[0].type = producer.outputs[0].type or result.type
    norm.resize_inputs(1)
    for old in replaced:
        if old is not None and not old.uses():
            _drop(graph, old)


def _drop(graph: ir.Graph, weight: ir.Value) -> None:
    """Take away an unused initialiser, also from the inputs, where old files list all of them."""
    if weight.name is not None and graph.initializers.get(weight.name) is weight and not weight.is_graph_output():
        graph.initializers.pop(weight.name)
        if weight.is_graph_input():
            graph.inputs.remove(weight)
