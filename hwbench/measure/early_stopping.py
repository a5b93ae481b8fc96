"""How sure a percentile is after so many queries: the early stopping of MLPerf's LoadGen.

A percentile p of the latency is at most L when a share p of all queries, past and future, is at or below L. After n
queries of which t took longer than L, that is believed with confidence c when t or fewer would have been seen by chance
with a probability below 1 - c if the share were only p:

    P(X <= t) = sum over k <= t of C(n, k) (1 - p)^k p^(n - k) = I_p(n - t, t + 1) < 1 - c

with I the regularised incomplete beta function (MLCommons inference rules, appendix «Early stopping»; LoadGen uses
c = 0.99 and no tolerance). The estimate of the percentile is the smallest sample for which it holds: the t-th from the
slowest, for the largest such t, at least 1. So p90 needs 64 queries, and p99 needs 662.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hwbench.records.base import Missing
from hwbench.records.modes import EarlyStopping

CONFIDENCE = 0.99


def chance(t: int, n: int, p: float) -> float:
    """Return the probability of at most ``t`` of ``n`` independent queries beyond percentile ``p``."""
    logs = math.log(1 - p), math.log(p)
    whole = math.lgamma(n + 1)
    terms = (
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * logs[0] + (n - k) * logs[1])
        for k in range(min(t, n) + 1)
    )
    return min(1.0, math.fsum(terms))


def believed(t: int, n: int, p: float, confidence: float = CONFIDENCE) -> bool:
    """Say whether ``t`` slow ones of ``n`` show that a share ``p`` is not slow."""
    return chance(t, n, p) < 1 - confidence


def queries_needed(t: int, p: float, confidence: float = CONFIDENCE) -> int:
    """Return the fewest queries with which ``t`` slow ones are few enough."""
    low, high = t, t + 1
    while not believed(t, high, p, confidence):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if believed(t, middle, p, confidence) else (middle, high)
    return high


def estimate(samples_ns: Sequence[int], p: float, confidence: float = CONFIDENCE) -> EarlyStopping | Missing:
    """Return the early-stopping estimate of percentile ``p``, or why the queries do not hold one."""
    n = len(samples_ns)
    if not believed(1, n, p, confidence):
        needed = queries_needed(1, p, confidence)
        why = f"early stopping for p{p * 100:g} needs {needed} queries, there were {n}"
        return Missing(code="too_few_samples", why=why, cure="run longer (--duration)")
    low, high = 1, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if believed(middle, n, p, confidence) else (low, middle)
    return EarlyStopping(
        percentile=p, confidence=confidence, queries=n, rank=low, estimate_s=sorted(samples_ns)[n - low] / 1e9
    )
