"""From residuals to intervals.

Tier C: ln T = ln R + u(device) + v(family) + e, with the spreads of all three; the interval is that of a prediction
from few groups (Student's t, n - 1 degrees of freedom), since a quantile of four residuals is no quantile. Tier B:
split conformal on the residuals of anchors, each predicted from the others (Vovk et al. 2005).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from hwbench import stats
from hwbench.records.planning import Interval
from hwbench.student import t_quantile

COVERAGE = 0.9
_Z95 = 1.645
MOST = 3.4  # ln 30: beyond it an interval says nothing


def conformal(errors: Sequence[float], coverage: float = COVERAGE) -> float:
    """Return the conformal half-width; with too few errors for one, the largest widened by how many are lacking."""
    found = stats.conformal(errors, coverage)
    if found is not None:
        return found
    n = len(errors)
    return max(abs(error) for error in errors) * stats.conformal_place(n, coverage) / n


def from_data_sheet(value: float, *, between: float, judged: float, within: float, n: int) -> Interval:
    """Return the interval of tier C.

    Args:
        value: the prediction.
        between: log spread between the groups that were measured.
        judged: log spread by judgement, of what was not measured at all.
        within: log spread of networks on one device.
        n: groups; 0 where none was measured, and ``between`` counts nothing.
    """
    half = half_width(between=between, judged=judged, within=within, n=n)
    rests = "spread by judgement" if not n else "Student's t over runtimes"
    return around(value, half, tier="C", n=n, method=f"roofline, class priors, {rests}")


def half_width(*, between: float, judged: float, within: float, n: int) -> float:
    """Return the half-width of tier C, of a logarithm; as :func:`from_data_sheet` has its arguments."""
    groups = t_quantile(COVERAGE, n - 1) * between * math.sqrt(1 + 1 / n) if n > 1 else 0.0
    return min(math.hypot(groups, _Z95 * judged, _Z95 * within), MOST)


def around(value: float, half: float, *, tier: Literal["B", "C"], n: int, method: str) -> Interval:
    """Return value x/÷ exp(half)."""
    return Interval(
        value=value,
        low=value * math.exp(-half),
        high=value * math.exp(half),
        coverage=COVERAGE,
        tier=tier,
        n=n,
        method=method,
    )
