"""A sweep in the terminal: numbers are never cut; where a table does not fit, each point is a line."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement as Width
from rich.padding import Padding
from rich.text import Text

from hwbench.records.sweep import SweepResult
from hwbench.report.grid import Grid
from hwbench.report.sweep import remarks, sweep_grids
from hwbench.report.text import hanging, new_grid, noted, plain


def render_sweep(found: SweepResult) -> RenderableType:
    """Return the points of a sweep, what was so meanwhile, and the notes."""
    grids = sweep_grids(found)
    head = plain(f"{found.model}, {found.engine} {found.precision} on {found.device}", "bold")
    captions = [plain(grid.caption, "dim") for grid in grids if grid.caption]
    notes = [hanging(f"[{number}]", note) for grid in grids for number, note in enumerate(grid.notes, 1)]
    tables = [part for grid in grids for part in (Text(), _Fitting(grid))]
    return Group(head, *(plain(line, "yellow") for line in remarks(found)), *tables, Text(), *captions, *notes)


class _Fitting:
    """A grid where it fits, else a line for each of its rows."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = new_grid()
        for title in self.grid.head:
            table.add_column(plain(title), justify="right", no_wrap=True)
        for row in self.grid.rows:
            table.add_row(*(noted(cell) for cell in row))
        if Width.get(console, options.update(max_width=1000), table).maximum <= options.max_width:
            yield table
            return
        for row in self.grid.rows:
            told = zip(self.grid.head, row, strict=True)
            cells = [Text.assemble(f"{title} ", noted(cell)) for title, cell in told if cell.text]
            yield Padding(Text(", ").join(cells), (0, 0, 0, 2), expand=False)
