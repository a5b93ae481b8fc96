"""The energy section of the page, as data for the template.

The order is that of a report among hardware people: what can be said; for each boundary who and where, operating point,
performance, energy, power and quality; curves; breakdown; traces; and last, apart, what was only estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwbench.energy.trace import Trace
from hwbench.records.base import Missing
from hwbench.records.measurement import ProfileResult
from hwbench.report import energy_curve_figures, energy_figures
from hwbench.report import energy_words as say
from hwbench.report.energy_curves import Axis, Curve, curves, planes
from hwbench.report.energy_gather import energies
from hwbench.report.energy_rank import KNEE, Point, knee
from hwbench.report.energy_rows import EnergyRow, Group, grouped
from hwbench.report.energy_table import ESTIMATE_HEAD, LEGEND, GroupTable, estimate_rows, group_table
from hwbench.report.energy_traces import (
    NOT_LOOKED_AT,
    Line,
    Phase,
    Traces,
    phases_of,
    power_lines,
    temperature_lines,
)
from hwbench.report.grid import Grid
from hwbench.report.page import Book, Chart
from hwbench.units import format_seconds, format_si

MEASURED_ONLY = (
    "Only the points were measured; the dotted lines join what belongs together and say nothing of what lies between."
)
DOMAINS = (
    "Parts of the boundary, or beside it: they may overlap or leave something out, and need not add up to the total."
)


@dataclass(frozen=True, kw_only=True)
class GroupView:
    """The tables and charts of one boundary."""

    table: GroupTable
    charts: tuple[Chart, ...]


@dataclass(frozen=True, kw_only=True)
class TraceView:
    """The trace of one run: a chart, or why there is none."""

    name: str
    facts: str
    chart: Chart | None
    absent: str


@dataclass(frozen=True, kw_only=True)
class EnergyView:
    """The whole section; ``key`` makes the ids on the page unique."""

    key: str
    groups: tuple[GroupView, ...]
    apart: str
    legend: str
    curves: tuple[Chart, ...]
    breakdown: tuple[Chart, ...]
    traces: tuple[TraceView, ...]
    estimates: Grid
    estimate_charts: tuple[Chart, ...]
    why_estimates: str
    absent: tuple[tuple[str, str], ...]


def energy_view(
    results: Sequence[ProfileResult], key: str, book: Book, traces: Traces, *, drawn: bool = True
) -> EnergyView | None:
    """Return the section over ``results``; None when they say nothing of energy but why there is none.

    Args:
        results: one, or several to be put side by side.
        key: for the ids on the page.
        book: takes the charts.
        traces: the recordings, by hash; what is not in it was not looked for.
        drawn: with breakdown and traces, one for each run; without, only what can be put side by side.
    """
    found = energies(results)
    if not found.rows and not found.estimates:
        return None
    groups = grouped(found.rows)
    kinds = {group.kind for group in groups}
    estimates = tuple(estimate_rows(found.estimates))
    return EnergyView(
        key=key,
        groups=tuple(_group(group, book) for group in groups),
        apart=say.BOUNDARIES if len({g.boundary for g in groups}) > 1 else "",
        legend=" ".join(
            [*([say.PLATEAU] if "plateau" in kinds else []), *([LEGEND[0].upper() + LEGEND[1:] + "."] if kinds else [])]
        ),
        curves=tuple(_curves(found.rows, book)),
        breakdown=tuple(chart for group in groups for chart in _breakdown(group, book)) if drawn else (),
        traces=tuple(_trace(row, traces, book) for row in found.rows if row.kind == "plateau") if drawn else (),
        estimates=Grid(head=ESTIMATE_HEAD, rows=estimates, notes=()),
        estimate_charts=(
            (
                book.add(
                    energy_figures.estimated(found.estimates),
                    "Estimated energy per inference (hatched: not measured)",
                    "Bars from low to high are the bands that the method states.",
                    "; ".join(
                        f"{row.name} {say.estimate_value(row)}, {say.estimate_band(row)}" for row in found.estimates
                    ),
                ),
            )
            if found.estimates
            else ()
        ),
        why_estimates=say.ESTIMATES,
        absent=say.absent_lines(found.absent),
    )


def _group(group: Group, book: Book) -> GroupView:
    figure = energy_figures.per_inference(group.rows)
    charts = []
    if figure is not None:
        caption = (
            "Thick: 95% interval of the mean over the windows (Type A). Thin: the instrument's uncertainty (Type B, "
            "k=2) added in squares; it is shared by all rows of one instrument."
            if group.kind == "plateau"
            else "One window each: the bars are the instrument's uncertainty (Type B, k=2) only."
        )
        charts.append(book.add(figure, "Energy per inference", caption, "; ".join(map(_spoken, group.rows))))
    return GroupView(table=group_table(group), charts=tuple(charts))


def _spoken(row: EnergyRow) -> str:
    return f"{row.name}: {say.glance(row)}"


def _curves(rows: Sequence[EnergyRow], book: Book) -> list[Chart]:
    charts = []
    over_batch = curves(rows, "batch")
    if over_batch:
        knees = [_knee(curve) for curve in over_batch]
        caption = f"{' '.join(_knee_words(c, k) for c, k in zip(over_batch, knees, strict=True))} {MEASURED_ONLY}"
        figure = energy_curve_figures.over_batch(over_batch, knees)
        charts.append(book.add(figure, "Efficiency over batch size", caption, _points_spoken(over_batch)))
    settings: tuple[tuple[Axis, str], ...] = (("limit", "power limit"), ("mode", "power mode"))
    for name, title in settings:
        over = curves(rows, name)
        if over:
            figure = energy_curve_figures.over_setting(over)
            lines = MEASURED_ONLY if name == "limit" else "Modes have no order, so nothing joins them."
            caption = f"{' '.join(_best_words(curve) for curve in over)} {lines}"
            charts.append(book.add(figure, f"Efficiency over {title}", caption, _points_spoken(over)))
    return [*charts, *_planes(rows, book)]


def _knee(curve: Curve) -> Point | None:
    return knee([_per_item(point) for point in curve.points])


def _per_item(point: Point) -> Point:
    return Point(row=point.row, x=point.x, y=point.y * point.x, low=point.low * point.x, high=point.high * point.x)


def _knee_words(curve: Curve, found: Point | None) -> str:
    if found is None:
        return f"{curve.name}: no knee among the measured batch sizes (fewer than three, or still rising)."
    return (
        f"{curve.name}: knee at batch {found.x:g} (ring), the smallest measured with at least {KNEE:.0%} of the most "
        f"items per joule; it has {format_si(found.y, 'items/J', 3)}."
    )


def _best_words(curve: Curve) -> str:
    best = max(curve.points, key=lambda point: point.y)
    return f"{curve.name}: most inferences per joule measured at {_place(curve, best)} ({format_si(best.y, '/J', 3)})."


def _place(curve: Curve, point: Point) -> str:
    if curve.axis == "mode":
        return curve.ticks[int(point.x)]
    return f"{point.x:g} W" if curve.axis == "limit" else f"batch {point.x:g}"


def _points_spoken(found: Sequence[Curve]) -> str:
    return "; ".join(
        f"{curve.name}, {_place(curve, point)}: {format_si(point.y, 'inferences/J', 3)}"
        for curve in found
        for point in curve.points
    )


def _planes(rows: Sequence[EnergyRow], book: Book) -> list[Chart]:
    charts = []
    for plane in planes(rows):
        names = ", ".join(point.row.name for point in plane.front)
        least = f" Ring: least energy × time, {plane.balanced.row.name}." if plane.balanced is not None else ""
        caption = (
            f"{plane.boundary}. On the front, by their means, which no measured point beats in both: {names}.{least} "
            f"{MEASURED_ONLY}"
        )
        spoken = "; ".join(
            f"{p.row.name}: {format_seconds(p.x)}, {format_si(p.y, 'J')}"
            for p in sorted(plane.points, key=lambda p: p.x)
        )
        figure = energy_curve_figures.energy_over_time(plane)
        charts.append(book.add(figure, f"Energy over latency, {plane.name}", caption, spoken))
    return charts


def _breakdown(group: Group, book: Book) -> list[Chart]:
    figure = energy_figures.domains(group.rows)
    if figure is None:
        return []
    spoken = "; ".join(
        f"{row.name}, {name}: {format_si(joules, 'J')}" for row in group.rows for name, joules in row.domains_j.items()
    )
    kind = "" if group.kind == "plateau" else " (plain windows)"
    return [book.add(figure, f"Energy per inference by domain{kind}", f"{group.boundary}. {DOMAINS}", spoken)]


def _trace(row: EnergyRow, traces: Traces, book: Book) -> TraceView:
    assert not isinstance(row.trace, Missing)
    assert not isinstance(row.trace_sha256, Missing)
    facts = f"{row.trace}, SHA-256 {row.trace_sha256}"
    trace = traces.get(row.trace_sha256, NOT_LOOKED_AT)
    if isinstance(trace, Missing):
        return TraceView(name=row.name, facts=facts, chart=None, absent=str(trace))
    lines = power_lines(trace)
    if not lines:
        return TraceView(name=row.name, facts=facts, chart=None, absent="no channel of it has a power to draw")
    return TraceView(name=row.name, facts=facts, chart=_drawn(row, trace, lines, book), absent="")


def _drawn(row: EnergyRow, trace: Trace, lines: Sequence[Line], book: Book) -> Chart:
    heat, found = temperature_lines(trace), phases_of(trace)
    phases: tuple[Phase, ...] = () if isinstance(found, Missing) else found
    adding = [line.channel.name for line in lines if line.channel.role == "total"]
    parts = [f"The energy is the sum of {' + '.join(adding)}."] if adding else []
    parts += [
        f"{line.channel.name} is a counter, drawn as means over {format_seconds(line.over_s)}."
        for line in lines
        if line.over_s is not None
    ]
    parts.append("Thinned for drawing to the lowest and highest of each stretch; the file has every reading.")
    if isinstance(found, Missing):
        parts.append(f"Phases not shown: {found.why}.")
    if not heat:
        parts.append("No temperature is in the trace.")
    spoken = "; ".join(f"{p.title} from {format_seconds(p.start_s)} to {format_seconds(p.end_s)}" for p in phases)
    figure = energy_figures.power_trace(lines, heat, phases)
    return book.add(figure, f"Power over time, {row.name}", " ".join(parts), f"{_spoken(row)}. Phases: {spoken}")
