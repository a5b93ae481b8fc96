"""SPEC PTDaemon: the log of a power analyser as MLPerf Power keeps it (``spl.txt``).

``Time,12-23-2020 10:21:51.496,Watts,23.430000,Volts,228.370000,Amps,0.204280,PF,0.502300,Mark,testing-workload``: names
and values by turns, a line a second, local time without a zone. Watts are means since the line before. Verified with
the sample log of mlcommons/power-dev. The name after ``Mark`` becomes marks ``NAME.start`` and ``NAME.end``. Of a log
of several channels, which could not be verified, the first Watts are taken: those of the whole line.
"""

from __future__ import annotations

import re

from hwbench.energy.imports.cells import date_ns, number
from hwbench.energy.imports.lines import Line, TextFile, split
from hwbench.energy.imports.series import Column, Described, Reading, make_trace
from hwbench.energy.imports.table import marks_of
from hwbench.energy.integrate import Sample, update_period_s
from hwbench.energy.trace import Trace
from hwbench.records.base import Missing

_LINE = re.compile(r"^Time,[^,]+,Watts,")


def is_ptdaemon(line: Line) -> bool:
    """Say whether a line is one of such a log."""
    return bool(_LINE.match(line.text))


def import_ptdaemon(file: TextFile) -> Trace:
    """Read the active power at the wall.

    Raises:
        StorageError: a line is of another shape, or cannot be believed.
    """
    readings: list[Reading] = []
    names: list[tuple[int, str]] = []
    for line in file.whole():
        reading, name = _reading(file, line)
        readings.append(reading)
        names.append((line.number, name))
    samples = [Sample(reading.time_ns / 1e9, reading.value) for reading in readings]
    period_s = update_period_s(samples, counter=False)
    column = Column(
        name="wall",
        quantity="power",
        role="total",
        readings=readings,
        told="Watts",
        averaging_s=period_s
        if period_s is not None and period_s > 0
        else Missing(code="not_known", why="too few lines to tell how far they are apart"),
    )
    known = Described(
        format="ptdaemon",
        boundary="all that the power analyser feeds, at the wall",
        marks=marks_of(names, [reading.time_ns for reading in readings]),
    )
    return make_trace(file, [column], known)


def _reading(file: TextFile, line: Line) -> tuple[Reading, str]:
    cells = split(file, line, ",")
    if not is_ptdaemon(line) or len(cells) % 2:
        raise file.refusal(line.number, "it is not 'Time,...,Watts,...' in pairs of name and value")
    pairs = _first_of_each(cells)
    try:
        time_ns = date_ns(pairs["Time"])
        value = number(pairs["Watts"])
    except ValueError as error:
        raise file.refusal(line.number, str(error)) from error
    if time_ns is None:
        raise file.refusal(line.number, f"'{pairs['Time'][:40]}' is no date and time")
    return Reading(line.number, time_ns, value), pairs.get("Mark", "")


def _first_of_each(cells: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for name, value in zip(cells[::2], cells[1::2], strict=True):
        pairs.setdefault(name, value)
    return pairs
