"""Average, 95th percentile and peak of the power in the repeats, and what each single value is a mean over.

A peak is the peak of means: without its averaging window it says nothing. A power sensor brings its own (its averaging
time, or the part of its period that it looks at); from a counter, power is the mean between two readings.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise

from hwbench.energy.phases import Span
from hwbench.energy.trace import Trace
from hwbench.records.base import Missing
from hwbench.records.energy import Channel, EnergyReading, PowerLevels
from hwbench.stats import supported_percentile

_SHORTEST_PERIODS = 10.0  # means of a counter over less are of its update, not of the power
_FEW = Missing(code="too_few_readings", why="fewer than two readings of the power lie in the windows")


def power_levels(trace: Trace, windows: Sequence[Span], readings: Sequence[EnergyReading]) -> PowerLevels | Missing:
    """Return the levels over ``windows``; ``readings`` are those of the same windows that have one."""
    seconds = sum(reading.window_s for reading in readings)
    if not seconds:
        return Missing(code="no_windows", why="no window has an energy")
    average_w = sum(reading.energy_j for reading in readings) / seconds
    means, averaging_s = _means(trace, windows)
    if isinstance(means, Missing):
        return PowerLevels(average_w=average_w, p95_w=means, peak_w=means, averaging_s=averaging_s)
    return PowerLevels(
        average_w=average_w,
        p95_w=_p95(means),
        peak_w=max(means),
        averaging_s=averaging_s,
    )


def _p95(means: Sequence[float]) -> float | Missing:
    p95_w = supported_percentile(sorted(means), 0.95)
    if isinstance(p95_w, Missing):
        return Missing(code=p95_w.code, why=p95_w.why, cure="more or longer windows (--energy-repeats)")
    return p95_w


def _means(trace: Trace, windows: Sequence[Span]) -> tuple[list[float] | Missing, float | Missing]:
    """Return single values of the power inside the windows, and what each is a mean over."""
    totals = [channel for channel in trace.header.channels if channel.role == "total"]
    checks = [channel for channel in trace.header.channels if channel.role == "check"]
    for channels in (totals, checks):  # a power view is finer than a counter's
        if channels and all(channel.quantity == "power" for channel in channels):
            return _added(trace, channels, windows), _window_of(channels)
    if not totals or any(channel.quantity != "energy" for channel in totals):
        return Missing(code="mixed_channels", why="counters and powers are added up: no common power"), _NOT_ONE
    return _from_counters(trace, totals, windows)


_NOT_ONE = Missing(code="not_known", why="no single averaging time")


def _window_of(channels: Sequence[Channel]) -> float | Missing:
    """Return what a reading of these is a mean over."""
    found: list[float] = []
    for channel in channels:
        if isinstance(channel.averaging_s, float) and channel.averaging_s > 0:
            found.append(channel.averaging_s)
        elif isinstance(channel.sensed_s, float):
            found.append(channel.sensed_s)
        else:
            return Missing(code="not_known", why=f"what a reading of {channel.name} is a mean over is not documented")
    return max(found)


def _added(trace: Trace, channels: Sequence[Channel], windows: Sequence[Span]) -> list[float] | Missing:
    """Add up what was read at the same moment; channels of one source are."""
    by_time = [{sample.t_s: sample.value for sample in trace.of(channel)} for channel in channels]
    common = set(by_time[0]).intersection(*by_time[1:])
    inside = [t_s for t_s in sorted(common) if any(w.start_s <= t_s <= w.end_s for w in windows)]
    if len(inside) >= 2:
        return [sum(values[t_s] for values in by_time) for t_s in inside]
    if len(channels) > 1:
        return Missing(code="not_together", why="the channels that add up are not read at the same moments")
    return _FEW


def _from_counters(
    trace: Trace, channels: Sequence[Channel], windows: Sequence[Span]
) -> tuple[list[float] | Missing, float | Missing]:
    """Return the mean power between readings of the counters, at least ten update periods apart."""
    known = [channel.period_s for channel in channels if isinstance(channel.period_s, float)]
    shortest_s = _SHORTEST_PERIODS * max(known, default=0.0)
    times = sorted(set.intersection(*({s.t_s for s in trace.of(channel)} for channel in channels)))
    values = {channel.name: {s.t_s: s.value for s in trace.of(channel)} for channel in channels}
    found: list[float] = []
    lengths: list[float] = []
    for window in windows:
        kept = _spaced([t_s for t_s in times if window.start_s <= t_s <= window.end_s], shortest_s)
        for a, b in pairwise(kept):
            steps = [_step(values[channel.name][a], values[channel.name][b], channel) for channel in channels]
            found.append(sum(steps) / (b - a))
            lengths.append(b - a)
    if len(found) < 2:
        return _FEW, _NOT_ONE
    return found, statistics.median(lengths)


def _spaced(times: Sequence[float], shortest_s: float) -> list[float]:
    kept: list[float] = []
    for t_s in times:
        if not kept or t_s - kept[-1] >= shortest_s:
            kept.append(t_s)
    return kept


def _step(before_j: float, after_j: float, channel: Channel) -> float:
    return after_j - before_j if after_j >= before_j else after_j - before_j + (channel.range or 0.0)
