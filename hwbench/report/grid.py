"""A plain table with footnotes, for the page."""

from __future__ import annotations

from dataclasses import dataclass

from hwbench.report.table import Cell


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Heads, rows of cells, and the footnotes that the cells refer to (number 1 first)."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    caption: str = ""
