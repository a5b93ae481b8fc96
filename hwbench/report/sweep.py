"""A sweep side by side: the table, for terminal and page, and its charts."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.records.base import Missing
from hwbench.records.sweep import PowerAsked, SweepFigures, SweepPoint, SweepResult
from hwbench.report.energy_curve_figures import PER_JOULE
from hwbench.report.energy_figures import JOULES
from hwbench.report.figures import Figure, axis, colour, label, layout
from hwbench.report.grid import Grid
from hwbench.report.html import fenced_page
from hwbench.report.page import Book
from hwbench.report.table import Cell, Notes
from hwbench.report.words import DASH
from hwbench.units import format_bytes, format_si

_FIGURES = ("items/s", "power", "J/item", "95 %", "items/J", "front")
_MEANWHILE = ("clock", "memory", "validity")
_INVALID = "this measurement is invalid: hwbench report says of its folder why"
FRONT = (
    "95 %: interval of the mean over the windows, without what the meter may be off by; front: no other point has "
    "both more items in a second and less energy for one, by means; "
    "neighbours whose intervals overlap may be tied"
)
REPLAYED = "The meter played a recording back: the energy is not of these runs, and no front is drawn."


def sweep_grids(found: SweepResult) -> tuple[Grid, Grid]:
    """Return what the points say, and what was so meanwhile: a row for each point, what was set where anything was.

    The notes of both are with the second.
    """
    notes = Notes()
    chosen = tuple(
        column
        for column in (("set W", "limit_words"), ("set MHz", "clock_words"))
        if any(getattr(point.setting, column[1]) for point in found.points)
    )
    named = [(Cell(str(point.batch_size)), *_set(point.setting, chosen)) for point in found.points]
    rows = [(*name, *_figures(point, notes)) for name, point in zip(named, found.points, strict=True)]
    others = [(*name, *_meanwhile(point, notes)) for name, point in zip(named, found.points, strict=True)]
    head = ("batch", *(title for title, _ in chosen))
    return (
        Grid(head=(*head, *_FIGURES), rows=tuple(rows), notes=(), caption=f"{_boundaries(found)}; {FRONT}."),
        Grid(head=(*head, *_MEANWHILE), rows=tuple(others), notes=tuple(notes.texts)),
    )


def _set(setting: PowerAsked, chosen: Sequence[tuple[str, str]]) -> list[Cell]:
    """Return the numbers that were set; their units are in the heads."""
    return [Cell(getattr(setting, name).partition(" ")[0]) for _, name in chosen]


def remarks(found: SweepResult) -> list[str]:
    """Return what must be known of the numbers before they are used."""
    told = [REPLAYED] if any(each.provenance == "replayed" for _, each in _known(found)) else []
    failed = sum(isinstance(point.figures, Missing) for point in found.points)
    return told + ([f"{failed} of {len(found.points)} points have no numbers; the notes say why."] if failed else [])


def render_sweep_page(found: SweepResult) -> str:
    """Return the sweep as one HTML page that needs no network, built as :mod:`hwbench.report.html` says."""
    book = Book()
    charts = []
    if _known(found):
        charts = [
            book.add(efficiency(found), "Efficiency over batch size", "Items per joule: items per second per watt."),
            book.add(
                front(found), "Energy over speed", "Bars: 95 % interval of the mean over the windows. Rings: front."
            ),
        ]
    return fenced_page(
        "sweep.html.j2",
        found,
        book,
        found=found,
        remarks=remarks(found),
        grids=sweep_grids(found),
        charts=charts,
    )


def efficiency(found: SweepResult) -> Figure:
    """Return items per joule over the batch size, a line for each power setting."""
    data = []
    for index, (setting, points) in enumerate(_lines(found)):
        data.append(
            {
                **_line(index, setting),
                "x": [point.batch_size for point, _ in points],
                "y": [each.items_per_j for _, each in points],
                "hovertemplate": "batch %{x}: %{y:.4~s}/J<extra>%{fullData.name}</extra>",
            }
        )
    sizes = sorted({point.batch_size for point, _ in _known(found)})
    ticks = {"type": "log", "tickvals": sizes, "ticktext": [str(size) for size in sizes]}
    return {
        "data": data,
        "layout": layout(340, xaxis=axis("batch size", **ticks), yaxis=axis("items per joule", **PER_JOULE)),
    }


def front(found: SweepResult) -> Figure:
    """Return joules for one item over items per second, with the front ringed."""
    data = []
    for index, (setting, points) in enumerate(_lines(found)):
        data.append(
            {
                **_line(index, setting),
                "x": [each.items_per_s for _, each in points],
                "y": [each.item_j for _, each in points],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [each.item_high_j - each.item_j for _, each in points],
                    "arrayminus": [each.item_j - each.item_low_j for _, each in points],
                    "thickness": 1,
                },
                "text": [f"batch {point.batch_size}" for point, _ in points],
                "hovertemplate": "%{text}: %{x:.4~s}/s, %{y:.4~s}J<extra>%{fullData.name}</extra>",
            }
        )
    ringed = [each for _, each in _known(found) if each.front]
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "front",
            "x": [each.items_per_s for each in ringed],
            "y": [each.item_j for each in ringed],
            "marker": {"symbol": "circle-open", "size": 14, "color": "#999999", "line": {"width": 2}},
            "hoverinfo": "skip",
        }
    )
    speed = axis("items per second", ticksuffix="/s", tickformat="~s", rangemode="tozero")
    return {"data": data, "layout": layout(380, xaxis=speed, yaxis=axis("energy for one item", **JOULES))}


def _figures(point: SweepPoint, notes: Notes) -> list[Cell]:
    each = point.figures
    if isinstance(each, Missing):
        return [notes.missing(each), *(Cell(DASH) for _ in _FIGURES[1:])]
    return [
        Cell(
            format_si(each.items_per_s, "", 4).strip(),
            (notes.number(_INVALID),) if each.validity == "invalid" else (),
        ),
        _si(each.power_w, "W", notes),
        Cell(format_si(each.item_j, "J", 4)),
        Cell(f"±{(each.item_high_j - each.item_j) / each.item_j:.2%}"),
        Cell(format_si(each.items_per_j, "", 4).strip()),
        Cell("●" if each.front else ""),
    ]


def _meanwhile(point: SweepPoint, notes: Notes) -> list[Cell]:
    each = point.figures
    if isinstance(each, Missing):
        return [notes.missing(each), *(Cell(DASH) for _ in _MEANWHILE[1:])]
    memory = each.memory_bytes
    return [
        _si(each.clock_hz, "Hz", notes),
        notes.missing(memory) if isinstance(memory, Missing) else Cell(format_bytes(memory)),
        Cell(each.validity),
    ]


def _si(value: float | Missing, unit: str, notes: Notes) -> Cell:
    return notes.missing(value) if isinstance(value, Missing) else Cell(format_si(value, unit, 4))


def _known(found: SweepResult) -> list[tuple[SweepPoint, SweepFigures]]:
    return [(point, point.figures) for point in found.points if not isinstance(point.figures, Missing)]


def _boundaries(found: SweepResult) -> str:
    """Return what the energy is of, by what it was seen, and what of the memory is meant."""
    told = dict.fromkeys(
        f"energy of {each.boundary}, {each.provenance.replace('_', ' ')}; memory of {each.memory_of}"
        for _, each in _known(found)
    )
    return "; ".join(told) or "no energy"


def _lines(found: SweepResult) -> list[tuple[PowerAsked, list[tuple[SweepPoint, SweepFigures]]]]:
    lines: dict[PowerAsked, list[tuple[SweepPoint, SweepFigures]]] = {}
    for point, each in _known(found):
        lines.setdefault(point.setting, []).append((point, each))
    return [(setting, sorted(points, key=lambda pair: pair[0].batch_size)) for setting, points in lines.items()]


def _line(index: int, setting: PowerAsked) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label(setting.words),
        "line": {"width": 1, "dash": "dot", "color": colour(index)},
        "marker": {"size": 8, "color": colour(index)},
    }


def csv_rows(found: SweepResult) -> Sequence[Sequence[str]]:
    """Return the points as plain numbers in SI units; an empty cell has its reason in the last column."""
    head = [
        "batch_size", "power_limit_w", "clock_least_hz", "clock_most_hz", "folder", *SweepFigures.__struct_fields__,
        "missing",
    ]  # fmt: skip
    rows = [head]
    for point in found.points:
        values = [getattr(point.figures, name, None) for name in SweepFigures.__struct_fields__]
        missing = [value.why for value in (point.figures, *values) if isinstance(value, Missing)]
        cells = ["" if value is None or isinstance(value, Missing) else _plain(value) for value in values]
        chosen = (point.setting.power_limit_w, *(point.setting.clocks_hz or (None, None)))
        fixed = ["" if value is None else _plain(value) for value in (point.batch_size, *chosen)]
        rows.append([*fixed, point.folder, *cells, "; ".join(missing)])
    return rows


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
