"""The power without work, before and after: how much, how sure, and whether it held still.

The state is ``idle_active``: the model is loaded and nothing runs. Its uncertainty leaves gain and offset out: it is
subtracted from energies of the same instrument, where the offset cancels, and the gain is that of the difference.
"""

from __future__ import annotations

import math
import statistics

from hwbench.energy.account import Headline, energy_between
from hwbench.energy.phases import IDLE_AFTER, IDLE_BEFORE, Span, first
from hwbench.energy.plateau import summed
from hwbench.energy.trace import Trace
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyReading, Idle

DRIFT, DRIFT_W = 0.05, 2.0  # more than either is flagged


def idle_power(trace: Trace, headline: Headline) -> Idle | Missing:
    """Return the idle power, or why neither side has one."""
    sides = [first(trace, IDLE_BEFORE), first(trace, IDLE_AFTER)]
    before, after = (_reading(trace, side, headline) for side in sides)
    seen = [reading for reading in (before, after) if isinstance(reading, EnergyReading)]
    if not seen:
        return before if isinstance(before, Missing) else _UNMARKED
    powers = [_watts(reading) for reading in seen]
    mean_w = statistics.fmean(powers)
    own = [own_uncertainty(trace, reading) * _watts(reading) for reading in seen]
    apart_w = (max(powers) - min(powers)) / 2 / math.sqrt(3)  # anywhere between the two sides
    return Idle(
        state="idle_active",
        before_w=before if isinstance(before, Missing) else _watts(before),
        after_w=after if isinstance(after, Missing) else _watts(after),
        mean_w=mean_w,
        standard_uncertainty_w=math.hypot(apart_w, max(own)),
        window_s=min(reading.window_s for reading in seen),
    )


_UNMARKED = Missing(code="no_idle", why="the trace has no idle phase", cure="record with --mode energy")


def idle_flags(idle: Idle) -> list[str]:
    """Return ``idle_drift`` or ``idle_one_sided`` where they apply."""
    if isinstance(idle.before_w, Missing) or isinstance(idle.after_w, Missing):
        return ["idle_one_sided"]
    apart_w = abs(idle.after_w - idle.before_w)
    return ["idle_drift"] if apart_w > DRIFT_W or apart_w > DRIFT * idle.mean_w else []


def _reading(trace: Trace, side: Span | None, headline: Headline) -> EnergyReading | Missing:
    if side is None:
        return _UNMARKED
    return energy_between(trace, side.start_s, side.end_s, headline=headline)


def _watts(reading: EnergyReading) -> float:
    return reading.energy_j / reading.window_s


def own_uncertainty(trace: Trace, reading: EnergyReading) -> float:
    """Return the relative standard uncertainty (k=1) less what all readings of the instrument share: gain, offset."""
    offset_w = sum(
        channel.offset
        for channel in summed(trace)
        if channel.quantity == "power" and channel.name in reading.domains_j  # of two views, the one that is shown
    )
    shared = math.hypot(reading.gain_uncertainty, 2 * offset_w * reading.window_s / reading.energy_j)
    return math.sqrt(max(0.0, reading.relative_uncertainty**2 - shared**2)) / 2
