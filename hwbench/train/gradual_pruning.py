"""Gradual pruning: weights go one after the other while the rest is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch

from hwbench.train.hooks import Hook
from hwbench.train.parameters import by_initializer

Tensor = torch.Tensor
Array = np.ndarray[Any, np.dtype[Any]]
Keep = Callable[[Array, float], Array]  # magnitudes, the fraction to go -> what stays


class GradualPruning(Hook):
    """Magnitude pruning along a cubic schedule (Zhu & Gupta 2017, arXiv:1710.01878).

    The fraction of zeros is ``amount x (1 - (1 - t)^3)``, where t goes from 0 at ``begin`` to 1 at ``end`` (fractions
    of the training); with ``block`` = (N, M) at most N of M neighbours along the inputs stay in the end, and M minus
    the schedule's share of M - N, rounded, before. What is zero stays zero. The masks are made anew ``updates`` times
    between begin and end, evenly.

    Args:
        view: the view.
        weights: by initialiser, the axis that counts its inputs.
        amount: the fraction to go; not read with ``block``.
        scope: whether that fraction is one of each weight, or of all of them together, the smallest going first.
        block: (N, M).
        keep: by initialiser, who says instead what stays; not with ``block`` or scope global.
    """

    def __init__(
        self,
        view: torch.nn.Module,
        weights: Mapping[str, int],
        amount: float,
        *,
        begin: float = 0.0,
        end: float = 0.7,
        updates: int = 50,
        scope: Literal["layer", "global"] = "layer",
        block: tuple[int, int] | None = None,
        keep: Mapping[str, Keep] | None = None,
    ) -> None:
        tensors = by_initializer(view)
        self._told = f"{dict(weights)} {(amount, begin, end, updates, scope, block)}"
        self._keep = None if keep is None else [keep[name] for name in weights]
        self._weights = [(tensors[name], axis) for name, axis in weights.items()]
        self.amount, self.begin, self.end = amount, begin, end
        self.updates, self.scope, self.block = updates, scope, block
        self.masks = [torch.ones_like(tensor, dtype=torch.bool) for tensor, _ in self._weights]
        self.made = -1  # updates so far, less one

    def share(self, fraction: float) -> float:
        """Return how much of the final amount is to be gone by now, 0..1."""
        if fraction >= self.end:
            return 1.0
        return 1 - (1 - self._passed(fraction)) ** 3

    @property
    def ready(self) -> bool:
        return self.made >= self.updates

    def start(self, view: torch.nn.Module) -> None:
        self.masks = [tensor.detach() != 0 for tensor, _ in self._weights]

    def before_step(self) -> None:
        for (tensor, _), mask in zip(self._weights, self.masks, strict=True):
            if tensor.grad is not None:
                tensor.grad.mul_(mask)

    def after_step(self, fraction: float) -> None:
        due = self.updates if fraction >= self.end else int(self._passed(fraction) * self.updates)
        if due > self.made and fraction >= self.begin:
            self.made = due
            self._choose(self.share(fraction))
        for (tensor, _), mask in zip(self._weights, self.masks, strict=True):
            tensor.detach().mul_(mask)

    def told(self) -> str:
        return self._told

    def state(self) -> dict[str, Any]:
        return {"masks": self.masks, "made": self.made}

    def restore(self, state: dict[str, Any]) -> None:
        self.made = state["made"]
        self.masks = [mask.to(tensor.device) for mask, (tensor, _) in zip(state["masks"], self._weights, strict=True)]

    def _passed(self, fraction: float) -> float:
        return max(0.0, fraction - self.begin) / (self.end - self.begin)

    def _choose(self, share: float) -> None:
        values = [tensor.detach().abs() * mask for (tensor, _), mask in zip(self._weights, self.masks, strict=True)]
        if self.block is not None:
            kept, of = self.block
            gone = round(share * (of - kept))
            chosen = [
                largest_of_neighbours(value, axis, of - gone, of)
                for value, (_, axis) in zip(values, self._weights, strict=True)
            ]
        elif self._keep is not None:
            chosen = [_told(keep, value, share * self.amount) for keep, value in zip(self._keep, values, strict=True)]
        elif self.scope == "layer":
            chosen = [largest([value], share * self.amount)[0] for value in values]
        else:
            chosen = largest(values, share * self.amount)
        self.masks = [old & new for old, new in zip(self.masks, chosen, strict=True)]


def _told(keep: Keep, values: Tensor, gone: float) -> Tensor:
    found = np.ascontiguousarray(keep(values.float().cpu().numpy(), gone), dtype=bool)
    return torch.from_numpy(found).to(values.device)


def largest(values: list[Tensor], gone: float) -> list[Tensor]:
    """Return masks that are False for the fraction ``gone`` (rounded) of smallest values, of all together."""
    together = torch.cat([value.flatten() for value in values])
    mask = torch.ones_like(together, dtype=torch.bool)
    mask[torch.argsort(together, stable=True)[: round(gone * together.numel())]] = False
    parts = mask.split([value.numel() for value in values])
    return [part.reshape(value.shape) for part, value in zip(parts, values, strict=True)]


def largest_of_neighbours(values: Tensor, axis: int, kept: int, of: int) -> Tensor:
    """Return a mask that is True for the ``kept`` largest of every ``of`` neighbours along ``axis``.

    Values are not negative. Those that do not fill a last group obey the rule as if smaller ones followed.
    """
    last = values.movedim(axis, -1)
    size = last.shape[-1]
    last = torch.nn.functional.pad(last, (0, -size % of), value=-1.0)
    blocks = last.reshape(*last.shape[:-1], -1, of)
    mask = torch.zeros_like(blocks, dtype=torch.bool)
    mask.scatter_(-1, torch.argsort(blocks, dim=-1, descending=True, stable=True)[..., :kept], True)
    return mask.reshape(last.shape)[..., :size].movedim(-1, axis)
