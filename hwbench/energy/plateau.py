"""Has the machine settled? Slopes of temperature, power and, where neither can be read, of the latency.

A straight line is fitted to the last part of the warm-up, half of it and at least ten seconds: a slope over ten seconds
of noisy readings says nothing, and half of what went before shows a drift that goes on. The limits are 0.5 °C and 0.5 %
of the power in ten seconds. Every temperature that the instrument reads must be within its limit.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import pairwise

from hwbench.energy.account import energy_between
from hwbench.energy.phases import LOOK, looks
from hwbench.energy.shares import seen_period_s
from hwbench.energy.trace import Trace
from hwbench.records.energy import Channel, EnergyReading, Plateau
from hwbench.stats import slope

SHORTEST_S, LONGEST_S = 10.0, 60.0  # of the part that is looked at
LIMIT_C, LIMIT_W, LIMIT_S = 0.5, 0.005, 0.005  # in ten seconds; power and latency relative
_PARTS = 10
_FEWEST = 5
_PERIODS = 20.0  # the part looked at holds at least so many update periods


@dataclass(frozen=True, kw_only=True)
class Trend:
    """How something moves, in ten seconds: degrees, or relative."""

    what: str
    per_10s: float
    limit: float

    @property
    def within(self) -> bool:
        return abs(self.per_10s) < self.limit

    def __str__(self) -> str:
        shown = f"{self.per_10s:+.2f} °C" if self.limit == LIMIT_C else f"{self.per_10s * 100:+.2f} %"
        return f"{self.what} {shown}"


def settled(trace: Trace, start_s: float, now_s: float) -> Plateau:
    """Say whether the work that began at ``start_s`` had settled by ``now_s``, and by what that was seen."""
    span_s = max(SHORTEST_S, _PERIODS * slowest_period_s(trace), min(LONGEST_S, (now_s - start_s) / 2))
    after_s = now_s - start_s
    if span_s > after_s:
        return Plateau(reached=False, after_s=after_s, by=f"{span_s:.3g} s of steady work are the least to judge by")
    trends = _trends(trace, now_s - span_s, now_s)
    if not trends:
        return Plateau(reached=False, after_s=after_s, by="neither temperature nor power nor latency could be read")
    told = ", ".join(map(str, trends))
    return Plateau(
        reached=all(trend.within for trend in trends),
        after_s=after_s,
        by=f"in 10 s, over the last {span_s:.3g} s: {told}",
    )


def slowest_period_s(trace: Trace) -> float:
    """Return the longest update period of the channels that are added up; zero where there is none.

    One that is not documented is taken from the readings so far: between changes, which is never too short.
    """
    periods = [_period_s(trace, channel) for channel in summed(trace)]
    return max(periods, default=0.0)


def _period_s(trace: Trace, channel: Channel) -> float:
    return channel.period_s if isinstance(channel.period_s, float) else seen_period_s(trace.of(channel))


def longest_averaging_s(trace: Trace) -> float:
    """Return over how long the slowest of the channels that are added up averages; zero where none is known."""
    lags = [channel.averaging_s for channel in summed(trace)]
    return max((lag for lag in lags if isinstance(lag, float)), default=0.0)


def summed(trace: Trace) -> list[Channel]:
    """Return the channels in the roles ``total`` and ``check``."""
    return [channel for channel in trace.header.channels if channel.role in {"total", "check"}]


def _trends(trace: Trace, start_s: float, end_s: float) -> list[Trend]:
    trends = [*_temperatures(trace, start_s, end_s), *_power(trace, start_s, end_s)]
    return trends or _latency(trace, start_s, end_s)


def _temperatures(trace: Trace, start_s: float, end_s: float) -> list[Trend]:
    found: list[Trend] = []
    series = {
        channel.name: [(s.t_s, s.value) for s in trace.of(channel)]
        for channel in trace.header.channels
        if channel.quantity == "temperature"
    }
    series["cpu"] = [(m.t_s, m.facts["temperature_c"]) for m in looks(trace, LOOK) if "temperature_c" in m.facts]
    for name, points in series.items():
        inside = [(t_s, value) for t_s, value in points if start_s <= t_s <= end_s]
        if len(inside) >= _FEWEST:
            found.append(Trend(what=name, per_10s=10 * slope(inside), limit=LIMIT_C))
    return found


def _power(trace: Trace, start_s: float, end_s: float) -> list[Trend]:
    """Return the slope of the mean power of equal parts; a part without energy spoils it."""
    end_s = min(end_s, _known_until_s(trace, end_s))
    step_s = (end_s - start_s) / _PARTS
    if step_s <= 0:
        return []
    edges = [start_s + i * step_s for i in range(_PARTS + 1)]
    readings = [energy_between(trace, a, b, headline="total") for a, b in pairwise(edges)]
    powers = [r.energy_j / r.window_s for r in readings if isinstance(r, EnergyReading)]
    if len(powers) < _PARTS:
        return []
    points = [((a + b) / 2, power_w) for (a, b), power_w in zip(pairwise(edges), powers, strict=True)]
    return [Trend(what="power", per_10s=10 * slope(points) / statistics.fmean(powers), limit=LIMIT_W)]


def _known_until_s(trace: Trace, end_s: float) -> float:
    """Return until when the readings up to ``end_s`` tell the power: the same then as in the finished trace."""
    known: list[float] = []
    for channel in trace.header.channels:
        if channel.role != "total":
            continue
        samples = [sample for sample in trace.of(channel) if sample.t_s <= end_s]
        if channel.quantity == "energy":  # an increment counts from the last change to the next
            samples = [b for a, b in pairwise(samples) if b.value != a.value]
        if samples:
            lag_s = channel.averaging_s / 2 if isinstance(channel.averaging_s, float) else 0.0
            known.append(samples[-1].t_s - lag_s)
    return min(known, default=end_s)


def _latency(trace: Trace, start_s: float, end_s: float) -> list[Trend]:
    points = [
        (m.t_s, m.facts["median_s"]) for m in looks(trace, LOOK) if start_s <= m.t_s <= end_s and "median_s" in m.facts
    ]
    if len(points) < _FEWEST:
        return []
    middle = statistics.fmean(value for _, value in points)
    return [Trend(what="latency", per_10s=10 * slope(points) / middle, limit=LIMIT_S)] if middle else []
