"""Samples as they would be had the machine been alike for all of them, and had no profiler been at work.

The reference that was timed in turn with each network tells how slow the machine was. A profiler takes a while for each
unit; how long, the profiled inferences tell over all samples, and how much of that it counts as the unit's own time is
taken to be what makes the units add up to whole networks best.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from hwbench.records.base import Missing
from hwbench.records.planning import ClusterTime, CostSample
from hwbench.tables.least_squares import robust_nnls

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_BETTER = 0.95  # of the error of a smaller share: less is chance
_FEWEST = 6  # samples that can tell


@dataclass(frozen=True, kw_only=True)
class Profiler:
    """What a profiler takes for each unit, and the share of that which is in the time that it gives for the unit."""

    each_s: float
    inside: float


def at_one_pace(samples: Sequence[CostSample]) -> list[CostSample]:
    """Return samples of one network on one platform, all at the pace that the machine mostly had."""
    found = [sample.reference_s for sample in samples if not isinstance(sample.reference_s, Missing)]
    level = statistics.median(found) if found else None
    profiler = profiler_of(samples)
    return [_paced(sample, level, profiler) for sample in samples]


def known_times(samples: Sequence[CostSample], kinds: Collection[str]) -> list[ClusterTime]:
    """Return what clusters of some kinds took in networks of one platform, at the pace of each network's samples."""
    found = []
    for hub, mine in itertools.groupby(sorted(samples, key=lambda each: each.hub_sha256), lambda each: each.hub_sha256):
        for sample in at_one_pace(list(mine)):
            found += [
                msgspec.structs.replace(time, cluster=f"{hub}:{time.cluster}")
                for time in sample.clusters
                if time.kind in kinds
            ]
    return found


def profiler_of(samples: Sequence[CostSample]) -> Profiler:
    """Return what the profiler takes, as the samples of one network tell."""
    told = [each for each in samples if not isinstance(each.profiled_s, Missing) and each.units]
    if len(told) < _FEWEST:
        return Profiler(each_s=0.0, inside=0.0)
    each_s = max(0.0, statistics.median(_excess(one) for one in told))
    best, least = Profiler(each_s=each_s, inside=0.0), float("inf")
    for share in _SHARES if each_s > 0 else _SHARES[:1]:
        profiler = Profiler(each_s=each_s, inside=share)
        error = _mismatch([_paced(sample, None, profiler) for sample in told])
        if error < _BETTER * least:
            best, least = profiler, error
    return best


def _mismatch(samples: Sequence[CostSample]) -> float:
    """Return the mean relative error of whole networks as sums of their units."""
    rows = np.array(
        [(1.0, sum(time.time_s for time in one.clusters), one.border.time_s, len(one.clusters)) for one in samples]
    )
    measured = np.array([one.median_s for one in samples])
    solution = robust_nnls(rows, measured, 1 / measured)
    return float(np.mean(np.abs(rows @ solution / measured - 1)))


def _excess(sample: CostSample) -> float:
    assert not isinstance(sample.profiled_s, Missing)
    return (sample.profiled_s - sample.median_s) / sample.units


def _paced(sample: CostSample, level: float | None, profiler: Profiler) -> CostSample:
    """Return a sample with its times at a pace, and without what the profiler took."""
    slow = 1.0 if level is None or isinstance(sample.reference_s, Missing) else sample.reference_s / level
    while_profiled, own = slow, 0.0
    if not isinstance(sample.profiled_s, Missing):
        own = profiler.each_s * profiler.inside / slow
        while_profiled *= sample.profiled_s / (sample.median_s + profiler.each_s * sample.units)

    def net(time_s: float, units: int) -> float:
        return max(0.0, time_s / while_profiled - own * units)

    clusters = tuple(
        msgspec.structs.replace(
            each,
            time_s=net(each.time_s, each.units),
            spread_s=each.spread_s if isinstance(each.spread_s, Missing) else each.spread_s / while_profiled,
        )
        for each in sample.clusters
    )
    border = msgspec.structs.replace(sample.border, time_s=net(sample.border.time_s, sample.border.units))
    return msgspec.structs.replace(
        sample,
        clusters=clusters,
        border=border,
        median_s=sample.median_s / slow,
        reference_s=sample.reference_s if isinstance(sample.reference_s, Missing) else sample.reference_s / slow,
        profiled_s=sample.profiled_s if isinstance(sample.profiled_s, Missing) else sample.profiled_s / slow,
    )
