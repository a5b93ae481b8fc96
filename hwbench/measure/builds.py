"""Several builds of one engine: how much of the scatter lies between them.

One-way random effects, estimated by the analysis of variance (Searle, Casella & McCulloch, *Variance Components*,
1992, chapter 3): with k builds and p observations in each, s_within^2 = MS_within and s_between^2 = (MS_between -
MS_within) / p, zero where that is negative; the intraclass correlation is s_between^2 / (s_between^2 + s_within^2)
(Shrout & Fleiss 1979, case 1). An observation is the median of a stretch of a build's run: single inferences are
neither independent nor free of outliers, and both would be taken for differences between builds.

Every build runs in a process of its own, so «between builds» holds what differs from process to process as well.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

import msgspec

from hwbench.records.base import Missing
from hwbench.records.measurement import LatencySummary
from hwbench.records.modes import BuildVariance
from hwbench.stats import mean_interval, quantile, summarize

PARTS = 10
METHOD = "one-way random effects over medians of stretches; analysis of variance (Searle, Casella & McCulloch 1992)"


def build_variance(runs: Sequence[Sequence[int]]) -> BuildVariance | Missing:
    """Return the components of variance of builds' samples in nanoseconds, or why there are none."""
    if len(runs) < 2:
        return Missing(code="one_build", why="built once only", cure="--repeat-build 5")
    parts = min(PARTS, *(len(run) for run in runs))
    if parts < 2:
        why = "a build with one sample shows no scatter of its own"
        return Missing(code="too_few_samples", why=why, cure="take more (--iterations)")
    medians = [_median(run) for run in runs]
    low, high = mean_interval(medians)
    between, within = components([stretches(run, parts) for run in runs])
    whole = between + within
    return BuildVariance(
        medians_s=tuple(medians),
        parts=parts,
        mean_s=statistics.fmean(medians),
        low_s=low,
        high_s=high,
        between_s=between**0.5,
        within_s=within**0.5,
        icc=between / whole if whole > 0 else Missing(code="no_scatter", why="every observation is the same"),
        method=METHOD,
    )


def components(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the variances between and within groups of equal size, at least two of two; see the module."""
    size = len(groups[0])
    within = statistics.fmean(statistics.variance(group) for group in groups)
    between = statistics.variance([statistics.fmean(group) for group in groups])  # MS_between / p
    return max(0.0, between - within / size), within


def stretches(samples: Sequence[int], parts: int) -> list[float]:
    """Return the medians, in seconds, of equal stretches of a run; what does not fill the last is left out."""
    length = len(samples) // parts
    return [_median(samples[number * length : (number + 1) * length]) for number in range(parts)]


def over_builds(runs: Sequence[Sequence[int]], found: BuildVariance | Missing) -> LatencySummary:
    """Return the latency over all samples, but the median: each build counts once there, however long it ran.

    It is the mean of the builds' medians; its interval holds that of this mean, t s / sqrt(k) to both sides over the k
    medians, which has both components of variance, and that of the pooled median.
    """
    latency = summarize(list(itertools.chain.from_iterable(runs)))
    if isinstance(found, Missing):
        return latency
    return msgspec.structs.replace(
        latency,
        median_s=found.mean_s,
        median_low_s=min(latency.median_low_s, found.mean_s, max(0.0, found.low_s)),
        median_high_s=max(latency.median_high_s, found.mean_s, found.high_s),
    )


def _median(samples: Sequence[int]) -> float:
    return quantile(sorted(samples), 0.5) / 1e9
