"""Readings of a phone's power rails, as text of ``energy_value``; see :mod:`hwbench.energy.android.odpm`."""

from __future__ import annotations

from collections.abc import Collection

from hwbench.energy.android.odpm import TIME, rail_readings, rails_trace
from hwbench.energy.imports.lines import Line, TextFile
from hwbench.energy.trace import Trace


def is_odpm(line: Line) -> bool:
    """Say whether a first line is that of ``energy_value``."""
    return bool(TIME.match(line.text))


def import_odpm(file: TextFile, totals: Collection[str] = ()) -> Trace:
    """Read a file of ``energy_value`` texts, one after the other.

    Raises:
        StorageError: a line has another shape, a counter or time goes back, or ``totals`` names no rail.
    """
    settings = {
        "file": file.path.name,
        "sha256": file.sha256,
        "format": "odpm",
        "flags": " ".join(("gain_unknown", *file.flags)),
    }
    return rails_trace(tuple(rail_readings(file.whole(), str(file.path))), totals=totals, settings=settings)
