"""The checks of a meter's self-test: pure functions of a trace with the marks of the course.

Limits are those of docs/energy.md. A check that the trace does not allow says ``cannot_tell`` and why: it is no pass.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise

from hwbench.energy.account import MISMATCH, MISMATCH_WINDOW_S, energy_between
from hwbench.energy.integrate import counter_faults, update_period_s
from hwbench.energy.phases import IDLE_AFTER, IDLE_BEFORE, RECORDER, Span, first, looks, spans
from hwbench.energy.plateau import slowest_period_s, summed
from hwbench.energy.trace import Trace
from hwbench.records.base import Missing
from hwbench.records.energy import CrossCheck, EnergyReading
from hwbench.records.selftest import SelfTestCheck
from hwbench.stats import mean_interval, slope

LOAD, DUTY, WITH, WITHOUT, CONTROL = "load", "duty", "latency_with", "latency_without", "latency_control"
SIGMAS, IDLE_SHIFT, R_SQUARED, INTERCEPT, CPU_SHARE = 3.0, 0.05, 0.99, 0.10, 0.01
FLOOR = 0.005  # relative: below it, the spread is drift of the machine and not of the meter
_SLACK = 1.15  # of a spread over few windows
_PARTS = 8
_FEWEST_PARTS = 4
_FEWEST_CHANGES = 10


def all_checks(trace: Trace) -> tuple[SelfTestCheck, ...]:
    """Return every check, in the order of the course.

    Raises:
        StorageError: a phase is without its other end.
    """
    return tuple(one(trace) for one in CHECKS)


def load_above_idle(trace: Trace) -> SelfTestCheck:
    """Load draws more than idle, by three standard deviations of idle."""
    limit = f"more than {SIGMAS:g} standard deviations of idle above it"
    idle, load = _parts_w(trace, first(trace, IDLE_BEFORE)), _parts_w(trace, first(trace, LOAD))
    if isinstance(idle, Missing) or isinstance(load, Missing):
        return _cannot("load_above_idle", limit, idle if isinstance(idle, Missing) else load)
    idle_w, load_w, sigma_w = statistics.fmean(idle), statistics.fmean(load), statistics.stdev(idle)
    found = f"{load_w:.4g} W loaded, {idle_w:.4g} W idle, which scatters by {sigma_w:.2g} W"
    values = {"idle_w": idle_w, "load_w": load_w, "sigma_w": sigma_w}
    return _told("load_above_idle", load_w > idle_w + SIGMAS * sigma_w, found, limit, values)


def idle_the_same(trace: Trace) -> SelfTestCheck:
    """Idle before and after are the same within 5 %."""
    limit = f"within {IDLE_SHIFT:.0%}"
    before, after = _mean_w(trace, first(trace, IDLE_BEFORE)), _mean_w(trace, first(trace, IDLE_AFTER))
    if isinstance(before, Missing) or isinstance(after, Missing):
        return _cannot("idle_the_same", limit, before if isinstance(before, Missing) else after)
    found = f"{before:.4g} W before, {after:.4g} W after ({after / before - 1:+.1%})"
    values = {"before_w": before, "after_w": after}
    return _told("idle_the_same", abs(after / before - 1) <= IDLE_SHIFT, found, limit, values)


def halves_agree(trace: Trace) -> SelfTestCheck:
    """Two halves of the load agree within their uncertainty, in which the common gain does not count."""
    limit = "within the uncertainty of both (k=2, without the gain), and never closer than 0.5 % is asked"
    load = first(trace, LOAD)
    if load is None:
        return _cannot("halves_agree", limit, _no_phase(LOAD))
    middle = (load.start_s + load.end_s) / 2
    halves = [energy_between(trace, a, b) for a, b in ((load.start_s, middle), (middle, load.end_s))]
    for half in halves:
        if isinstance(half, Missing):
            return _cannot("halves_agree", limit, half)
    readings = [half for half in halves if isinstance(half, EnergyReading)]
    powers = [reading.energy_j / reading.window_s for reading in readings]
    own = [math.sqrt(max(0.0, r.relative_uncertainty**2 - r.gain_uncertainty**2)) for r in readings]
    apart, allowed = abs(powers[1] / powers[0] - 1), max(math.hypot(*own), FLOOR)
    found = f"{powers[0]:.4g} W and {powers[1]:.4g} W, {apart:.2%} apart; {allowed:.2%} is allowed"
    return _told("halves_agree", apart <= allowed, found, limit, {"apart": apart, "allowed": allowed})


def duty_is_linear(trace: Trace) -> SelfTestCheck:
    """Mean power follows the share of time that was worked, and begins at idle."""
    limit = f"R² above {R_SQUARED}, and the line begins within {INTERCEPT:.0%} of the load's power above idle"
    idle, load = _mean_w(trace, first(trace, IDLE_BEFORE)), _mean_w(trace, first(trace, LOAD))
    if isinstance(idle, Missing) or isinstance(load, Missing):
        return _cannot("duty_is_linear", limit, idle if isinstance(idle, Missing) else load)
    points: list[tuple[float, float]] = []
    for duty in spans(trace, DUTY):
        power = _mean_w(trace, duty)
        if isinstance(power, Missing):
            return _cannot("duty_is_linear", limit, power)
        points.append((duty.fact("busy", 0.0), power))
    if len(points) < 3:
        return _cannot("duty_is_linear", limit, _no_phase(DUTY))
    fit = _line(points)
    off = abs(fit[1] - idle) / (load - idle) if load > idle else math.inf
    shown = ", ".join(f"{busy:.0%}: {power:.4g} W" for busy, power in points)
    found = f"{shown}; R² {fit[2]:.4f}, begins at {fit[1]:.4g} W, idle is {idle:.4g} W"
    values = {"r_squared": fit[2], "intercept_w": fit[1], "idle_w": idle, "slope_w": fit[0]}
    return _told("duty_is_linear", fit[2] > R_SQUARED and off <= INTERCEPT, found, limit, values)


def counter_and_power(trace: Trace) -> SelfTestCheck:
    """The instrument's two views of the load agree within 5 %."""
    limit = f"within {MISMATCH:.0%} over {MISMATCH_WINDOW_S:g} s or more"
    load = first(trace, LOAD)
    if load is None or load.seconds < MISMATCH_WINDOW_S * 0.99:
        return _cannot("counter_and_power", limit, _no_phase(LOAD))
    reading = energy_between(trace, load.start_s, load.end_s, headline="total")
    crosscheck = reading if isinstance(reading, Missing) else reading.crosscheck
    if not isinstance(crosscheck, CrossCheck):
        return _cannot("counter_and_power", limit, crosscheck)
    found = f"ratio to {crosscheck.channel}: {crosscheck.ratio:.4f}"
    agree = abs(math.log(crosscheck.ratio)) <= math.log1p(MISMATCH)
    return _told("counter_and_power", agree, found, limit, {"ratio": crosscheck.ratio})


def update_period(trace: Trace) -> SelfTestCheck:
    """The channels change as often as they say, as far as they were read often enough to see it."""
    limit = "not slower than twice what is declared, or than it was read"
    words: list[str] = []
    values: dict[str, float] = {}
    slow = False
    for channel in summed(trace):
        inside = [s for s in trace.of(channel) if any(d.start_s <= s.t_s <= d.end_s for d in spans(trace, DUTY))]
        changes = sum(a.value != b.value for a, b in pairwise(inside))
        seen_s, read_s = update_period_s(inside, counter=True), update_period_s(inside, counter=False)
        if seen_s is None or read_s is None or changes < _FEWEST_CHANGES:
            continue
        declared = channel.period_s
        known = isinstance(declared, float)
        words.append(
            f"{channel.name} changes every {seen_s:.3g} s ({f'declared {declared:g} s' if known else 'not declared'}"
            f", read every {read_s:.3g} s)"
        )
        values[f"{channel.name}_period_s"] = seen_s
        slow |= isinstance(declared, float) and seen_s > 2 * max(declared, read_s)
    if not words:
        return _cannot("update_period", limit, Missing(code="few_changes", why="no channel changed often enough"))
    return _told("update_period", not slow, "; ".join(words), limit, values)


def counter_rises(trace: Trace) -> SelfTestCheck:
    """No counter went backwards, jumped, or may have gone round unseen."""
    limit = "never backwards, no jump"
    counters = [channel for channel in summed(trace) if channel.quantity == "energy"]
    faults = [fault for channel in counters if (fault := counter_faults(trace.of(channel), channel)) is not None]
    if not counters:
        return _cannot("counter_rises", limit, Missing(code="no_counter", why="the instrument has no counter"))
    readings = sum(len(trace.of(channel)) for channel in counters)
    found = "; ".join(fault.why for fault in faults) or f"{readings} readings, none below the one before"
    return _told("counter_rises", not faults, found, limit, {"readings": float(readings)})


def longer_is_steadier(trace: Trace) -> SelfTestCheck:
    """Longer windows scatter less, down to the drift of the machine: half for twice the length where edges rule."""
    limit = f"four times the window: at most {_SLACK / math.sqrt(2):.2f} of the spread, or below {FLOOR:.1%}"
    load = first(trace, LOAD)
    if load is None:
        return _cannot("longer_is_steadier", limit, _no_phase(LOAD))
    longer = min(_PARTS, int(load.seconds / (8 * max(slowest_period_s(trace), 0.01))))
    if longer < _FEWEST_PARTS:
        why = f"{load.seconds:.3g} s of load hold too few updates of the meter"
        return _cannot("longer_is_steadier", limit, Missing(code="too_short", why=why))
    spreads: list[float] = []
    for parts in (4 * longer, longer):
        powers = _parts_w(trace, load, parts)
        if isinstance(powers, Missing):
            return _cannot("longer_is_steadier", limit, powers)
        spreads.append(statistics.stdev(powers) / statistics.fmean(powers))
    short, long = spreads
    found = f"spread {short:.2%} over {4 * longer} windows of the load, {long:.2%} over {longer}"
    steadier = long <= _SLACK * short / math.sqrt(2) or long <= FLOOR
    return _told("longer_is_steadier", steadier, found, limit, {"short": short, "long": long})


def recorder_is_light(trace: Trace) -> SelfTestCheck:
    """Recording costs less than 1 % of a core."""
    limit = f"less than {CPU_SHARE:.0%} of one core"
    costs = looks(trace, RECORDER)
    if not costs:
        return _cannot("recorder_is_light", limit, Missing(code="not_recorded", why="the trace does not say"))
    share = costs[-1].facts["cpu_s"] / costs[-1].facts["span_s"]
    return _told("recorder_is_light", share < CPU_SHARE, f"{share:.2%} of one core", limit, {"cpu_share": share})


def latency_is_unchanged(trace: Trace) -> SelfTestCheck:
    """The same work takes as long with the recorder as without, as far as without and without again do."""
    limit = "the 95 % interval of the ratio holds 1, or the ratio is as near 1 as the control's"
    sides = [[mark.facts["median_s"] for mark in looks(trace, name)] for name in (WITH, WITHOUT, CONTROL)]
    if min(len(side) for side in sides) < 3:
        return _cannot("latency_is_unchanged", limit, Missing(code="few_blocks", why="fewer than three blocks each"))
    ratios = [math.log(a / b) for a, b in zip(sides[0], sides[1], strict=True)]
    control = [math.log(a / b) for a, b in zip(sides[2], sides[1], strict=True)]
    low, high = mean_interval(ratios)
    mean, noise = statistics.fmean(ratios), max(abs(edge) for edge in mean_interval(control))
    found = f"{math.exp(mean) - 1:+.2%} [{math.exp(low) - 1:+.2%}, {math.exp(high) - 1:+.2%}]; control ±{noise:.2%}"
    values = {"ratio": math.exp(mean), "low": math.exp(low), "high": math.exp(high), "control": noise}
    return _told("latency_is_unchanged", low <= 0 <= high or abs(mean) <= noise, found, limit, values)


CHECKS: tuple[Callable[[Trace], SelfTestCheck], ...] = (
    load_above_idle,
    idle_the_same,
    halves_agree,
    longer_is_steadier,
    duty_is_linear,
    counter_and_power,
    counter_rises,
    update_period,
    recorder_is_light,
    latency_is_unchanged,
)


def _told(name: str, good: bool, found: str, limit: str, values: dict[str, float]) -> SelfTestCheck:
    kept = {key: value for key, value in values.items() if math.isfinite(value)}
    return SelfTestCheck(name=name, status="passed" if good else "failed", found=found, limit=limit, values=kept)


def _cannot(name: str, limit: str, reason: object) -> SelfTestCheck:
    return SelfTestCheck(name=name, status="cannot_tell", found=str(reason), limit=limit)


def _no_phase(name: str) -> Missing:
    return Missing(code="no_phase", why=f"the trace has too little of the phase '{name}'")


def _mean_w(trace: Trace, span: Span | None) -> float | Missing:
    if span is None:
        return Missing(code="no_phase", why="the trace lacks a phase")
    reading = energy_between(trace, span.start_s, span.end_s, headline="total")
    return reading if isinstance(reading, Missing) else reading.energy_j / reading.window_s


def _parts_w(trace: Trace, span: Span | None, parts: int = _PARTS) -> list[float] | Missing:
    """Return the mean power of equal parts of a phase."""
    if span is None:
        return Missing(code="no_phase", why="the trace lacks a phase")
    step_s = span.seconds / parts
    powers: list[float] = []
    for i in range(parts):
        reading = energy_between(trace, span.start_s + i * step_s, span.start_s + (i + 1) * step_s, headline="total")
        if isinstance(reading, Missing):
            return reading
        powers.append(reading.energy_j / reading.window_s)
    return powers


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Return slope, intercept and R² of the least-squares line."""
    gradient = slope(points)
    mean_x, mean_y = statistics.fmean(x for x, _ in points), statistics.fmean(y for _, y in points)
    intercept = mean_y - gradient * mean_x
    left = sum((y - gradient * x - intercept) ** 2 for x, y in points)
    whole = sum((y - mean_y) ** 2 for _, y in points)
    return gradient, intercept, 1 - left / whole if whole else 0.0
