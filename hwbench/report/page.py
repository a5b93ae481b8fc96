"""What the page shows of one result, as data for the templates.

Everything is text here already; charts are put into a :class:`Book` and referred to by their name. The templates
only lay out, and escape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from hwbench.records.base import Missing
from hwbench.records.measurement import Finding, LayerTable, Measurement, ProfileResult
from hwbench.report import figures, layer_charts, roofline, series_chart, thinning, words
from hwbench.report.conditions import built_rows, environment_lines, gpu_rows, host_rows
from hwbench.report.figures import Figure
from hwbench.report.grid import Grid
from hwbench.report.memory_grids import gpu_memory, process_memory, runtime_memory
from hwbench.report.mode_words import mode_lines
from hwbench.report.ranking import labels
from hwbench.report.table import COSTS, VALIDITY, Cell, Notes, Tables, tabulate
from hwbench.report.transfer_words import transfer_line
from hwbench.units import format_seconds, format_si

TOP_LAYERS = 25


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart: the name of its figure in the book, its height in pixels, and what is to be known when reading it.

    ``spoken`` says what the chart shows, for those who do not see it; empty where a table beside it does.
    """

    name: str
    height: int
    title: str
    caption: str
    spoken: str = ""


@dataclass
class Book:
    """The figures of a page by name."""

    figures: dict[str, Figure] = field(default_factory=dict)

    def add(self, figure: Figure, title: str, caption: str = "", spoken: str = "") -> Chart:
        """Keep ``figure`` and return what the template needs to place it."""
        name = f"figure-{len(self.figures) + 1}"
        self.figures[name] = figure
        return Chart(name=name, height=figure["layout"]["height"], title=title, caption=caption, spoken=spoken)


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One executed unit; ``percent`` is its share of the median, for the bar."""

    cells: tuple[Cell, ...]
    percent: float


@dataclass(frozen=True, kw_only=True)
class LayerView:
    """The layer table of one measurement; ``absent`` says why there is none."""

    label: str
    absent: str | None = None
    summary: str = ""
    rows: tuple[LayerRow, ...] = ()
    sums: tuple[tuple[str, str, str], ...] = ()  # name, time, share
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """One result, ready for the template; ``key`` makes the ids on the page unique."""

    key: str
    title: str
    created_at: str
    run_id: str
    status: str | None
    model: list[str]
    warnings: tuple[str, ...]
    device: list[str]
    tables: Tables
    columns: dict[str, str]  # costs and validity, after the speed columns
    built: list[tuple[str, str]]
    modes: list[tuple[str, str]]
    transfers: list[tuple[str, str]]
    courses: list[Chart]
    findings: list[tuple[str, str, tuple[Finding, ...]]]  # label, status, findings
    failed: list[tuple[str, str, str | None]]  # label, reason, log
    absent: list[tuple[str, str]]
    distributions: list[Chart]
    rates: list[Chart]
    kinds: list[Chart]
    layers: list[LayerView]
    rooflines: list[Chart]
    roofline_text: str
    memory: list[Chart]
    memory_grid: Grid
    runtime_memory_grid: Grid
    gpu_memory_grid: Grid | None
    host: Grid
    gpu: Grid | None
    built_grid: Grid
    environment: list[tuple[str, str]]
    request: str


def section(result: ProfileResult, key: str, book: Book) -> Section:
    """Return ``result`` for the template, its charts added to ``book``; everything in the order of the tables."""
    tables = tabulate(result)
    order = [row.index for table in tables.tables for row in table.rows]
    every = labels(result.measurements)
    pairs = [(every[index], result.measurements[index]) for index in order]
    names, measurements = [name for name, _ in pairs], [measurement for _, measurement in pairs]
    no_roofline = roofline.why_none(result, measurements)
    absent = [(f"{entry.engine} {entry.precision}", entry) for entry in result.not_measured]
    return Section(
        key=key,
        title=f"{result.model.name} on {result.device.title}",
        created_at=result.created_at,
        run_id=result.run_id,
        status=words.run_status(result),
        model=words.model_facts(result.model),
        warnings=result.model.warnings,
        device=words.device_facts(result),
        tables=tables,
        columns={**COSTS, **VALIDITY},
        built=[(name, line) for name, m in pairs if (line := words.built_difference(m))],
        modes=[(name, line) for name, m in pairs for line in mode_lines(m)],
        transfers=[(name, line) for name, m in pairs if (line := transfer_line(m))],
        courses=_courses(names, measurements, book),
        findings=[(name, m.validity.status, m.validity.findings) for name, m in pairs if m.validity.findings],
        failed=[(name, str(entry.reason), entry.log) for name, entry in absent if entry.failed],
        absent=[(name, str(entry.reason)) for name, entry in absent if not entry.failed],
        distributions=_distributions(names, measurements, book),
        rates=_rates(names, measurements, book),
        kinds=_kinds(names, measurements, book),
        layers=[_layers(name, m) for name, m in pairs if m.settings.mode == "latency"],
        rooflines=[] if no_roofline else [book.add(*chart) for chart in roofline.charts(result, names, measurements)],
        roofline_text=no_roofline or f"Roofs: {result.roofline_source}.",
        memory=[book.add(figures.memory(names, measurements), "Memory by phase")] if measurements else [],
        memory_grid=process_memory(names, measurements),
        runtime_memory_grid=runtime_memory(names, measurements),
        gpu_memory_grid=gpu_memory(names, measurements),
        host=host_rows(names, measurements),
        gpu=gpu_rows(names, measurements),
        built_grid=built_rows(names, measurements),
        environment=environment_lines(result),
        request=msgspec.json.format(msgspec.json.encode(result.request), indent=2).decode(),
    )


def _distributions(names: Sequence[str], measurements: Sequence[Measurement], book: Book) -> list[Chart]:
    if not measurements:
        return []
    most = max(len(m.samples_ns) for m in measurements)
    drawn = f" Lines are drawn with at most {thinning.ECDF_POINTS} points." if most > thinning.ECDF_POINTS else ""
    title = "Share of samples at or below a latency"
    charts = [book.add(figures.ecdf(names, measurements), title, f"Steeper is steadier.{drawn}")]
    for index, (name, measurement) in enumerate(zip(names, measurements, strict=True)):
        charts.append(book.add(figures.samples(index, measurement), name, _samples_caption(measurement)))
    return charts


def _samples_caption(measurement: Measurement) -> str:
    samples = measurement.samples_ns
    beyond = thinning.histogram([sample / 1e9 for sample in sorted(samples)])[2]
    parts = [f"{len(samples)} samples; one sample is: {measurement.timed_region}; clock {measurement.clock}"]
    if measurement.settings.mode == "server":
        parts.append("latency from the scheduled arrival, queueing included: not comparable with latency mode")
    if not isinstance(measurement.series, Missing) and measurement.series.kept_every > 1:
        parts.append(f"every {measurement.series.kept_every}th inference was kept as a sample")
    if measurement.settings.mode == "throughput":
        parts.append(
            "latency of single requests under load, one stream after another: not comparable with latency mode"
        )
    if beyond:
        parts.append(f"{beyond} samples lie to the right of the histogram (they are in every statistic)")
    if len(samples) > thinning.SERIES_POINTS:
        parts.append(
            f"thinned for drawing to the lowest and highest of {thinning.SERIES_POINTS // 2} stretches; "
            "the data in this page holds all"
        )
    goal = "" if measurement.target_reached else ", its goal not reached in the longest time allowed"
    parts.append(f"stop rule {measurement.stopped_by}{goal}")
    return "; ".join(parts) + "."


def _rates(names: Sequence[str], measurements: Sequence[Measurement], book: Book) -> list[Chart]:
    rates = [(index, m.throughput) for index, m in enumerate(measurements) if not isinstance(m.throughput, Missing)]
    if not rates:
        return []
    return [book.add(figures.throughput(names, rates), "Rate, and its course over the window")]


def _courses(names: Sequence[str], measurements: Sequence[Measurement], book: Book) -> list[Chart]:
    found = [(index, m.series) for index, m in enumerate(measurements) if not isinstance(m.series, Missing)]
    if not found:
        return []
    title = "Median latency over the window"
    return [
        book.add(
            series_chart.series(names, found), title, "Each point is one part of the window, all inferences of it."
        )
    ]


def _tables(names: Sequence[str], measurements: Sequence[Measurement]) -> list[tuple[str, LayerTable]]:
    pairs = zip(names, measurements, strict=True)
    return [(name, m.layers) for name, m in pairs if not isinstance(m.layers, Missing)]


def _kinds(names: Sequence[str], measurements: Sequence[Measurement], book: Book) -> list[Chart]:
    found = _tables(names, measurements)
    if not found:
        return []
    caption = (
        "Each bar adds up to the median latency of the timed run. Unattributed time is what the runtime's own clock "
        "does not see; it is negative (left of zero) where layers ran at the same time."
    )
    figure = layer_charts.by_kind([name for name, _ in found], [table for _, table in found])
    return [book.add(figure, "Time by kind of op", caption)]


def _layers(name: str, measurement: Measurement) -> LayerView:
    table = measurement.layers
    if isinstance(table, Missing):
        return LayerView(label=name, absent=str(table))
    notes = Notes()
    ordered = sorted(table.rows, key=lambda row: -row.scaled_s)
    rows = []
    for row in ordered[:TOP_LAYERS]:
        unit, rate = row.unit, words.achieved_ops_per_s(row)
        cells = (
            Cell(unit.op),
            Cell(" + ".join(unit.members) or f"{unit.name} (inserted by the runtime)"),
            *(notes.missing(v) if isinstance(v, Missing) else Cell(v) for v in (unit.kernel, unit.precision)),
            Cell(format_seconds(row.scaled_s)),
            Cell(f"{row.share * 100:.1f}%"),
            notes.missing(rate) if isinstance(rate, Missing) else Cell(format_si(rate, "op/s")),
        )
        rows.append(LayerRow(cells=cells, percent=max(0.0, min(100.0, row.share * 100))))
    rest = [row.scaled_s for row in ordered[TOP_LAYERS:]]
    sums = [(f"{len(rest)} other layers", sum(rest))] if rest else []
    sums += [(layer_charts.UNATTRIBUTED, table.unattributed_s), ("median of the timed run", table.median_s)]
    return LayerView(
        label=name,
        summary=(
            f"{len(table.rows)} executed units. {table.method}; {table.iterations} inferences, end to end "
            f"{table.profiling_overhead * 100:+.1f}% against the timed run, scaled to its median."
        ),
        rows=tuple(rows),
        sums=tuple((title, format_seconds(s), _percent(s, table.median_s)) for title, s in sums),
        notes=tuple(notes.texts),
    )


def _percent(part: float, whole: float) -> str:
    return f"{part / whole * 100:.1f}%" if whole > 0 else words.DASH
