"""Modules that a simulated view is made of."""

from __future__ import annotations

import numpy as np
import torch

from hwbench.fake_quant.arithmetic import Arithmetic, Products
from hwbench.fake_quant.grids import Grid, Tensor, WeightSteps
from hwbench.graph.linear import Linear
from hwbench.torch_view.layer import Layer


class Rounding(torch.nn.Module):
    """Rounds a tensor to a grid, as the runtime does floats."""

    def __init__(self, rules: Arithmetic, grid: Grid) -> None:
        super().__init__()
        self.rules, self.grid = rules, grid

    def forward(self, numbers: Tensor) -> Tensor:
        return self.rules.round(numbers, self.grid)


class Clipping(torch.nn.Module):
    """Cuts a tensor off at the ends of a grid."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.ends = grid.ends

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers.clamp(*self.ends)


class IntegerLayer(torch.nn.Module):
    """A layer with weights on integers: the layer's own operator in float64, which holds every sum exactly."""

    steps: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(
        self, layer: Layer, linear: Linear, weights: WeightSteps, rules: Arithmetic, grids: tuple[Grid, Grid | None]
    ) -> None:
        super().__init__()
        self.function = layer.function
        self.rules, (self.x, self.y) = rules, grids
        self.matrix = not linear.spatial
        self.register_buffer("steps", torch.from_numpy(weights.values.astype(np.float64)), persistent=False)
        rank = 1 if self.matrix else weights.values.ndim - 1
        shape = [-1] + [1] * (rank - 1)
        self.register_buffer("scales", torch.from_numpy(weights.scales.reshape(shape).copy()), persistent=False)
        bias = linear.bias()
        numbers = None if bias is None else torch.from_numpy(bias.astype(np.float32).reshape(shape))
        self.register_buffer("bias", numbers, persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        sums = self.function(self.x.centred(numbers), self.steps)
        given = Products(accumulators=sums, x=self.x, weight_scales=self.scales, bias=self.bias, matrix=self.matrix)
        return self.rules.products(given, self.y)


class IntegerSum(torch.nn.Module):
    """An addition on integers."""

    def __init__(self, rules: Arithmetic, grids: tuple[Grid, Grid], y: Grid) -> None:
        super().__init__()
        self.rules, self.grids, self.y = rules, grids, y

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.rules.add(a, b, self.grids, self.y)


class IntegerMean(torch.nn.Module):
    """A mean over all of space, on integers."""

    def __init__(self, rules: Arithmetic, x: Grid, y: Grid) -> None:
        super().__init__()
        self.rules, self.x, self.y = rules, x, y

    def forward(self, numbers: Tensor) -> Tensor:
        axes = list(range(2, numbers.dim()))
        total = self.x.centred(numbers).sum(axes, keepdim=True)
        return self.rules.mean(total, int(np.prod(numbers.shape[2:])), self.x, self.y)
