"""Writing quantisation into an OpenVINO graph: ``FakeQuantize`` for activations, small integers for weights.

The arithmetic is that of Jacob et al. 2018 (arXiv:1712.05877): a real number is a scale times an integer less a zero
point, and zero is always one of the numbers. OpenVINO's own form of it is in its operator specification
(``FakeQuantize-1``) and in its guide to low precision transformations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwbench.records.quantization import TensorRange

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]

LEVELS = 256
WEIGHT_STEPS = 127  # int8 weights lie in [-127, 127], so that a sign change stays inside
WEIGHT_STEPS_SATURATING = 63  # half of that: two products of u8 and s8 then add up inside 16 bits
GROUP = 64  # weights of int4 that share a scale and a zero point


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The ends of a FakeQuantize of 256 levels."""

    low: float
    high: float


def asymmetric(low: float, high: float) -> Grid:
    """Return the grid of 256 steps that holds ``low``, ``high`` and zero, with zero on a step.

    A tensor that is always zero gets a grid of step 1/255: it has no scale of its own.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (LEVELS - 1) or 1 / (LEVELS - 1)
    zero_point = min(max(round(-low / scale), 0), LEVELS - 1)
    return Grid(low=-zero_point * scale, high=(LEVELS - 1 - zero_point) * scale)


def symmetric(magnitude: float) -> Grid:
    """Return the grid from -128 to 127 steps with ``magnitude`` at step 127."""
    scale = magnitude / 127 or 1 / 127
    return Grid(low=-128 * scale, high=127 * scale)


def is_skewed(one: TensorRange) -> bool:
    """Say whether a symmetric grid would spend more than a third of its steps on numbers that do not occur."""
    return 3 * min(-one.low, one.high) < max(-one.low, one.high)


def union(ranges: Sequence[TensorRange]) -> TensorRange:
    """Return the range that holds all of ``ranges``."""
    return TensorRange(
        low=min(one.low for one in ranges),
        high=max(one.high for one in ranges),
        magnitude=max(one.magnitude for one in ranges),
        seen_low=min(one.seen_low for one in ranges),
        seen_high=max(one.seen_high for one in ranges),
    )


def fake_quantize(source: Any, grid: Grid, name: str, readers: Sequence[Any]) -> None:
    """Put a FakeQuantize called ``name`` behind ``source`` and lead ``readers`` to it."""
    from openvino import opset13 as ops

    kind = source.get_element_type()
    low, high = (ops.constant(np.array(end), dtype=kind) for end in (grid.low, grid.high))
    node = ops.fake_quantize(source, low, high, low, high, LEVELS)
    node.set_friendly_name(name)
    for reader in readers:
        reader.replace_source_output(node.output(0))


def int8_weight(node: Any, index: int, axes: tuple[int, ...], steps: int = WEIGHT_STEPS) -> None:
    """Replace the constant at an input by int8 numbers, converted and multiplied by a scale per channel."""
    from openvino import opset13 as ops

    output = node.input_value(index)
    numbers, scales = symmetric_integers(_float32(output), axes, steps)
    kind = output.get_element_type()
    integers = ops.constant(numbers)
    integers.set_friendly_name(output.get_node().get_friendly_name())
    scaled = ops.multiply(ops.convert(integers, kind.to_string()), ops.constant(scales, dtype=kind))
    node.input(index).replace_source_output(scaled.output(0))


def symmetric_integers(weight: Array, axes: tuple[int, ...], steps: int) -> tuple[Array, Array]:
    """Return int8 numbers in [-steps, steps] and their scales, one for each index along ``axes``.

    The scales have the weight's rank, so that their product with the numbers broadcasts. A channel of zeros has
    scale 1.
    """
    others = tuple(axis for axis in range(weight.ndim) if axis not in axes)
    peaks = np.abs(weight).max(axis=others, keepdims=True)
    scales = np.where(peaks > 0, peaks / np.float32(steps), np.float32(1)).astype(np.float32)
    tiny = scales < np.finfo(np.float32).tiny  # a denormal scale is flushed to zero by some kernels
    scales[tiny] = 1
    return np.clip(np.rint(weight / scales), -steps, steps).astype(np.int8), scales


def int4_weight(node: Any, index: int, axis: int) -> None:
    """Replace the matrix at an input by u4 numbers with a scale and a zero point per group along ``axis``.

    The form is the one that OpenVINO's matrix product takes in packed: convert, subtract, multiply, reshape.
    """
    from openvino import Type
    from openvino import opset13 as ops

    output = node.input_value(index)
    weight = _float32(output)
    kind = output.get_element_type()
    groups, zeros, scales = asymmetric_groups(weight, axis)
    integers = ops.constant(groups, dtype=Type.u4)
    integers.set_friendly_name(output.get_node().get_friendly_name())
    real = kind.to_string()
    shifted = ops.subtract(ops.convert(integers, real), ops.convert(ops.constant(zeros, dtype=Type.u4), real))
    scaled = ops.multiply(shifted, ops.constant(scales, dtype=kind))
    whole = ops.reshape(scaled, ops.constant(np.array(weight.shape, dtype=np.int64)), False)
    node.input(index).replace_source_output(whole.output(0))


def asymmetric_groups(weight: Array, axis: int) -> tuple[Array, Array, Array]:
    """Return u4 numbers, zero points and scales, with ``axis`` of the weight split into groups.

    A group has :data:`GROUP` weights, or as many below that as divide the axis.
    """
    length = weight.shape[axis]
    group = math.gcd(length, GROUP)
    shape = (*weight.shape[:axis], length // group, group, *weight.shape[axis + 1 :])
    grouped = weight.reshape(shape)
    low = np.minimum(grouped.min(axis=axis + 1, keepdims=True), 0)
    high = np.maximum(grouped.max(axis=axis + 1, keepdims=True), 0)
    scales = ((high - low) / np.float32(15)).astype(np.float32)
    scales[scales < np.finfo(np.float32).tiny] = 1
    zeros = np.clip(np.rint(-low / scales), 0, 15)
    numbers = np.clip(np.rint(grouped / scales) + zeros, 0, 15)
    return numbers.astype(np.uint8), zeros.astype(np.uint8), scales


def _float32(output: Any) -> Array:
    array: Array = output.get_node().data
    return array.astype(np.float32)
