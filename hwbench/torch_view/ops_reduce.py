"""Rules of reductions, of what runs along an axis, and of softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from hwbench.torch_view.site import Function, Rules, Site

RULES = Rules()
Tensor = torch.Tensor
_Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keepdim=keep)
    return torch.mean(x.double(), axes, keepdim=keep).to(x.dtype)


def _extreme(of: Callable[..., Tensor], empty: Callable[[torch.dtype], float]) -> _Reduction:
    def reduce(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if x.numel():
            return of(x, axes, keepdim=keep)
        shape = torch.sum(x, axes, keepdim=keep).shape
        return x.new_full(shape, empty(x.dtype))

    return reduce


def _lowest(dtype: torch.dtype) -> float:
    return -math.inf if dtype.is_floating_point else 0 if dtype == torch.bool else torch.iinfo(dtype).min


def _highest(dtype: torch.dtype) -> float:
    return math.inf if dtype.is_floating_point else 1 if dtype == torch.bool else torch.iinfo(dtype).max


def _log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.log(torch.sum(x, axes, keepdim=keep))


_REDUCTIONS: dict[str, _Reduction] = {
    "ReduceSum": lambda x, axes, keep: torch.sum(x, axes, keepdim=keep, dtype=x.dtype),
    "ReduceMean": _mean,
    "ReduceMax": _extreme(torch.amax, _lowest),
    "ReduceMin": _extreme(torch.amin, _highest),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: torch.sum(torch.abs(x), axes, keepdim=keep, dtype=x.dtype),
    "ReduceL2": lambda x, axes, keep: torch.sqrt(torch.sum(x * x, axes, keepdim=keep)),
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
    "ReduceSumSquare": lambda x, axes, keep: torch.sum(x * x, axes, keepdim=keep, dtype=x.dtype),
}


@RULES.on(*_REDUCTIONS)
def _reduce(site: Site) -> Function:
    axes = site.ints_of(1, "axes")
    keep = bool(site.integer("keepdims", 1))
    if not axes and site.integer("noop_with_empty_axes", 0):
        return _NOTHING_REDUCED.get(site.node.op_type, torch.clone)
    rank = site.rank()
    over = [axis % rank for axis in axes] if axes else list(range(rank))
    reduction = _REDUCTIONS[site.node.op_type]
    return lambda x: reduction(x, over, keep)


_NOTHING_REDUCED: dict[str, Function] = {
    "ReduceL1": torch.abs,
    "ReduceL2": torch.abs,
    "ReduceLogSum": torch.log,
    "ReduceSumSquare": torch.square,
}


@RULES.on("ArgMax", "ArgMin")
def _arg(site: Site) -> Function:
    axis, keep = site.axis("axis", 0), bool(site.integer("keepdims", 1))
    last = site.shape()[axis] - 1 if site.integer("select_last_index", 0) else None
    of = torch.argmax if site.node.op_type == "ArgMax" else torch.argmin
    if last is None:
        return lambda x: of(x, axis, keepdim=keep)
    return lambda x: last - of(torch.flip(x, [axis]), axis, keepdim=keep)


@RULES.on("CumSum")
def _cumulative_sum(site: Site) -> Function:
    axis = (site.ints(1) or [0])[0] % site.rank()
    size = site.shape()[axis]
    exclusive, reverse = site.integer("exclusive", 0), site.integer("reverse", 0)

    def cumulate(x: Tensor) -> Tensor:
        x = torch.flip(x, [axis]) if reverse else x
        sums = torch.cumsum(x, axis, dtype=x.dtype)
        if exclusive:
            sums = torch.cat((torch.zeros_like(x.narrow(axis, 0, 1)), sums.narrow(axis, 0, size - 1)), axis)
        return torch.flip(sums, [axis]) if reverse else sums

    return cumulate


def _hard_max(x: Tensor, axis: int) -> Tensor:
    return F.one_hot(torch.argmax(x, axis), x.shape[axis]).movedim(-1, axis).to(x.dtype)


_SOFTMAX: dict[str, Function] = {"Softmax": torch.softmax, "LogSoftmax": torch.log_softmax, "Hardmax": _hard_max}


@RULES.on(*_SOFTMAX)
def _softmax(site: Site) -> Function:
    """Before opset 13 the axes from ``axis`` on count as one."""
    of = _SOFTMAX[site.node.op_type]
    if site.opset >= 13:
        axis = site.axis("axis", -1)
        return lambda x: of(x, axis)
    axis, shape = site.axis("axis", 1), site.shape()
    rows = math.prod(shape[:axis])
    return lambda x: of(x.reshape(rows, -1), 1).reshape(shape)
