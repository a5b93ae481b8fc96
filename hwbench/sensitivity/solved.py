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
    start = np.where(gone[:, None, :, None], 0.0, old.blocks)
    if gram is None or damping is None:
        return replace(old, blocks=start)
    return _refitted(old, start, ~gone, None, gram, damping)


def with_zeros(old: Weights, start: Array, left: Array, rows: Array, gram: Gram | None, damping: float) -> Weights:
    """Return weights with the zeros of ``start``, what is left refitted to give what all gave, each output by itself.

    It is what least squares of ``repair`` makes of a pruned layer: zeros stay, every output has a support of its own.

    Args:
        old: the weights before anything was pruned.
        start: pruned, of the same shape.
        left: bool, groups x inputs of a group: those that are read.
        rows: bool, groups x outputs of a group: those that stay; the others are as in ``start``.
        gram: of what the layer reads in the original; None: ``start`` is what there is.
        damping: of least squares in units of the mean diagonal.
    """
    return replace(old, blocks=start) if gram is None else _refitted(old, start, left, rows, gram, damping)


def _refitted(old: Weights, start: Array, left: Array, rows: Array | None, gram: Gram, damping: float) -> Weights:
    """Refit the inputs that are left, from ``start``; with ``rows`` those outputs alone, their zeros held."""
    groups, outputs, _, kernel = old.blocks.shape
    columns = np.repeat(left, kernel, axis=1)
    matrix, begin = old.blocks.reshape(groups, outputs, -1), start.reshape(groups, outputs, -1)
    new = begin.copy()
    for index in range(groups):
        place = np.ix_(np.ones(outputs, bool) if rows is None else rows[index], columns[index])
        if begin[index][place].size:
            moments = gram.matrix[index].astype(np.float64)
            if old.bias is not None:  # a shift is free, so that only what varies is fitted
                moments = moments - np.outer(gram.mean[index], gram.mean[index])
            cross = (matrix[index] @ moments)[place]
            new[index][place] = _solved(begin[index][place], moments[np.ix_(columns[index], columns[index])], cross,
                                        damping, held=rows is not None)  # fmt: skip
    bias = None if old.bias is None else old.bias + _mean_lost(matrix - new, gram.mean)
    return Weights(new.reshape(old.blocks.shape), bias)


def _solved(begin: Array, moments: Array, cross: Array, damping: float, *, held: bool) -> Array:
    problem = Problem(torch.from_numpy(moments)[None], torch.from_numpy(cross)[None], torch.zeros(1, len(cross)))
    weights = torch.from_numpy(begin)[None]
    return problem.solve(weights, damping, weights != 0 if held else None)[0].numpy()


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
    return with_mean_kept(old, layer.to_blocks(dequantise(quantise(weight, scales, axis), scales, axis)), mean)


def with_mean_kept(old: Weights, blocks: Array, mean: Array | None) -> Weights:
    """Return rounded weights with the mean of what rounding takes in the bias; ``mean``: E[x], None: the bias stays."""
    bias = old.bias
    if bias is not None and mean is not None:
        bias = bias + _mean_lost((old.blocks - blocks).reshape(*blocks.shape[:2], -1), mean)
    return Weights(blocks, bias)
