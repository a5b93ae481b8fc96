"""ONNX Runtime on x86: unsigned 8-bit activations, signed 8-bit weights (MLAS).

What its CPU provider makes of Q/DQ pairs, found by reading MLAS and by comparing bit for bit:

* ``QLinearConv`` and ``QGemm``: int32 sums with an int32 bias, made float32, times x_scale * w_scale / y_scale in
  float32, rounded half to even, then the zero point, then saturation.
* ``QGemm`` that gives floats: float32 sums times x_scale * w_scale.
* ``QLinearAdd`` (AVX2 and up): two fused multiply-adds on the raw steps, with all zero points in one constant.
* ``QLinearGlobalAveragePool`` and ``QLinearAveragePool``: sums times x_scale / (y_scale * count).
* ``QuantizeLinear``: float32 division, half to even.
"""

from __future__ import annotations

import numpy as np
import torch

from hwbench.errors import UsageError
from hwbench.fake_quant.arithmetic import Products, bias_steps, fused, requantised, singles
from hwbench.fake_quant.grids import Grid, Tensor
from hwbench.records.quantization import TensorRange


class OnnxRuntime:
    """See the module."""

    name = "onnxruntime"

    def grid(self, found: TensorRange, *, bits: int, product: bool) -> Grid:  # noqa: ARG002 - all tensors are alike
        """Return 0..255 over the range widened to zero, as ONNX Runtime's quantisation tool has it."""
        if bits != 8:
            raise UsageError(f"onnxruntime has no kernels for activations of {bits} bits", hint="litert has 16")
        low, high = (np.float64(np.float32(end)) for end in (min(found.low, 0.0), max(found.high, 0.0)))
        scale = (high - low) / 255
        if scale < np.finfo(np.float32).tiny:
            return Grid(scale=1.0, zero_point=0, low=0, high=255)
        return Grid(scale=float(np.float32(scale)), zero_point=int(np.round(-low / scale)), low=0, high=255)

    def round(self, numbers: Tensor, y: Grid) -> Tensor:
        steps = torch.round(numbers.to(torch.float32) / singles(y.scale))
        return y.numbers(y.saturate(steps.to(torch.float64) + y.zero_point))

    def products(self, given: Products, y: Grid | None) -> Tensor:
        accumulators = given.accumulators + bias_steps(given)
        scale = singles(given.x.scale) * given.weight_scales
        if y is None:
            return accumulators.to(torch.float32) * scale
        return requantised(accumulators, scale / singles(y.scale), y)

    def add(self, a: Tensor, b: Tensor, grids: tuple[Grid, Grid], y: Grid) -> Tensor:
        (of_a, of_b), whole = grids, singles(y.scale)
        by_a, by_b = singles(of_a.scale) / whole, singles(of_b.scale) / whole
        zero_a, zero_b = singles(float(of_a.zero_point)), singles(float(of_b.zero_point))
        constant = singles(float(y.zero_point)) - fused(by_a, zero_a, by_b * zero_b)
        raw_a, raw_b = of_a.centred(a) + of_a.zero_point, of_b.centred(b) + of_b.zero_point
        return y.numbers(y.saturate(torch.round(fused(raw_a, by_a, fused(raw_b, by_b, constant)))))

    def mean(self, total: Tensor, count: int, x: Grid, y: Grid) -> Tensor:
        return requantised(total, singles(x.scale) / (singles(y.scale) * singles(float(count))), y)
