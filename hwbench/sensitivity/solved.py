"""The weights of one layer as a design has them: inputs cut and the rest refitted, low rank, rounded.

All of it works on :meth:`hwbench.graph.linear.Linear.blocks`, groups x outputs x inputs x kernel positions, in float64,
with statistics of what the layer reads in the original.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hwbench.compress.factorise.svd import truncated, truncated_on_data
from hwbench.compress.repair.least_squares import Problem
from hwbench.compress.statistics.grams import Gram
from hwbench.fake_quant.runtimes import arithmetic
from hwbench.graph.linear import Linear
from hwbench.quantize.weights import dequantise, quantise, scales_for_bias, weight_scales
from hwbench.records.quantization import TensorRange

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Weights:
    """Weights in blocks, and a bias, one number an output channel (None where there is no place for one)."""

    blocks: Array
    bias: Array | None

    @classmethod
    def of(cls, layer: Linear) -> Weights:
        """Return the layer's own."""
        return cls(layer.blocks().astype(np.float64), layer.bias() if layer.takes_bias else None)


def without_inputs(old: Weights, gone: Array, gram: Gram | None, damping: float | None) -> Weights:
    """Return weights that read no input of ``gone``, the others refitted to give what all gave (arXiv:1707.06168).

    Args:
        old: the weights.
        gone: bool, groups x inputs of a group.
        gram: of what the layer reads in the original; None: the others stay as they are.
        damping: of least squares in units of the mean diagonal; None: the others stay as they are.
    """
    groups, outputs, _, kernel = old.blocks.shape
    left = np.repeat(~gone, kernel, axis=1)
    matrix = old.blocks.reshape(groups, outputs, -1)
    if gram is None or damping is None:
        return replace(old, blocks=np.where(left[:, None], matrix, 0.0).reshape(old.blocks.shape))
    new = np.zeros_like(matrix)
    for index in range(groups):
        if left[index].any():
            new[index][:, left[index]] = _refitted(matrix[index], left[index], gram, index, damping, old.bias)
    bias = None if old.bias is None else old.bias + _mean_lost(matrix - new, gram.mean)
    return Weights(new.reshape(old.blocks.shape), bias)


def _refitted(matrix: Array, left: Array, gram: Gram, index: int, damping: float, bias: Array | None) -> Array:
    moments = gram.matrix[index].astype(np.float64)
    if bias is not None:  # a shift is free, so that only what varies is fitted
        moments = moments - np.outer(gram.mean[index], gram.mean[index])
    cross = matrix @ moments[:, left]
    problem = Problem(
        torch.from_numpy(moments[left][:, left].copy())[None], torch.from_numpy(cross)[None], torch.zeros(1, len(cross))
    )
    return problem.solve(torch.from_numpy(matrix[:, left].copy())[None], damping, None)[0].numpy()


def _mean_lost(change: Array, mean: Array) -> Array:
    """Return what a change of weights takes from the mean of each output channel."""
    lost: Array = np.einsum("god,gd->go", change, mean).reshape(-1)
    return lost


def of_rank(old: Weights, rank: int, gram: Gram | None, outputs: Array) -> Weights:
    """Return weights of a rank in each group, fitted to the data where there is a Gram matrix (arXiv:2403.07378).

    Inputs whose weights are all zero stay out of it, and so do outputs that nobody reads: in the network that is
    really cut they are not there.

    Args:
        old: the weights.
        rank: of each group.
        gram: of what the layer reads in the original.
        outputs: bool, groups x outputs of a group: those that are read.
    """
    matrix = old.blocks.reshape(*old.blocks.shape[:2], -1)
    new = matrix.copy()
    for index, part in enumerate(matrix):
        rows, columns = np.flatnonzero(outputs[index]), np.flatnonzero(part.any(axis=0))
        small = part[np.ix_(rows, columns)]
        if min(small.shape) <= rank:
            continue
        if gram is None:
            up, down = truncated(small, rank)
        else:
            up, down = truncated_on_data(small, gram.matrix[index][np.ix_(columns, columns)].astype(np.float64), rank)
        new[index][np.ix_(rows, columns)] = up @ down
    bias = old.bias
    if bias is not None and gram is not None:
        bias = bias + _mean_lost(matrix - new, gram.mean)
    return Weights(new.reshape(old.blocks.shape), bias)


def rounded_to_int8(old: Weights, layer: Linear, runtime: str, found: TensorRange, mean: Array | None) -> Weights:
    """Return weights on the 8-bit grid of ``hwbench build``, and the mean of what is lost in the bias.

    Args:
        old: the weights.
        layer: whose they are.
        runtime: one of :data:`hwbench.fake_quant.runtimes.RUNTIMES`.
        found: the range of what the layer reads; biases must fit 32 bits at its scale.
        mean: E[x] of what it reads in the original; None: the bias stays.
    """
    weight, axis = layer.from_blocks(old.blocks), layer.output_axis
    scales = weight_scales(weight, axis)
    if old.bias is not None and runtime != "openvino":  # whose biases are floats
        grid = arithmetic(runtime).grid(found, bits=8, product=not layer.spatial)
        if layer.node.op_type != "ConvTranspose":
            scales = scales_for_bias(old.bias, grid.scale, scales)
    new = layer.to_blocks(dequantise(quantise(weight, scales, axis), scales, axis))
    bias = old.bias
    if bias is not None and mean is not None:
        change = (old.blocks - new).reshape(*new.shape[:2], -1)
        bias = bias + _mean_lost(change, mean)
    return Weights(new, bias)
