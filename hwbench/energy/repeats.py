"""A mean over repeated windows, its two uncertainties apart.

Type A: the windows' scatter, by Student's t over the windows. Samples inside one window are correlated, so their number
does not enter. Type B: what is known of the instrument; it is common to the windows and is not divided by their number.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from hwbench.records.base import Missing
from hwbench.records.energy import Repeated
from hwbench.stats import mean_interval


def repeated(values: Sequence[float], relative_uncertainty: float) -> Repeated | Missing:
    """Return the mean of ``values``, one a window, with its interval; ``too_few_windows`` below two.

    Args:
        values: of each window, the same quantity.
        relative_uncertainty: of the instrument, k=2.
    """
    if len(values) < 2:
        why = f"{len(values)} window has a value, and an interval needs 2"
        return Missing(code="too_few_windows", why=why, cure="--energy-repeats 5")
    low, high = mean_interval(values)
    mean = statistics.fmean(values)
    return Repeated(
        value=mean,
        low=min(low, mean),
        high=max(high, mean),
        stdev=statistics.stdev(values),
        n=len(values),
        relative_uncertainty=relative_uncertainty,
    )
