"""A recorded trace, played back as if it were an instrument: for tests and demonstrations, never chosen unasked.

The trace is a JSONL file, one reading a line, all of one kind: ``{"t_s": 0.1, "power_w": 42.0}`` (a power sensor) or
``{"t_s": 0.1, "energy_j": 4.2}`` (a cumulative counter, not wrapped). It starts when the first window of the meter
opens, and it is not repeated.
"""

from __future__ import annotations

import os
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

import msgspec

from hwbench.meters.integrate import Integral, Sample, integrate_counter, integrate_power, update_period_s
from hwbench.meters.uncertainty import TOO_SHORT_PERIODS, edges, expanded, gaps
from hwbench.records.base import Missing, Record, Support
from hwbench.records.device import Device
from hwbench.records.measurement import EnergyReading
from hwbench.units import Clock, MonotonicClock

TRACE_VARIABLE = "HWBENCH_REPLAY_TRACE"


class _Line(Record, frozen=True, kw_only=True):
    t_s: float
    power_w: float | None = None
    energy_j: float | None = None


class Trace(NamedTuple):
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

    def __init__(self, trace: Path | None = None, clock: Clock | None = None) -> None:
        named = os.environ.get(TRACE_VARIABLE)
        self.path = Path(named) if trace is None and named else trace
        self.clock = MonotonicClock() if clock is None else clock
        self._origin_ns: int | None = None

    def supports(self, device: Device) -> Support:  # noqa: ARG002 - a trace stands for whatever it was recorded on
        """Say whether there is a trace. Codes: ``no_trace``, ``trace_unreadable``, ``trace_too_short``."""
        return Support(reasons=(self.trace,)) if isinstance(self.trace, Missing) else Support()

    def window(self) -> ReplayWindow:
        return ReplayWindow(self)

    @cached_property
    def trace(self) -> Trace | Missing:
        """The trace, read once, or why there is none."""
        if self.path is None:
            cure = f"set {TRACE_VARIABLE} to a JSONL file of readings"
            return Missing(code="no_trace", why="no trace was given to replay", cure=cure)
        return read_trace(self.path)

    def now_s(self) -> float:
        """Return the time since the first window opened; the first call is that moment."""
        now_ns = self.clock.now_ns()
        if self._origin_ns is None:
            self._origin_ns = now_ns
        return (now_ns - self._origin_ns) / 1e9


class ReplayWindow:
    """One window of :class:`Replay`: enter, work, leave, then ask for the reading."""

    def __init__(self, meter: Replay) -> None:
        self._meter = meter
        self._outcome: EnergyReading | Missing = Missing(code="window_open", why="the window has not been closed")

    def __enter__(self) -> ReplayWindow:
        self._trace = self._meter.trace  # read before time starts
        self._start_s = self._meter.now_s()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outcome = self._reading(self._meter.now_s())

    def reading(self) -> EnergyReading | Missing:
        """Return the energy of the trace under the window.

        Missing, besides the codes of :meth:`Replay.supports`: ``window_open``, ``window_too_short``,
        ``trace_too_short``, ``no_samples``, ``counter_constant``.
        """
        return self._outcome

    def _reading(self, end_s: float) -> EnergyReading | Missing:
        trace = self._trace
        if isinstance(trace, Missing):
            return trace
        if end_s <= self._start_s:
            return Missing(code="window_too_short", why="no time passed in the window")
        last_s = trace.samples[-1].t_s
        if end_s > last_s:
            why = f"the window goes to {end_s:.6g} s, the trace to {last_s:.6g} s"
            return Missing(code="trace_too_short", why=why, cure="replay a longer trace, or measure for less time")
        if trace.kind == "power":
            result = integrate_power(trace.samples, self._start_s, end_s, period_s=trace.period_s)
        else:
            result = integrate_counter(trace.samples, self._start_s, end_s)
        return result if isinstance(result, Missing) else self._record(trace, result)

    def _record(self, trace: Trace, result: Integral) -> EnergyReading | Missing:
        if "sensor_stale" in result.flags:
            why = f"the recorded counter did not move in the window of {result.window_s:.3g} s"
            return Missing(code="counter_constant", why=why)
        flags = ["gain_unknown", *result.flags]
        if result.window_s < TOO_SHORT_PERIODS * trace.period_s:
            flags.append("window_too_short")
        path = self._meter.path
        return EnergyReading(
            meter=Replay.name,
            boundary=f"whatever {path.name if path else 'the trace'} was recorded on",
            provenance="replayed",
            energy_j=result.energy_j,
            window_s=result.window_s,
            relative_uncertainty=expanded(edges(trace.period_s, result.window_s), gaps(result.coverage)),
            update_period_s=trace.period_s,
            clock=type(self._meter.clock).__name__,
            flags=tuple(flags),
        )


def read_trace(path: Path) -> Trace | Missing:
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


def _trace(lines: list[_Line], path: Path) -> Trace | Missing:
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
    return Trace("counter" if counter else "power", samples, period_s)


def _unreadable(why: str) -> Missing:
    cure = 'one JSON object a line, such as {"t_s": 0.1, "power_w": 42.0}'
    return Missing(code="trace_unreadable", why=why, cure=cure)
