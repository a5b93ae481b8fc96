"""Weights and scales as the graph for TensorRT stores them.

Used by the lowering, which writes them down, and by the simulation of what they lose (:mod:`hwbench.sensitivity`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import ml_dtypes
import numpy as np

from hwbench.engines.tensorrt_graph import Array
from hwbench.engines.tensorrt_halves import HALVES
from hwbench.engines.tensorrt_legal import Carrier
from hwbench.quantize.weights import INT4_LARGEST, INT8_LARGEST, quantise, quantise_blocks, weight_scales
from hwbench.records.quantization import Scheme, TensorRange

FP8_LARGEST: Final = 448.0
_LARGEST: Final = {"int8": float(INT8_LARGEST), "fp8": FP8_LARGEST}
_SMALLEST_SCALE: Final = {"fp16": 2.0**-20, "bf16": 2.0**-100, "fp32": 2.0**-100}  # with digits left in fp16


def scale_as(scales: Array, kind: str) -> Array:
    """Return scales as ``kind`` holds them, rounded up so that nothing is cut off; float32."""
    wanted: Array = np.maximum(np.asarray(scales, np.float32), np.float32(_SMALLEST_SCALE[kind]))
    if kind not in HALVES:
        return wanted
    near: Array = wanted.astype(HALVES[kind].numpy())
    bits: Array = near.view(np.uint16) + np.uint16(1)  # positive numbers: the next pattern is the next number
    above: Array = bits.view(near.dtype)
    return np.where(near.astype(np.float32) < wanted, above, near).astype(np.float32)


def activation_scale(found: TensorRange, scheme: Scheme, kind: str) -> Array:
    """Return the scale of an activation in ``int8`` or ``fp8``, float32 []: the largest number is the largest step."""
    return scale_as(np.asarray(found.magnitude / _LARGEST[scheme]), kind)


def to_fp8(values: Array) -> Array:
    """Return numbers as E4M3 holds them: nearest, ties to even, at most 448 (Micikevicius et al., arXiv:2209.05433)."""
    clipped = np.clip(np.asarray(values, np.float32), -FP8_LARGEST, FP8_LARGEST)
    return np.asarray(clipped.astype(ml_dtypes.float8_e4m3fn))


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Weights on a grid. ``values``: int8, int4 or E4M3, of the weights' shape.

    ``scales``: float32. With ``block`` every so many values along ``axis`` have one; without it every index along
    ``axis``, or all where that is None.
    """

    values: Array
    scales: Array
    axis: int | None
    block: int | None = None

    def numbers(self) -> Array:
        """Return what DequantizeLinear makes of them, in float32."""
        scales = self.scales
        if self.block is not None:
            assert self.axis is not None
            scales = np.repeat(scales, self.block, axis=self.axis)
        elif self.axis is not None:
            scales = _along(scales, self.values.ndim, self.axis)
        return np.asarray(self.values.astype(np.float32) * scales, np.float32)


def stored(carrier: Carrier, weight: Array, scheme: Scheme, kind: str) -> Stored:
    """Return weights of a layer as they are stored in a scheme.

    Args:
        carrier: the layer.
        weight: its weights, or others in their place, as the node has them.
        scheme: what it gets.
        kind: of the floats around, and so of the scales.
    """
    if scheme == "int4-weights":
        return _blocks(carrier, weight, kind)
    axis = _scaled_axis(carrier)
    if scheme == "fp8":
        scales = scale_as(weight_scales(weight, axis) * np.float32(INT8_LARGEST / FP8_LARGEST), kind)
        return Stored(values=to_fp8(weight / _along(scales, weight.ndim, axis)), scales=scales, axis=axis)
    scales = scale_as(weight_scales(weight, axis), kind)
    return Stored(values=quantise(weight, scales, axis), scales=scales, axis=axis)


def _blocks(carrier: Carrier, weight: Array, kind: str) -> Stored:
    size, axis = carrier.block, carrier.input_axis
    assert size is not None
    scales = scale_as(quantise_blocks(weight, axis, size, least_squares=True).scales, kind)
    spread = np.repeat(scales.astype(np.float64), size, axis=axis)
    values = np.clip(np.rint(weight.astype(np.float64) / spread), -INT4_LARGEST, INT4_LARGEST)
    return Stored(values=values.astype(ml_dtypes.int4), scales=scales, axis=axis, block=size)


def _scaled_axis(carrier: Carrier) -> int | None:
    """Return the axis with a scale each: none for stacked matrices, and for a ConvTranspose in groups."""
    stacked = carrier.node.op_type in {"Gemm", "MatMul"} and carrier.array.ndim != 2
    grouped = carrier.node.op_type == "ConvTranspose" and carrier.groups > 1
    return None if stacked or grouped else carrier.output_axis


def _along(scales: Array, rank: int, axis: int | None) -> Array:
    return scales if axis is None else scales.reshape([-1 if index == axis % rank else 1 for index in range(rank)])
