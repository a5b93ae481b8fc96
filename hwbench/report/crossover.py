"""The crossover table in the terminal and for the page: who is fastest at each product, and whether zeros pay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from hwbench.records.base import Missing
from hwbench.records.crossover import Cell, Crossover
from hwbench.report.text import new_grid, plain
from hwbench.report.words import DASH
from hwbench.units import format_bytes, format_seconds, format_si

if TYPE_CHECKING:
    from hwbench.sparse.check import Checked

MODEL = "model, not measured"
HEAD = ("N", "sparsity", "contender", "time", "between", "v. dense-fp16", "of the memory's rate", "")
_MOST_REASONS = 12  # in a terminal
_MOST_POINTS = 3  # of one reason


def render_crossover(table: Crossover) -> RenderableType:
    """Return a table for people."""
    return Group(
        plain(headline(table), "bold"),
        *(plain(line, "dim") for line in facts(table)),
        *(plain(f"warning: {warning}", "yellow") for warning in table.warnings),
        *(_grid(title, rows) for title, rows in sections(table)),
        *(plain(line, "dim") for line in _shortened(left_out(table))),
    )


def headline(table: Crossover) -> str:
    """Return what the table is of, and that it is a model where it is one."""
    what = "measured" if table.basis == "measured" else MODEL
    return f"{table.title}: sparse kernels beside dense products ({what})"


def facts(table: Crossover) -> list[str]:
    """Return what the numbers rest on."""
    driver = table.driver if isinstance(table.driver, str) else str(table.driver)
    lines = [
        f"compute capability {table.compute_capability}; {driver}; kernels {table.kernels_sha256[:12]}",
        f"memory: {format_si(table.memory_bytes_per_s, 'B/s')}, {table.memory_from}",
        *table.protocol,
    ]
    if not isinstance(table.control, Missing):
        lines.append(f"two timings of one dense product differ by up to {table.control:.3f} times")
    elif table.basis == "measured":
        lines.append(f"no control: {table.control}")
    return lines


def left_out(table: Crossover) -> list[str]:
    """Return who did not take part and why: a line for each contender and reason, with the points."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in table.left_out:
        where = [
            *([f"{one.m}x{one.k}"] if one.m is not None else []),
            *([f"N = {one.n}"] if one.n is not None else []),
            *([f"{one.sparsity:.0%} zeros"] if one.sparsity else []),
        ]
        found.setdefault((one.contender, str(one.reason)), []).append(", ".join(where))
    return [f"left out: {name}{_points(where)}: {reason}" for (name, reason), where in found.items()]


def _points(where: Sequence[str]) -> str:
    """Return some points in words, and how many there are beside them."""
    if "" in where:
        return ""  # whatever the point
    told = list(dict.fromkeys(where))
    more = f" and {len(told) - _MOST_POINTS} more points" if len(told) > _MOST_POINTS else ""
    return f" at {'; '.join(told[:_MOST_POINTS])}{more}"


def _shortened(lines: list[str]) -> list[str]:
    """Return the first reasons, and how many more there are."""
    more = len(lines) - _MOST_REASONS
    return [*lines[:_MOST_REASONS], *([f"and {more} more left out: --output has them all"] if more > 0 else [])]


def sections(table: Crossover) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Return a title and rows for each shape of W; in each N the fastest first."""
    shapes = dict.fromkeys((cell.m, cell.k) for cell in table.cells)
    return [
        (f"W {m} x {k}, {format_si(2.0 * m * k, 'B')} in fp16", _rows(table, m, k))
        for m, k in shapes
    ]  # fmt: skip


def _rows(table: Crossover, m: int, k: int) -> list[tuple[str, ...]]:
    cells = [cell for cell in table.cells if (cell.m, cell.k) == (m, k)]
    rows = []
    for n in dict.fromkeys(cell.n for cell in cells):
        here = sorted((cell for cell in cells if cell.n == n), key=_order)
        dense = seconds_of(here, "dense-fp16")
        rows += [_row(table, cell, dense) for cell in here]
    return rows


def _order(cell: Cell) -> tuple[bool, float]:
    missing = isinstance(cell.time, Missing)
    return missing, 0.0 if isinstance(cell.time, Missing) else cell.time.value_s


def seconds_of(cells: Sequence[Cell], contender: str) -> float | None:
    """Return the time of a contender among cells of one product."""
    for cell in cells:
        if cell.contender == contender and not isinstance(cell.time, Missing):
            return cell.time.value_s
    return None


def gains_of(cell: Cell, base: float) -> tuple[float, float, float]:
    """Return how many times ``base`` seconds hold a contender's time, at least and at most by the time's interval."""
    assert not isinstance(cell.time, Missing)
    return base / cell.time.value_s, base / cell.time.high_s, base / cell.time.low_s


def _gain(cell: Cell, dense: float | None) -> str:
    if dense is None:
        return DASH
    value, low, high = gains_of(cell, dense)
    return f"{value:.2f}x ({low:.2f} to {high:.2f})"


def _row(table: Crossover, cell: Cell, dense: float | None) -> tuple[str, ...]:
    sparsity = DASH if cell.sparsity == 0 else f"{cell.sparsity:.0%}"
    label = MODEL if table.basis == "model" else ""
    label += f"; bound by {cell.bound_by}" if isinstance(cell.bound_by, str) else ""
    if isinstance(cell.time, Missing):
        return (str(cell.n), sparsity, cell.contender, DASH, DASH, DASH, DASH, str(cell.time))
    share = cell.bound_share
    return (
        str(cell.n),
        sparsity,
        cell.contender,
        format_seconds(cell.time.value_s),
        f"{format_seconds(cell.time.low_s)} to {format_seconds(cell.time.high_s)}",
        _gain(cell, dense),
        DASH if isinstance(share, Missing) else f"{share:.0%}",
        label,
    )


def _grid(title: str, rows: Sequence[Sequence[str]]) -> Table:
    grid = new_grid()
    grid.title, grid.title_justify = title, "left"
    for head in HEAD:
        grid.add_column(head)
    for row in rows:
        grid.add_row(*row)
    return grid


def render_checks(found: Sequence[Checked]) -> RenderableType:
    """Return the compile matrix for people: a row a kernel and architecture, and what is broken in words."""
    grid = new_grid()
    for head in ("kernel", "GPU", "variants", "registers, at most", "shared memory", ""):
        grid.add_column(head)
    for kernel, arch in dict.fromkeys((one.kernel, one.arch) for one in found):
        here = [one for one in found if (one.kernel, one.arch) == (kernel, arch)]
        broken = "; ".join(dict.fromkeys(word for one in here for word in one.broken))
        registers = [one.registers for one in here if not isinstance(one.registers, Missing)]
        shared = [one.shared_bytes for one in here if not isinstance(one.shared_bytes, Missing)]
        grid.add_row(
            kernel,
            f"sm_{arch}",
            str(len(here)),
            str(max(registers, default=DASH)),
            format_bytes(max(shared)) if shared else DASH,
            plain(broken or "as the manifest says", "red" if broken else "green"),
        )
    return grid
