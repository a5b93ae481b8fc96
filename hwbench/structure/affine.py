"""Convolutions and matrix products as arithmetic: one after the other, or side by side, as one.

    y[p] = b + sum over taps t of W[t] x[strides p + dilations t - begins]        x is zero where there is none

A convolution after a convolution is a convolution of the strides' product whose taps lie at strides1 dilations2 t2 +
dilations1 t1. It is the same at the border only if the second one never reads its own padding, or if the first, put on
where that padding lies, would give zero too: zeros between two convolutions are not what the first makes of zeros.
A matrix product is a convolution without space. The arithmetic is done in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import gcd, prod
from typing import Any

import numpy as np

from hwbench.records.base import Missing

Array = np.ndarray[Any, np.dtype[np.float64]]
Sizes = tuple[int, ...]


class NoMerge(Exception):
    """Carries why two layers are not one; never leaves this package."""

    def __init__(self, code: str, why: str, cure: str | None = None) -> None:
        super().__init__(why)
        self.reason = Missing(code=code, why=why, cure=cure)


@dataclass(frozen=True, kw_only=True)
class Affine:
    """``weight``: [outputs, inputs of a group, *kernel]; ``bias``: [outputs]; the rest has one number a spatial axis.

    ``size_in`` and ``size_out``: the extent of input and output along the spatial axes.
    """

    weight: Array
    bias: Array
    groups: int
    strides: Sizes
    dilations: Sizes
    begins: Sizes
    ends: Sizes
    size_in: Sizes
    size_out: Sizes

    @property
    def kernel(self) -> Sizes:
        """The kernel's extent in taps."""
        return tuple(self.weight.shape[2:])

    @property
    def outputs(self) -> int:
        """Output channels."""
        return len(self.weight)

    @property
    def inputs(self) -> int:
        """Input channels."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def macs(self) -> int:
        """Multiply-adds for one item of the batch (of one row of a matrix product)."""
        return self.weight.size * prod(self.size_out)

    def in_groups(self, groups: int) -> Array:
        """Return the weights as those of fewer groups, a divisor of what there are, with zeros in between."""
        each, inputs = self.outputs // self.groups, self.weight.shape[1]
        merged = self.groups // groups
        wide = np.zeros((self.outputs, inputs * merged, *self.kernel))
        for group in range(self.groups):
            place = group % merged * inputs
            rows = slice(group * each, (group + 1) * each)
            wide[rows, place : place + inputs] = self.weight[rows]
        return wide


def scaling(scale: Array, shift: Array, size: Sizes) -> Affine:
    """Return y = scale x + shift for each channel; BatchNorm and, with ones and zeros, what does nothing."""
    ones = (1,) * len(size)
    zeros = (0,) * len(size)
    return Affine(
        weight=scale.reshape(-1, 1, *ones), bias=shift, groups=len(scale), strides=ones, dilations=ones, begins=zeros,
        ends=zeros, size_in=size, size_out=size,
    )  # fmt: skip


def after(first: Affine, second: Affine, *, move_padding: bool = False, shapes_only: bool = False) -> Affine:
    """Return ``second`` after ``first`` as one.

    Args:
        first: the layer next to the input.
        second: the layer that reads it.
        move_padding: take the second's padding to the front, where it reaches the input instead of what the first
            makes of it. The result is then another function at the border (Kim et al. 2023, arXiv:2301.12187).
        shapes_only: weights and bias of the result are not computed, and zero.

    Raises:
        NoMerge: it would not be the same at the border, or its output would have another size.
    """
    if _only_scales(second):
        return _scaled(first, second)
    if not move_padding:
        _check_borders(first, second)
    groups = gcd(first.groups, second.groups)
    axes = range(len(first.kernel))
    inner = [first.strides[axis] * second.dilations[axis] for axis in axes]
    steps = [_step((inner[axis], second.kernel[axis]), (first.dilations[axis], first.kernel[axis])) for axis in axes]
    extent = [
        inner[axis] * (second.kernel[axis] - 1) + first.dilations[axis] * (first.kernel[axis] - 1) for axis in axes
    ]
    taps = tuple(extent[axis] // steps[axis] + 1 for axis in axes)
    weight = np.broadcast_to(np.float64(0), (second.outputs, first.inputs // groups, *taps))
    bias = np.zeros(second.outputs)
    if not shapes_only:
        one, two = (
            side.in_groups(groups).reshape(groups, -1, side.inputs // groups, *side.kernel) for side in (first, second)
        )
        weight = np.zeros((groups, two.shape[1], one.shape[2], *taps))
        for late in product(*map(range, second.kernel)):
            for early in product(*map(range, first.kernel)):
                at = [inner[axis] * late[axis] + first.dilations[axis] * early[axis] for axis in axes]
                place = tuple(offset // step for offset, step in zip(at, steps, strict=True))
                weight[_tap(place)] += two[_tap(late)] @ one[_tap(early)]
        weight = weight.reshape(-1, *weight.shape[2:])
        flat = two.reshape(*two.shape[:3], -1).sum(-1)
        bias = second.bias + (flat @ first.bias.reshape(groups, -1, 1)).reshape(-1)
    merged = Affine(
        weight=weight,
        bias=bias,
        groups=groups,
        strides=tuple(first.strides[axis] * second.strides[axis] for axis in axes),
        dilations=tuple(steps),
        begins=tuple(first.strides[axis] * second.begins[axis] + first.begins[axis] for axis in axes),
        ends=first.ends,
        size_in=first.size_in,
        size_out=second.size_out,
    )
    return _ended(merged)


def _tap(place: tuple[int, ...]) -> Any:
    return (..., *place)


def _only_scales(layer: Affine) -> bool:
    return (
        layer.groups == layer.inputs == layer.outputs
        and prod(layer.kernel) == prod(layer.strides) == 1
        and not any((*layer.begins, *layer.ends))
    )


def _scaled(first: Affine, second: Affine) -> Affine:
    scale = second.weight.reshape(-1)
    weight = first.weight * scale.reshape(-1, *(1,) * (first.weight.ndim - 1))
    return replace(first, weight=weight, bias=first.bias * scale + second.bias)


def beside(one: Affine, other: Affine) -> Affine:
    """Return the sum of two layers of one input as one (RepVGG, Ding et al. 2021, arXiv:2101.03697).

    Raises:
        NoMerge: strides differ, or the output would have another size.
    """
    if one.strides != other.strides:
        raise NoMerge("strides_differ", f"one has strides {one.strides}, the other {other.strides}")
    if one.size_out != other.size_out or one.outputs != other.outputs:
        raise NoMerge("spread", "the sum spreads one of its sides over the other")
    groups = gcd(one.groups, other.groups)
    axes = range(len(one.kernel))
    begins = tuple(max(one.begins[axis], other.begins[axis]) for axis in axes)
    places = [[_places(side, begins[axis], axis) for axis in axes] for side in (one, other)]
    steps = tuple(gcd(*places[0][axis], *places[1][axis]) or 1 for axis in axes)
    taps = tuple(max(*places[0][axis], *places[1][axis]) // steps[axis] + 1 for axis in axes)
    weight = np.zeros((one.outputs, one.inputs // groups, *taps))
    for side, there in zip((one, other), places, strict=True):
        at = np.ix_(*([place // step for place in each] for each, step in zip(there, steps, strict=True)))
        grid: Any = (slice(None), slice(None), *at)
        weight[grid] += side.in_groups(groups)
    return _ended(
        replace(one, weight=weight, bias=one.bias + other.bias, groups=groups, dilations=steps, begins=begins)
    )


def _places(side: Affine, begin: int, axis: int) -> list[int]:
    offset = begin - side.begins[axis]
    return [side.dilations[axis] * tap + offset for tap in range(side.kernel[axis])]


def _step(*spread: tuple[int, int]) -> int:
    """Return the largest step on whose multiples all taps lie; each pair: a distance, and how many taps it parts."""
    return gcd(*(distance for distance, taps in spread if taps > 1)) or 1


def _ended(merged: Affine) -> Affine:
    """Pad the end so far that the output has the size it must have."""
    ends = []
    for axis, size in enumerate(merged.size_in):
        reach = merged.dilations[axis] * (merged.kernel[axis] - 1) + 1
        start, stride, wanted = merged.begins[axis], merged.strides[axis], merged.size_out[axis]
        end = max(0, stride * (wanted - 1) + reach - start - size)
        if (size + start + end - reach) // stride + 1 != wanted:
            raise NoMerge("size", "one layer alone would put out more rows: the first leaves some of its input out")
        ends.append(end)
    return replace(merged, ends=tuple(ends))


def _check_borders(first: Affine, second: Affine) -> None:
    for axis, size in enumerate(first.size_out):
        rows = second.strides[axis] * np.arange(second.size_out[axis])[:, None] - second.begins[axis]
        read = np.unique(rows + second.dilations[axis] * np.arange(second.kernel[axis]))
        outside = read[(read < 0) | (read >= size)]
        if not len(outside):
            continue
        cure = "move_padding=true takes the padding to the front, and measures what that does"
        if first.bias.any():
            raise NoMerge(
                "border", "the second layer pads what the first puts out with zeros, and the first has a bias", cure
            )
        taps = first.dilations[axis] * np.arange(first.kernel[axis])
        reached = first.strides[axis] * outside[:, None] + taps - first.begins[axis]
        if ((reached >= 0) & (reached < first.size_in[axis])).any():
            raise NoMerge(
                "border",
                "the second layer pads what the first puts out with zeros, where the first would see the input's edge",
                cure,
            )
