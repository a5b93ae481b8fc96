"""From the processes of a contest to how each entrant stands: pure functions of levels.

A heat is a set of processes alive beside each other: the reference twice (the second is the control) and some of the
others; its rounds give each process a level on the log scale, free of what all shared (:mod:`robust`). What an entrant
is to the reference is its level minus the mean of the reference's two; what two entrants are to each other is the
difference of these, whether they sat in one heat or not.

The error is as in :mod:`hwbench.compare.resample`: what differs from one set of processes to the next, seen in the
entrant's own contrasts over restarts and in the control's, which hold nothing else. The standard error is that of a
mean of draws from the pool with random signs, in its closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hwbench.compare import robust, verdict
from hwbench.compare.resample import Estimate
from hwbench.records.base import Missing
from hwbench.records.comparison import Ratio
from hwbench.records.contest import Heat

CONFIDENCE = 0.95
_ACROSS = 1.5  # variance of a contrast of two entrants of different heats, over that of two processes
_REFERENCE = 0.75  # the same for one entrant and the mean of two processes
_FEW = Missing(code="too_few_samples", why="one set of processes says nothing about how they scatter")


class Levels:
    """The heats of a contest after its trial."""

    def __init__(self, reference: str, heats: Sequence[Heat]) -> None:
        self.reference = reference
        self.heats = heats
        self._contrasts: dict[str, dict[int, tuple[int, float]]] = {}
        for number, heat in enumerate(heats):
            middle = (heat.levels[reference] + heat.control) / 2
            for name, level in heat.levels.items():
                value = 0.0 if name == reference else level - middle
                self._contrasts.setdefault(name, {})[heat.restart] = (number, value)
        self._noise = np.array([heat.control - heat.levels[reference] for heat in heats])
        self._known: dict[tuple[str, str], Estimate] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Everyone who took part after the trial."""
        return tuple(self._contrasts)

    def restarts_of(self, name: str) -> int:
        """Return in how many restarts one took part."""
        return len(self._contrasts.get(name, ()))

    def control(self) -> Estimate:
        """Return log(A' / A): 0 on a machine that can tell."""
        return _estimate(self._noise, np.empty(0))

    def against(self, name: str, other: str) -> Estimate:
        """Return log(name / other) over the restarts that both took part in, at least one."""
        if (name, other) not in self._known:
            self._known[name, other] = self._against(name, other)
        return self._known[name, other]

    def _against(self, name: str, other: str) -> Estimate:
        mine, theirs = self._contrasts[name], self._contrasts[other]
        both = sorted(mine.keys() & theirs.keys())
        own = np.array([mine[restart][1] - theirs[restart][1] for restart in both])
        if self.reference in {name, other}:
            scale = _REFERENCE
        else:
            scale = 1.0 if all(mine[restart][0] == theirs[restart][0] for restart in both) else _ACROSS
        return _estimate(own, self._noise * math.sqrt(scale))


def _estimate(own: robust.Array, other: robust.Array) -> Estimate:
    found = robust.locate(own, other)
    error = math.sqrt(float(np.mean(found.pool**2)) / len(own))
    return Estimate(log_ratio=found.centre, error=error, df=found.df)


def ratio_of(estimate: Estimate, confidence: float = CONFIDENCE) -> Ratio | Missing:
    """Return the ratio with its interval, or why it has none."""
    return verdict.ratio(estimate, confidence) if estimate.df else _FEW


def floor_of(control: Ratio | Missing) -> float | Missing:
    """Return how far the same thing may seem to differ from itself, as a share."""
    return control if isinstance(control, Missing) else max(control.high, 1 / max(control.low, 1e-9)) - 1


def spending(restarts: int, level: float) -> tuple[float, ...]:
    """Return the error probability spent at the look after each restart: none after the first, most after the last.

    They add up to ``level`` (Bonferroni, uneven on purpose: an early end is for large differences).
    """
    early = restarts - 2
    last = level if early <= 0 else 0.8 * level
    return (0.0, *([0.2 * level / early] * early if early > 0 else []), last)[:restarts]


def beaten(levels: Levels, alive: Sequence[str], counting: Sequence[str], level: float) -> dict[str, tuple[str, Ratio]]:
    """Return who is worse for sure than the best of those that count, by whom, and the ratio at that level.

    Successive elimination (Even-Dar, Mannor and Mansour, JMLR 7, 2006), with the intervals that there are here.
    ``level`` is the error probability of this look, shared by all that are looked at.
    """
    best = best_of(levels, counting)
    others = [name for name in alive if name not in {best, levels.reference}]
    found: dict[str, tuple[str, Ratio]] = {}
    for name in others:
        estimate = levels.against(name, best)
        if estimate.df and estimate.log_ratio > estimate.half_width(1 - level / len(others)):
            found[name] = (best, verdict.ratio(estimate, 1 - level / len(others)))
    return found


def best_of(levels: Levels, names: Sequence[str]) -> str:
    """Return the entrant with the lowest estimate; the first of equal ones."""
    return min(names, key=lambda name: levels.against(name, levels.reference).log_ratio)
