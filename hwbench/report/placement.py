"""What was not run where, or as, it had to be: a table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from hwbench.records.placement import Unmet
from hwbench.report.text import plain

_MOST = 40


def render_unmet(unmet: Sequence[tuple[str, Unmet]]) -> RenderableType:
    """Return a table of (label of the engine, what is not as required), with at least one row."""
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title in ("engine", "required", "unit", "found", "why"):
        grid.add_column(title, overflow="fold")
    for label, item in unmet[:_MOST]:
        wanted = f"{item.requirement} {item.wanted}"
        grid.add_row(*(plain(text) for text in (label, wanted, item.unit, item.found, item.why)))
    parts: list[RenderableType] = [plain(f"{len(unmet)} units are not as required:", "bold red"), grid]
    if len(unmet) > _MOST:
        parts.append(plain(f"and {len(unmet) - _MOST} more, in the saved result"))
    return Group(*parts)
