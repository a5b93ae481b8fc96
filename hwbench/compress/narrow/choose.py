"""Which units of which groups stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwbench.records.base import Missing
from hwbench.structure.groups import Group

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Widths that may be kept: listed ones, multiples, and at least ``minimum`` units of a group."""

    widths: tuple[int, ...]
    multiple_of: int
    minimum: int


def unit_scores(group: Group, scores: Mapping[str, Array]) -> Array:
    """Return the importance of each unit: the mean over the scored producers of how their channels compare.

    In each layer the scores of a unit's channels are summed and divided by the mean of all units of the group, so that
    a unit of average importance has 1 whatever the layer's scale; a layer whose scores are all zero gives zeros.
    """
    total, count = np.zeros(group.size), 0
    for layer, channels in group.producers.items():
        if layer in scores:
            summed = scores[layer][channels].sum(axis=1)
            mean = float(np.abs(summed).mean())
            total += summed / mean if mean else summed
            count += 1
    return total / count


def keep_each(scores: Mapping[str, Array], amount: float) -> dict[str, int]:
    """Return how many units each group keeps when ``amount`` of each is to go."""
    return {name: len(units) - math.floor(amount * len(units) + 0.5) for name, units in scores.items()}


def keep_ranked(scores: Mapping[str, Array], amount: float, minimum: int) -> dict[str, int]:
    """Return how many units each group keeps when the least important of all groups together are to go.

    ``amount`` is a fraction of all units; a group that is down to ``minimum`` keeps the rest, and others lose more.
    """
    counts = {name: len(units) for name, units in scores.items()}
    ranked = sorted((score, name) for name, units in scores.items() for score in units.tolist())
    left = math.floor(amount * len(ranked) + 0.5)
    for _, name in ranked:
        if left and counts[name] > minimum:
            counts[name] -= 1
            left -= 1
    return counts


def best(scores: Array, count: int) -> Array:
    """Return the units with the highest scores, in order of place; of equals the first."""
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def fitted(
    groups: Sequence[Group], wanted: Mapping[str, int], edges: Edges, widths: Mapping[str, int]
) -> dict[str, int | Missing]:
    """Round what is to be kept up to widths that are allowed; ``Missing`` where there is none below the present one.

    The width of ``channels`` is that of the layer which has the fewest groups, its locked channels and those of other
    groups counted in; of several groups in one layer the last one makes it fit. ``widths``: the layers' output
    channels. The width of ``heads`` and ``columns`` is their number.
    """
    found: dict[str, int | Missing] = {}
    sharing = {layer: [group for group in groups if layer in group.producers] for layer in widths}
    home = {
        group.name: min((layer for layer in group.producers if layer in widths), key=lambda layer: len(sharing[layer]))
        for group in groups
    }
    for group in sorted(groups, key=lambda group: len(sharing[home[group.name]])):
        keep = min(group.size, max(wanted[group.name], edges.minimum, 1))
        layer = home[group.name]
        others = [other for other in sharing[layer] if other is not group]
        if group.kind != "channels":
            found[group.name] = _up(keep, group.size, 1, 0, edges)
        elif all(other.name in found for other in others):
            each = group.producers[layer].shape[1]
            beside = widths[layer] - group.size * each - sum(_lost(other, found[other.name], layer) for other in others)
            found[group.name] = _up(keep, group.size, each, beside, edges)
        else:
            found[group.name] = keep
    return found


def _lost(group: Group, keep: int | Missing, layer: str) -> int:
    return 0 if isinstance(keep, Missing) else (group.size - keep) * group.producers[layer].shape[1]


def _up(keep: int, size: int, each: int, beside: int, edges: Edges) -> int | Missing:
    """Return the smallest number of units from ``keep`` on with an allowed width: ``beside`` and ``each`` a unit."""
    for count in range(keep, size + 1):
        width = beside + count * each
        if (width in edges.widths) if edges.widths else width % edges.multiple_of == 0:
            return count
    if not edges.widths:
        return size
    return Missing(
        code="no_width",
        why=f"no allowed width lies from {beside + keep * each} (what the amount leaves) to {beside + size * each} "
        "(what it has)",
        cure="take a larger amount, or add a width",
    )
