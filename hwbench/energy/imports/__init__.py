"""Readings from files: what external meters and other programs wrote, as a :class:`hwbench.energy.trace.Trace`.

One file a format. :mod:`~hwbench.energy.imports.lines` gives numbered lines of text,
:mod:`~hwbench.energy.imports.cells` numbers and units, :mod:`~hwbench.energy.imports.table` columns, and
:mod:`~hwbench.energy.imports.series` makes channels of them and refuses what cannot be believed. Nothing is guessed: a
file that can be read in two ways is refused, with the line and with what would settle it.

The file's name, its SHA-256 and the columns that were taken are in the trace's settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from hwbench.energy.imports.alumet import import_alumet, is_alumet
from hwbench.energy.imports.joulescope import import_joulescope, is_joulescope
from hwbench.energy.imports.jsonl import import_jsonl
from hwbench.energy.imports.lines import Line, TextFile, read_text
from hwbench.energy.imports.monsoon import import_monsoon, is_monsoon
from hwbench.energy.imports.odpm import import_odpm, is_odpm
from hwbench.energy.imports.otii import import_otii
from hwbench.energy.imports.ptdaemon import import_ptdaemon, is_ptdaemon
from hwbench.energy.imports.series import Described
from hwbench.energy.imports.table import Options, read_table
from hwbench.energy.imports.tegrastats import import_tegrastats, is_tegrastats
from hwbench.energy.trace import Trace, read_trace
from hwbench.errors import UsageError

_Reader = Callable[[TextFile, Options], Trace]


def _import_csv(file: TextFile, options: Options) -> Trace:
    return read_table(file, options, Described(format="csv", boundary=f"whatever {file.path.name} was recorded on"))


READERS: dict[str, _Reader] = {
    "csv": _import_csv,
    "jsonl": lambda file, _: import_jsonl(file),
    "joulescope": lambda file, _: import_joulescope(file),
    "otii": import_otii,
    "monsoon": import_monsoon,
    "ptdaemon": lambda file, _: import_ptdaemon(file),
    "alumet": import_alumet,
    "tegrastats": import_tegrastats,
    "odpm": lambda file, options: import_odpm(file, totals=() if options.channel is None else (options.channel,)),
    "hwbench": lambda file, _: read_trace(file.path),
}
FORMATS = ("auto", *READERS)
_SIGNS: tuple[tuple[Callable[[Line], bool], str], ...] = (
    (lambda line: line.text.startswith("{") and '"schema_version"' in line.text, "hwbench"),
    (lambda line: line.text.startswith("{"), "jsonl"),
    (is_joulescope, "joulescope"),
    (is_ptdaemon, "ptdaemon"),
    (is_alumet, "alumet"),
    (is_tegrastats, "tegrastats"),
    (is_odpm, "odpm"),
    (lambda line: is_monsoon(line.text), "monsoon"),
)


def import_trace(
    path: Path,
    format: str = "auto",
    *,
    interval_s: float | None = None,
    columns: Mapping[str, str] | None = None,
    channel: str | None = None,
) -> Trace:
    """Read a file of readings.

    Args:
        path: the file.
        format: one of :data:`FORMATS`; ``auto`` tells it by the first line, and takes ``csv`` for anything else.
        interval_s: seconds between two lines, for a file without times; held against the times where it has them.
        columns: for tables, the name of the column for ``time``, ``power``, ``current``, ``voltage``, ``energy`` or
            ``marker``, where several fit.
        channel: of several channels, the one that is the total.

    Returns:
        The trace, its time zero at the first reading, with no marks but those of the file's own event column.

    Raises:
        UsageError: no such format, an interval that is not positive, or no such column.
        StorageError: the file cannot be read, or not be believed; the message names the line.
    """
    if format not in FORMATS:
        raise UsageError(f"there is no format '{format}'", hint=f"one of {', '.join(FORMATS)}")
    if interval_s is not None and not 0 < interval_s < float("inf"):
        raise UsageError(f"the interval between lines must be positive, not {interval_s:g} s")
    file = read_text(path)
    name = _told_by(file.lines[0]) if format == "auto" else format
    return READERS[name](file, Options(interval_s=interval_s, columns=columns or {}, channel=channel))


def _told_by(line: Line) -> str:
    return next((name for matches, name in _SIGNS if matches(line)), "csv")
