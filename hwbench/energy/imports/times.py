"""The time of each line of a table: from its time column, or so many seconds a line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hwbench.energy.imports.cells import Heading, date_ns, number, scaled_ns, unix_scale_ns
from hwbench.energy.imports.lines import TextFile

MOST_OFF = 0.2  # relative: what a stated interval and the times of the file may differ by


def even_times(count: int, interval_s: float) -> list[int]:
    """Return the times of readings that came every ``interval_s``, in nanoseconds."""
    return [round(i * interval_s * 1e9) for i in range(count)]


def column_times(
    file: TextFile, heading: Heading, cells: Sequence[tuple[int, str]], *, comma: bool = False
) -> list[int]:
    """Return the times in a column, in nanoseconds.

    A unit in the heading counts; without one, date-times and Unix times tell their unit themselves.

    Raises:
        StorageError: a cell is no time, or the unit of the column is not told.
    """
    number_of_line, first = cells[0]
    is_date = _date(file, number_of_line, first) is not None
    factor = heading.factor
    if factor is None and not is_date:
        scale = _unix_scale(file, number_of_line, first, comma)
        if scale is None:
            hint = "write its unit into the header, such as 'Time (s)' or 'time_ms'"
            raise file.refusal(number_of_line, f"nobody says what unit '{heading.text}' is in", hint)
        factor = scale / 1e9
    times: list[int] = []
    for line, text in cells:
        found = _date(file, line, text) if is_date else _scaled(file, line, text, factor or 1.0, comma)
        if found is None:
            raise file.refusal(line, f"'{text[:40]}' is no date and time, as the lines before have")
        times.append(found)
    return times


def check_interval(file: TextFile, times: Sequence[int], interval_s: float) -> None:
    """Hold a stated interval against the times of the file.

    Raises:
        StorageError: they differ by more than a fifth.
    """
    if len(times) < 2:
        return
    steps = sorted(b - a for a, b in pairwise(times))
    found_s = steps[len(steps) // 2] / 1e9
    if abs(found_s - interval_s) > MOST_OFF * interval_s:
        why = f"the times of the file are {found_s:g} s apart, and --interval says {interval_s:g} s"
        raise file.refusal(file.lines[0].number, why, "leave --interval out: the file has times of its own")


def _date(file: TextFile, line: int, text: str) -> int | None:
    try:
        return date_ns(text)
    except ValueError as error:
        raise file.refusal(line, f"'{text[:40]}': {error}") from error


def _scaled(file: TextFile, line: int, text: str, factor: float, comma: bool) -> int:
    try:
        return scaled_ns(text, factor, comma=comma)
    except ValueError as error:
        raise file.refusal(line, str(error)) from error


def _unix_scale(file: TextFile, line: int, text: str, comma: bool) -> int | None:
    try:
        return unix_scale_ns(number(text, comma=comma))
    except ValueError as error:
        raise file.refusal(line, str(error)) from error
