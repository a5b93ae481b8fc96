"""Weights on their integer grids: scales, rounding, and biases that must fit 32 bits.

Eight-bit weights are symmetric and narrow, -127 to 127, as LiteRT's specification demands and every other runtime
allows. Four-bit weights are symmetric in blocks along the inputs, -7 to 7. All arithmetic is float64; scales are
rounded to float32, in which every runtime keeps them, before anything is divided by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

INT8_LARGEST = 127
INT4_LARGEST = 7
_BIAS_LARGEST = 2.0**30  # half of what int32 holds: the products are added to the bias in the same accumulator
_BLOCKS_AT_ONCE = 1024  # so that what is tried stays in the cache: three times as fast
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)  # runtimes flush smaller numbers to zero


def weight_scales(weight: Array, axis: int | None, *, largest: int = INT8_LARGEST) -> Array:
    """Return the scale of each channel along ``axis``, float32 [channels], or one for the tensor, [].

    A channel of zeros gets the scale 1.
    """
    others = None if axis is None else tuple(index for index in range(weight.ndim) if index != axis % weight.ndim)
    return _scales(np.abs(weight.astype(np.float64)).max(axis=others, initial=0.0), largest)


def _scales(extremes: Array, largest: int) -> Array:
    scales = np.where(extremes > 0, np.maximum(extremes / largest, _SMALLEST_SCALE), 1.0)
    return np.asarray(scales, dtype=np.float32)


def least_squares_scales(weight: Array, axis: int | None, *, largest: int) -> Array:
    """Return the scale of each channel along ``axis``, or of all, that rounds with the least squared error.

    Tried are fractions of the one that holds the largest weight (:func:`weight_scales`), a hundredth apart: with few
    steps it pays to cut the largest weights off (Banner et al. 2019, arXiv:1810.05723). Float32, as there.
    """
    full = weight_scales(weight, axis, largest=largest)
    others = None if axis is None else tuple(index for index in range(weight.ndim) if index != axis % weight.ndim)
    best, least = full, np.full(full.shape, np.inf)
    for percent in range(100, 9, -1):
        scales = np.asarray(np.maximum(full * np.float32(percent / 100), _SMALLEST_SCALE), dtype=np.float32)
        off = dequantise(quantise(weight, scales, axis, largest=largest), scales, axis) - weight
        error = np.sum(off * off, axis=others)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return np.asarray(best, dtype=np.float32)


def quantise(weight: Array, scales: Array, axis: int | None, *, largest: int = INT8_LARGEST) -> Array:
    """Return int8 weights, rounded to nearest with ties to even, at most ``largest`` in magnitude."""
    steps = np.rint(weight.astype(np.float64) / _along(scales, weight.ndim, axis))
    return np.clip(steps, -largest, largest).astype(np.int8)


def dequantise(values: Array, scales: Array, axis: int | None) -> Array:
    """Return what integers stand for, in float64."""
    return np.asarray(values.astype(np.float64) * _along(scales, values.ndim, axis))


def rounded(weight: Array, axis: int | None) -> Array:
    """Return weights as eight bits will have them, in float64."""
    scales = weight_scales(weight, axis)
    return dequantise(quantise(weight, scales, axis), scales, axis)


def _along(scales: Array, rank: int, axis: int | None) -> Array:
    wide = scales.astype(np.float64)
    return wide if axis is None else wide.reshape([-1 if index == axis % rank else 1 for index in range(rank)])


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Weights in blocks along an axis.

    ``values``: int8 of the weights' shape, -7 to 7 with four bits. ``scales``: float32 of the same shape but for
    ``axis``, which has one place a block; the last block may be shorter.
    """

    values: Array
    scales: Array
    axis: int
    size: int

    def dequantised(self) -> Array:
        """Return what the integers stand for, in float64."""
        spread = np.repeat(self.scales.astype(np.float64), self.size, axis=self.axis)
        spread = np.take(spread, np.arange(self.values.shape[self.axis]), axis=self.axis)
        return np.asarray(self.values.astype(np.float64) * spread)


def quantise_blocks(
    weight: Array, axis: int, size: int, *, largest: int = INT4_LARGEST, least_squares: bool = False
) -> Blocks:
    """Return weights with a scale for every ``size`` of them along ``axis``, the axis of the inputs.

    The scales hold the largest weight of each block, or with ``least_squares`` are :func:`least_squares_scales`.
    """
    axis %= weight.ndim
    starts = np.arange(0, weight.shape[axis], size)
    if least_squares:
        scales = _least_squares_of_blocks(weight, axis, size, largest)
    else:
        scales = _scales(np.maximum.reduceat(np.abs(weight.astype(np.float64)), starts, axis=axis), largest)
    spread = np.repeat(scales.astype(np.float64), size, axis=axis)
    spread = np.take(spread, np.arange(weight.shape[axis]), axis=axis)
    values = np.clip(np.rint(weight.astype(np.float64) / spread), -largest, largest).astype(np.int8)
    return Blocks(values=values, scales=scales, axis=axis, size=size)


def _least_squares_of_blocks(weight: Array, axis: int, size: int, largest: int) -> Array:
    last = np.moveaxis(weight, axis, -1)
    short = -last.shape[-1] % size
    padded = np.pad(last, [*[(0, 0)] * (last.ndim - 1), (0, short)])  # zeros are rounded without error
    blocks = padded.reshape(-1, size)
    parts = np.array_split(blocks, max(1, len(blocks) // _BLOCKS_AT_ONCE))
    found = np.concatenate([least_squares_scales(part, 0, largest=largest) for part in parts])
    return np.moveaxis(found.reshape(*last.shape[:-1], -1), -1, axis)


def bias_fits_int32(bias: Array, input_scale: float, scales: Array) -> Array:
    """Say for each channel whether its bias fits: |b / (s_x s_w)| is at most 2^30.

    Where weights are small beside the bias, the integer runs over and the channel is lost (onnxruntime issue 22020: a
    drop of more than 15 points). Half of int32 is left to the products, which the accumulator adds to the bias.
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        steps = np.abs(bias.astype(np.float64)) / (float(input_scale) * scales.astype(np.float64))
    return np.asarray(steps <= _BIAS_LARGEST)


def scales_for_bias(bias: Array, input_scale: float, scales: Array) -> Array:
    """Return the weights' scales, enlarged where the bias would not fit otherwise; float32, of the shape of ``scales``.

    The weights of such a channel are coarser, and too small beside the bias to matter.
    """
    least: Array = np.abs(bias.astype(np.float64)) / (float(input_scale) * _BIAS_LARGEST)
    if scales.ndim == 0:
        least = np.asarray(np.max(least, initial=0.0))
    enough = np.nextafter(np.asarray(least, dtype=np.float32), np.float32(np.inf))
    return np.asarray(np.maximum(scales, np.where(least > scales, enough, scales)), dtype=np.float32)
