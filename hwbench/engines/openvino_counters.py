"""OpenVINO's performance counters, from running means to times of single inferences.

A counter of the CPU plugin tells the mean over every inference since the network was compiled, the first one included,
in whole microseconds. So what one inference took is hidden, but not what many took: between two readings n0 and n1 a
unit took (n1 m1 - n0 m0) / (n1 - n0) each, to within a microsecond or so. A stall strikes one unit in one inference:
how long it was is told by the wall clock, and which unit it was by whose mean has jumped.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

_QUIET = 0.25  # of the inferences, which others are held against
_STALL = 1.2  # times a quiet one: an inference from end to end that was held up
_HIDDEN_S = 1e-6  # for each inference so far: what rounding of the mean hides in the sum
_ROUNDED_S = 0.5e-6  # by which cutting off at whole microseconds makes a mean too small


def told_apart(means_s: Array, end_to_end_s: Array, before: int) -> Array:
    """Return what each unit took in each inference, in seconds, [inferences, units].

    Args:
        means_s: the counters after each inference, and first those before them, [inferences + 1, units].
        end_to_end_s: wall time of each inference, [inferences].
        before: how many inferences had been run before the first of them.

    Apart from stalls, every unit is taken to be slower in an inference by the factor by which the whole is: more is not
    told. A stall shorter than what rounding hides is not told from the rest either.
    """
    counts = before + np.arange(len(means_s))
    totals = means_s * counts[:, None]
    steps = np.diff(totals, axis=0)
    stalls = np.zeros_like(steps)
    usual = float(np.quantile(end_to_end_s, _QUIET))
    held = end_to_end_s > _STALL * usual
    typical = np.median(steps, axis=0)
    for at in np.flatnonzero(held):
        left, hidden = end_to_end_s[at] - usual, _HIDDEN_S * counts[at + 1]
        for unit in np.argsort(typical - steps[at]):  # the one that jumped most first
            jumped = min(left, steps[at, unit] - typical[unit])
            if jumped <= hidden:
                break
            stalls[at, unit] = jumped
            left -= jumped
    each = (totals[-1] - totals[0] - stalls.sum(axis=0)) / len(steps)
    each = np.where(means_s[-1] > 0, np.maximum(each, 0.0) + _ROUNDED_S, 0.0)
    alike = np.where(held, usual, end_to_end_s)
    found: Array = each[None, :] * (alike / alike.mean())[:, None] + stalls
    return found
