"""Statistics of latency samples: pure functions of the numbers.

* Median, and its 95 % confidence interval from order statistics (binomial; distribution-free: Conover, *Practical
  Nonparametric Statistics*, 3.2), widened by the effective sample size when samples are autocorrelated.
* Percentiles by linear interpolation (Hyndman & Fan type 7, numpy's default), and only where the sample supports
  them: at least ten samples beyond, n >= 10 / (1 - p).
* Outliers by Tukey's outer fence, more than three interquartile ranges beyond the quartiles: counted and
  kept, never removed.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

from hwbench.records.base import Missing, check
from hwbench.records.measurement import LatencySummary
from hwbench.student import t_quantile

Z95 = 1.959963984540054
_BATCHES = 10
_FEW_WINDOWS = 1.21  # (t / z)^2 at 95 % with 3/2 (_BATCHES - 1) degrees of freedom
_SHORTEST_BATCH = 3


def quantile(ordered: Sequence[float], p: float) -> float:
    """Return the ``p`` quantile of an ascending sequence (type 7)."""
    position = (len(ordered) - 1) * p
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def effective_size(samples: Sequence[float]) -> float:
    """Return how many independent samples these, in the order taken, are worth for their median.

    Overlapping batch means (Meketon & Schmeiser 1984) of the indicator «not above the median», on which the variance of
    a median hangs: over windows of a tenth of the run its mean scatters as that of independent samples would, or more
    when neighbours are alike, and n is divided by that excess, widened as Student's t is for the few windows there
    are. Correlation that lasts longer than a window is not seen in full; the finding ``drift`` looks for that. Linear
    in n but for sorting.
    """
    n = len(samples)
    length = n // _BATCHES
    if length < _SHORTEST_BATCH:
        return float(n)
    middle = quantile(sorted(samples), 0.5)
    sums = [0, *itertools.accumulate(1 if sample <= middle else 0 for sample in samples)]
    below = sums[-1] / n
    if below == 1:
        return float(n)
    expected = below * length
    squares = sum((high - low - expected) ** 2 for low, high in zip(sums, sums[length:], strict=False))
    scatter = squares * n / (length * (n - length) * (n - length + 1))
    return n / max(1.0, _FEW_WINDOWS * scatter / (below * (1 - below)))


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
    half = t_quantile(0.95, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def conformal(errors: Sequence[float], coverage: float) -> float | None:
    """Return the half-width that holds a new error with ``coverage``: the ceil((n + 1) coverage)-th smallest magnitude.

    Split conformal prediction (Vovk et al. 2005; Lei et al. 2018, arXiv:1604.04173). None where the errors are fewer
    than that takes: 9 for 90 %.
    """
    place = conformal_place(len(errors), coverage)
    return sorted(abs(error) for error in errors)[place - 1] if place <= len(errors) else None


def conformal_place(n: int, coverage: float) -> int:
    """Return which of ``n`` ordered magnitudes a conformal interval ends at, which may be beyond the last."""
    return math.ceil((n + 1) * coverage - 1e-9)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the least-squares line through points."""
    mean_t = statistics.fmean(t for t, _ in points)
    mean_v = statistics.fmean(v for _, v in points)
    square = sum((t - mean_t) ** 2 for t, _ in points)
    return sum((t - mean_t) * (v - mean_v) for t, v in points) / square if square else 0.0


def supported_percentile(ordered: Sequence[float], p: float) -> float | Missing:
    """Return the percentile, or why the sample does not support it."""
    needed = math.ceil(round(10 / (1 - p), 6))  # 1 - p is not exact
    if len(ordered) >= needed:
        return quantile(ordered, p)
    return Missing(
        code="too_few_samples",
        why=f"p{p * 100:g} needs {needed} samples, {len(ordered)} were taken",
        cure=f"take {needed} (--iterations {needed}, or a longer --duration)",
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


def non_dominated(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the points that no other is at most as large as in every coordinate, and smaller in one.

    Of equal points all are returned.
    """
    return [
        index
        for index, one in enumerate(points)
        if not any(
            all(b <= a for a, b in zip(one, other, strict=True)) and any(b < a for a, b in zip(one, other, strict=True))
            for other in points
        )
    ]
