"""What else speaks against an energy run: other programs, clocks, throttling, temperature. From the trace alone."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.energy.phases import HOST, IDLE_AFTER, IDLE_BEFORE, Span, first, host_around, looks
from hwbench.energy.trace import Trace
from hwbench.records.base import Missing

FOREIGN = 0.10  # of the CPUs
CLOCKS = 0.02  # relative
_OF_CPUS = "clock:"  # how the meters of this machine name them


def circumstances(trace: Trace, windows: Sequence[Span]) -> list[str]:
    """Return the flags ``foreign_load``, ``clocks_not_locked``, ``clocks_unknown``, ``throttled:cpu`` that apply."""
    flags: list[str] = []
    idle = [span for name in (IDLE_BEFORE, IDLE_AFTER) if (span := first(trace, name)) is not None]
    stretches = [(windows[0].start_s, windows[-1].end_s), *((span.start_s, span.end_s) for span in idle)]
    if any(_foreign(trace, start_s, end_s) > FOREIGN for start_s, end_s in stretches):
        flags.append("foreign_load")
    flags += _clocks(trace, windows)
    around = host_around(trace, windows[0].start_s, windows[-1].end_s)
    if around is not None:
        before, after = (mark.facts.get("throttle_events") for mark in around)
        if before is not None and after is not None and after > before:
            flags.append("throttled:cpu")
    return flags


def _foreign(trace: Trace, start_s: float, end_s: float) -> float:
    """Return the share of the CPUs that others used; zero where that was not read."""
    around = host_around(trace, start_s, end_s)
    if around is None:
        return 0.0
    before, after = around
    try:
        busy_s = after.facts["busy_s"] - before.facts["busy_s"]
        own_s = after.facts["process_cpu_s"] - before.facts["process_cpu_s"]
        return (busy_s - own_s) / ((after.t_s - before.t_s) * before.facts["cpus"])
    except (KeyError, ZeroDivisionError):
        return 0.0


def _clocks(trace: Trace, windows: Sequence[Span]) -> list[str]:
    """Say whether clocks moved, or may: by the instrument's own, else by what the system has set, else by the CPUs'.

    The CPUs' clocks are those of idle cores too, so they count only where nothing is told.
    """
    told = [mark.facts["clocks_locked"] for mark in looks(trace, HOST) if "clocks_locked" in mark.facts]
    clocks = [channel for channel in trace.header.channels if channel.quantity == "frequency"]
    own = [channel for channel in clocks if not channel.name.startswith(_OF_CPUS)]
    channels = own or ([] if told else clocks)
    for channel in channels:
        inside = [s.value for s in trace.of(channel) if any(w.start_s <= s.t_s <= w.end_s for w in windows)]
        if inside and max(inside) - min(inside) > CLOCKS * max(inside):
            return ["clocks_not_locked"]
    if channels:
        return []
    if not told:
        return ["clocks_unknown"]
    return [] if all(told) else ["clocks_not_locked"]


def temperatures(trace: Trace, start_s: float, end_s: float) -> tuple[float | Missing, float | Missing]:
    """Return the hottest temperature at two times: the instrument's own, else the host's, else why there is none."""
    found: list[float | Missing] = []
    for t_s in (start_s, end_s):
        series = [trace.of(channel) for channel in trace.header.channels if channel.quantity == "temperature"]
        last = [[s.value for s in samples if s.t_s <= t_s][-1:] for samples in series]
        values = [value for one in last for value in one]
        if not values:
            around = host_around(trace, start_s, end_s)
            mark = None if around is None else around[0 if t_s == start_s else 1]
            values = [mark.facts["temperature_c"]] if mark is not None and "temperature_c" in mark.facts else []
        found.append(max(values) if values else Missing(code="no_sensor", why="no temperature could be read"))
    return found[0], found[1]
