"""Energy in the terminal: what can be said, then the tables of each boundary, and last, apart, what is only estimated.

Plain windows get their line and no tables: they have no repeats, and the table of results already shows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement as Width
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from hwbench.records.base import Missing
from hwbench.records.measurement import ProfileResult
from hwbench.report import energy_words as say
from hwbench.report.energy_gather import energies
from hwbench.report.energy_rows import EnergyRow, EstimateRow, grouped
from hwbench.report.energy_table import LEGEND, Block, GroupTable, group_table
from hwbench.report.energy_traces import NOT_LOOKED_AT, Traces
from hwbench.report.table import Cell
from hwbench.report.text import hanging, indented, new_grid, noted, plain


def render_energy(results: Sequence[ProfileResult], traces: Traces | None = None) -> RenderableType | None:
    """Return the energy of one result, or of several side by side; None when there is none to show."""
    found = energies(results)
    if not found.rows and not found.estimates:
        return None
    groups = grouped(found.rows)
    parts: list[RenderableType] = []
    if groups:
        parts += [Text(), plain("Energy, measured", "bold")]
    if len({group.boundary for group in groups}) > 1:
        parts.append(plain(say.BOUNDARIES, "yellow"))
    for group in groups:
        parts.extend(_group(group_table(group)))
    if any(group.kind == "plateau" for group in groups):
        parts += [plain(say.PLATEAU, "dim"), plain(LEGEND, "dim")]
    parts += [_trace(row, traces or {}) for row in found.rows if row.kind == "plateau"]
    if groups and found.absent:
        parts += [plain("Energy not measured:", "bold")]
        parts += [indented(f"{names}: {why}", 2) for names, why in say.absent_lines(found.absent)]
    return Group(*parts, *_estimates(found.estimates))


def _group(table: GroupTable) -> Iterator[RenderableType]:
    plateau = table.group.kind == "plateau"
    yield Text()
    yield plain(table.title, "bold")
    for sentence in table.sentences:
        yield plain(sentence, "bold" if plateau else "yellow")
    for name, line in table.glances:
        yield indented(f"{name}: {line}", 2)
    if plateau:
        for block in table.blocks:
            yield _Fitting(block)
    if table.flags:
        yield plain("What the flags mean:", "bold")
        yield from (indented(f"{flag}: {meaning}", 2) for flag, meaning in table.flags)
    if plateau:
        yield from (hanging(f"[{number}]", note) for number, note in enumerate(table.notes, 1))


class _Fitting:
    """A block as a table: a row for each measurement where that fits, else a column, else a list."""

    def __init__(self, block: Block) -> None:
        self.block = block

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        block = self.block
        yield Text()
        across = _grid((block.title, *block.head[1:]), block.rows)
        columns = list(zip(*block.rows, strict=True))
        down = _grid(
            (block.title, *(cell.text for cell in columns[0])),
            [(Cell(title), *cells) for title, cells in zip(block.head[1:], columns[1:], strict=True)],
        )
        for grid in (across, down):
            if Width.get(console, options.update(max_width=1000), grid).maximum <= options.max_width:
                yield grid
                return
        yield plain(f"{block.title}:")
        for first, *cells in block.rows:
            yield from _listed(block, first, cells)


def _grid(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> RichTable:
    grid = new_grid()
    for number, title in enumerate(head):
        grid.add_column(plain(title), justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(noted(cell) for cell in row))
    return grid


def _listed(block: Block, first: Cell, cells: Sequence[Cell]) -> Iterator[RenderableType]:
    yield indented(first.text, 2)
    grid = RichTable.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", overflow="fold")
    grid.add_column(overflow="fold")
    for title, cell in zip(block.head[1:], cells, strict=True):
        grid.add_row(Text(title), noted(cell))
    yield Padding(grid, (0, 0, 0, 4), expand=False)


def _trace(row: EnergyRow, traces: Traces) -> RenderableType:
    assert not isinstance(row.trace_sha256, Missing)
    trace = traces.get(row.trace_sha256, NOT_LOOKED_AT)
    state = str(trace) if isinstance(trace, Missing) else "there, with the SHA-256 that the result names"
    return indented(f"trace of {row.name}: {row.trace}: {state}", 2, "yellow" if isinstance(trace, Missing) else "dim")


def _estimates(rows: Sequence[EstimateRow]) -> Iterator[RenderableType]:
    if not rows:
        return
    yield Text()
    yield plain("Energy, ESTIMATED: not measured", "bold yellow")
    yield plain(say.ESTIMATES, "dim")
    for row in rows:
        yield indented(f"{row.name}: {say.estimate_value(row)} per inference ({say.estimate_band(row)})", 2)
        yield indented(f"by {row.estimate.method}, for {row.estimate.boundary}; from {say.estimate_inputs(row)}", 4)
