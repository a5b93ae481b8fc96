"""What a runtime's arithmetic offers, and the roundings that several of them share.

Everything works on float32 numbers that lie on grids; accumulators are exact integers in float64 (|acc| < 2^53: sums of
int32 never come near). Each result is rounded to float32 where the runtime's own is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from hwbench.fake_quant.grids import Grid, Tensor
from hwbench.records.quantization import TensorRange


@dataclass(frozen=True, kw_only=True)
class Products:
    """A layer with weights on its integers. Scales are float32, shaped so that they broadcast to the accumulators.

    ``accumulators``: sums of products without the bias, float64. ``bias``: float32 numbers, broadcast alike, or None.
    ``matrix``: it is a matrix product and not a convolution, where a runtime has a kernel for each.
    """

    accumulators: Tensor
    x: Grid
    weight_scales: Tensor
    bias: Tensor | None
    matrix: bool


class Rounds(Protocol):
    """How a runtime rounds what is read on one of its own grids."""

    @property
    def name(self) -> str:
        """Return the runtime's."""
        ...

    def round(self, numbers: Tensor, y: Any) -> Tensor:
        """Return numbers as the runtime's quantisation of floats rounds them."""
        ...


class Arithmetic(Protocol):
    """How one runtime computes with 8-bit (or 16-bit) activations. All results are float32 numbers, on ``y``'s grid."""

    name: str

    def grid(self, found: TensorRange, *, bits: int, product: bool) -> Grid:
        """Return the grid of an activation; ``product``: it is multiplied in a matrix product, not a convolution."""
        ...

    def round(self, numbers: Tensor, y: Grid) -> Tensor:
        """Return numbers as the runtime's quantisation of floats rounds them."""
        ...

    def products(self, given: Products, y: Grid | None) -> Tensor:
        """Return a layer's result: on ``y``, or in floating point where that is None."""
        ...

    def add(self, a: Tensor, b: Tensor, grids: tuple[Grid, Grid], y: Grid) -> Tensor:
        """Return the sum of two tensors on grids."""
        ...

    def mean(self, total: Tensor, count: int, x: Grid, y: Grid) -> Tensor:
        """Return an average; ``total``: sums of ``count`` centred steps, float64."""
        ...


def singles(value: Tensor | float) -> Tensor:
    """Return float32."""
    return torch.as_tensor(value).to(torch.float32)


def fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return a * b + c of float32 numbers, rounded once.

    The product is exact in float64; the sum is rounded there to 53 bits before it is to 24, which differs from one
    rounding about once in 2^29.
    """
    return (a.to(torch.float64) * b.to(torch.float64) + c.to(torch.float64)).to(torch.float32)


def bias_steps(given: Products) -> Tensor | float:
    """Return the bias as int32 steps of the products' scale, as the tools of ONNX Runtime and LiteRT make them."""
    if given.bias is None:
        return 0.0
    scale = singles(given.x.scale) * given.weight_scales
    return torch.round(given.bias / scale).to(torch.float64)


def requantised(accumulators: Tensor, multiplier: Tensor, y: Grid) -> Tensor:
    """Return numbers on ``y``: the accumulator in float32 times a float32 factor, half to even, then the zero point."""
    steps = torch.round(accumulators.to(torch.float32) * multiplier)
    return y.numbers(y.saturate(steps.to(torch.float64) + y.zero_point))


def fixed_point(real: Tensor) -> tuple[Tensor, Tensor]:
    """Return 31-bit integers and exponents: real = integer * 2^(exponent - 31), as gemmlowp's multipliers are made."""
    fraction, exponent = torch.frexp(real.to(torch.float64))
    whole = torch.round(fraction * 2.0**31).to(torch.int64)
    over = whole == 2**31
    return torch.where(over, whole // 2, whole), (exponent + over).to(torch.int64)
