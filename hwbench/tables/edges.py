"""Widths that lie at a measured step, and those that a wider one beats.

Latency over width is a staircase, and not always one that goes up: a runtime may take another kernel at 56 channels
than at 64, and be slower. A width is worth choosing if no wider one takes as little time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from hwbench.errors import UsageError
from hwbench.plan.designs import sizes
from hwbench.records.planning import Cluster, Site, Sizes, Space
from hwbench.records.quantization import Scheme
from hwbench.tables.draw import schemes_of
from hwbench.tables.least_squares import Array

_NOTHING = 0.01  # of the time of the clusters that a group lies in: a saving that is none


class Parts(Protocol):
    """What clusters take, measured or predicted."""

    def built(self, cluster: Cluster, scheme: Scheme) -> Scheme:
        """Return in what the runtime builds a cluster when asked for ``scheme``."""
        ...

    def knows(self, cluster: Cluster, scheme: Scheme) -> bool:
        """Say whether the time of a cluster of this kind is known in that scheme."""
        ...

    def cluster(self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme) -> Array:
        """Return the seconds that a cluster takes at each of several sizes."""
        ...


def worthwhile(model: Parts, space: Space, site: Site) -> tuple[int, ...]:
    """Return the places of the options of a width site that lie at a step edge in one scheme at least.

    The first option, the whole width, always does. ``model`` has what was measured, and between that what its curves
    say; every other width is taken to be whole.

    Raises:
        UsageError: the site is not one of widths.
    """
    schemes: tuple[Scheme, ...] = ("float", *schemes_of(space))
    times = {scheme: group_times(model, space, site, scheme) for scheme in schemes}
    narrower = range(1, len(site.options))
    return (0, *(place for place in narrower if any(_is_edge(mine, place, site) for mine in times.values())))


def group_times(model: Parts, space: Space, site: Site, scheme: Scheme) -> Array:
    """Return by option of a width site what the clusters take that its group lies in, in seconds, [options]."""
    if site.kind != "width":
        raise UsageError(f"{site.name} is no site of widths")
    full = {each.name: each.options[0].units or 0 for each in space.sites if each.kind == "width"}
    found = np.zeros(len(site.options))
    for cluster in space.clusters:
        if site.name in cluster.widths_in or site.name in cluster.widths_out:
            each = [sizes(cluster, full, {**full, site.name: option.units or 0}) for option in site.options]
            got = model.built(cluster, scheme)
            if model.knows(cluster, got):
                found += model.cluster(cluster, each, got)
    return found


def _is_edge(times: Array, place: int, site: Site) -> bool:
    units = [option.units or 0 for option in site.options]
    wider = [float(times[other]) for other in range(len(units)) if units[other] > units[place]]
    return float(times[place]) < min(wider) * (1 - _NOTHING)
