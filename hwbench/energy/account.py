"""The energy of a stretch of a trace: which channels count, whether they can be believed, and how uncertain the sum is.

Pure functions of a :class:`hwbench.energy.trace.Trace`: the same file gives the same numbers, whenever.

* Channels with the role ``total`` are added up, each joule once: of counters that show one register, the first counts.
* Channels with the role ``check`` are another view of the same energy. Where counters and power disagree by more than
  5 % over ten seconds or more, the power integral is the headline and the reading is flagged: energy counters are known
  that fall far short (see the sources in docs/energy.md), power integrals of a plateau are not. But a power that stood
  still, or has gaps, is never put before a counter.
* A counter that jumped, may have gone round unseen, or went backwards unexplained has no energy; nor has a sum of
  counters of which one that matters stood still.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hwbench.energy.integrate import Sample
from hwbench.energy.shares import Share, share
from hwbench.energy.trace import Trace
from hwbench.energy.uncertainty import TOO_SHORT_PERIODS, edges, expanded, gaps, quantisation
from hwbench.records.base import Missing
from hwbench.records.energy import Channel, CrossCheck, EnergyReading

Headline = Literal["auto", "total", "check"]

MISMATCH = 0.05  # relative, between counters and power
MISMATCH_WINDOW_S = 10.0  # shorter windows disagree by their edges alone
_MIRROR_J = 1.0  # the copies are read one after the other, so they differ a little
_MIRROR_RELATIVE = 1e-6


@dataclass(frozen=True, kw_only=True)
class _Sum:
    """Several channels added up."""

    shares: tuple[Share, ...]
    flags: tuple[str, ...]

    @property
    def energy_j(self) -> float:
        return math.fsum(item.integral.energy_j for item in self.shares)

    @property
    def period_s(self) -> float:
        return max(item.period_s for item in self.shares)

    @property
    def coverage(self) -> float:
        return min(item.integral.coverage for item in self.shares)


def energy_between(
    trace: Trace,
    start_s: float,
    end_s: float,
    *,
    load_period_s: float | None = None,
    headline: Headline = "auto",
) -> EnergyReading | Missing:
    """Return the energy between two times of a trace.

    Args:
        trace: what was recorded.
        start_s: start of the window, on the clock of the trace.
        end_s: its end.
        load_period_s: period of the load (one inference), if it has one: sensors that look at a part of the time, or
            less than twice a period, may see a part of the load only (``aliasing_risk``).
        headline: which view is shown where the instrument has two; ``auto``: the total, or the power integral where
            the two disagree in this window. Several windows of one run must show the same view.

    Returns:
        The reading; :class:`Missing` with ``no_readings``, ``window_too_short``, ``counter_constant``,
        ``counter_backwards``, ``counter_jumped``, ``wrap_ambiguous``, ``no_samples``, ``energy_not_positive``, or the
        code of the instrument's own fault.
    """
    if not end_s > start_s:
        return Missing(code="window_too_short", why="no time passed in the window")
    total = _added(trace, "total", start_s, end_s, load_period_s)
    check = _added(trace, "check", start_s, end_s, load_period_s)
    if isinstance(total, Missing):
        return total
    if headline == "check" and isinstance(check, Missing):
        return check
    head, crosscheck, flags = total, _NO_CHECK, list(total.flags)
    if isinstance(check, Missing):
        crosscheck = _NO_CHECK if check.code == "no_readings" else check
    elif headline == "check" or (check.energy_j > 0 and total.energy_j >= 0):
        mismatch = end_s - start_s >= MISMATCH_WINDOW_S and _differ(total, check)
        other = check
        if headline == "check" or (headline == "auto" and mismatch and _is_sound_power(check)):
            head, other = check, total
        flags = [*head.flags, "counter_power_mismatch"] if mismatch else [*head.flags]
        if other.energy_j > 0:
            ratio = head.energy_j / other.energy_j
            crosscheck = CrossCheck(channel=_names(other), energy_j=other.energy_j, ratio=ratio)
    if head.energy_j <= 0:
        why = f"{_names(head)} gives {head.energy_j:g} J in {end_s - start_s:.3g} s"
        return Missing(code="energy_not_positive", why=why, cure="is the sensor on what is being measured?")
    return _reading(trace, head, start_s, end_s, crosscheck, flags)


_NO_CHECK: CrossCheck | Missing = Missing(code="no_second_channel", why="the instrument has one view only")


def _differ(a: _Sum, b: _Sum) -> bool:
    low_j, high_j = sorted((max(a.energy_j, 1e-12), max(b.energy_j, 1e-12)))
    return math.log(high_j / low_j) > math.log1p(MISMATCH)


def _reading(
    trace: Trace, total: _Sum, start_s: float, end_s: float, crosscheck: CrossCheck | Missing, flags: list[str]
) -> EnergyReading:
    window_s = end_s - start_s
    header = trace.header
    if total.period_s and window_s < TOO_SHORT_PERIODS * total.period_s:
        flags.append("window_too_short")
    flags += [flag for flag in header.settings.get("flags", "").split() if flag]
    parts = [share(trace, channel, start_s, end_s, None) for channel in _channels(trace, "part")]
    breakdown = {s.channel.name: s.integral.energy_j for s in (*total.shares, *parts) if isinstance(s, Share)}
    if any(isinstance(part, Missing) for part in parts):
        flags.append("breakdown_incomplete")
    throttled = throttled_between(trace, start_s, end_s)
    flags += [f"throttled:{reason}" for reason, seconds in throttled.items() if seconds > 0]
    return EnergyReading(
        meter=header.meter,
        boundary=f"{header.boundary} ({header.meter}: {_names(total)})",
        provenance=header.provenance,
        energy_j=total.energy_j,
        window_s=window_s,
        relative_uncertainty=expanded(*_uncertainty(total, window_s)),
        gain_uncertainty=expanded(_gain(total)),
        domains_j=breakdown,
        update_period_s=total.period_s or Missing(code="not_known", why="too few readings to tell the update period"),
        coverage=total.coverage,
        crosscheck=crosscheck,
        throttled_s=throttled,
        clock=header.clock,
        flags=tuple(dict.fromkeys(flags)),
    )


def _uncertainty(total: _Sum, window_s: float) -> tuple[float, ...]:
    """Return relative standard parts. Gains and offsets of one instrument go together; the rest is independent."""
    energy_j = total.energy_j
    offset = sum(s.channel.offset * window_s for s in total.shares if s.channel.quantity == "power") / energy_j
    parts = [_gain(total), offset, gaps(total.coverage)]
    for item in total.shares:
        weight = abs(item.integral.energy_j) / energy_j
        parts.append(weight * edges(item.period_s, window_s))
        lsb = item.channel.lsb
        if isinstance(lsb, Missing):
            continue
        if item.channel.quantity == "energy":
            parts.append(quantisation(lsb, 2, energy_j))
        else:  # not less with more readings: a steady load does not dither
            parts.append(quantisation(lsb * window_s, 1, energy_j))
    return tuple(parts)


def _gain(total: _Sum) -> float:
    return sum(s.channel.gain * abs(s.integral.energy_j) for s in total.shares) / total.energy_j


def throttled_between(trace: Trace, start_s: float, end_s: float) -> dict[str, float]:
    """Return by reason how long the device was held back: differences of cumulative counters at the edges."""
    found: dict[str, float] = {}
    for channel in trace.header.channels:
        if channel.quantity == "throttled":
            before = [s.value for s in trace.of(channel) if s.t_s <= start_s]
            until = [s.value for s in trace.of(channel) if s.t_s <= end_s]
            after = [s.value for s in trace.of(channel) if s.t_s >= end_s][:1] or until[-1:]
            if before and after:
                found[channel.name] = max(0.0, after[0] - before[-1])
    return found


def _channels(trace: Trace, role: str) -> list[Channel]:
    return [channel for channel in trace.header.channels if channel.role == role]


def _added(trace: Trace, role: str, start_s: float, end_s: float, load_period_s: float | None) -> _Sum | Missing:
    """Add up the channels of a role; of several kinds of fault, an essential channel's is the one that is told."""
    channels = _channels(trace, role)
    if not channels:
        return Missing(code="no_readings", why=f"the instrument has no channel in the role of a {role}")
    mirrors = _mirrors(trace, channels)
    shares: list[Share] = []
    flags: list[str] = ["mirrored_dies"] if mirrors else []
    still: list[str] = []
    constant: Missing | None = None
    for channel in channels:
        if channel.name in mirrors:
            continue
        seen = share(trace, channel, start_s, end_s, load_period_s)
        if isinstance(seen, Missing) and seen.code == "counter_constant":
            constant = constant or seen
            still.append(channel.name)
            if channel.essential:
                return _nothing_moved(seen, channels, end_s - start_s)
        elif isinstance(seen, Missing):
            return seen
        else:
            shares.append(seen)
    if not any(item.channel.essential for item in shares):
        return _nothing_moved(constant, channels, end_s - start_s)
    flags += [f"counter_constant:{name}" for name in still]
    flags += [flag for item in shares for flag in item.integral.flags]
    return _Sum(shares=tuple(shares), flags=tuple(dict.fromkeys(flags)))


def _nothing_moved(constant: Missing | None, channels: Sequence[Channel], window_s: float) -> Missing:
    periods = [channel.period_s for channel in channels if isinstance(channel.period_s, float)]
    if periods and window_s < TOO_SHORT_PERIODS * max(periods):
        return Missing(
            code="window_too_short",
            why=f"the window of {window_s:.2g} s is shorter than what the instrument resolves ({max(periods):g} s)",
            cure=f"measure for at least {100 * max(periods):g} s",
        )
    return constant or Missing(code="no_readings", why="no channel that matters has a reading")


def _mirrors(trace: Trace, channels: Sequence[Channel]) -> set[str]:
    """Return the counters that repeat an earlier one: some AMD sockets show one register under every die."""
    able = [channel for channel in channels if channel.may_mirror and len(trace.of(channel)) > 1]
    return {
        channel.name
        for i, channel in enumerate(able)
        if any(_close(trace.of(channel), trace.of(earlier), channel) for earlier in able[:i])
    }


def _close(a: Sequence[Sample], b: Sequence[Sample], channel: Channel) -> bool:
    return all(_near(x.value, y.value, channel.range) for x, y in ((a[0], b[0]), (a[-1], b[-1])))


def _near(a_j: float, b_j: float, range_j: float | None) -> bool:
    apart = abs(a_j - b_j)
    if range_j is not None:
        apart = min(apart, abs(range_j - apart))  # one of the two may just have wrapped
    return apart <= max(_MIRROR_J, _MIRROR_RELATIVE * max(a_j, b_j))


def _is_sound_power(view: _Sum) -> bool:
    """Say whether this is a power integral that nothing speaks against: one that is stuck, or has gaps, is no judge."""
    power = all(item.channel.quantity == "power" for item in view.shares)
    return power and not {"sensor_stale", "low_coverage", "negative_power"} & set(view.flags)


def _names(total: _Sum) -> str:
    return " + ".join(item.channel.name for item in total.shares)
