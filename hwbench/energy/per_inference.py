"""Joules for one inference: total, above idle, and how sure.

A window's energy over its number of inferences; the mean over windows with both uncertainties apart. Refused where a
window holds fewer than ten updates of the instrument: then its edges alone may be a tenth of the reading.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from hwbench.energy.idle import own_uncertainty
from hwbench.energy.repeats import repeated
from hwbench.energy.shares import adds_power
from hwbench.energy.trace import Trace
from hwbench.energy.uncertainty import TOO_SHORT_PERIODS
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyReading, EnergyWindow, Idle, Repeated

SHORTEST_WINDOW_S = 10.0
WINDOW_PERIODS = 100.0  # an edge is then off by 1 % at the worst
RESOLVED_STEPS = 2.5  # a difference of fewer steps of the sensor is not reported


def window_rule_s(period_s: float) -> float:
    """Return the shortest window, and idle phase, for an instrument that changes every ``period_s``."""
    return max(SHORTEST_WINDOW_S, WINDOW_PERIODS * period_s)


def total_per_inference(windows: Sequence[EnergyWindow], idle: Idle | Missing) -> Repeated | Missing:
    """Return the joules of one inference, or why there are none: the first window's reason, or ``window_too_short``."""
    usable = [(window, window.reading) for window in windows if isinstance(window.reading, EnergyReading)]
    if not usable:
        lost = windows[0].reading
        assert isinstance(lost, Missing)
        return lost
    for _, reading in usable:
        period_s = reading.update_period_s
        if isinstance(period_s, float) and reading.window_s < TOO_SHORT_PERIODS * period_s:
            why = (
                f"the window of {reading.window_s:.3g} s holds less than 10 updates of the instrument ({period_s:g} s)"
            )
            return Missing(code="window_too_short", why=why, cure=f"--energy-window {window_rule_s(period_s):g}s")
    if isinstance(idle, Missing) and any(window.paused_s for window, _ in usable):
        why = f"the windows hold deliberate pauses, and what the machine draws in them is not known: {idle.why}"
        return Missing(code=idle.code, why=why, cure=idle.cure)
    relative = max(math.hypot(r.relative_uncertainty, 2 * _pause_u_j(w, r, idle) / r.energy_j) for w, r in usable)
    return repeated([_worked_j(w, r, idle) / w.inferences for w, r in usable], relative)


def _worked_j(window: EnergyWindow, reading: EnergyReading, idle: Idle | Missing) -> float:
    """Return the energy of the window less that of deliberate pauses, in which the machine idled."""
    return reading.energy_j if isinstance(idle, Missing) else reading.energy_j - idle.mean_w * window.paused_s


def _pause_u_j(window: EnergyWindow, reading: EnergyReading, idle: Idle | Missing) -> float:
    """Return the standard part (k=1) for pauses whose power lay somewhere between idle, which is taken off, and load.

    About an end of a rectangle, not its middle: the whole width over sqrt(3).
    """
    if isinstance(idle, Missing) or not window.paused_s:
        return 0.0
    worked_w = _worked_j(window, reading, idle) / max(reading.window_s - window.paused_s, window.paused_s)
    return max(0.0, worked_w - idle.mean_w) * window.paused_s / math.sqrt(3)


def dynamic_per_inference(
    trace: Trace, windows: Sequence[EnergyWindow], idle: Idle | Missing, total: Repeated | Missing
) -> Repeated | Missing:
    """Return the energy above idle: ``u(E_dyn)² = u(E)² + T² u(P_idle)² + g² E_dyn² + u(pauses)²``.

    ``u(E)`` and ``u(P_idle)`` are without gain and offset: the offset cancels, the gain ``g`` is the difference's.
    """
    if isinstance(total, Missing):
        return total
    if isinstance(idle, Missing):
        return idle
    usable = [(window, window.reading) for window in windows if isinstance(window.reading, EnergyReading)]
    values = [(r.energy_j - idle.mean_w * r.window_s) / w.inferences for w, r in usable]
    above_w = statistics.fmean(r.energy_j / r.window_s for _, r in usable) - idle.mean_w
    step_w = sum(c.lsb for c in trace.header.channels if adds_power(c) and isinstance(c.lsb, float))
    if abs(above_w) < RESOLVED_STEPS * step_w:
        why = f"the load draws {above_w:.2g} W above idle, and the sensor's steps add up to {step_w:.2g} W"
        return Missing(code="below_resolution", why=why, cure="use the total, or a meter with finer steps")
    window, reading = max(usable, key=lambda item: item[1].relative_uncertainty)
    mean_j = statistics.fmean(values)
    if mean_j == 0:
        return Missing(code="below_resolution", why="the load draws as much as idle", cure="use the total")
    parts = (
        own_uncertainty(trace, reading) * reading.energy_j,
        reading.window_s * idle.standard_uncertainty_w,
        reading.gain_uncertainty / 2 * mean_j * window.inferences,
        _pause_u_j(window, reading, idle),
    )
    return repeated(values, 2 * math.hypot(*parts) / window.inferences / abs(mean_j))


def inverse(total: Repeated | Missing) -> float | Missing:
    """Return inferences per joule, which are inferences per second and watt."""
    if isinstance(total, Missing):
        return total
    if total.value <= 0:
        return Missing(code="energy_not_positive", why="the energy of an inference is not positive")
    return 1 / total.value
