"""LiteRT on x86: signed 8-bit activations in XNNPACK's kernels; symmetric 16-bit ones in LiteRT's own.

Found by running single operators in both (LiteRT 2.3), bit for bit:

* XNNPACK's convolutions and products: the int32 sum with its bias in float32, times x_scale * w_scale / y_scale in
  float32, half to even, then the zero point. LiteRT's reference kernels use gemmlowp's doubled high product of 31-bit
  multipliers instead, and differ in about 5 of 10 000 results; XNNPACK is what runs by default.
* XNNPACK's addition: 21-bit integer multipliers, one shift, halves up.
* XNNPACK's mean: the zero point is added before rounding half to even.
* floats to int8: times the float32 reciprocal of the scale, half to even.
* 16 bits (16x8): XNNPACK has none. Convolutions multiply 64-bit sums by a multiplier cut to 15 bits, halves up; the
  fully connected layer keeps 31 bits.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from hwbench.errors import UsageError
from hwbench.fake_quant.arithmetic import Products, bias_steps, fixed_point, requantised, singles
from hwbench.fake_quant.grids import Grid, Tensor
from hwbench.records.quantization import TensorRange

_SMALLEST = 1e-9  # the range that litert-quantizer takes for a tensor of zeros


class LiteRt:
    """See the module."""

    name = "litert"

    def grid(self, found: TensorRange, *, bits: int, product: bool) -> Grid:  # noqa: ARG002 - all tensors are alike
        """Return -128..127 over the range widened to zero, or -32768..32767 about zero.

        Estimators of ranges weigh what is cut off against steps of eight bits. Sixteen have steps to spare, so that
        they reach to the extremes that were seen.
        """
        low, high = np.float32(min(found.low, 0.0)), np.float32(max(found.high, 0.0))
        if bits == 16:
            furthest = np.float32(max(-found.seen_low, found.seen_high, _SMALLEST))
            scale = furthest / np.float32(32767)
            return Grid(scale=float(scale), zero_point=0, low=-32768, high=32767)
        if bits != 8:
            raise UsageError(f"litert has no kernels for activations of {bits} bits", hint="8 and 16 are offered")
        scale = np.maximum(high - low, np.float32(_SMALLEST)) / np.float32(255)
        return Grid(scale=float(scale), zero_point=int(np.rint(np.float32(-128) - low / scale)), low=-128, high=127)

    def round(self, numbers: Tensor, y: Grid) -> Tensor:
        steps = torch.round(numbers.to(torch.float32) * (1 / singles(y.scale)))
        return y.numbers(y.saturate(steps.to(torch.float64) + y.zero_point))

    def products(self, given: Products, y: Grid | None) -> Tensor:
        accumulators = given.accumulators + bias_steps(given)
        scale = singles(given.x.scale) * given.weight_scales
        if y is None:
            return accumulators.to(torch.float32) * scale
        if given.x.bits == 8:
            return requantised(accumulators, scale / singles(y.scale), y)
        real = given.x.scale * given.weight_scales.to(torch.float64) / y.scale
        whole, exponent = fixed_point(real)
        if given.matrix:
            return y.numbers(y.saturate(_halves_up(accumulators, whole, 31 - exponent)))
        short = torch.where(whole < 0x7FFF0000, (whole + (1 << 15)) >> 16, torch.full_like(whole, 0x7FFF))
        return y.numbers(y.saturate(_halves_up(accumulators, short, 15 - exponent)))

    def add(self, a: Tensor, b: Tensor, grids: tuple[Grid, Grid], y: Grid) -> Tensor:
        if y.bits != 8:
            return self.round(a + b, y)
        ratios = [float(singles(one.scale) / singles(y.scale)) for one in grids]
        shift = 20 - math.floor(math.log2(max(ratios)))
        factors = [float(np.rint(ratio * 2.0**shift)) for ratio in ratios]
        total = grids[0].centred(a) * factors[0] + grids[1].centred(b) * factors[1]
        return y.numbers(y.saturate(torch.floor((total + 2.0 ** (shift - 1)) / 2.0**shift) + y.zero_point))

    def mean(self, total: Tensor, count: int, x: Grid, y: Grid) -> Tensor:
        factor = singles(x.scale) / (singles(y.scale) * singles(float(count)))
        steps = torch.round(total.to(torch.float32) * factor + singles(float(y.zero_point)))
        return y.numbers(y.saturate(steps.to(torch.float64)))


def _halves_up(accumulators: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
    """Return (acc * multiplier) >> shift, halves up, exactly: in int64, high and low parts of the sum apart."""
    sums = accumulators.to(torch.int64)
    shift = shift.expand_as(sums)
    high, low = sums >> 20, sums & ((1 << 20) - 1)  # sums = high * 2^20 + low
    below = low * multiplier + (torch.ones_like(shift) << (shift - 1))
    carry, rest = below >> 20, below & ((1 << 20) - 1)
    top = high * multiplier + carry  # the whole is top * 2^20 + rest
    over = shift - 20
    wide = torch.where(
        over >= 0, top >> over.clamp(min=0), (top << (-over).clamp(min=0)) + (rest >> shift.clamp(max=20))
    )
    return wide.to(torch.float64)
