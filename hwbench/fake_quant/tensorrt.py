"""TensorRT: numbers as a pair of QuantizeLinear and DequantizeLinear leaves them, in int8 and in E4M3.

ONNX's definition of the two operators, which TensorRT follows where the pair stands by itself: a number over the scale,
nearest with ties to even, cut off at the ends. What its fused kernels do inside has not been seen on a GPU.
"""

from __future__ import annotations

import torch

from hwbench.fake_quant.grids import FloatGrid, Grid, Tensor


class TensorRt:
    """See the module."""

    name = "tensorrt"

    def round(self, numbers: Tensor, y: Grid | FloatGrid) -> Tensor:
        """Return numbers on a grid, in float32."""
        steps = numbers.to(torch.float32) / y.scale
        if isinstance(y, FloatGrid):
            return steps.clamp(-y.largest, y.largest).to(torch.float8_e4m3fn).to(torch.float32) * y.scale
        return y.numbers(y.saturate(torch.round(steps).to(torch.float64) + y.zero_point))
