"""Penalties that make exact zeros: a step of the optimizer, then the penalty's proximal map.

A subgradient only comes near zero; the proximal map (Parikh & Boyd 2014, Proximal Algorithms, 6.5) reaches it. Its
threshold is ``strength`` times how far a steady gradient of one moves a weight in a step (:attr:`Hook.rate`), so that
with SGD the point of rest is that of loss + strength x norm. With AdamW, whose steps have no such size, strength is
a matter of trying.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from hwbench.train.hooks import Hook
from hwbench.train.parameters import by_initializer
from hwbench.train.unit_groups import UnitGroup
from hwbench.train.units import Units


class Proximal(Hook):
    """Base of the two: how far the penalty has been able to move a weight so far.

    Only the end of the training can be its end: loss alone, without the penalty, was lower before.
    """

    def __init__(self, strength: float) -> None:
        self.strength, self.reach, self.done = strength, 0.0, 0.0

    @property
    def ready(self) -> bool:
        return self.done >= 1

    def after_step(self, fraction: float) -> None:
        self.done = fraction
        self.reach += self.strength * self.rate
        self.shrink(self.strength * self.rate)

    def shrink(self, threshold: float) -> None:
        """Apply the proximal map."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        return {"reach": self.reach, "done": self.done}

    def restore(self, state: dict[str, Any]) -> None:
        self.reach, self.done = state["reach"], state["done"]


class L1(Proximal):
    """strength x sum of |w| over some initialisers: weights, or scales of BatchNormalization (arXiv:1708.06519)."""

    def __init__(self, view: torch.nn.Module, names: Collection[str], strength: float) -> None:
        super().__init__(strength)
        tensors = by_initializer(view)
        self._tensors = [tensors[name] for name in names]
        self._told = f"{list(names)} {strength}"

    def told(self) -> str:
        return self._told

    def shrink(self, threshold: float) -> None:
        for tensor in self._tensors:
            values = tensor.detach()
            values.copy_(torch.sign(values) * (values.abs() - threshold).clamp_min(0))


class GroupLasso(Proximal):
    """strength x sum over units of sqrt(weights of a unit) x ||weights of the unit|| (SSL, arXiv:1608.03665).

    The square root (Yuan & Lin 2006) makes units of different sizes comparable; the paper leaves it out. A unit
    shrinks by ``1 - threshold / ||w||``, and is zero where that is negative.
    """

    def __init__(self, view: torch.nn.Module, groups: Sequence[UnitGroup], strength: float) -> None:
        super().__init__(strength)
        self.units = [Units(view, group) for group in groups]

    def told(self) -> str:
        return f"{[units.group.name for units in self.units]} {self.strength}"

    def shrink(self, threshold: float) -> None:
        for units in self.units:
            norms = units.norms()
            distance = threshold * units.numbers**0.5
            units.scale((1 - distance / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_min(0), rest=False)
