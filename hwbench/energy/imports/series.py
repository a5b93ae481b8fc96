"""Readings as they stand in a file, made into channels of a trace: in order, each time once, flagged or refused.

What a meter's file can get wrong, and what becomes of it:

* Time that goes back (a clock that was set, lines out of order) is refused, with the line: nobody can say what was so.
* Several readings of one moment are averaged (``duplicate_times``); of a counter they are refused.
* A reading that says that it is none (empty, ``nan``) is left out (``unreadable_readings``).
* Power below zero is kept where it is noise about zero (``negative_power``), else refused.
* A counter that falls is refused.
* More equal readings in a row than chance makes, of a signal that else moves: ``frozen_readings``.
* Time without readings: ``gaps``. :mod:`hwbench.energy.integrate` does not cover them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import groupby, pairwise
from typing import Literal, NamedTuple

from hwbench.energy.imports.lines import TextFile
from hwbench.energy.integrate import LONGEST_HOLD_PERIODS, Sample, update_period_s
from hwbench.energy.trace import Trace
from hwbench.errors import StorageError
from hwbench.records.base import Missing
from hwbench.records.energy import TRACE_SCHEMA, Channel, Mark, Provenance, Role, TraceHeader

NEGATIVE_NOISE = 0.01  # of the largest reading: a zero that is off by so much is still a zero
FROZEN_READINGS = 20  # equal ones in a row, as for a sensor that hwbench reads itself
FEWEST_FROZEN = 4  # or fewer, where that is not likely to be chance
UNLIKELY = 1e-3
WALL_CLOCK = "wall clock of the meter"
METER_CLOCK = "clock of the meter"
_YEAR_2001_NS = 10**18
_NO_STEP = Missing(code="not_known", why="the file does not tell the size of a step")
_NOT_KNOWN = Missing(code="not_known", why="the file does not say over how long a reading is averaged")


class Reading(NamedTuple):
    """A value of the file in SI; not-a-number when the file says that there is none."""

    line: int
    time_ns: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Column:
    """All readings of one channel. ``told`` is where in the file they stand."""

    name: str
    quantity: Literal["power", "energy"]
    role: Role
    readings: Sequence[Reading]
    told: str
    averaging_s: float | Missing = _NOT_KNOWN
    lsb: float | Missing = _NO_STEP
    essential: bool = True
    gain: float = 0.0
    gain_basis: str = ""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What is known of a whole file, beside its readings."""

    format: str
    boundary: str
    provenance: Provenance = "measured_external"
    notes: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ("gain_unknown",)
    marks: Sequence[tuple[int, str]] = ()  # ns, name


def make_trace(file: TextFile, columns: Sequence[Column], known: Described) -> Trace:
    """Return the trace of a file; time zero is its first reading.

    Raises:
        StorageError: its readings cannot be believed; the message names the line.
    """
    origin_ns = min((reading.time_ns for column in columns for reading in column.readings[:1]), default=0)
    samples: dict[str, list[Sample]] = {}
    channels: list[Channel] = []
    flags = [*file.flags, *known.flags]
    for column in columns:
        kept, found = _believed(file, column, origin_ns)
        flags += found
        channels.append(_channel(column, kept))
        samples[column.name] = kept
    notes = {
        "file": file.path.name,
        "sha256": file.sha256,
        "format": known.format,
        "encoding": file.encoding,
        **known.notes,
        **{f"column:{column.name}": column.told for column in columns},
        "flags": " ".join(dict.fromkeys(flags)),
    }
    wall = origin_ns >= _YEAR_2001_NS
    header = TraceHeader(
        schema_version=TRACE_SCHEMA,
        meter=known.format,
        boundary=known.boundary,
        provenance=known.provenance,
        clock=WALL_CLOCK if wall else METER_CLOCK,
        started_at=_date(origin_ns) if wall else "not told by the file",
        channels=tuple(channels),
        settings=notes,
    )
    marks = [Mark(t_s=(time_ns - origin_ns) / 1e9, mark=name) for time_ns, name in known.marks]
    return Trace(header, samples, marks=marks)


def _date(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, tz=timezone.utc).isoformat(timespec="milliseconds")


def _believed(file: TextFile, column: Column, origin_ns: int) -> tuple[list[Sample], list[str]]:
    """Return the samples of a column, and what has to be said of them."""
    flags: list[str] = []
    readable = [reading for reading in column.readings if math.isfinite(reading.value)]
    if len(readable) < len(column.readings):
        flags.append("unreadable_readings")
    _refuse_backwards(file, column.readings)
    single = list(_each_time_once(file, column, readable))
    if len(single) < len(readable):
        flags.append("duplicate_times")
    if len(single) < 2:
        why = f"{file.path}: {column.told} has {len(single)} readings, and two are the least"
        raise StorageError(why, hint="record for longer")
    flags += _sign(file, column, single)
    samples = [Sample((reading.time_ns - origin_ns) / 1e9, reading.value) for reading in single]
    if _freezes(samples):
        flags.append("frozen_readings")
    if _longest_step_s(samples) > LONGEST_HOLD_PERIODS * _period_s(samples) * (1 + 1e-9):
        flags.append("gaps")
    return samples, flags


def _refuse_backwards(file: TextFile, readings: Sequence[Reading]) -> None:
    for before, after in pairwise(readings):
        if after.time_ns < before.time_ns:
            back_s = (before.time_ns - after.time_ns) / 1e9
            hint = "the meter's clock was set, or the lines are out of order: record again"
            raise file.refusal(after.line, f"time goes back by {back_s:g} s", hint)


def _each_time_once(file: TextFile, column: Column, readings: Iterable[Reading]) -> Iterable[Reading]:
    for time_ns, group in groupby(readings, key=lambda reading: reading.time_ns):
        same = list(group)
        values = {reading.value for reading in same}
        if column.quantity == "energy" and len(values) > 1:
            raise file.refusal(same[1].line, "the counter has two values at one time", "export finer times")
        mean = math.fsum(reading.value for reading in same) / len(same)
        yield Reading(same[0].line, time_ns, same[0].value if len(values) == 1 else mean)


def _sign(file: TextFile, column: Column, readings: Sequence[Reading]) -> list[str]:
    lowest = min(readings, key=lambda reading: reading.value)
    if column.quantity == "energy":
        if lowest.value < 0:
            raise file.refusal(lowest.line, f"the counter {column.told} is below zero")
        for before, after in pairwise(readings):
            if after.value < before.value:
                hint = "it was reset, or it holds the energy of each line: hwbench needs the sum so far"
                raise file.refusal(after.line, f"the counter {column.told} falls", hint)
        return []
    if lowest.value >= 0:
        return []
    if -lowest.value > NEGATIVE_NOISE * max(reading.value for reading in readings):
        hint = "are the leads reversed, or is this another quantity?"
        raise file.refusal(lowest.line, f"the power is {lowest.value:g} W", hint)
    return ["negative_power"]


def _freezes(samples: Sequence[Sample]) -> bool:
    """Say whether the longest run of equal readings is longer than chance makes one in a signal that else moves.

    The chance that a reading equals the one before it is taken from the rest of the signal.
    """
    runs = sorted(len(list(group)) for _, group in groupby(samples, key=lambda sample: sample.value))
    longest, others = runs[-1], len(samples) - runs[-1]
    if len(runs) == 1 or longest < FEWEST_FROZEN:
        return False
    chance = (sum(runs[:-1]) - len(runs) + 2) / (others + 1)
    return longest >= FROZEN_READINGS or len(samples) * chance ** (longest - 1) < UNLIKELY


def _longest_step_s(samples: Sequence[Sample]) -> float:
    return max(b.t_s - a.t_s for a, b in pairwise(samples))


def _period_s(samples: Sequence[Sample]) -> float:
    return update_period_s(samples, counter=False) or 0.0


def _channel(column: Column, samples: Sequence[Sample]) -> Channel:
    """Describe a channel.

    The period of a counter is the longest time without a change: within it, nobody knows when the energy was drawn.
    """
    counter = column.quantity == "energy"
    changes = [samples[0], *(b for a, b in pairwise(samples) if b.value != a.value)] if counter else []
    return Channel(
        name=column.name,
        quantity=column.quantity,
        role=column.role,
        source=column.told,
        period_s=_longest_step_s(changes if len(changes) > 1 else samples) if counter else _period_s(samples),
        averaging_s=0.0 if counter else column.averaging_s,
        lsb=column.lsb,
        essential=column.essential,
        gain=column.gain,
        gain_basis=column.gain_basis,
    )
