"""From readings of a sensor to the energy of a window. Pure arithmetic: no clock, no files.

Two kinds of sensors, one method. Readings become *segments* over which power is a straight line; a window is the sum
of the segments clipped to it. Power readings give sloping segments (the trapezoid rule), a counter gives flat ones
(its increment, spread evenly since its last change). Time without a trustworthy reading has no segment: it lowers
``coverage``, and the mean power of the rest stands in for it, flagged.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from hwbench.records.base import Missing
from hwbench.records.energy import Channel

LONGEST_HOLD_PERIODS = 2.0  # a reading stands for so many update periods, not longer
_SAME_UPDATE = 1 - 1e-6  # equal readings closer than this part of a period are one update, read twice; but for rounding


class Sample(NamedTuple):
    """A reading at ``t_s``: watts of a power sensor, joules since some start of a counter."""

    t_s: float
    value: float


class Segment(NamedTuple):
    """A stretch of time over which power goes in a straight line."""

    start_s: float
    end_s: float
    start_w: float
    end_w: float


@dataclass(frozen=True, kw_only=True)
class Integral:
    """Energy of a window.

    ``coverage`` is the part of the window that was really seen. ``flags``: ``low_coverage``, ``counter_backwards``,
    ``sensor_stale`` (a counter that did not move within the window), ``aliasing_risk``.
    """

    energy_j: float
    window_s: float
    coverage: float
    flags: tuple[str, ...] = ()


def counter_step(old: int, new: int, wrap_range: int | None) -> int | None:
    """Return the increment of a counter that restarts from zero at ``wrap_range``; any one unit.

    None when the counter went backwards and no range explains it. Two wraps between two readings cannot be seen: read
    at least every :func:`poll_interval_s`.
    """
    step = _step(old, new, wrap_range)
    return None if step is None else int(step)


def _step(old: float, new: float, wrap_range: float | None) -> float | None:
    step = new - old
    if step < 0 and wrap_range:
        step += wrap_range
    return step if step >= 0 else None


def wrap_time_s(range_j: float, max_power_w: float) -> float:
    """Return the shortest time in which a counter can go once round."""
    return range_j / max_power_w


def poll_interval_s(range_j: float, max_power_w: float) -> float:
    """Return how often to read a counter so that no wrap is missed, with a margin of four."""
    return wrap_time_s(range_j, max_power_w) / 4


def _fell(before: float, after: float, step: float, range_j: float | None) -> bool:
    """Say whether a counter fell by a little: after a wrap the step is small, or it was read too rarely."""
    return range_j is not None and after < before and step > range_j / 2


_SLACK_J = 1.0  # an update that arrives late brings the energy of some milliseconds more
_SMALLEST_RANGE_J = 2.0**16  # 32 bits of the finest usual unit, 2^-16 J; for a counter that does not tell its own


def counter_faults(samples: Sequence[Sample], channel: Channel) -> Missing | None:
    """Return why these readings of a counter cannot be believed, if so.

    ``counter_backwards``: it fell, and no range explains that. ``wrap_ambiguous``: it was not read for so long that it
    may have gone round. ``counter_jumped``: it rose by more than anything in its place draws.
    """
    for before, after in pairwise(samples):
        elapsed_s = after.t_s - before.t_s
        step = _step(before.value, after.value, channel.range)
        if step is None or (channel.max_w is None and _fell(before.value, after.value, step, channel.range)):
            why = f"the counter of {channel.name} went backwards, and no wrap explains that"
            return Missing(code="counter_backwards", why=why, cure="measure again")
        if channel.max_w is None:
            continue
        if channel.range is not None and elapsed_s > wrap_time_s(channel.range, channel.max_w):
            why = f"{channel.name} was not read for {elapsed_s:.0f} s, in which it may have gone round"
            return Missing(code="wrap_ambiguous", why=why, cure="measure over a shorter time")
        if step > channel.max_w * elapsed_s + _SLACK_J:
            why = f"the counter of {channel.name} jumped by {step:.3g} J in {elapsed_s:.3g} s"
            return Missing(code="counter_jumped", why=why, cure="a suspended machine does this; measure again")
    return None


def smallest_range_j(range_j: float | None) -> float:
    """Return where a counter may restart at the earliest."""
    return _SMALLEST_RANGE_J if range_j is None else range_j


def update_period_s(samples: Sequence[Sample], *, counter: bool) -> float | None:
    """Return the median time between readings, of a counter between its changes; None with fewer than two."""
    kept = [samples[0], *(b for a, b in pairwise(samples) if not counter or b.value != a.value)] if samples else []
    gaps = [b.t_s - a.t_s for a, b in pairwise(kept)]
    return statistics.median(gaps) if gaps else None


def integrate_counter(
    samples: Sequence[Sample], start_s: float, end_s: float, *, range_j: float | None = None
) -> Integral | Missing:
    """Return the energy that a cumulative counter saw between ``start_s`` and ``end_s``.

    Args:
        samples: readings in joules, in order of time.
        start_s: start of the window, on the time axis of the samples.
        end_s: its end, later.
        range_j: where the counter restarts from zero; None when unknown.

    Returns:
        The integral; :class:`Missing` when the counter never moves or no reading lies in the window. An increment
        counts from the counter's last change, not from the last reading of it. Where the counter went backwards
        unexplained, neither step beside that reading is counted: it may have been a glitch or a restart.
    """
    _check(samples, start_s, end_s)
    if len(samples) > 1 and all(sample.value == samples[0].value for sample in samples):
        return Missing(code="counter_constant", why=f"the counter stood at {samples[0].value:g} J all the time")
    segments, flags = _counter_segments(samples, range_j)
    result = _sum(segments, start_s, end_s, flags)
    if isinstance(result, Missing) or result.energy_j > 0:
        return result
    return _flagged(result, "sensor_stale")


def _counter_segments(samples: Sequence[Sample], range_j: float | None) -> tuple[list[Segment], tuple[str, ...]]:
    segments: list[Segment] = []
    changed = samples[0] if samples else Sample(0.0, 0.0)
    trusted, backwards = True, False
    for sample in samples[1:]:
        step = _step(changed.value, sample.value, range_j)
        if step == 0:
            continue
        if step is not None and trusted:
            power_w = step / (sample.t_s - changed.t_s)
            segments.append(Segment(changed.t_s, sample.t_s, power_w, power_w))
        backwards |= step is None
        trusted = step is not None
        changed = sample
    if trusted and samples and samples[-1].t_s > changed.t_s:
        segments.append(Segment(changed.t_s, samples[-1].t_s, 0.0, 0.0))
    return segments, ("counter_backwards",) if backwards else ()


def integrate_power(
    samples: Sequence[Sample], start_s: float, end_s: float, *, period_s: float, load_period_s: float | None = None
) -> Integral | Missing:
    """Return the energy under power readings between ``start_s`` and ``end_s``: trapezoids, edges interpolated.

    Args:
        samples: readings in watts, in order of time. Readings of one and the same update count once.
        start_s: start of the window, on the time axis of the samples.
        end_s: its end, later.
        period_s: update period of the sensor. A gap of more than two periods is not covered.
        load_period_s: period of the load, if it has one; sampling slower than twice per period sets ``aliasing_risk``.
    """
    _check(samples, start_s, end_s)
    result = _sum(_power_segments(samples, start_s, end_s, period_s), start_s, end_s, ())
    if isinstance(result, Missing) or load_period_s is None or period_s < load_period_s / 2:
        return result
    return _flagged(result, "aliasing_risk")


def _power_segments(samples: Sequence[Sample], start_s: float, end_s: float, period_s: float) -> list[Segment]:
    if not samples:
        return []
    longest = LONGEST_HOLD_PERIODS * period_s * (1 + 1e-9)  # two periods by rounding are two periods
    segments: list[Segment] = []
    update, seen_s = samples[0], samples[0].t_s
    for sample in samples[1:]:
        if sample.value == update.value and sample.t_s - update.t_s < _SAME_UPDATE * period_s:
            seen_s = sample.t_s
            continue
        if sample.t_s - seen_s <= longest:
            segments.append(Segment(update.t_s, sample.t_s, update.value, sample.value))
        else:
            segments.append(Segment(update.t_s, seen_s, update.value, update.value))
        update, seen_s = sample, sample.t_s
    first, last = samples[0], samples[-1]
    segments.append(Segment(update.t_s, seen_s, update.value, update.value))
    if 0 < first.t_s - start_s <= longest:
        segments.append(Segment(start_s, first.t_s, first.value, first.value))
    if 0 < end_s - last.t_s <= longest:
        segments.append(Segment(last.t_s, end_s, last.value, last.value))
    return segments


def _check(samples: Sequence[Sample], start_s: float, end_s: float) -> None:
    if not end_s > start_s:
        msg = f"a window must end after it starts, got {start_s} to {end_s}"
        raise ValueError(msg)
    if any(b.t_s <= a.t_s for a, b in pairwise(samples)):
        msg = "samples must be in order of time"
        raise ValueError(msg)


def _sum(segments: Iterable[Segment], start_s: float, end_s: float, flags: tuple[str, ...]) -> Integral | Missing:
    window_s = end_s - start_s
    energies: list[float] = []
    lengths: list[float] = []
    for segment in segments:
        left, right = max(segment.start_s, start_s), min(segment.end_s, end_s)
        if right > left:
            energies.append((_power_at(segment, left) + _power_at(segment, right)) / 2 * (right - left))
            lengths.append(right - left)
    if not lengths:
        return Missing(code="no_samples", why=f"the sensor has no reading in the window of {window_s:.3g} s")
    coverage = min(1.0, math.fsum(lengths) / window_s)
    if coverage > 1 - 1e-9:
        return Integral(energy_j=math.fsum(energies), window_s=window_s, coverage=1.0, flags=flags)
    energy_j = math.fsum(energies) / coverage
    return Integral(energy_j=energy_j, window_s=window_s, coverage=coverage, flags=(*flags, "low_coverage"))


def _power_at(segment: Segment, t_s: float) -> float:
    share = (t_s - segment.start_s) / (segment.end_s - segment.start_s)
    return segment.start_w + share * (segment.end_w - segment.start_w)


def _flagged(result: Integral, flag: str) -> Integral:
    return Integral(
        energy_j=result.energy_j,
        window_s=result.window_s,
        coverage=result.coverage,
        flags=(*result.flags, flag),
    )
