"""A convolution as a depthwise one and a 1x1 one behind it.

For each input channel c the weights W[:, c] are a matrix, outputs x kernel positions. Its best approximation of rank m
(SVD) is m kernels of the depthwise convolution and m columns of the 1x1 (network decoupling, arXiv:1808.05517; the
form is that of MobileNets, arXiv:1704.04861). With statistics of the data, the 1x1 is then fitted to the outputs of the
layer by least squares.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hwbench.graph.linear import Array, Linear, add_constant
from hwbench.records.base import Missing
from hwbench.structure.rewrites.base import drop, sizes

_RIDGE = 1e-8  # of the mean variance: kernels may be silent on the data


def unfit(layer: Linear, multiplier: int) -> Missing | None:
    """Say why a convolution with a kernel above 1x1 would not be smaller, or cannot be exchanged."""
    groups, outputs, inputs, positions = layer.blocks().shape
    weight = layer.node.inputs[1]
    if weight is not None and len(weight.uses()) > 1:
        return Missing(code="shared_weight", why=f"its weight '{weight.name}' is also read by another node")
    if multiplier > positions:
        why = f"a multiplier of {multiplier} is more than its {positions} kernel positions"
        return Missing(code="no_gain", why=why, cure="choose a smaller multiplier")
    before = groups * outputs * inputs * positions
    after = groups * inputs * multiplier * (positions + outputs)
    if after >= before:
        return Missing(code="no_gain", why=f"it has {before} weights, and would have {after}")
    return None


def factors(layer: Linear, multiplier: int) -> tuple[Array, Array]:
    """Return kernels [groups, inputs, multiplier, positions] and columns [groups, outputs, inputs, multiplier].

    Their product, summed over the multiplier, is the closest to the weights in the sum of squares.
    """
    per_input = layer.blocks().transpose(0, 2, 1, 3)  # groups, inputs, outputs, positions
    left, values, right = np.linalg.svd(per_input, full_matrices=False)
    share = np.sqrt(values[..., :multiplier])
    kernels = share[..., None] * right[..., :multiplier, :]
    columns = (left[..., :multiplier] * share[..., None, :]).transpose(0, 2, 1, 3)
    return _filled(kernels, multiplier, axis=2), _filled(columns, multiplier, axis=3)


def fitted(layer: Linear, kernels: Array, gram: Array, mean: Array) -> tuple[Array, Array]:
    """Return columns, and what is added to the bias, so that the error of the output on the data is least.

    ``gram``: E[x x^T] of the rows that the weights are multiplied with, groups x d x d; ``mean``: E[x], groups x d.
    """
    groups, outputs, inputs, positions = layer.blocks().shape
    multiplier = kernels.shape[2]
    weights = layer.blocks().reshape(groups, outputs, -1)
    columns, shifts = np.empty((groups, outputs, inputs * multiplier)), np.empty((groups, outputs))
    for group in range(groups):
        spread = np.zeros((inputs, multiplier, inputs, positions))
        for channel in range(inputs):
            spread[channel, :, channel] = kernels[group, channel]
        basis = spread.reshape(inputs * multiplier, inputs * positions)
        covariance = gram[group].astype(np.float64) - np.outer(mean[group], mean[group])
        inner = basis @ covariance @ basis.T
        inner[np.diag_indices_from(inner)] += _RIDGE * (np.trace(inner) / len(inner) or 1.0)
        columns[group] = np.linalg.solve(inner, basis @ covariance @ weights[group].T).T
        shifts[group] = (weights[group] - columns[group] @ basis) @ mean[group]
    return columns.reshape(groups, outputs, inputs, multiplier), shifts.reshape(-1)


def exchange(layer: Linear, kernels: Array, columns: Array, shift: Array | None) -> tuple[str, str]:
    """Put the two convolutions in the layer's place: ``conv1.depthwise``, ``conv1.pointwise``; return their names."""
    node, name, source = layer.node, layer.name, layer.input
    weight, graph = node.inputs[1], node.graph
    assert isinstance(graph, ir.Graph)
    assert weight is not None
    groups, inputs, multiplier, _ = kernels.shape
    channels = groups * inputs * multiplier
    shape = sizes(weight) or ()
    first = add_constant(node, f"{name}.depthwise.weight", kernels.reshape(channels, 1, *shape[2:]), like=weight)
    second = add_constant(
        node,
        f"{name}.pointwise.weight",
        columns.reshape(groups * columns.shape[1], inputs * multiplier, *(1 for _ in shape[2:])),
        like=weight,
    )
    if shift is not None:
        bias = layer.bias()
        layer.set_bias(shift if bias is None else bias + shift, name=f"{name}.pointwise.bias")
    kept = [attribute for key, attribute in node.attributes.items() if key != "group"]
    middle = ir.Value(name=f"{name}.depthwise.out", type=source.type, shape=_wide(node, channels))
    made = ir.Node(
        "", "Conv", [source, first], [*kept, ir.AttrInt64("group", groups * inputs)],
        name=f"{name}.depthwise", outputs=[middle],
    )  # fmt: skip
    made.metadata_props.update(node.metadata_props)
    graph.insert_before(node, made)
    node.replace_input_with(0, middle)
    node.replace_input_with(1, second)
    for key in ("auto_pad", "pads", "strides", "dilations", "kernel_shape"):
        node.attributes.pop(key, None)
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [1] * (len(shape) - 2))
    node.attributes["group"] = ir.AttrInt64("group", groups)
    node.name = f"{name}.pointwise"
    drop(weight)
    return f"{name}.depthwise", f"{name}.pointwise"


def _filled(array: Array, multiplier: int, *, axis: int) -> Array:
    """Fill up with zeros where the matrices have a smaller rank than was asked for: few outputs."""
    missing = multiplier - array.shape[axis]
    widths = [(0, missing if position == axis else 0) for position in range(array.ndim)]
    return np.pad(array, widths)


def _wide(node: ir.Node, channels: int) -> ir.Shape | None:
    known = sizes(node.outputs[0])
    return None if known is None else ir.Shape((known[0], channels, *known[2:]))
