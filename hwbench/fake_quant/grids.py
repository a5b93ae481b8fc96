"""Grids: which integers, or floats of eight bits, stand for which numbers.

A number is ``scale * (step - zero_point)``, or ``scale`` times a float. Scales are numbers that float32 holds exactly,
since every runtime keeps them so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, np.dtype[Any]]
Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The grid of an activation tensor: steps from ``low`` to ``high``, of which ``zero_point`` stands for zero."""

    scale: float
    zero_point: int
    low: int
    high: int

    @property
    def bits(self) -> int:
        """How many bits a step takes."""
        return (self.high - self.low).bit_length()

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest number."""
        return self.scale * (self.low - self.zero_point), self.scale * (self.high - self.zero_point)

    def saturate(self, steps: Tensor) -> Tensor:
        """Return steps cut off at the ends."""
        return steps.clamp(self.low, self.high)

    def numbers(self, steps: Tensor) -> Tensor:
        """Return what steps stand for, in float32."""
        return (steps - self.zero_point).to(torch.float32) * self.scale

    def centred(self, numbers: Tensor) -> Tensor:
        """Return ``step - zero_point`` of numbers that lie on the grid, in float64.

        A number of the grid is off by a rounding of float32, far less than half a step, so that this is exact.
        """
        return torch.round(numbers.to(torch.float64) / self.scale)


@dataclass(frozen=True, kw_only=True)
class FloatGrid:
    """The grid of an activation tensor in E4M3 (arXiv:2209.05433): floats, up to ``largest`` in magnitude."""

    scale: float
    largest: float

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest number."""
        return -self.largest * self.scale, self.largest * self.scale


@dataclass(frozen=True, kw_only=True)
class WeightSteps:
    """Weights on a grid: integers, and the scale of each index along ``axis``, or one for all.

    ``values``: integers of the weights' shape. ``scales``: float32 [size of axis], or [] where ``axis`` is None.
    """

    values: Array
    scales: Array
    axis: int | None

    def numbers(self) -> Array:
        """Return what the integers stand for, in float32."""
        scales = self.scales.astype(np.float64)
        if self.axis is not None:
            scales = scales.reshape([-1 if at == self.axis else 1 for at in range(self.values.ndim)])
        return np.asarray(self.values * scales, dtype=np.float32)
