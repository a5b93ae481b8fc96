"""Rules of quantisers, for hubs that came in quantised."""

from __future__ import annotations

import torch

from hwbench.torch_view.site import Function, Rules, Site

RULES = Rules()
Tensor = torch.Tensor


def _along(values: Tensor, axis: int, rank: int) -> Tensor:
    """Shape one value a slice of ``axis`` so that it broadcasts."""
    if values.dim() != 1 or values.numel() == 1:
        return values.reshape(())
    return values.reshape([-1 if place == axis else 1 for place in range(rank)])


def _axis(site: Site) -> int:
    if site.integer("block_size", 0):
        site.refuse("quantisation in blocks")
    return site.axis("axis", 1) if site.rank() else 0


@RULES.on("QuantizeLinear")
def _quantize(site: Site) -> Function:
    axis, rank = _axis(site), site.rank()
    dtype = site.like(2).dtype if site.has(2) else site.dtype("output_dtype", torch.uint8)
    if dtype.is_floating_point:
        site.refuse(f"quantisation to {dtype}")
    limits = torch.iinfo(dtype)

    def quantize(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        levels = torch.round(x / _along(scale, axis, rank).to(x.dtype))
        if zero is not None:
            levels = levels + _along(zero, axis, rank)
        return torch.clamp(levels, limits.min, limits.max).to(dtype)

    return quantize


@RULES.on("DequantizeLinear")
def _dequantize(site: Site) -> Function:
    axis, rank = _axis(site), site.rank()
    if site.like().is_floating_point():
        site.refuse(f"dequantisation of {site.like().dtype}")

    def dequantize(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        levels = x.to(torch.int32)
        if zero is not None:
            levels = levels - _along(zero.to(torch.int32), axis, rank)
        return levels.to(scale.dtype) * _along(scale, axis, rank)

    return dequantize


@RULES.on("DynamicQuantizeLinear")
def _dynamic_quantize(site: Site) -> Function:
    def quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        nought = x.new_zeros(())
        low, high = torch.minimum(torch.amin(x), nought), torch.maximum(torch.amax(x), nought)
        scale = (high - low) / 255
        zero = torch.clamp(torch.round(-low / scale), 0, 255)
        return torch.clamp(torch.round(x / scale) + zero, 0, 255).to(torch.uint8), scale, zero.to(torch.uint8)

    if not site.like().numel():
        site.refuse("there is nothing to quantise")
    return quantize
