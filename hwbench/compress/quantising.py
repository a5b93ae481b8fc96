"""Weights of layers put on grids of few bits: which scales, which integers, how many bits that takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Array
from hwbench.compress.patterns import Unstructured, stored_bits
from hwbench.graph.linear import Linear, set_constant, uses
from hwbench.quantize.weights import dequantise, least_squares_scales, quantise, quantise_blocks, weight_scales

Scales = Literal["max", "mse"]
_SCALE_BITS = 32


@dataclass(frozen=True, kw_only=True)
class Grain:
    """Which weights share a scale: ``group`` along the inputs, the output channel, or (``whole``) all of a layer."""

    whole: bool = False
    group: int | None = None

    @property
    def words(self) -> str:
        """What shares a scale, for people."""
        if self.group is not None:
            return f"a scale for every {self.group} inputs"
        return "one scale" if self.whole else "a scale for each output channel"


@dataclass(frozen=True, kw_only=True)
class OnGrid:
    """The weights of a layer on their grid. ``scales``: float32 with the weights' axes (one place where shared)."""

    numbers: Array
    scales: Array
    largest: int
    bits: int

    def stored_bits(self, *, zeros_held: bool) -> float:
        """Return the bits a weight, with the scales counted in; held zeros as a mask where that takes less."""
        density = 1 - zeros_of(self.numbers) if zeros_held else 1.0
        return stored_bits(Unstructured(), density, self.bits) + _SCALE_BITS * self.scales.size / self.numbers.size


def largest_of(bits: int) -> int:
    """Return the largest step of symmetric weights: 127, 7 or 1."""
    return int(2 ** (bits - 1) - 1)


def on_grid(layer: Linear, bits: int, grain: Grain, scales: Scales) -> OnGrid:
    """Return the weights of a layer rounded to nearest, ties to even.

    Steps are symmetric and narrow (8 bits: -127 to 127, 4: -7 to 7, 2: -1 to 1), as every runtime takes them.
    """
    weight, largest = layer.weight, largest_of(bits)
    if grain.group is not None:
        along, best = 1 - layer.output_axis, scales == "mse"
        blocks = quantise_blocks(weight, along, grain.group, largest=largest, least_squares=best)
        return OnGrid(numbers=blocks.dequantised(), scales=blocks.scales, largest=largest, bits=bits)
    axis = None if grain.whole else layer.output_axis
    find = least_squares_scales if scales == "mse" else weight_scales
    found = find(weight, axis, largest=largest)
    numbers = dequantise(quantise(weight, found, axis, largest=largest), found, axis)
    return OnGrid(numbers=numbers, scales=spread(found, weight.ndim, axis), largest=largest, bits=bits)


def spread(scales: Array, axes: int, axis: int | None) -> Array:
    """Return scales with as many axes as the weights."""
    return scales.reshape([-1 if index == axis else 1 for index in range(axes)] if axis is not None else [1] * axes)


def write(layer: Linear, grid: OnGrid) -> None:
    """Put weights on their grid into the hub: into the initialiser itself, for all who read it."""
    value = layer.node.inputs[1]
    assert value is not None
    if not value.is_initializer():
        set_constant(layer.node, 1, grid.numbers)
        return
    assert value.const_value is not None
    value.const_value = ir.tensor(grid.numbers.astype(value.const_value.dtype.numpy()), name=value.name)


def other_readers(layer: Linear) -> list[tuple[ir.Node, int]]:
    """Return who else reads the weights of a layer, and which of their inputs they are."""
    value = layer.node.inputs[1]
    assert value is not None
    return [(node, index) for node, index in uses(value) if node is not layer.node]


def zeros_of(weight: Array) -> float:
    """Return the fraction of weights that is zero."""
    return float(np.mean(weight == 0))


def initialiser(layer: Linear) -> str:
    """Return the name of the initialiser of a layer's weights."""
    value = layer.node.inputs[1]
    assert value is not None
    return value.name or ""
