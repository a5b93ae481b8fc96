"""Tables with a header that names its columns and their units: what most meters and their programs write.

A time column, and power, or current and voltage, or a cumulative energy; a column that marks events, if there is one.
The header tells the units: ``Time (s)``, ``power_mW``, ``Current [A]``. A header of ``t,V,A,P`` alone is in SI. Without
a unit a column is refused, but for date-times and Unix times. Where several columns fit, and for programs that measure
several channels, ``columns`` says which to take; a column that is not taken is named in the trace's settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from hwbench.energy.imports import cells as cell
from hwbench.energy.imports.cells import Heading, Kind
from hwbench.energy.imports.lines import Line, TextFile, delimiter_of, rows_of, split
from hwbench.energy.imports.series import Column, Described, Reading, make_trace
from hwbench.energy.imports.times import check_interval, column_times, even_times
from hwbench.energy.trace import Trace
from hwbench.errors import UsageError
from hwbench.records.base import Missing


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user, or the format, says about a file.

    ``interval_s``: between lines, for a file without times. ``columns``: the name of the column for ``time``,
    ``power``, ``current``, ``voltage``, ``energy`` or ``marker``. ``channel``: of several channels in one file, the one
    that is the total. ``prefer``: a word that the right column has where several fit.
    """

    interval_s: float | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    channel: str | None = None
    prefer: str = ""
    time_factor: float | None = None


class Table:
    """The cells of a file by column, its units known."""

    def __init__(self, file: TextFile, headings: Sequence[Heading], lines: Sequence[Line], delimiter: str) -> None:
        self.file, self.headings = file, headings
        rows = rows_of(file, lines, delimiter, len(headings))
        if not rows:
            raise file.refusal(file.lines[-1].number, "there are no readings after the header")
        self.lines = [line for line, _ in rows]
        self._cells = [cells for _, cells in rows]
        try:
            self.comma = delimiter != "," and cell.decimal_comma(text for row in self._cells for text in row)
        except ValueError as error:
            hint = "export with a decimal point"
            raise file.refusal(self.lines[0], str(error), hint) from error

    def texts(self, heading: Heading) -> list[tuple[int, str]]:
        """Return line and text of each cell of a column."""
        at = self.headings.index(heading)
        return [(line, row[at]) for line, row in zip(self.lines, self._cells, strict=True)]

    def values(self, heading: Heading) -> list[float]:
        """Return a column in SI; not-a-number where a cell says that there is no value.

        Raises:
            StorageError: the unit is not told, or a cell is no number.
        """
        if heading.factor is None:
            hint = f"write it into the header, such as '{heading.text} (mW)' or '{heading.text}_w'"
            raise self.file.refusal(self.file.lines[0].number, f"nobody says what unit '{heading.text}' is in", hint)
        factor = heading.factor
        return [self._number(line, text, heading) * factor for line, text in self.texts(heading)]

    def _number(self, line: int, text: str, heading: Heading) -> float:
        try:
            return cell.number(text, comma=self.comma)
        except ValueError as error:
            raise self.file.refusal(line, f"{error}, in column '{heading.text}'") from error

    def lsb(self, heading: Heading) -> float | Missing:
        """Return the last printed place of a column, in SI."""
        texts = [text.replace(",", ".") for _, text in self.texts(heading)]
        if any("e" in text.lower() for text in texts) or heading.factor is None:
            return Missing(code="not_known", why="the numbers are printed with exponents")
        places = max(len(text.partition(".")[2]) for text in texts)
        return heading.factor * 10.0**-places


def read_table(file: TextFile, options: Options, known: Described, header: Line | None = None) -> Trace:
    """Read a table with a header.

    Raises:
        StorageError: a line or the header cannot be believed; the message names the line.
        UsageError: ``columns`` names a column that is not there.
    """
    first = header or file.lines[0]
    delimiter = delimiter_of(file, first)
    table = Table(
        file,
        _headings(file, first, delimiter),
        [line for line in file.whole() if line.number > first.number and not line.text.startswith("#")],
        delimiter,
    )
    chosen = {kind: _choose(table, kind, options) for kind in cell.WORDS}
    times = _times(table, chosen["time"], options)
    channels = _channels(table, chosen, times)
    left = [heading.text for heading in table.headings if heading.text and not _taken(heading, chosen, channels)]
    notes = {**known.notes, "delimiter": {"\t": "tab"}.get(delimiter, delimiter)}
    if left:
        notes["columns_not_taken"] = "; ".join(left)
    marker = chosen["marker"]
    return make_trace(
        file,
        channels,
        Described(
            format=known.format,
            boundary=known.boundary,
            provenance=known.provenance,
            notes=notes,
            flags=known.flags,
            marks=marks_of(table.texts(marker), times) if marker is not None else (),
        ),
    )


def _taken(heading: Heading, chosen: Mapping[Kind, Heading | None], columns: Sequence[Column]) -> bool:
    return heading in {chosen["time"], chosen["marker"]} or any(
        heading.text in column.told.split(" x ") for column in columns
    )


def _headings(file: TextFile, line: Line, delimiter: str) -> list[Heading]:
    names = split(file, line, delimiter)
    if len(names) > 1 and not names[-1]:
        names.pop()  # a delimiter at the end
    if all(cell.date_ns(name) is not None or _is_number(name) for name in names):
        hint = "give the file a first line such as 't,V,A,P' or 'Time (ms),Power (mW)'"
        raise file.refusal(line.number, "there is no header that names the columns", hint)
    plain = [name.lstrip("#").strip() for name in names]
    if all(name in cell.SYMBOLS for name in plain):
        return [Heading(text=name, kind=cell.SYMBOLS[name], factor=1.0) for name in plain]
    return [cell.heading(name) for name in names]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(cell.number(text))
    except ValueError:
        return False


def _choose(table: Table, kind: Kind, options: Options) -> Heading | None:
    """Return the column for a quantity, the named one or the only one."""
    named = options.columns.get(kind)
    if named is not None:
        found = next((heading for heading in table.headings if heading.text == named), None)
        if found is None:
            there = ", ".join(heading.text for heading in table.headings)
            raise UsageError(f"{table.file.path} has no column '{named}'", hint=f"its columns are {there}")
        return found
    fitting = [heading for heading in table.headings if heading.kind == kind and not heading.derived]
    if len(fitting) > 1 and options.prefer:
        fitting = [heading for heading in fitting if options.prefer in heading.text.lower()] or fitting
    if kind == "time":
        return fitting[0] if fitting else None  # some files tell the time in two ways, the first is the main one
    if len(fitting) > 1:
        there = ", ".join(f"'{heading.text}'" for heading in fitting)
        hint = f"say which: columns={{'{kind}': ...}}, or leave the others out of the file"
        raise table.file.refusal(table.file.lines[0].number, f"several columns may be the {kind}: {there}", hint)
    return fitting[0] if fitting else None


def _times(table: Table, heading: Heading | None, options: Options) -> list[int]:
    if heading is not None:
        texts = table.texts(heading)
        if options.time_factor is not None:
            heading = replace(heading, factor=options.time_factor)
        times = column_times(table.file, heading, texts, comma=table.comma)
        if options.interval_s is not None:
            check_interval(table.file, times, options.interval_s)
        return times
    if options.interval_s is None:
        hint = "--interval SECONDS where a line was written every so often"
        raise table.file.refusal(table.file.lines[0].number, "no column is the time", hint)
    return even_times(len(table.lines), options.interval_s)


def _channels(table: Table, chosen: Mapping[Kind, Heading | None], times: Sequence[int]) -> list[Column]:
    power, energy = chosen["power"], chosen["energy"]
    columns: list[Column] = []
    if power is not None:
        columns.append(
            Column(
                name="power",
                quantity="power",
                role="total",
                readings=_readings(table, times, table.values(power)),
                told=power.text,
                lsb=table.lsb(power),
            )
        )
    elif chosen["current"] is not None and chosen["voltage"] is not None:
        columns.append(_product(table, times, chosen["current"], chosen["voltage"]))
    if energy is not None and energy.factor is not None:
        readings = _readings(table, times, table.values(energy))
        if not columns or _rises(readings):
            columns.append(
                Column(
                    name="energy",
                    quantity="energy",
                    role="check" if columns else "total",
                    readings=readings,
                    told=energy.text,
                    lsb=table.lsb(energy),
                )
            )
    if not columns:
        there = ", ".join(f"'{heading.text}'" for heading in table.headings)
        hint = "a column for power, for current and voltage, or for energy, with its unit: 'power_mW', 'Current (A)'"
        raise table.file.refusal(table.file.lines[0].number, f"no power can be had from {there}", hint)
    return columns


def _product(table: Table, times: Sequence[int], current: Heading, voltage: Heading) -> Column:
    """Return current times voltage; of alternating current that would be the apparent power."""
    if any(heading.derived and _is_factor(heading) for heading in table.headings):
        hint = "give a column with the active power in watts"
        raise table.file.refusal(table.file.lines[0].number, "volts times amperes is not the power of AC", hint)
    products = [i * v for i, v in zip(table.values(current), table.values(voltage), strict=True)]
    return Column(
        name="power",
        quantity="power",
        role="total",
        readings=_readings(table, times, products),
        told=f"{current.text} x {voltage.text}",
    )


def _is_factor(heading: Heading) -> bool:
    text = heading.text.lower()
    return "factor" in text or text.strip() == "pf"


def _readings(table: Table, times: Sequence[int], values: Sequence[float]) -> list[Reading]:
    return [Reading(*row) for row in zip(table.lines, times, values, strict=True)]


def _rises(readings: Sequence[Reading]) -> bool:
    """Say whether a second column is a counter; the energy of each line is not, and is left out."""
    values = [reading.value for reading in readings if math.isfinite(reading.value)]
    return len(values) > 1 and values[0] < values[-1] and all(a <= b for a, b in pairwise(values))


def marks_of(texts: Sequence[tuple[int, str]], times: Sequence[int]) -> list[tuple[int, str]]:
    """Return the marks of an event column: where a level changes, or a name's first and last line.

    They are ``marker.start`` and ``marker.end``, or the name with these endings. A level that is up when the file
    begins or ends has only the edge that was seen, and is left out.
    """
    values = [text for _, text in texts]
    if all(value in {"", "0", "1", "0.0", "1.0"} for value in values):
        return _level_marks([value in {"1", "1.0"} for value in values], times)
    marks: list[tuple[int, str]] = []
    last = ""
    for i, value in enumerate(values):
        if value != last:
            marks += [(times[i - 1], f"{last}.end")] if last else []
            marks += [(times[i], f"{value}.start")] if value else []
        last = value
    return [*marks, (times[-1], f"{last}.end")] if last else marks


def _level_marks(levels: Sequence[bool], times: Sequence[int]) -> list[tuple[int, str]]:
    marks: list[tuple[int, str]] = []
    for i in range(1, len(levels)):
        if levels[i] and not levels[i - 1]:
            marks.append((times[i], "marker.start"))
        elif levels[i - 1] and not levels[i] and marks:
            marks.append((times[i], "marker.end"))
    return marks[:-1] if marks and marks[-1][1] == "marker.start" else marks
