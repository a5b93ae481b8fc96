"""Soft pruning: which channels go is chosen again after every epoch, and those that went may come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hwbench.train.hooks import Hook
from hwbench.train.unit_groups import UnitGroup
from hwbench.train.units import Units


class SoftPruning(Hook):
    """Soft filter pruning (He et al. 2018, arXiv:1808.06866).

    After every epoch the units with the smallest norms are set to zero, and go on being trained, so that a unit that
    is worth more than another comes back. From the fraction ``1 - settle`` of the training on, the choice is final:
    the chosen units, with their biases and norms, are held at zero, and the rest adapts to it.

    Args:
        view: the view.
        groups: units that go together.
        amount: the fraction of each group that goes, rounded down; at least one unit stays.
        norm: 1 or 2.
        settle: the last part of the training, 0..1; with 0 the choice becomes final after the last step.
    """

    def __init__(
        self, view: torch.nn.Module, groups: Sequence[UnitGroup], amount: float, *, norm: int = 2, settle: float = 0.5
    ) -> None:
        self.units = [Units(view, group) for group in groups]
        self.amount, self.norm, self.settle = amount, norm, settle
        self.keep = [torch.ones(units.group.size) for units in self.units]
        self.final = False

    @property
    def ready(self) -> bool:
        return self.final

    def after_step(self, fraction: float) -> None:
        if not self.final and fraction >= 1 - self.settle:
            self.final = True
            self._choose()
        if self.final:
            self._zero(rest=True)

    def before_step(self) -> None:
        """Let units that were set to zero grow no faster than the others.

        Behind a zero unit BatchNormalization divides by the root of its epsilon alone, so its gradient is hundreds of
        times what it should be; it would come back larger than all others in one step.
        """
        for units, keep in zip(self.units, self.keep, strict=True):
            zero = keep.to(units.device) == 0
            if not self.final and bool(zero.any()):
                norms = units.gradient_norms()
                most = norms[~zero].median() / norms.clamp_min(torch.finfo(norms.dtype).tiny)
                units.scale_gradients(torch.where(zero, most.clamp_max(1), 1.0))

    def after_epoch(self, epoch: int, epochs: int) -> None:
        if not self.final:
            self._choose()
            self._zero(rest=False)

    def removed(self) -> dict[str, list[int]]:
        """Return the units that are zero now, by the name of their group."""
        pairs = zip(self.units, self.keep, strict=True)
        return {units.group.name: torch.nonzero(keep == 0).flatten().tolist() for units, keep in pairs}

    def told(self) -> str:
        return f"{[units.group.name for units in self.units]} {self.amount} {self.norm} {self.settle}"

    def state(self) -> dict[str, Any]:
        return {"keep": self.keep, "final": self.final}

    def restore(self, state: dict[str, Any]) -> None:
        self.keep, self.final = list(state["keep"]), state["final"]

    def _choose(self) -> None:
        for index, units in enumerate(self.units):
            count = min(int(self.amount * units.group.size + 1e-9), units.group.size - 1)
            keep = torch.ones(units.group.size)
            keep[torch.argsort(units.norms(self.norm).cpu(), stable=True)[:count]] = 0
            self.keep[index] = keep

    def _zero(self, *, rest: bool) -> None:
        for units, keep in zip(self.units, self.keep, strict=True):
            units.scale(keep.to(units.device), rest=rest)
