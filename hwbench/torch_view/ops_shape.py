"""Rules of operators that arrange elements, and of those that make tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from hwbench.torch_view.dtypes import to_torch_tensor
from hwbench.torch_view.site import Function, Rules, Site

RULES = Rules()
Tensor = torch.Tensor


@RULES.on("Constant")
def _constant(site: Site) -> Function:
    for name, attribute in site.node.attributes.items():
        if name == "value":
            tensor = to_torch_tensor(attribute.as_tensor())
        elif name in _VALUES:
            tensor = torch.tensor(attribute.value, dtype=_VALUES[name])
        else:
            continue
        if tensor is not None:
            return lambda: tensor
    return site.refuse("a constant that is no plain tensor of numbers torch computes in")


_VALUES = {
    "value_float": torch.float32,
    "value_floats": torch.float32,
    "value_int": torch.int64,
    "value_ints": torch.int64,
}


@RULES.on("ConstantOfShape")
def _constant_of_shape(site: Site) -> Function:
    shape = site.ints(0) or []
    value = site.node.attributes.get("value")
    fill = torch.zeros(1) if value is None else to_torch_tensor(value.as_tensor())
    if fill is None:
        site.refuse("torch does not compute in its element type")
    return lambda: fill.reshape(()).expand(shape).clone()


@RULES.on("Shape")
def _shape(site: Site) -> Function:
    site.taken.add(0)
    rank = site.rank()
    shape = site.shape()[slice(site.integer("start", 0), site.integer("end", rank))]
    return lambda: torch.tensor(shape, dtype=torch.int64)


@RULES.on("Size")
def _size(site: Site) -> Function:
    site.taken.add(0)
    count = site.like().numel()
    return lambda: torch.tensor(count, dtype=torch.int64)


@RULES.on("Range")
def _range(site: Site) -> Function:
    start, limit, delta = (site.take(index) for index in range(3))
    if start is None or limit is None or delta is None:
        site.refuse("a bound is missing")
    values = torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)
    return lambda: values


@RULES.on("EyeLike")
def _eye_like(site: Site) -> Function:
    site.taken.add(0)
    rows, columns = site.shape()
    values = np.eye(rows, columns, site.integer("k", 0))
    dtype = site.dtype("dtype", site.like().dtype)
    return lambda: torch.from_numpy(values).to(dtype)


@RULES.on("Reshape")
def _reshape(site: Site) -> Function:
    asked = site.ints_of(1, "shape") or []
    here = site.shape()
    if not site.integer("allowzero", 0):
        asked = [here[axis] if size == 0 else size for axis, size in enumerate(asked)]
    return lambda x: torch.reshape(x, asked)


@RULES.on("Flatten")
def _flatten(site: Site) -> Function:
    axis = site.axis("axis", 1)
    rows = int(np.prod(site.shape()[:axis]))
    columns = int(np.prod(site.shape()[axis:]))
    return lambda x: torch.reshape(x, (rows, columns))


@RULES.on("Transpose")
def _transpose(site: Site) -> Function:
    order = site.integers("perm") or list(range(site.rank()))[::-1]
    return lambda x: torch.permute(x, order)


@RULES.on("Squeeze")
def _squeeze(site: Site) -> Function:
    axes = site.ints_of(1, "axes")
    shape = site.shape()
    gone = [axis for axis, size in enumerate(shape) if size == 1] if axes is None else [a % len(shape) for a in axes]
    left = [size for axis, size in enumerate(shape) if axis not in gone]
    return lambda x: torch.reshape(x, left)


@RULES.on("Unsqueeze")
def _unsqueeze(site: Site) -> Function:
    axes = site.ints_of(1, "axes") or []
    rank = site.rank() + len(axes)
    shape = list(site.shape())
    for axis in sorted(axis % rank for axis in axes):
        shape.insert(axis, 1)
    return lambda x: torch.reshape(x, shape)


@RULES.on("Expand")
def _expand(site: Site) -> Function:
    shape = torch.broadcast_shapes(site.shape(), tuple(site.ints(1) or ()))
    return lambda x: x.expand(shape).clone()


@RULES.on("Tile")
def _tile(site: Site) -> Function:
    repeats = site.ints(1) or []
    return lambda x: x.repeat(repeats)


@RULES.on("Concat")
def _concat(site: Site) -> Function:
    axis = site.axis("axis", 1 if site.opset < 4 else 0)
    return lambda *parts: torch.cat(parts, axis)


@RULES.on("Split")
def _split(site: Site) -> Function:
    axis = site.axis("axis", 0)
    sizes = site.ints_of(1, "split")
    if sizes is None:
        count, length = site.integer("num_outputs", len(site.node.outputs)), site.shape()[axis]
        each = -(-length // count)
        sizes = [max(0, min(each, length - each * part)) for part in range(count)]
    return lambda x: torch.split(x, sizes, axis)


@RULES.on("Slice")
def _slice(site: Site) -> Function:
    starts, ends = site.ints_of(1, "starts") or [], site.ints_of(2, "ends") or []
    axes = site.ints_of(3, "axes")
    steps = site.ints(4) or [1] * len(starts)
    cut = [slice(None)] * site.rank()
    backwards = []
    for start, end, axis, step in zip(starts, ends, range(len(starts)) if axes is None else axes, steps, strict=True):
        place = axis % site.rank()
        size = site.shape()[place]
        picked = range(*slice(start, end, step).indices(size))
        if step < 0:
            backwards.append(place)
            picked = range(size - 1 - picked.start, size - 1 - picked.stop, -step)
        cut[place] = slice(picked.start, max(picked.start, picked.stop), picked.step)

    def cut_out(x: Tensor) -> Tensor:
        return (torch.flip(x, backwards) if backwards else x)[tuple(cut)]

    return cut_out


@RULES.on("Pad")
def _pad(site: Site) -> Function:
    pads = site.ints_of(1, "pads") or []
    value = site.number_of(2, "value")
    rank = site.rank()
    axes = [axis % rank for axis in site.ints(3) or range(len(pads) // 2)]
    begin, end = dict.fromkeys(range(rank), 0), dict.fromkeys(range(rank), 0)
    begin.update(zip(axes, pads[: len(axes)], strict=True))
    end.update(zip(axes, pads[len(axes) :], strict=True))
    mode = site.text("mode", "constant")
    if mode == "constant":
        around = [size for axis in reversed(range(rank)) for size in (begin[axis], end[axis])]
        return lambda x: F.pad(x, around, value=value or 0)
    moves = {
        axis: torch.from_numpy(_padded(site.shape()[axis], begin[axis], end[axis], mode))
        for axis in axes
        if begin[axis] or end[axis]
    }

    def pad(x: Tensor) -> Tensor:
        for axis, places in moves.items():
            x = torch.index_select(x, axis, places.to(x.device))
        return x

    return pad


def _padded(size: int, begin: int, end: int, mode: str) -> Any:
    """Return for each place of a padded axis the place that it is copied from; negative pads cut off."""
    places = np.arange(size)[max(0, -begin) : size - max(0, -end)]
    return np.pad(places, (max(0, begin), max(0, end)), mode=mode)  # type: ignore[call-overload]


@RULES.on("DepthToSpace")
def _depth_to_space(site: Site) -> Function:
    block = site.integer("blocksize", 1)
    batch, channels, height, width = site.shape()
    inner = channels // block**2
    first = (batch, block, block, inner, height, width)
    order = (0, 3, 4, 1, 5, 2)
    if site.text("mode", "DCR") == "CRD":
        first, order = (batch, inner, block, block, height, width), (0, 1, 4, 2, 5, 3)
    last = (batch, inner, height * block, width * block)
    return lambda x: x.reshape(first).permute(order).reshape(last)


@RULES.on("SpaceToDepth")
def _space_to_depth(site: Site) -> Function:
    block = site.integer("blocksize", 1)
    batch, channels, height, width = site.shape()
    first = (batch, channels, height // block, block, width // block, block)
    last = (batch, channels * block**2, height // block, width // block)
    order = (0, 3, 5, 1, 2, 4) if site.text("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return lambda x: x.reshape(first).permute(order).reshape(last)


@RULES.on("Trilu")
def _trilu(site: Site) -> Function:
    diagonal = (site.ints(1) or [0])[0]
    triangle = torch.triu if site.integer("upper", 1) else torch.tril
    return lambda x: triangle(x, diagonal)
