"""Statistics of latency samples: pure functions of the numbers.

* Median, and its 95 % confidence interval from order statistics (binomial; distribution-free: Conover, *Practical
  Nonparametric Statistics*, 3.2), widened by the effective sample size when samples are autocorrelated.
* Percentiles by linear interpolation (Hyndman & Fan type 7, numpy's default), and only where the sample supports
  them: at least ten samples beyond, n >= 10 / (1 - p).
* Outliers by Tukey's outer fence, more than three interquartile ranges beyond the quartiles: counted and
  kept, never removed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from hwbench.records.base import Missing, check
from hwbench.records.measurement import LatencySummary

Z95 = 1.959963984540054
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_MAX_LAG = 50


def quantile(ordered: Sequence[float], p: float) -> float:
    """Return the ``p`` quantile of an ascending sequence (type 7)."""
    position = (len(ordered) - 1) * p
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def effective_size(samples: Sequence[float]) -> float:
    """Return n / (1 + 2 sum rho_k): how many independent samples these are worth.

    Ranks are correlated instead of values, so that one outlier does not decide; the sum stops at the first
    lag whose autocorrelation is not positive (Geyer's initial positive sequence, simplified).
    """
    n = len(samples)
    if n < 10:
        return float(n)
    ranks = _centred_ranks(samples)
    variance = sum(rank * rank for rank in ranks)
    if variance == 0:
        return float(n)
    total = 0.0
    for lag in range(1, min(_MAX_LAG, n // 4) + 1):
        rho = sum(a * b for a, b in zip(ranks, ranks[lag:], strict=False)) / variance
        if rho <= 0:
            break
        total += rho
    return n / (1 + 2 * total)


def _centred_ranks(samples: Sequence[float]) -> list[float]:
    """Return each sample's rank minus the mean rank; equal samples share the mean of their ranks."""
    order = sorted(range(len(samples)), key=samples.__getitem__)
    ranks = [0.0] * len(samples)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and samples[order[end + 1]] == samples[order[start]]:
            end += 1
        for index in order[start : end + 1]:
            ranks[index] = (start + end - (len(samples) - 1)) / 2
        start = end + 1
    return ranks


def median_interval(ordered: Sequence[float], n_effective: float) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median of an ascending sequence.

    Ranks n/2 -+ z sqrt(n)/2 by the normal approximation to the binomial; with ``n_effective`` < n the half-width
    grows by sqrt(n / n_effective). Short samples give the whole range; below six even that holds the median less often
    than it should (1 - 2 / 2^n), which the verdict on a measurement says.
    """
    n = len(ordered)
    half = Z95 * math.sqrt(n) / 2 * math.sqrt(n / n_effective)
    low = max(0, math.floor((n - 1) / 2 - half))
    high = min(n - 1, math.ceil((n - 1) / 2 + half))
    return ordered[low], ordered[high]


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % Student interval of the mean; needs two values."""
    mean = statistics.fmean(values)
    df = len(values) - 1
    t = T95[df - 1] if df <= len(T95) else Z95 * (1 + 1.5 / df)
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def supported_percentile(ordered: Sequence[float], p: float) -> float | Missing:
    """Return the percentile, or why the sample does not support it."""
    needed = math.ceil(round(10 / (1 - p), 6))  # 1 - p is not exact
    if len(ordered) >= needed:
        return quantile(ordered, p)
    return Missing(
        code="too_few_samples",
        why=f"p{p * 100:g} needs {needed} samples, {len(ordered)} were taken",
        cure=f"--iterations {needed}",
    )


def summarize(samples_ns: Sequence[int]) -> LatencySummary:
    """Return the statistics of latency samples given in nanoseconds, in the order they were taken.

    Raises:
        ValueError: there are none.
    """
    check(bool(samples_ns), "a summary needs samples")
    ordered = sorted(samples_ns)
    n_effective = effective_size(samples_ns)
    low, high = median_interval(ordered, n_effective)
    q1, q3 = quantile(ordered, 0.25), quantile(ordered, 0.75)
    fence_low, fence_high = q1 - 3 * (q3 - q1), q3 + 3 * (q3 - q1)
    seconds = [sample / 1e9 for sample in ordered]
    return LatencySummary(
        n=len(ordered),
        n_effective=n_effective,
        median_s=quantile(seconds, 0.5),
        median_low_s=min(low / 1e9, quantile(seconds, 0.5)),
        median_high_s=max(high / 1e9, quantile(seconds, 0.5)),
        mean_s=statistics.fmean(seconds),
        min_s=seconds[0],
        max_s=seconds[-1],
        stdev_s=statistics.stdev(seconds) if len(seconds) > 1 else 0.0,
        iqr_s=(q3 - q1) / 1e9,
        p90_s=supported_percentile(seconds, 0.90),
        p95_s=supported_percentile(seconds, 0.95),
        p99_s=supported_percentile(seconds, 0.99),
        p999_s=supported_percentile(seconds, 0.999),
        outliers=sum(1 for sample in ordered if not fence_low <= sample <= fence_high),
    )
