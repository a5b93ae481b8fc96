"""Bias correction: the mean error that quantised weights make goes back into the bias.

Rounding weights shifts the mean of an output channel where the inputs are not centred, as behind a ReLU. The shift is a
constant, so a bias can take it away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import onnx_ir as ir

from hwbench.graph.linear import Array, Linear, Outcome, Skipped, linear_layers
from hwbench.quantize.statistics import ChannelStatistics

Quantise = Callable[[Array, int], Array]  # weights and the axis of their output channels -> weights as they will be


def weights_of(model: ir.Model) -> dict[str, Array]:
    """Return the weights of every layer that can be repaired, by layer name: for :func:`correct_bias` later on."""
    return {layer.name: layer.weight for layer in linear_layers(model) if isinstance(layer, Linear)}


def correct_bias(
    model: ir.Model,
    statistics: Mapping[str, ChannelStatistics],
    quantise: Quantise,
    *,
    before: Mapping[str, Array] | None = None,
    only: Collection[str] | None = None,
) -> Outcome:
    """Correct the biases for the weights that quantisation will put there, in place.

    b -= E[Wq x] - E[W x], with E[x] of each input channel as measured (Nagel et al. 2019, arXiv:1906.04721; they derive
    E[x] from BatchNorm, here it comes from data). For a convolution the weights of a channel are summed over the
    kernel, which is exact where the kernel lies inside the image; zeros of the padding at the border are ignored.

    Args:
        model: the graph; a layer without a bias gets one, except a MatMul with no Add of a constant behind it.
        statistics: of the inputs of the layers, by tensor name; ``mean`` is read.
        quantise: what becomes of weights, with the axis of their output channels (0 or 1), in float64.
        before: the float weights by layer name, from :func:`weights_of`, where the graph no longer has them because
            their rounding has been learned; the weights in the graph otherwise.
        only: names of the layers to correct; all by default.
    """
    changed: list[str] = []
    skipped: list[Skipped] = []
    for layer in linear_layers(model):
        name = layer.layer if isinstance(layer, Skipped) else layer.name
        if only is not None and name not in only:
            continue
        result = layer if isinstance(layer, Skipped) else _correct(layer, statistics, quantise, before or {})
        if isinstance(result, Skipped):
            skipped.append(result)
        else:
            changed.append(name)
    return Outcome(changed=tuple(changed), skipped=tuple(skipped))


def _correct(
    layer: Linear, statistics: Mapping[str, ChannelStatistics], quantise: Quantise, before: Mapping[str, Array]
) -> Skipped | None:
    seen = statistics.get(layer.input.name or "")
    if seen is None:
        return Skipped(layer=layer.name, reason="nothing is known about its input")
    if seen.mean.shape != (layer.input_channels,):
        reason = f"the statistics of its input are of {seen.mean.size} channels, not {layer.input_channels}"
        return Skipped(layer=layer.name, reason=reason)
    if not layer.takes_bias:
        return Skipped(layer=layer.name, reason="it has no bias, and no Add of a constant follows it")
    there = layer.weight
    error = quantise(there, layer.output_axis) - before.get(layer.name, there)
    blocks = layer.to_blocks(error).sum(axis=3)
    shift = np.einsum("goi,gi->go", blocks, seen.mean.reshape(layer.groups, -1)).reshape(-1) / _spread(layer)
    bias = layer.bias()
    layer.set_bias((0.0 if bias is None else bias) - shift)
    return None


def _spread(layer: Linear) -> int:
    """Return over how many output positions the kernel of a transposed convolution spreads: its strides multiplied."""
    strides = layer.node.attributes.get("strides")
    if layer.node.op_type != "ConvTranspose" or strides is None:
        return 1
    return int(np.prod(strides.as_ints()))
