"""Rules of pools."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from hwbench.torch_view.ops_convolution import around, window_pads
from hwbench.torch_view.site import Function, Rules, Site

RULES = Rules()
Tensor = torch.Tensor

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class _Window:
    """A pool's window; ``extra``: what must be added behind the padding so that rounding down gives the ceiling."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begin: list[int]
    end: list[int]
    extra: list[int]

    @property
    def even(self) -> bool:
        """Say whether torch can pad by itself: alike at both ends, by half a window at most."""
        halves = all(2 * pad <= size for pad, size in zip(self.begin, self.kernel, strict=True))
        return self.begin == self.end and not any(self.extra) and halves

    @property
    def pads(self) -> list[int]:
        """All padding, as torch's pad takes it."""
        return around(self.begin, [end + more for end, more in zip(self.end, self.extra, strict=True)])


def _window(site: Site) -> _Window:
    kernel = site.integers("kernel_shape") or []
    axes = len(kernel)
    if axes not in _MAX:
        site.refuse(f"torch pools over 1 to 3 axes, this has {axes}")
    strides = site.integers("strides") or [1] * axes
    dilations = site.integers("dilations") or [1] * axes
    sizes = site.shape()[2:]
    begin, end = window_pads(site, sizes, kernel, strides, dilations)
    extra = [0] * axes
    if site.integer("ceil_mode", 0):
        for axis, size in enumerate(sizes):
            padded, window = size + begin[axis] + end[axis], (kernel[axis] - 1) * dilations[axis] + 1
            last = math.ceil((padded - window) / strides[axis])
            if last * strides[axis] >= size + begin[axis]:
                last -= 1  # a window must not begin in the padding behind
            extra[axis] = max(0, last * strides[axis] + window - padded)
    return _Window(kernel, strides, dilations, begin, end, extra)


@RULES.on("MaxPool")
def _max_pool(site: Site) -> Function:
    window, shape = _window(site), site.shape()
    if site.wants(1):
        return _max_pool_with_indices(site, window)
    dtype, pool = site.like().dtype, _MAX[len(window.kernel)]
    lowest = -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min

    def max_pool(x: Tensor) -> Tensor:
        x = x if dtype.is_floating_point else x.float()  # torch pools floats; bytes are exact in them
        if window.even:
            return pool(x, window.kernel, window.strides, window.begin, window.dilations).to(dtype)
        padded = F.pad(x, window.pads, value=lowest)
        return pool(padded, window.kernel, window.strides, 0, window.dilations).to(dtype)

    if not dtype.is_floating_point and dtype not in {torch.int8, torch.uint8}:
        site.refuse(f"torch does not pool {dtype} of {shape}")
    return max_pool


def _max_pool_with_indices(site: Site, window: _Window) -> Function:
    """Indices count over the whole tensor, and with ``storage_order`` 1 the spatial axes are turned round."""
    if not window.even:
        site.refuse("indices of a pool that pads unevenly")
    shape = site.shape()
    planes, spatial = shape[0] * shape[1], shape[2:]
    pool, turned = _MAX[len(spatial)], site.integer("storage_order", 0)

    def max_pool(x: Tensor) -> Any:
        values, places = pool(x, window.kernel, window.strides, window.begin, window.dilations, return_indices=True)
        if turned:
            rest, turned_places, stride = places, torch.zeros_like(places), math.prod(spatial)
            for size in reversed(spatial):
                stride //= size
                turned_places = turned_places + rest % size * stride
                rest = rest // size
            places = turned_places
        plane = torch.arange(planes, device=x.device).reshape(shape[0], shape[1], *[1] * len(spatial))
        return values, places + plane * math.prod(spatial)

    return max_pool


def _window_sums(x: Tensor, window: _Window, value: float = 0.0) -> Tensor:
    """Return the sum over each window, by a convolution with ones of each channel by itself."""
    axes = len(window.kernel)
    padded = F.pad(x, window.pads, value=value)
    planes = padded.reshape(-1, 1, *padded.shape[2:])
    ones = torch.ones(1, 1, *window.kernel, dtype=x.dtype, device=x.device)
    sums = _CONV[axes](planes, ones, None, window.strides, 0, window.dilations)
    return sums.reshape(*x.shape[:2], *sums.shape[2:])


@RULES.on("AveragePool")
def _average_pool(site: Site) -> Function:
    window = _window(site)
    axes = len(window.kernel)
    with_pads = bool(site.integer("count_include_pad", 0))
    if window.even and set(window.dilations) == {1}:
        pool = _AVERAGE[axes]
        return lambda x: pool(x, window.kernel, window.strides, window.begin, False, with_pads)
    inside = torch.ones(1, 1, *site.shape()[2:])
    if with_pads:  # what rounding up adds is not counted
        counted = _Window(window.kernel, window.strides, window.dilations, [0] * axes, [0] * axes, window.extra)
        counts = _window_sums(F.pad(inside, around(window.begin, window.end), value=1.0), counted)
    else:
        counts = _window_sums(inside, window)
    return lambda x: _window_sums(x, window) / counts.to(x)


@RULES.on("LpPool")
def _lp_pool(site: Site) -> Function:
    window, power = _window(site), site.integer("p", 2)
    return lambda x: torch.pow(_window_sums(torch.pow(torch.abs(x), power), window), 1 / power)


@RULES.on("GlobalAveragePool")
def _global_average(site: Site) -> Function:
    axes = list(range(2, site.rank()))
    return lambda x: torch.mean(x, axes, keepdim=True)


@RULES.on("GlobalMaxPool")
def _global_max(site: Site) -> Function:
    axes = list(range(2, site.rank()))
    return lambda x: torch.amax(x, axes, keepdim=True)


@RULES.on("GlobalLpPool")
def _global_lp(site: Site) -> Function:
    axes, power = list(range(2, site.rank())), site.integer("p", 2)
    return lambda x: torch.pow(torch.sum(torch.pow(torch.abs(x), power), axes, keepdim=True), 1 / power)
