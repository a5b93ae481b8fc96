"""What one channel saw in a window, and whether it can be believed there."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from hwbench.energy.integrate import (
    LONGEST_HOLD_PERIODS,
    Integral,
    Sample,
    counter_faults,
    integrate_counter,
    integrate_power,
    update_period_s,
)
from hwbench.energy.trace import Trace
from hwbench.records.base import Missing
from hwbench.records.energy import Channel

_LOOKED_AT = 500  # gaps, evenly spaced: enough for a median
_COARSE_STEPS = 200
_STALE_SHARE = 0.2  # of the readings in a window
_LATE = 20.0  # usual intervals between readings
_STILL_READS, _STILL_PERIODS = 3, 10.0  # a counter that stands still for longer is flagged
STALE_READINGS = 20  # so many equal readings of a power sensor are suspicious


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one channel contributes to a window."""

    channel: Channel
    integral: Integral
    period_s: float
    readings: int  # inside the window


def adds_power(channel: Channel) -> bool:
    """Say whether this is a power sensor that is added up."""
    return channel.role == "total" and channel.quantity == "power"


def share(trace: Trace, channel: Channel, start_s: float, end_s: float, load_period_s: float | None) -> Share | Missing:
    """Return what a channel saw in the window, or why it cannot be believed there."""
    fault = trace.faults.get(channel.name)
    samples = trace.of(channel)
    if fault is not None and fault[0] <= end_s and (not samples or samples[-1].t_s < end_s):
        return fault[1]
    counter = channel.quantity == "energy"
    period_s = channel.period_s
    if isinstance(period_s, Missing):
        period_s = seen_period_s(samples) or Missing(
            code="no_samples", why=f"{channel.name} was read {len(samples)} times: too few for an update period"
        )
    if isinstance(period_s, Missing):
        return period_s
    reach_s = 0.0 if counter else _reach_s(samples, channel, period_s)
    around = _around(samples, start_s, end_s, reach_s, counter=counter)
    nonsense = _nonsense(around, channel)
    if nonsense is not None:
        return nonsense
    result: Integral | Missing
    if counter:
        result = counter_faults(around, channel) or integrate_counter(around, start_s, end_s, range_j=channel.range)
        if isinstance(result, Integral) and "sensor_stale" in result.flags:
            why = f"the counter {channel.name} did not move in {end_s - start_s:.3g} s"
            return Missing(code="counter_constant", why=why, cure="some hypervisors answer reads with a constant")
        if isinstance(result, Integral):
            seen = _counter_flags(around, channel, start_s, end_s)
            if load_period_s is not None and _blinks(channel, period_s, load_period_s):
                seen.append("aliasing_risk")  # its sensor is the one behind the power
            result = replace(result, flags=(*result.flags, *seen))
    else:
        result = _power(around, channel, start_s, end_s, max(period_s, polled_s(samples)), load_period_s)
    if isinstance(result, Missing):
        return result
    inside = sum(start_s <= sample.t_s <= end_s for sample in samples)
    return Share(channel=channel, integral=result, period_s=period_s, readings=inside)


def seen_period_s(samples: Sequence[Sample]) -> float:
    """Return how often a channel seems to change, whose documents do not tell; zero with too few readings.

    Never less than the time between two changes: how often it was read says nothing of the sensor.
    """
    return max(update_period_s(samples, counter=counter) or 0.0 for counter in (True, False))


def _nonsense(samples: Sequence[Sample], channel: Channel) -> Missing | None:
    if not all(math.isfinite(sample.t_s) and math.isfinite(sample.value) for sample in samples):
        return Missing(code="not_finite", why=f"{channel.name} has readings that are no numbers", cure="measure again")
    if any(b.t_s <= a.t_s for a, b in pairwise(samples)):
        return Missing(code="out_of_order", why=f"the time of {channel.name} does not rise", cure="measure again")
    most = max((sample.value for sample in samples), default=0.0)
    if channel.quantity == "power" and channel.max_w is not None and most > channel.max_w:
        why = f"{channel.name} read {most:.4g} W, more than anything in its place draws ({channel.max_w:g} W)"
        return Missing(code="power_implausible", why=why, cure="measure again; look at the sensor")
    return None


def _around(samples: Sequence[Sample], start_s: float, end_s: float, reach_s: float, *, counter: bool) -> list[Sample]:
    """Return the samples of a window, those that bracket it, and those up to ``reach_s`` beyond.

    Before it, back to the last change, and of a counter on to the next: an increment counts from change to change.
    """
    first = max(0, bisect.bisect_right(samples, start_s - reach_s, key=_time) - 1)
    while first > 0 and samples[first - 1].value == samples[first].value:
        first -= 1
    last = bisect.bisect_left(samples, end_s + reach_s, key=_time)
    while counter and 0 < last < len(samples) - 1 and samples[last].value == samples[last - 1].value:
        last += 1
    return list(samples[first : last + 1])


def _time(sample: Sample) -> float:
    return sample.t_s


def _reach_s(samples: Sequence[Sample], channel: Channel, period_s: float) -> float:
    """Return how far beyond a window a power reading may still matter: its lag, and how long it may be held."""
    lag_s = channel.averaging_s if isinstance(channel.averaging_s, float) else 0.0
    return lag_s + 2 * LONGEST_HOLD_PERIODS * max(period_s, polled_s(samples))


def _power(
    samples: Sequence[Sample],
    channel: Channel,
    start_s: float,
    end_s: float,
    period_s: float,
    load_period_s: float | None,
) -> Integral | Missing:
    """Integrate a power channel; a reading that is a mean belongs to the middle of the time it covers."""
    lag_s = channel.averaging_s / 2 if isinstance(channel.averaging_s, float) else 0.0
    shifted = [Sample(sample.t_s - lag_s, sample.value) for sample in samples]
    result = integrate_power(shifted, start_s, end_s, period_s=period_s)
    if isinstance(result, Missing):
        return result
    flags = [*result.flags]
    inside = [s for s in shifted if start_s <= s.t_s <= end_s]
    if any(s.value < -_step_w(channel) for s in inside):
        flags.append("negative_power")
    if _stands_still([s.value for s in inside], channel):
        flags.append("sensor_stale")
    if load_period_s is not None and _aliases(channel, period_s, load_period_s):
        flags.append("aliasing_risk")
    if isinstance(channel.averaging_s, float) and channel.averaging_s > 0.1 * (end_s - start_s):
        flags.append("averaging_blurs_edges")
    return replace(result, flags=tuple(flags))


def _step_w(channel: Channel) -> float:
    """Return one step of a power sensor, which it may read below zero by chance."""
    return channel.lsb if isinstance(channel.lsb, float) else 0.0


def _stands_still(values: Sequence[float], channel: Channel) -> bool:
    """Say whether so many readings in a row are equal that the sensor may have stopped.

    A sensor of few large steps may well hide a steady load's noise.
    """
    longest = max((len(list(equal)) for _, equal in groupby(values)), default=0)
    if longest < max(STALE_READINGS, _STALE_SHARE * len(values)):
        return False
    return not 0 < max(map(abs, values)) <= _COARSE_STEPS * _step_w(channel)


def _counter_flags(samples: Sequence[Sample], channel: Channel, start_s: float, end_s: float) -> list[str]:
    """Return ``sensor_stale`` and ``late_readings`` where they apply to a counter in a window."""
    inside = [sample for sample in samples if start_s <= sample.t_s <= end_s]
    period_s = channel.period_s if isinstance(channel.period_s, float) else 0.0
    flags: list[str] = []
    for _, equal in groupby(inside, key=lambda sample: sample.value):
        same = list(equal)
        if len(same) >= _STILL_READS and same[-1].t_s - same[0].t_s > _STILL_PERIODS * period_s:
            flags = ["sensor_stale"]
    gaps_s = [b.t_s - a.t_s for a, b in pairwise(samples)]
    if len(gaps_s) >= STALE_READINGS and max(gaps_s) > _LATE * max(polled_s(samples), period_s):
        flags.append("late_readings")
    return flags


def _blinks(channel: Channel, period_s: float, load_period_s: float) -> bool:
    """Say whether a counter is fed by a sensor that looks at a part of the time, and may miss part of this load."""
    return isinstance(channel.sensed_s, float) and channel.sensed_s > 0 and _aliases(channel, period_s, load_period_s)


def polled_s(samples: Sequence[Sample]) -> float:
    """Return how often the channel was read: a slow reader is as blind as a slow sensor."""
    stride = max(1, (len(samples) - 1) // _LOOKED_AT)
    gaps_s = sorted(samples[i + 1].t_s - samples[i].t_s for i in range(0, len(samples) - 1, stride))
    return gaps_s[len(gaps_s) // 2] if gaps_s else 0.0


def _aliases(channel: Channel, period_s: float, load_period_s: float) -> bool:
    """Say whether the sensor may see one part of a periodic load more often than another.

    One that integrates over its whole period (``sensed_s`` equal to it) cannot. One that looks at a part of it is
    blind to the rest wherever a whole number of load periods fits into its own, nearly, or the other way round.
    """
    sensed_s = channel.sensed_s
    if isinstance(sensed_s, float) and sensed_s >= 0.99 * period_s:
        return False
    if isinstance(sensed_s, Missing) or sensed_s == 0:
        return period_s >= load_period_s / 2
    if load_period_s < sensed_s / 10:
        return False
    ratio = max(load_period_s, period_s) / min(load_period_s, period_s)
    return abs(ratio - round(ratio)) < 0.05 * max(1.0, ratio / 10)
