"""OpenVINO's CPU plugin on x86: ``FakeQuantize`` of 256 levels around int8 products (oneDNN).

The int32 sum becomes float32, is multiplied by the input's and the weight's scale and gets a bias in float32;
activations follow in float; the next ``FakeQuantize`` rounds (x * 255 / (high - low) + zero point) half to even. The
plugin folds scales, bias and FakeQuantize into other constants when it compiles a graph, so that the order of float32
roundings is not always this one. With random scales none of 219 000 results was off. With round ones (0.01, 0.05),
whose results often lie at a half, 4 of 110 592 of a convolution were off, 7 of 55 296 of a depthwise one and 38 of
115 200 of a product: all by one step. An addition that the plugin fuses into a convolution is a matter of
:mod:`hwbench.fake_quant.place`.
"""

from __future__ import annotations

import numpy as np
import torch

from hwbench.errors import UsageError
from hwbench.fake_quant.arithmetic import Products, singles
from hwbench.fake_quant.grids import Grid, Tensor
from hwbench.records.quantization import TensorRange


class OpenVino:
    """See the module."""

    name = "openvino"

    def grid(self, found: TensorRange, *, bits: int, product: bool) -> Grid:
        """Return 0..255, or -128..127 for a matrix product, unless that would waste more than a third of the steps."""
        if bits != 8:
            raise UsageError(f"openvino has no kernels for activations of {bits} bits", hint="litert has 16")
        skewed = 3 * min(-found.low, found.high) < max(-found.low, found.high)
        if product and not skewed:
            scale = found.magnitude / 127 or 1 / 127
            return Grid(scale=_step(-128 * scale, 127 * scale), zero_point=0, low=-128, high=127)
        low, high = min(found.low, 0.0), max(found.high, 0.0)
        scale = (high - low) / 255 or 1 / 255
        zero_point = min(max(round(-low / scale), 0), 255)
        step = _step(-zero_point * scale, (255 - zero_point) * scale)
        return Grid(scale=step, zero_point=zero_point, low=0, high=255)

    def round(self, numbers: Tensor, y: Grid) -> Tensor:
        low, high = (singles(end) for end in y.ends)
        factor = singles(255.0) / (high - low)
        steps = torch.round(numbers.to(torch.float32) * factor + singles(float(y.zero_point)))
        return y.numbers(y.saturate(steps.to(torch.float64)))

    def products(self, given: Products, y: Grid | None) -> Tensor:
        scale = singles(given.x.scale) * given.weight_scales
        real = given.accumulators.to(torch.float32) * scale
        real = real if given.bias is None else real + given.bias
        return real if y is None else self.round(real, y)

    def add(self, a: Tensor, b: Tensor, grids: tuple[Grid, Grid], y: Grid) -> Tensor:  # noqa: ARG002 - floats
        return self.round(a + b, y)

    def mean(self, total: Tensor, count: int, x: Grid, y: Grid) -> Tensor:
        return self.round(total.to(torch.float32) * singles(x.scale) / singles(float(count)), y)


def _step(low: float, high: float) -> float:
    """Return the step of a FakeQuantize whose ends are stored in float32."""
    return float((np.float32(high) - np.float32(low)) / np.float32(255))
