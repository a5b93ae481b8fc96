"""Rounding that gradients pass: straight-through estimators and learned steps.

The gradient of a rounded number is taken to be that of the number itself where it lies inside the grid, and 0 where it
is cut off (Bengio et al. 2013, arXiv:1308.3432). With learned steps (LSQ, Esser et al. 2020, arXiv:1902.08153) the
scale has a gradient too: round(v/s) - v/s inside, the end of the grid outside, times 1 / sqrt(count * largest step).
"""

from __future__ import annotations

import math

import torch

from hwbench.fake_quant.grids import Tensor


def round_through(numbers: Tensor) -> Tensor:
    """Return numbers rounded half to even, with the gradient of the numbers."""
    return numbers + (torch.round(numbers) - numbers).detach()


def fake_quantise(numbers: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
    """Return numbers on the grid scale * [low..high], centred steps; ``scale`` has a gradient where it asks for one."""
    return round_through((numbers / scale).clamp(low, high)) * scale


def slowed(scale: Tensor, count: int, largest: int) -> Tensor:
    """Return ``scale`` itself with its gradient times 1 / sqrt(count * largest), as LSQ balances steps and weights."""
    factor = 1 / math.sqrt(count * max(1, largest))
    return (scale - scale * factor).detach() + scale * factor


class RoundedWeights(torch.nn.Module):
    """Weights on a grid of ``2 * largest + 1`` steps, symmetric about zero.

    Args:
        scales: positive, with as many axes as the weights; an axis of them is as long as that of the weights, or one,
            or holds one place for each ``group`` weights.
        largest: the largest step.
        group: weights along ``axis`` that share a scale; None where ``scales`` broadcasts.
        axis: of the groups.
        learned: the scales are trained (LSQ); otherwise they grow and shrink with the largest weight they are for.
    """

    ratio: Tensor

    def __init__(
        self, scales: Tensor, largest: int, weights: Tensor, *, group: int | None, axis: int, learned: bool
    ) -> None:
        super().__init__()
        self.largest, self.group, self.axis, self.learned = largest, group, axis, learned
        self.shape = tuple(scales.shape)
        if learned:
            self.step = torch.nn.Parameter(scales.reshape(-1).clone())  # one axis: no decay of weights
        else:
            self.register_buffer("ratio", scales / self._extremes(weights).clamp(min=torch.finfo(scales.dtype).tiny))

    def forward(self, weights: Tensor) -> Tensor:
        scales = self._spread(self.scales(weights), weights)
        return fake_quantise(weights, scales, -self.largest, self.largest)

    def scales(self, weights: Tensor) -> Tensor:
        """Return the scales as they are for ``weights``."""
        tiny = torch.finfo(weights.dtype).tiny
        if not self.learned:
            return (self.ratio * self._extremes(weights.detach())).clamp(min=tiny)
        whole = slowed(self.step, weights.numel() // self.step.numel(), self.largest)
        return whole.abs().clamp(min=tiny).reshape(self.shape)

    def _extremes(self, weights: Tensor) -> Tensor:
        sizes = weights.abs()
        if self.group is not None:
            return torch.cat(
                [part.amax(self.axis, keepdim=True) for part in sizes.split(self.group, self.axis)], self.axis
            )
        axes = [axis for axis, size in enumerate(self.shape) if size == 1]
        return sizes.amax(axes, keepdim=True) if axes else sizes

    def _spread(self, scales: Tensor, weights: Tensor) -> Tensor:
        if self.group is None:
            return scales
        return scales.repeat_interleave(self.group, self.axis).narrow(self.axis, 0, weights.shape[self.axis])


class RoundedActivations(torch.nn.Module):
    """An activation on an asymmetric grid; ``learned``: its scale is trained, its zero point stays."""

    step: Tensor

    def __init__(self, scale: float, low: int, high: int, *, learned: bool) -> None:
        super().__init__()
        self.low, self.high, self.learned = low, high, learned  # centred: the zero point is taken off
        step = torch.tensor([scale], dtype=torch.float32)
        if learned:
            self.step = torch.nn.Parameter(step)
        else:
            self.register_buffer("step", step)

    def forward(self, numbers: Tensor) -> Tensor:
        step = self.step
        if self.learned:
            step = slowed(step, numbers[0].numel(), max(self.high, -self.low)).abs()
            step = step.clamp(min=torch.finfo(numbers.dtype).tiny)
        return fake_quantise(numbers, step, self.low, self.high)

    @property
    def ends(self) -> tuple[float, float]:
        """The numbers that it cuts off at."""
        scale = abs(float(self.step.detach()))
        return self.low * scale, self.high * scale
