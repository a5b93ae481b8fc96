"""A crossover table as one HTML page that needs no network, built as :mod:`hwbench.report.html` says.

One picture a shape: the gain over the dense fp16 product by the fraction of zeros, a line a contender and N; dense
products that are quantised are level lines, since zeros do not matter to them. What lies below the highest level line
does not pay.
"""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.records.base import Missing
from hwbench.records.crossover import Cell, Crossover
from hwbench.report.crossover import HEAD, facts, gains_of, headline, left_out, seconds_of, sections
from hwbench.report.figures import DASHES, GREY, Figure, axis, colour, label, layout
from hwbench.report.html import fenced_page
from hwbench.report.page import Book


def render_crossover_page(table: Crossover) -> str:
    """Return the page."""
    book = Book()
    measured = "Bars are 95 % intervals of the contender's own time."
    caption = measured if table.basis == "measured" else "Model, not measured."
    charts = [
        book.add(gains(table, m, k, n), f"W {m} x {k}, N = {n}", caption)
        for m, k, n in dict.fromkeys((cell.m, cell.k, cell.n) for cell in table.cells)
    ]
    return fenced_page(
        "crossover.html.j2",
        table,
        book,
        table=table,
        headline=headline(table),
        facts=facts(table),
        head=HEAD,
        sections=sections(table),
        contenders=[(each.name, f"{each.summary} ({each.values})") for each in table.contenders],
        left_out=left_out(table),
        charts=charts,
    )


def gains(table: Crossover, m: int, k: int, n: int) -> Figure:
    """Return the gains over dense fp16 at one product, by sparsity; without that product the times themselves."""
    cells = [cell for cell in table.cells if (cell.m, cell.k, cell.n) == (m, k, n)]
    dense = seconds_of(cells, "dense-fp16")
    names = list(dict.fromkeys(cell.contender for cell in cells))
    sparsities = sorted({cell.sparsity for cell in cells if cell.sparsity > 0}) or [0.5]
    data = [
        _line(table, name, [cell for cell in cells if cell.contender == name], dense, sparsities, names.index(name))
        for name in names
    ]
    up = {"title": "gain over dense fp16", "ticksuffix": "x"} if dense is not None else {"title": "products a second"}
    yaxis = axis(up.pop("title"), rangemode="tozero", **up)
    return {"data": data, "layout": layout(360, xaxis=axis("zeros", tickformat=".0%"), yaxis=yaxis)}


def _line(
    table: Crossover, name: str, cells: Sequence[Cell], dense: float | None, sparsities: Sequence[float], index: int
) -> Figure:
    level = all(cell.sparsity == 0 for cell in cells)
    points = [
        (sparsity, *gains_of(cell, 1.0 if dense is None else dense))
        for cell in sorted(cells, key=lambda one: one.sparsity)
        if not isinstance(cell.time, Missing)
        for sparsity in ((sparsities[0], sparsities[-1]) if level else (cell.sparsity,))
    ]
    return {
        "type": "scatter",
        "mode": "lines" if level else "lines+markers",
        "name": label(name),
        "x": [point[0] for point in points],
        "y": [point[1] for point in points],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [point[3] - point[1] for point in points],
            "arrayminus": [point[1] - point[2] for point in points],
            "visible": not level,
        },
        "line": {
            "color": GREY if level else colour(index),
            "dash": DASHES[index % len(DASHES)] if level else "solid",
            "width": 1.5,
        },
        "hovertemplate": "%{x:.0%} zeros: %{y:.3~f}<extra>" + label(table.contender(name).summary) + "</extra>",
    }
