"""Intervals for shares and for paired differences: pure functions of counts and per-sample values.

* A share: Wilson's score interval (1927), which holds its level with few samples and near 0 and 1; and the exact one of
  Clopper and Pearson (1934), which never falls below it.
* A paired difference of two shares, the same samples right or wrong in both: Tango's score interval (Statistics in
  Medicine 17, 1998, 891-908). It holds its level with few disagreements, where McNemar's normal interval does not.
* A paired difference of means: Student's t over the differences.
* Anything else: percentile bootstrap over samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hwbench.stats import Z95

Array = np.ndarray[Any, np.dtype[Any]]

Z95_ONE_SIDED = 1.6448536269514722
RESAMPLES = 2000
_STEPS = 100


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Return Wilson's score interval of a share."""
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def clopper_pearson(successes: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Return the exact interval of a share: the shares under which so few, or so many, have probability alpha / 2."""
    low = 0.0 if successes == 0 else _bisect(lambda p: _at_least(successes, n, p) - alpha / 2)
    high = 1.0 if successes == n else _bisect(lambda p: alpha / 2 - _at_most(successes, n, p))
    return low, high


def _at_most(k: int, n: int, p: float) -> float:
    """Return P(X <= k) of a binomial, summed in logarithms."""
    if p <= 0:
        return 1.0
    if p >= 1:
        return 1.0 if k >= n else 0.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k + 1)
    ]
    top = max(logs)
    return min(1.0, math.exp(top) * math.fsum(math.exp(value - top) for value in logs))


def _at_least(k: int, n: int, p: float) -> float:
    return 1.0 - _at_most(k - 1, n, p)


def _bisect(rising: Callable[[float], float], low: float = 0.0, high: float = 1.0) -> float:
    """Return where a rising function crosses zero."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def paired_shares(worse: int, better: int, n: int, z: float = Z95_ONE_SIDED) -> tuple[float, float]:
    """Return Tango's interval of ``(worse - better) / n``.

    Args:
        worse: samples right in the reference and wrong here.
        better: the other way round.
        n: all samples.
        z: of the level; by default each end holds with 95 % by itself.
    """
    estimate = (worse - better) / n
    low = -1.0 if _score(worse, better, n, -1 + 1e-12) <= z else _cross(worse, better, n, z, -1.0, estimate)
    high = 1.0 if _score(worse, better, n, 1 - 1e-12) >= -z else _cross(worse, better, n, -z, estimate, 1.0)
    return low, high


def _cross(worse: int, better: int, n: int, z: float, low: float, high: float) -> float:
    return _bisect(lambda delta: z - _score(worse, better, n, delta), low, high)


def _score(b: int, c: int, n: int, delta: float) -> float:
    """Return Tango's statistic for a true difference ``delta``; it falls with delta."""
    a2, b2, c2 = 2 * n, -b - c + (2 * n - b + c) * delta, -c * delta * (1 - delta)
    q = (math.sqrt(max(0.0, b2 * b2 - 4 * a2 * c2)) - b2) / (2 * a2)
    variance = n * (2 * q + delta * (1 - delta))
    difference = b - c - n * delta
    if variance <= 0:
        return 0.0 if difference == 0 else math.copysign(math.inf, difference)
    return difference / math.sqrt(variance)


def paired_means(differences: Array, z: float = Z95_ONE_SIDED) -> tuple[float, float]:
    """Return an interval of the mean of per-sample differences; the normal's, widened for few samples."""
    n = len(differences)
    mean = float(np.mean(differences))
    if n < 2:
        return -math.inf, math.inf
    df = n - 1
    t = z * (1 + (z * z + 1) / (4 * df))  # Cornish-Fisher, good to 1 % from ten samples on
    half = t * float(np.std(differences, ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def bootstrap(statistic: Callable[[Array], float], n: int, *, seed: int, alpha: float) -> tuple[float, float]:
    """Return the percentile interval of a statistic of sample numbers, at level ``1 - alpha``."""
    rng = np.random.default_rng(seed)
    values = sorted(statistic(rng.integers(0, n, n)) for _ in range(RESAMPLES))
    return values[math.floor(alpha / 2 * (RESAMPLES - 1))], values[math.ceil((1 - alpha / 2) * (RESAMPLES - 1))]
