"""Writing quantisation into an OpenVINO graph: ``FakeQuantize`` for activations, small integers for weights.

The arithmetic is that of Jacob et al. 2018 (arXiv:1712.05877): a real number is a scale times an integer less a zero
point, and zero is always one of the numbers. Weights get the integers of :mod:`hwbench.quantize.weights`. OpenVINO's
own form of it is in its operator specification (``FakeQuantize-1``) and in its guide to low precision transformations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwbench.quantize.weights import INT8_LARGEST, quantise, quantise_blocks, weight_scales
from hwbench.records.quantization import TensorRange

Array = np.ndarray[Any, np.dtype[Any]]

LEVELS = 256
LARGEST_SATURATING = 63  # of a weight: two products of u8 and s8 then add up inside 16 bits
BLOCKS = (64, 32, 16)  # int4 weights that share a scale: the first that divides what is added up, else all


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


def int8_weight(node: Any, index: int, axes: tuple[int, ...], steps: int = INT8_LARGEST) -> None:
    """Replace the constant at an input by int8 numbers, converted and multiplied by a scale per channel.

    Args:
        node: the operator.
        index: of the input.
        axes: those of the weight that tell channels apart; none for one scale in all.
        steps: the largest number.
    """
    from openvino import opset13 as ops

    output = node.input_value(index)
    numbers, scales = channel_integers(_float32(output), axes, steps)
    kind = output.get_element_type()
    integers = ops.constant(numbers)
    integers.set_friendly_name(output.get_node().get_friendly_name())
    scaled = ops.multiply(ops.convert(integers, kind.to_string()), ops.constant(scales, dtype=kind))
    node.input(index).replace_source_output(scaled.output(0))


def channel_integers(weight: Array, axes: tuple[int, ...], steps: int) -> tuple[Array, Array]:
    """Return int8 numbers in [-steps, steps] and float32 scales, one for each index along ``axes``.

    The scales have the weight's rank, so that their product with the numbers broadcasts.
    """
    first = tuple(range(len(axes)))
    forward = np.moveaxis(weight, axes, first)
    rows = forward.reshape(math.prod(forward.shape[: len(axes)]), -1)
    scales = weight_scales(rows, 0, largest=steps)
    numbers = np.moveaxis(quantise(rows, scales, 0, largest=steps).reshape(forward.shape), first, axes)
    return np.ascontiguousarray(numbers), scales.reshape(
        [size if axis in axes else 1 for axis, size in enumerate(weight.shape)]
    )


def int4_weight(node: Any, index: int, axis: int) -> None:
    """Replace the matrix at an input by i4 numbers with a scale per block along ``axis``, that of what is added up.

    The form is the one that OpenVINO's matrix product takes in packed: convert, multiply, reshape.
    """
    from openvino import Type
    from openvino import opset13 as ops

    output = node.input_value(index)
    weight = _float32(output)
    kind = output.get_element_type()
    size = next((size for size in BLOCKS if weight.shape[axis] % size == 0), weight.shape[axis])
    blocks = quantise_blocks(weight, axis, size)
    shape = (*weight.shape[:axis], weight.shape[axis] // size, size, *weight.shape[axis + 1 :])
    integers = ops.constant(blocks.values.reshape(shape), dtype=Type.i4)
    integers.set_friendly_name(output.get_node().get_friendly_name())
    scales = ops.constant(np.expand_dims(blocks.scales, axis + 1), dtype=kind)
    scaled = ops.multiply(ops.convert(integers, kind.to_string()), scales)
    whole = ops.reshape(scaled, ops.constant(np.array(weight.shape, dtype=np.int64)), False)
    node.input(index).replace_source_output(whole.output(0))


def _float32(output: Any) -> Array:
    array: Array = output.get_node().data
    return array.astype(np.float32)
