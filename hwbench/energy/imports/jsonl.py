"""Plain JSON lines: one reading a line, all of one kind, as ``hwbench`` replays them too.

``{"t_s": 0.1, "power_w": 42.0}`` is a power sensor, ``{"t_s": 0.1, "energy_j": 4.2}`` a cumulative counter that does
not wrap. The importer and the meter ``replay`` share this parser.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from hwbench.energy.imports.lines import TextFile
from hwbench.energy.imports.series import Column, Described, Reading, make_trace
from hwbench.energy.integrate import Sample, update_period_s
from hwbench.energy.trace import Trace
from hwbench.errors import StorageError
from hwbench.records.base import Missing, Record


class _Line(Record, frozen=True, kw_only=True):
    t_s: float
    power_w: float | None = None
    energy_j: float | None = None


class PlainTrace(NamedTuple):
    """A trace with its time set to start at zero."""

    kind: Literal["power", "counter"]
    samples: tuple[Sample, ...]
    period_s: float
    lines: tuple[int, ...] = ()  # where in the file each sample stands


def read_plain(path: Path) -> PlainTrace | Missing:
    """Read a file of plain lines, or say what is wrong with it; its first reading becomes time zero.

    Codes: ``no_trace``, ``trace_unreadable``, ``trace_too_short``, ``counter_constant``.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        return Missing(code="no_trace", why=f"{path} cannot be read: {error.strerror or error}")
    lines: list[_Line] = []
    numbers: list[int] = []
    for number, line in enumerate(text.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            lines.append(msgspec.json.decode(line, type=_Line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return _unreadable(f"line {number} of {path}: {error}")
        numbers.append(number)
    return _plain(lines, numbers, path)


def import_jsonl(file: TextFile) -> Trace:
    """Return plain lines as a trace.

    Raises:
        StorageError: what :func:`read_plain` says is wrong with them.
    """
    plain = read_plain(file.path)
    if isinstance(plain, Missing):
        raise StorageError(plain.why, hint=plain.cure)
    counter = plain.kind == "counter"
    readings = [
        Reading(line, round(sample.t_s * 1e9), sample.value)
        for line, sample in zip(plain.lines, plain.samples, strict=True)
    ]
    column = Column(
        name="energy" if counter else "power",
        quantity="energy" if counter else "power",
        role="total",
        readings=readings,
        told="energy_j" if counter else "power_w",
    )
    known = Described(format="jsonl", boundary=f"whatever {file.path.name} was recorded on")
    return make_trace(_finished(file), [column], known)


def _finished(file: TextFile) -> TextFile:
    """A JSON object that parses is whole, with a line end after it or not."""
    return TextFile(path=file.path, sha256=file.sha256, encoding=file.encoding, lines=file.lines, finished=True)


def _plain(lines: Sequence[_Line], numbers: Sequence[int], path: Path) -> PlainTrace | Missing:
    if len(lines) < 2:
        return Missing(code="trace_too_short", why=f"{path} has {len(lines)} readings, and two are the least")
    kinds = {(line.power_w is None, line.energy_j is None) for line in lines}
    if kinds not in ({(True, False)}, {(False, True)}):
        return _unreadable(f"{path} must hold either power_w or energy_j, the same in every line")
    for (before, after), number in zip(pairwise(lines), numbers[1:], strict=True):
        if after.t_s <= before.t_s:
            return _unreadable(f"line {number} of {path}: t_s must rise from line to line")
    counter = kinds == {(True, False)}
    values = [line.energy_j if counter else line.power_w for line in lines]
    samples = tuple(
        Sample(line.t_s - lines[0].t_s, value) for line, value in zip(lines, values, strict=True) if value is not None
    )
    for sample, number in zip(samples, numbers, strict=True):
        if sample.value < 0:
            return _unreadable(f"line {number} of {path} is below zero")
    period_s = update_period_s(samples, counter=counter)
    if period_s is None:
        return Missing(code="counter_constant", why=f"the counter in {path} never moves")
    return PlainTrace("counter" if counter else "power", samples, period_s, tuple(numbers))


def _unreadable(why: str) -> Missing:
    cure = 'one JSON object a line, such as {"t_s": 0.1, "power_w": 42.0}'
    return Missing(code="trace_unreadable", why=why, cure=cure)
