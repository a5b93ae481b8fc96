"""What held a GPU's clocks down between two looks at it: throttling, or a power limit, which is another matter.

Heat and a failing supply make a time that will not come again. At its power limit a GPU works as it is sold to; the
clock that is left depends on the work, the card and the room, which is worth a warning. A limit that was set lower
than the card's default was set on purpose, and to be at it is what was asked for.
"""

from __future__ import annotations

from hwbench.records.base import Missing
from hwbench.records.gpu import COVERED_BY, GpuState
from hwbench.units import format_seconds

_CAPS = frozenset({"sw_power_cap", "power"})
_THROTTLES = frozenset({"sw_thermal", "hw_thermal", "hw_power_brake", "hw_slowdown", "thermal"})
_HW_SLOWDOWN = frozenset({"hw_thermal", "hw_power_brake"})  # what the bit hw_slowdown is for (nvml.h)


def held_down(before: GpuState, after: GpuState, window_s: float, share: float) -> tuple[list[str], list[str]]:
    """Return in words what throttled the GPU, and what capped its power.

    Args:
        before: its state at the start of the window.
        after: at the end.
        window_s: between the two.
        share: of the window, below which nothing is said.
    """
    spans = _spans(before, after)
    throttled = [
        f"{reason} for {format_seconds(held_s)} of {format_seconds(window_s)}"
        for reason, held_s in spans.items()
        if reason in _THROTTLES and held_s > share * window_s
    ]
    capped = [
        f"{reason} for {format_seconds(held_s)} of {format_seconds(window_s)}"
        for reason, held_s in spans.items()
        if reason in _CAPS and held_s > share * window_s and not _lowered(after)
    ]
    if not isinstance(after.limited_by, Missing):  # what has no counter: what is so at the end
        now = {reason for reason in after.limited_by if not _counted(reason, spans)}
        throttled += [f"{reason} at the end" for reason in sorted(now & _THROTTLES)]
        capped += [f"{reason} at the end" for reason in sorted(now & _CAPS) if not _lowered(after)]
    return throttled + _events(before, after), capped


def _spans(before: GpuState, after: GpuState) -> dict[str, float]:
    if isinstance(before.limited, Missing) or isinstance(after.limited, Missing):
        return {}
    first = {entry.reason: entry.held_s for entry in before.limited}
    return {entry.reason: entry.held_s - first[entry.reason] for entry in after.limited if entry.reason in first}


def _counted(reason: str, spans: dict[str, float]) -> bool:
    """Say whether some counter would have seen what ``reason`` stands for."""
    if reason == "hw_slowdown":
        return all(_counted(part, spans) for part in _HW_SLOWDOWN)
    return reason in spans or COVERED_BY.get(reason) in spans


def _events(before: GpuState, after: GpuState) -> list[str]:
    if isinstance(before.throttle_events, Missing) or isinstance(after.throttle_events, Missing):
        return []
    count = after.throttle_events - before.throttle_events
    return [f"{count} over-current event{'s' if count > 1 else ''}"] if count > 0 else []


def _lowered(state: GpuState) -> bool:
    """Say whether the limit in force is below the card's own."""
    if isinstance(state.power_limit_w, Missing) or isinstance(state.default_power_limit_w, Missing):
        return False
    return state.power_limit_w < state.default_power_limit_w - 0.5  # limits are whole watts
