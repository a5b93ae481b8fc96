"""A trace in memory and on disk.

On disk it is JSON lines: a :class:`TraceHeader`, then readings ``{"c": channel, "t": seconds, "v": value}``, failed
readings ``{"c": channel, "t": seconds, "fault": code, "why": words}`` and marks ``{"t_s": seconds, "mark": name,
"facts": {}}``, then ``{"end": lines before}``: a file without its end is a truncated one. Times are those of one
monotonic clock, with zero where recording began.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec

from hwbench.energy.integrate import Sample
from hwbench.errors import StorageError
from hwbench.files import read_bytes, write_bytes
from hwbench.records.base import Missing, Record
from hwbench.records.energy import TRACE_SCHEMA, Channel, Mark, TraceHeader


@dataclass
class Trace:
    """What was recorded: samples by channel, in order of time; the first fault of each channel; marks."""

    header: TraceHeader
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    faults: dict[str, tuple[float, Missing]] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)

    def of(self, channel: Channel) -> list[Sample]:
        """Return the samples of a channel."""
        return self.samples.get(channel.name, [])

    def windows(self, name: str) -> list[tuple[Mark, Mark]]:
        """Return the pairs of marks ``name.start`` and ``name.end``, in order.

        Raises:
            StorageError: one is without its other end.
        """
        found: list[tuple[Mark, Mark]] = []
        opened: Mark | None = None
        for mark in self.marks:
            if mark.mark == f"{name}.start" and opened is None:
                opened = mark
            elif mark.mark == f"{name}.end" and opened is not None:
                found.append((opened, mark))
                opened = None
            elif mark.mark in {f"{name}.start", f"{name}.end"}:
                raise StorageError(f"the trace has '{mark.mark}' at {mark.t_s:g} s without its other end")
        if opened is not None:
            raise StorageError(f"the trace ends within '{name}', begun at {opened.t_s:g} s")
        return found


class _Line(Record, frozen=True, kw_only=True):
    """Any line but the header; which it is follows from the fields that are there."""

    c: str | None = None
    t: float | None = None
    v: float | None = None
    fault: str | None = None
    why: str = ""
    t_s: float | None = None
    mark: str | None = None
    facts: dict[str, float] = {}  # noqa: RUF012 - msgspec copies it
    end: int | None = None


def write_trace(path: Path, trace: Trace) -> None:
    """Write a trace, atomically, readings and marks in order of time.

    Raises:
        StorageError: it cannot be written.
    """
    lines = [msgspec.json.encode(trace.header), *(line for _, line in sorted(_lines(trace), key=lambda item: item[0]))]
    lines.append(msgspec.json.encode({"end": len(lines)}))
    write_bytes(path, b"\n".join(lines) + b"\n")


def _lines(trace: Trace) -> Iterator[tuple[float, bytes]]:
    for name, samples in trace.samples.items():
        yield from ((s.t_s, msgspec.json.encode({"c": name, "t": s.t_s, "v": s.value})) for s in samples)
    for name, (t_s, fault) in trace.faults.items():
        yield t_s, msgspec.json.encode({"c": name, "t": t_s, "fault": fault.code, "why": fault.why})
    yield from ((mark.t_s, msgspec.json.encode(mark)) for mark in trace.marks)


def read_trace(path: Path) -> Trace:
    """Read a trace back.

    Raises:
        StorageError: no such file, not a trace, of a newer version, truncated, or with time running backwards; the
            message names the line.
    """
    lines = read_bytes(path).split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) < 2:
        raise StorageError(f"{path} is no trace: it has {len(lines)} lines", hint="give a file that hwbench recorded")
    trace = Trace(_header(lines[0], path))
    for number, text in enumerate(lines[1:-1], start=2):
        _add(trace, _line(text, number, path), f"line {number} of {path}")
    last = _line(lines[-1], len(lines), path)
    if last.end != len(lines) - 1:
        raise StorageError(f"{path} is truncated: its last line is not its end", hint="record it again")
    for name, samples in trace.samples.items():
        if any(b.t_s <= a.t_s for a, b in pairwise(samples)):
            raise StorageError(f"{path}: the time of '{name}' does not rise", hint="record it again")
    return trace


def _header(text: bytes, path: Path) -> TraceHeader:
    try:
        version = msgspec.json.decode(text, type=dict[str, object]).get("schema_version")
        if isinstance(version, int) and version > TRACE_SCHEMA:
            raise StorageError(f"{path} is a trace of version {version}; this hwbench reads {TRACE_SCHEMA}")
        return msgspec.json.decode(text, type=TraceHeader)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = "other formats come in through 'hwbench energy import'"
        raise StorageError(f"{path} is no trace: line 1: {error}", hint=hint) from error


def _line(text: bytes, number: int, path: Path) -> _Line:
    try:
        return msgspec.json.decode(text, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StorageError(f"line {number} of {path}: {error}", hint="the file is damaged: record it again") from error


def _add(trace: Trace, line: _Line, where: str) -> None:
    names = {channel.name for channel in trace.header.channels}
    if line.mark is not None and line.t_s is not None:
        trace.marks.append(Mark(t_s=line.t_s, mark=line.mark, facts=line.facts))
    elif line.c is None or line.t is None or line.c not in names:
        raise StorageError(f"{where} is neither a reading of a channel in the header nor a mark")
    elif line.fault is not None:
        trace.faults.setdefault(line.c, (line.t, Missing(code=line.fault, why=line.why)))
    elif line.v is not None:
        trace.samples.setdefault(line.c, []).append(Sample(line.t, line.v))
    else:
        raise StorageError(f"{where} has no value")
