"""Student's t quantile for whole degrees of freedom."""

from __future__ import annotations

import functools
import math


def within(t: float, df: int) -> float:
    """Return P(-t <= T <= t): the finite series of Abramowitz & Stegun, 26.7.3 and 26.7.4."""
    theta = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = df % 2 == 1
    term = cosine if odd else 1.0
    total = 0.0 if df == 1 else term
    for k in range(2 if odd else 1, df - 2, 2):
        term *= cosine * cosine * k / (k + 1)
        total += term
    return (theta + sine * total) * 2 / math.pi if odd else sine * total


@functools.cache
def t_quantile(confidence: float, df: int) -> float:
    """Return the t for which a share ``confidence`` of the distribution lies in -t to t.

    Args:
        confidence: two-sided, such as 0.95.
        df: degrees of freedom, at least 1; from 200 on the value for 200 is returned, 0.6 % above the normal's.
    """
    df = min(df, 200)
    low, high = 0.0, 1.0
    while within(high, df) < confidence:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, df) < confidence else (low, middle)
    return high
