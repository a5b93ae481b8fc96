"""Rules of resizing: along each axis by itself, an output element is a weighted sum of input elements.

The weights are worked out when the view is built, after the formulas of ONNX's Resize. What torch's own interpolation
computes too is left to it, since runtimes know that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from hwbench.torch_view.site import Function, Rules, Site

RULES = Rules()
Tensor = torch.Tensor
Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class _Axis:
    """One axis that changes; ``start`` and ``end`` of the region of interest, as shares."""

    place: int
    before: int
    after: int
    scale: float
    start: float
    end: float


@RULES.on("Resize", "Upsample")
def _resize(site: Site) -> Function:
    axes = _axes(site)
    if not axes:
        return torch.clone
    own = _own_of_torch(site, axes)
    if own is not None:
        return own
    if site.text("mode", "nearest") == "nearest":
        return _nearest(site, axes)
    tables = [(axis.place, torch.from_numpy(_weights(site, axis))) for axis in axes]
    beyond = _beyond(site, axes)

    def resize(x: Tensor) -> Tensor:
        result = x if x.is_floating_point() else x.float()
        for place, weights in tables:
            moved = torch.movedim(result, place, -1)
            result = torch.movedim(torch.matmul(moved, weights.to(result).T), -1, place)
        return _filled(result, *beyond).to(x.dtype)

    return resize


def _beyond(site: Site, axes: list[_Axis]) -> tuple[list[Tensor], float]:
    """Return masks of the output that lies outside the input, each so that it broadcasts, and what to put there."""
    masks = []
    for axis in axes if _coordinates(site) == "tf_crop_and_resize" else ():
        places = _places(site, axis)
        outside = torch.from_numpy((places < 0) | (places > axis.before - 1))
        if outside.any():
            masks.append(outside.reshape([-1 if place == axis.place else 1 for place in range(site.rank())]))
    return masks, site.number("extrapolation_value", 0.0)


def _filled(x: Tensor, masks: list[Tensor], value: float) -> Tensor:
    for mask in masks:
        x = torch.where(mask.to(x.device), torch.full_like(x, value), x)
    return x


@RULES.on("GridSample")
def _grid_sample(site: Site) -> Function:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(found := site.text("mode", "linear"), found)
    padding, corners = site.text("padding_mode", "zeros"), bool(site.integer("align_corners", 0))
    return lambda x, grid: F.grid_sample(x, grid, mode, padding, corners)


def _axes(site: Site) -> list[_Axis]:
    rank, shape = site.rank(), site.shape()
    newer = site.opset > 10 and site.node.op_type == "Resize"
    roi = site.floats(1) if newer else None
    scales = site.floats(2) if newer else [float(v) for v in site.attribute("scales") or site.floats(1) or []]
    sizes = site.ints(3) if newer else None
    places = [axis % rank for axis in site.integers("axes") or range(rank)]
    if sizes:
        factors, after = _from_sizes(site, sizes, places)
    else:
        factors = scales or [1.0] * len(places)
        after = [math.floor(shape[place] * factor) for place, factor in zip(places, factors, strict=True)]
    regions = roi or [0.0] * len(places) + [1.0] * len(places)
    crops = site.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    made = [
        _Axis(place, shape[place], size, factor, start, end)
        for place, size, factor, start, end in zip(
            places, after, factors, regions[: len(places)], regions[len(places) :], strict=True
        )
    ]
    return [axis for axis in made if axis.after != axis.before or axis.scale != 1 or crops]


def _from_sizes(site: Site, sizes: list[int], places: list[int]) -> tuple[list[float], list[int]]:
    shape = site.shape()
    factors = [size / shape[place] for size, place in zip(sizes, places, strict=True)]
    policy = site.text("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return factors, sizes
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [factor] * len(places), [math.floor(shape[place] * factor + 0.5) for place in places]


def _own_of_torch(site: Site, axes: list[_Axis]) -> Function | None:
    """Return torch's interpolation where it is the same: all spatial axes of a batch of images with channels."""
    rank, mode = site.rank(), site.text("mode", "nearest")
    if not site.like().is_floating_point() or any(axis.place < 2 for axis in axes) or site.integer("antialias", 0):
        return None
    size = list(site.shape()[2:])
    for axis in axes:
        size[axis.place - 2] = axis.after
    whole = all(axis.after % axis.before == 0 and axis.scale == axis.after // axis.before for axis in axes)
    how = _coordinates(site)
    if mode == "nearest" and rank in {3, 4, 5} and whole and _is_floor(site, how):
        return lambda x: F.interpolate(x, size=size, mode="nearest")
    exact = all(axis.scale == axis.after / axis.before for axis in axes)
    if mode == "linear" and rank == 4 and exact:
        if how == "align_corners" and min(axis.after for axis in axes) > 1:
            return lambda x: F.interpolate(x, size=size, mode="bilinear", align_corners=True)
        if how == "half_pixel" or (how == "pytorch_half_pixel" and min(axis.after for axis in axes) > 1):
            return lambda x: F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return None


def _is_floor(site: Site, how: str) -> bool:
    """Say whether nearest with whole factors repeats each element."""
    rounding = site.text("nearest_mode", "round_prefer_floor") if site.opset > 10 else "floor"
    return (how == "asymmetric" and rounding == "floor") or (
        how in {"half_pixel", "pytorch_half_pixel"} and rounding in {"round_prefer_floor", "round_prefer_ceil"}
    )


def _coordinates(site: Site) -> str:
    if site.opset < 11 or site.node.op_type == "Upsample":
        return "asymmetric"
    return site.text("coordinate_transformation_mode", "half_pixel")


def _places(site: Site, axis: _Axis) -> Array:
    """Return where in the input each output element lies."""
    how, before = _coordinates(site), axis.before
    index = np.arange(axis.after, dtype=np.float64)
    length = axis.scale * before  # of the output, not rounded
    if how == "tf_crop_and_resize":
        return _cropped(axis, index)
    centred: Array = (index + 0.5) / axis.scale - 0.5
    places: dict[str, Array] = {
        "align_corners": index * (0 if length == 1 else (before - 1) / (length - 1)),
        "asymmetric": index / axis.scale,
        "half_pixel": centred,
        "half_pixel_symmetric": before / 2 * (1 - axis.after / length) + centred,
        "pytorch_half_pixel": centred if axis.after > 1 else index * 0,
    }
    if how not in places:
        site.refuse(f"coordinate_transformation_mode {how}")
    return places[how]


def _cropped(axis: _Axis, index: Array) -> Array:
    """Return the places of ``tf_crop_and_resize``."""
    last = axis.before - 1
    if axis.after == 1:
        return index * 0 + 0.5 * (axis.start + axis.end) * last
    return axis.start * last + index * (axis.end - axis.start) * last / (axis.after - 1)


def _nearest(site: Site, axes: list[_Axis]) -> Function:
    rounding = site.text("nearest_mode", "round_prefer_floor") if site.opset > 10 else "floor"
    picked = {}
    for axis in axes:
        at = _ROUNDED[rounding](_places(site, axis))
        picked[axis.place] = torch.from_numpy(np.clip(at, 0, axis.before - 1).astype(np.int64))
    beyond = _beyond(site, axes)

    def resize(x: Tensor) -> Tensor:
        for place, indices in picked.items():
            x = torch.index_select(x, place, indices.to(x.device))
        return _filled(x, *beyond)

    return resize


_ROUNDED: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _weights(site: Site, axis: _Axis) -> Array:
    """Return output x input weights; beyond the ends the first and last element go on, or count for nothing."""
    kernel, reach = _linear, 1.0
    if site.text("mode", "nearest") == "cubic":
        steepness = site.number("cubic_coeff_a", -0.75)
        kernel, reach = (lambda distance: _cubic(distance, steepness)), 2.0
    shrink = min(axis.scale, 1.0) if site.integer("antialias", 0) else 1.0
    at = _places(site, axis)[:, None]
    margin = math.ceil(reach / shrink) + math.ceil(max(0.0, float(-at.min()), float(at.max()) - axis.before)) + 1
    taps = np.arange(-margin, axis.before + margin)
    weights: Array = kernel((taps[None, :] - at) * shrink)
    inside = slice(margin, margin + axis.before)
    if site.integer("exclude_outside", 0):
        weights = weights[:, inside]
    else:
        held: Array = weights[:, inside].copy()
        held[:, 0] += weights[:, :margin].sum(1)
        held[:, -1] += weights[:, margin + axis.before :].sum(1)
        weights = held
    result: Array = weights / weights.sum(1, keepdims=True)
    return result


def _linear(distance: Array) -> Array:
    nearness: Array = np.clip(1 - np.abs(distance), 0, 1)
    return nearness


def _cubic(distance: Array, a: float) -> Array:
    """Return the weights of cubic convolution (Keys 1981, doi:10.1109/TASSP.1981.1163711)."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
