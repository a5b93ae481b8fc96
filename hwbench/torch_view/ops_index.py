"""Rules of operators that pick elements by index or write to them."""

from __future__ import annotations

from typing import Any

import torch

from hwbench.torch_view.site import Function, Rules, Site

RULES = Rules()
Tensor = torch.Tensor


def _from_front(indices: Tensor, size: int) -> Tensor:
    """Return int64 indices counted from the front."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


@RULES.on("Gather")
def _gather(site: Site) -> Function:
    axis = site.axis("axis", 0)
    size = site.shape()[axis]
    if site.is_constant(1):
        places = _from_front(site.values(1), size)
        if places.dim() == 0:
            place = int(places)
            return lambda x: torch.select(x, axis, place)
        shape = (*site.shape()[:axis], *places.shape, *site.shape()[axis + 1 :])
        flat = places.reshape(-1)
        return lambda x: torch.index_select(x, axis, flat.to(x.device)).reshape(shape)
    before: list[Any] = [slice(None)] * axis

    def gather(x: Tensor, indices: Tensor) -> Tensor:
        where = (*before, indices.to(torch.int64))
        return x[where]  # torch counts negative indices from the back too

    return gather


@RULES.on("GatherElements")
def _gather_elements(site: Site) -> Function:
    axis = site.axis("axis", 0)
    size = site.shape()[axis]
    return lambda x, indices: torch.gather(x, axis, _from_front(indices, size))


@RULES.on("GatherND")
def _gather_nd(site: Site) -> Function:
    batch_axes = site.integer("batch_dims", 0)
    batch = site.shape()[:batch_axes]

    def gather(x: Tensor, indices: Tensor) -> Tensor:
        parts = indices.to(torch.int64).unbind(-1)
        if not batch_axes:
            return x[tuple(parts)]
        spare = indices.dim() - 1 - batch_axes
        grid = [
            torch.arange(size, device=x.device).reshape((-1,) + (1,) * (batch_axes - 1 - axis + spare))
            for axis, size in enumerate(batch)
        ]
        where = (*grid, *parts)
        return x[where]

    return gather


@RULES.on("ScatterElements", "Scatter")
def _scatter_elements(site: Site) -> Function:
    axis = site.axis("axis", 0)
    size = site.shape()[axis]
    how = _REDUCTIONS[site.text("reduction", "none")]

    def scatter(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = _from_front(indices, size)
        if how is None:
            return torch.scatter(x, axis, places, updates)
        return torch.scatter_reduce(x, axis, places, updates, how, include_self=True)

    return scatter


_REDUCTIONS = {"none": None, "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@RULES.on("ScatterND")
def _scatter_nd(site: Site) -> Function:
    how = _REDUCTIONS[site.text("reduction", "none")]
    shape = site.shape()
    depth = site.shape(1)[-1]
    rows = 1
    for size in shape[:depth]:
        rows *= size
    strides = [1] * depth
    for axis in reversed(range(depth - 1)):
        strides[axis] = strides[axis + 1] * shape[axis + 1]

    def scatter(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        parts = [_from_front(part, size) for part, size in zip(indices.unbind(-1), shape, strict=False)]
        row = sum(part * stride for part, stride in zip(parts, strides, strict=True))
        places = torch.as_tensor(row).reshape(-1, 1)
        flat = x.reshape(rows, -1)
        values = updates.reshape(places.shape[0], -1)
        places = places.expand(values.shape)
        if how is None:
            return torch.scatter(flat, 0, places, values).reshape(shape)
        return torch.scatter_reduce(flat, 0, places, values, how, include_self=True).reshape(shape)

    return scatter


@RULES.on("OneHot")
def _one_hot(site: Site) -> Function:
    depth = int((site.floats(1) or [0])[0])
    rank = site.rank() + 1
    axis = site.integer("axis", -1) % rank

    def one_hot(indices: Tensor, values: Tensor) -> Tensor:
        places = torch.remainder(indices.to(torch.int64), depth)
        inside = (indices >= -depth) & (indices < depth)
        levels = torch.arange(depth, device=indices.device)
        hot = (places.unsqueeze(-1) == levels) & inside.unsqueeze(-1)
        return torch.where(torch.movedim(hot, -1, axis), values[1], values[0])

    return one_hot


@RULES.on("TopK")
def _top_k(site: Site) -> Function:
    count = (site.ints_of(1, "k") or [1])[0]
    axis = site.axis("axis", -1)
    largest, ordered = bool(site.integer("largest", 1)), bool(site.integer("sorted", 1))

    def top(x: Tensor) -> Any:
        if ordered:  # of equals the first: topk does not promise that
            values, indices = torch.sort(x, dim=axis, descending=largest, stable=True)
            return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)
        return tuple(torch.topk(x, count, axis, largest=largest, sorted=False))

    return top


@RULES.on("ReverseSequence")
def _reverse_sequence(site: Site) -> Function:
    batch_axis, time_axis = site.integer("batch_axis", 1), site.integer("time_axis", 0)
    steps = site.shape()[time_axis]
    spread = [1] * site.rank()
    spread[batch_axis], spread[time_axis] = site.shape()[batch_axis], steps

    def reverse(x: Tensor, lengths: Tensor) -> Tensor:
        time = torch.arange(steps, device=x.device)
        ends = lengths.to(torch.int64).unsqueeze(1)
        places = torch.where(time < ends, ends - 1 - time, time)  # batch x time
        places = places if batch_axis < time_axis else places.T
        return torch.gather(x, time_axis, places.reshape(spread).expand(x.shape))

    return reverse
