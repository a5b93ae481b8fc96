"""What whole designs lose over what their parts lose, as one factor for each kind of site."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from hwbench.plan.designs import choice_of
from hwbench.records.planning import Design, Sensitivity, Space

KINDS = ("precision", "width", "depth", "replace", "rank")
# What a training leaves of what dropped blocks lose before it, where all else counts as it is: widths are repaired
# before they are scored, blocks are dropped as they are. It is said of those blocks that lose least, this share of all:
# nothing is known of networks that keep fewer. docs/plan/optimize.md has the figures.
_LEFT_OF_DEPTH, _LEARNT_DEPTH = 0.1, 0.5
_HOLD = 0.02  # how strongly the factors hold on to one, as if it had been measured so


def by_kind(space: Space, found: Sensitivity, design: Design) -> dict[str, float]:
    """Return what a design loses by its parts, summed by the kind of their sites; of a pair, half goes to each kind."""
    choice = choice_of(space, design)
    taken = {(site.name, site.options[choice[site.name]].name): site.kind for site in space.sites}
    sums = dict.fromkeys(KINDS, 0.0)
    for loss in found.losses:
        kind = taken.get((loss.site, loss.option))
        if kind is not None:
            sums[kind] += loss.divergence
    for pair in found.pairs:
        kinds = [taken.get(each) for each in ((pair.site, pair.option), (pair.other_site, pair.other_option))]
        for kind in kinds if None not in kinds else ():
            assert kind is not None
            sums[kind] += pair.extra / 2
    return sums


def scaled(found: Sensitivity, factors: Mapping[str, float]) -> Sensitivity:
    """Return losses times the factor of their kind; of a pair, the mean of the two, as :func:`by_kind` divides it."""
    return _times(found, lambda site: factors[site.partition(":")[0]])


def after_training(found: Sensitivity) -> Sensitivity:
    """Return losses as a training is expected to leave them: of the blocks that lose least when dropped, a tenth."""
    blocks = sorted((each.divergence, each.site) for each in found.losses if each.site.startswith("depth:"))
    learnt = {site for _, site in blocks[: math.ceil(_LEARNT_DEPTH * len(blocks))]}
    return _times(found, lambda site: _LEFT_OF_DEPTH if site in learnt else 1.0)


def _times(found: Sensitivity, factor: Callable[[str], float]) -> Sensitivity:
    losses = tuple(
        msgspec.structs.replace(each, divergence=each.divergence * factor(each.site)) for each in found.losses
    )
    pairs = tuple(
        msgspec.structs.replace(each, extra=each.extra * (factor(each.site) + factor(each.other_site)) / 2)
        for each in found.pairs
    )
    return msgspec.structs.replace(found, losses=losses, pairs=pairs)


def held_nnls(rows: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Solve rows @ x = values for x >= 0 in the least-squares sense, with x held to one."""
    from scipy.optimize import nnls

    size = rows.shape[1]
    hold = np.sqrt(_HOLD * len(rows) / size) * np.eye(size)
    found: np.ndarray[Any, Any] = nnls(np.vstack([rows, hold]), np.concatenate([values, hold.sum(axis=1)]))[0]
    return found


def rising(values: Sequence[float]) -> list[float]:
    """Return the values as a sequence that never falls, nearest in squares (isotonic regression)."""
    from scipy.optimize import isotonic_regression

    smooth: list[float] = isotonic_regression(values).x.tolist()
    return smooth
