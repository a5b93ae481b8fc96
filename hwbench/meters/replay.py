"""A recorded trace, played back as if it were an instrument: for tests and demonstrations, never chosen unasked.

The trace is a JSONL file, one reading a line, all of one kind: ``{"t_s": 0.1, "power_w": 42.0}`` (a power sensor) or
``{"t_s": 0.1, "energy_j": 4.2}`` (a cumulative counter, not wrapped). It starts when the first window of the meter
opens, and it is not repeated.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from hwbench.energy.integrate import Sample, update_period_s
from hwbench.protocols import NOT_NOW
from hwbench.records.base import Missing, Record, Support
from hwbench.records.device import Device
from hwbench.records.energy import Channel, Provenance
from hwbench.units import Clock, MonotonicClock

TRACE_VARIABLE = "HWBENCH_REPLAY_TRACE"


class _Line(Record, frozen=True, kw_only=True):
    t_s: float
    power_w: float | None = None
    energy_j: float | None = None


class PlainTrace(NamedTuple):
    """A trace with its time set to start at zero."""

    kind: Literal["power", "counter"]
    samples: tuple[Sample, ...]
    period_s: float


class Replay:
    """The meter.

    Args:
        trace: the file; by default the one that ``HWBENCH_REPLAY_TRACE`` names.
        clock: tests pass a fake.
    """

    name = "replay"
    priority = 0

    def __init__(self, trace: Path | None = None, clock: Clock | None = None) -> None:
        named = os.environ.get(TRACE_VARIABLE)
        self.path = Path(named) if trace is None and named else trace
        self.clock = MonotonicClock() if clock is None else clock

    def supports(self, device: Device) -> Support:  # noqa: ARG002 - a trace stands for whatever it was recorded on
        """Say whether there is a trace. Codes: ``no_trace``, ``trace_unreadable``, ``trace_too_short``."""
        return Support(reasons=(self.trace,)) if isinstance(self.trace, Missing) else Support()

    def open(self, device: Device) -> Playback | Missing:  # noqa: ARG002 - as above
        """Start playing; the trace begins now."""
        trace = self.trace
        if isinstance(trace, Missing) or self.path is None:
            return trace if isinstance(trace, Missing) else _no_trace()
        return Playback(
            boundary=f"whatever {self.path.name} was recorded on", sources=(_Tape(trace, self.path, self.clock),)
        )

    @cached_property
    def trace(self) -> PlainTrace | Missing:
        """The trace, read once, or why there is none."""
        return _no_trace() if self.path is None else read_plain(self.path)


@dataclass(frozen=True, kw_only=True)
class Playback:
    """A trace being played."""

    boundary: str
    sources: tuple[_Tape, ...]
    meter: str = Replay.name
    provenance: Provenance = "replayed"
    settings: dict[str, str] = field(default_factory=lambda: {"flags": "gain_unknown"})

    def close(self) -> None:
        """Nothing is held open."""


class _Tape:
    """Gives, at any time, the reading that the sensor would have shown."""

    def __init__(self, trace: PlainTrace, path: Path, clock: Clock) -> None:
        self._trace, self._path, self._clock = trace, path, clock
        self._times = [sample.t_s for sample in trace.samples]
        self._origin_ns: int | None = None
        self.every_s: float | None = trace.period_s / 2
        counter = trace.kind == "counter"
        self.channels = (
            Channel(
                name="trace",
                quantity="energy" if counter else "power",
                role="total",
                source=str(path),
                period_s=trace.period_s,
            ),
        )

    def read(self) -> Sequence[float | Missing]:
        now_ns = self._clock.now_ns()
        if self._origin_ns is None:
            self._origin_ns = now_ns
        now_s = (now_ns - self._origin_ns) / 1e9
        if now_s > self._times[-1]:
            why = f"the work goes on after {now_s:.6g} s, and the trace ends at {self._times[-1]:.6g} s"
            cure = "replay a longer trace, or measure for less time"
            return (Missing(code="trace_too_short", why=why, cure=cure),)
        sample = self._trace.samples[bisect.bisect_right(self._times, now_s) - 1]
        if now_s - sample.t_s > self._trace.period_s * (1 + 1e-9) and self._trace.kind == "power":
            return (Missing(code=NOT_NOW, why="the trace has a gap here"),)
        return (sample.value,)


def _no_trace() -> Missing:
    cure = f"set {TRACE_VARIABLE} to a JSONL file of readings"
    return Missing(code="no_trace", why="no trace was given to replay", cure=cure)


def read_plain(path: Path) -> PlainTrace | Missing:
    """Read a trace, or say what is wrong with it; its first reading becomes time zero."""
    try:
        text = path.read_bytes()
    except OSError as error:
        return Missing(code="no_trace", why=f"{path} cannot be read: {error.strerror or error}")
    lines: list[_Line] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            lines.append(msgspec.json.decode(line, type=_Line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _unreadable(f"line {number} of {path}: {error}")
    return _trace(lines, path)


def _trace(lines: list[_Line], path: Path) -> PlainTrace | Missing:
    if len(lines) < 2:
        return Missing(code="trace_too_short", why=f"{path} has {len(lines)} readings, and two are the least")
    kinds = {(line.power_w is None, line.energy_j is None) for line in lines}
    if kinds not in ({(True, False)}, {(False, True)}):
        return _unreadable(f"{path} must hold either power_w or energy_j, the same in every line")
    if any(b.t_s <= a.t_s for a, b in pairwise(lines)):
        return _unreadable(f"t_s must rise from line to line in {path}")
    counter = kinds == {(True, False)}
    values = [line.energy_j if counter else line.power_w for line in lines]
    samples = tuple(
        Sample(line.t_s - lines[0].t_s, value) for line, value in zip(lines, values, strict=True) if value is not None
    )
    if any(sample.value < 0 for sample in samples):
        return _unreadable(f"{path} has readings below zero")
    period_s = update_period_s(samples, counter=counter)
    if period_s is None:
        return Missing(code="counter_constant", why=f"the counter in {path} never moves")
    return PlainTrace("counter" if counter else "power", samples, period_s)


def _unreadable(why: str) -> Missing:
    cure = 'one JSON object a line, such as {"t_s": 0.1, "power_w": 42.0}'
    return Missing(code="trace_unreadable", why=why, cure=cure)
