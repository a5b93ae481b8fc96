"""What zeros save, timed in this network on this device: a network with zeros held against the dense one.

A runtime's own 2:4 kernels are faster for some layers and slower for others, and so are hwbench's. So each way to have
zeros is built and timed once, with zeros in all layers that offer it. What a cluster takes there, over what it takes
dense in the same arithmetic, is its ratio. Curves (:mod:`hwbench.tables.model`) are of dense networks alone.

Both times are at one pace (:mod:`hwbench.tables.pace`). How far the ratio may be off by chance is two standard
deviations of either: those between inferences of one profile, or between dense networks where that is more, since a
runtime that chooses kernels by timing them does not build the same network twice.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from hwbench.records.base import Missing
from hwbench.records.planning import (
    TWO_FOUR,
    ClusterTime,
    CostSample,
    Design,
    NoSite,
    Site,
    Sizes,
    Space,
    SparseCost,
    Zeros,
)
from hwbench.records.quantization import Floating, Scheme
from hwbench.tables.pace import at_one_pace
from hwbench.units import format_seconds

_DEVIATIONS = 2.0  # of each timing, that the ratio may be off by
_LEAST = 0.01  # of the ratio, whatever the deviations: a profile is one build, in one process

_NO_FASTER = Missing(code="not_faster", why="zeros alone were offered for it, and none were timed to be faster")

_Way = tuple[Scheme, Zeros]
_Key = tuple[str, Scheme, Sizes]  # of a dense time


def zeros_designs(space: Space, *, floating: Floating = "auto") -> list[Design]:
    """Return a design for each way to have zeros that is offered: in all layers that offer it, and no others."""
    found: dict[_Way, list[str]] = {}
    for site in space.sites:
        for way in _ways(site):
            found.setdefault(way, []).append(site.about)
    return [
        Design(
            floating=floating,
            schemes={} if scheme == "float" else dict.fromkeys(names, scheme),
            zeros=dict.fromkeys(names, zeros),
        )
        for (scheme, zeros), names in found.items()
    ]


def measured(samples: Sequence[CostSample], space: Space) -> tuple[SparseCost, ...]:
    """Return what clusters take with zeros, as far as samples of one platform and network tell.

    What was built in another scheme than was asked for, and what no dense network was timed of in the same scheme and
    size, is left out; so is what nobody knows the noise of.
    """
    paced = at_one_pace([sample for sample in samples if sample.hub_sha256 == space.hub_sha256])
    dense = _dense(paced)
    found: dict[tuple[str, Scheme, Zeros], list[SparseCost]] = {}
    for sample in paced:
        for time in sample.clusters:
            zeros = sample.design.zeros.get(time.cluster)
            if zeros is None or time.scheme != sample.design.of(time.cluster):
                continue
            beside = dense.get((time.cluster, time.scheme, time.sizes))
            cost = None if beside is None else _cost(time, zeros, beside)
            if cost is not None:
                found.setdefault((time.cluster, time.scheme, zeros), []).append(cost)
    return tuple(_middle(costs) for costs in found.values())


def where_faster(space: Space, costs: Sequence[SparseCost]) -> Space:
    """Return the space without the zeros that were timed and are not faster than dense.

    What was not timed stays: a table praises it. But a runtime's own 2:4 is known by timing alone, and goes.

    Args:
        space: what could be chosen.
        costs: of :func:`measured`.
    """
    gains = {(each.cluster, each.scheme, each.zeros): each.gains for each in costs if each.basis == "network"}
    sites, left = [], []
    for site in space.sites:
        kept = tuple(
            option
            for option in site.options
            if option.zeros is None
            or gains.get((site.about, option.scheme or "float", option.zeros), option.zeros.format != TWO_FOUR)
        )
        if len(kept) > 1:
            sites.append(msgspec.structs.replace(site, options=kept))
        else:
            left.append(NoSite(kind=site.kind, about=site.about, reason=_NO_FASTER))
    names = {site.name for site in sites}
    clusters = tuple(
        msgspec.structs.replace(each, precision=each.precision if each.precision in names else None)
        for each in space.clusters
    )
    left_alone = (*space.left_alone, *left)
    return msgspec.structs.replace(space, sites=tuple(sites), clusters=clusters, left_alone=left_alone)


def _ways(site: Site) -> Iterator[_Way]:
    for option in site.options:
        if option.zeros is not None:
            yield option.scheme or "float", option.zeros


@dataclass(frozen=True)
class _Timed:
    """What something took, and one standard deviation of that, in seconds."""

    time_s: float
    spread_s: float
    shared: int


def _dense(samples: Sequence[CostSample]) -> dict[_Key, _Timed]:
    """Return what clusters take without zeros: the median over dense networks."""
    found: dict[_Key, list[ClusterTime]] = {}
    for sample in samples:
        for time in sample.clusters:
            if not sample.design.zeros and time.time_s > 0:
                found.setdefault((time.cluster, time.scheme, time.sizes), []).append(time)
    timed = {key: _over(times) for key, times in found.items()}
    return {key: each for key, each in timed.items() if each is not None}


def _over(times: Sequence[ClusterTime]) -> _Timed | None:
    within = [each.spread_s for each in times if not isinstance(each.spread_s, Missing)]
    if not within:
        return None
    values = [each.time_s for each in times]
    between = statistics.stdev(values) if len(values) > 2 else 0.0  # of two, it is chance itself
    spread_s = max(statistics.median(within), between)
    return _Timed(statistics.median(values), spread_s, max(each.shared for each in times))


def _cost(time: ClusterTime, zeros: Zeros, dense: _Timed) -> SparseCost | None:
    if time.time_s <= 0 or isinstance(time.spread_s, Missing):
        return None
    ratio = time.time_s / dense.time_s
    relative = math.hypot(time.spread_s / time.time_s, dense.spread_s / dense.time_s)
    error = ratio * max(_LEAST, _DEVIATIONS * relative)
    told = f"{format_seconds(time.time_s)} with zeros, {format_seconds(dense.time_s)} dense in {time.scheme}"
    shared = max(time.shared, dense.shared)
    by_work = f"; a unit of it was shared out over {shared} layers, by their work" if shared > 1 else ""
    return SparseCost(
        cluster=time.cluster,
        zeros=zeros,
        ratio=ratio,
        basis="network",
        why=f"{told}, timed in this network: {ratio:.2f} ± {error:.2f}{by_work}",
        scheme=time.scheme,
        error=error,
    )


def _middle(costs: Sequence[SparseCost]) -> SparseCost:
    return sorted(costs, key=lambda each: each.ratio)[len(costs) // 2]
