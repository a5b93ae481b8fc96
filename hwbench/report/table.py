"""The table of results as data: one table a mode, cells of text, footnotes for what is missing.

The terminal and the page show the same cells. Latency and throughput never share a table.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import get_args

from hwbench.records.base import Missing
from hwbench.records.measurement import LatencySummary, Measurement, Mode, ProfileResult
from hwbench.report.ranking import Mark, Ranking, labels, rank
from hwbench.report.words import DASH, energy_note, gpu_peak, memory_over_baseline
from hwbench.units import format_bytes, format_seconds, format_si

LATENCY = {"median": "median", "interval": "95% interval", "p90": "p90", "p99": "p99"}
SPEED: dict[str, dict[str, str]] = {
    "throughput": {"rate": "inferences", "interval": "95% interval", "items": "items", "streams": "streams"},
    "burst": {**LATENCY, "course": "last/first"},
    "steady": {**LATENCY, "plateau": "plateau"},
    "sustained": {**LATENCY, "course": "last/first"},
    "server": {"completed": "completed", **LATENCY, "queueing": "queueing", "service": "service"},
    "cold": {"median": "start", "interval": "95% interval", "runtime": "runtime"},
}  # all others: LATENCY
BUILDS = {"builds": "between builds"}
COSTS = {
    "load": "load",
    "compile": "compile",
    "first": "first run",
    "memory": "peak mem",
    "energy": "energy",
    "parity": "parity",
}
VALIDITY = {"validity": "validity"}
LEGEND = (
    "load, compile, first run: one-off, in no latency; peak mem: peak RSS loading or running, over the worker's "
    "without a model, or the GPU's where a note says so; energy: per inference, measured; parity: largest output "
    "difference over the reference's largest output"
)


@dataclass(frozen=True)
class Cell:
    """Text and the numbers of its footnotes."""

    text: str
    notes: tuple[int, ...] = ()


@dataclass
class Notes:
    """Footnotes in the order of their first use; the same text gets the same number."""

    texts: list[str] = field(default_factory=list)

    def number(self, text: str) -> int:
        """Return the number of the footnote ``text``, adding it when new."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1

    def missing(self, reason: Missing) -> Cell:
        """Return a dash whose footnote is the reason."""
        return Cell(DASH, (self.number(str(reason)),))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement; ``index`` counts in ``ProfileResult.measurements``."""

    index: int
    label: str
    mark: Mark | None
    status: str
    cells: dict[str, Cell]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The measurements of one mode, fastest first, those that may not be believed last."""

    mode: Mode
    speed: dict[str, str]  # column keys and titles
    rows: tuple[Row, ...]
    ranking: Ranking


@dataclass(frozen=True, kw_only=True)
class Tables:
    """All tables of a result, with common footnotes (number 1 first)."""

    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    legend: str


def tabulate(result: ProfileResult) -> Tables:
    """Return the tables of ``result``: none when nothing was measured."""
    notes = Notes()
    modes: tuple[Mode, ...] = get_args(Mode)
    used = [mode for mode in modes if any(m.settings.mode == mode for m in result.measurements)]
    tables = tuple(_table(result, mode, notes) for mode in used)
    return Tables(tables=tables, notes=tuple(notes.texts), legend=_legend(result))


def _legend(result: ProfileResult) -> str:
    references = {m.parity.reference for m in result.measurements if not isinstance(m.parity, Missing)}
    return f"{LEGEND} ({', '.join(sorted(references))})" if references else LEGEND


def _table(result: ProfileResult, mode: Mode, notes: Notes) -> Table:
    ranking = rank(result.measurements, mode)
    names = labels(result.measurements)
    chosen = [index for index, m in enumerate(result.measurements) if m.settings.mode == mode]
    chosen.sort(key=lambda index: _order(result.measurements[index]))
    rows = tuple(
        Row(
            index=index,
            label=names[index],
            mark=ranking.marks.get(index),
            status=result.measurements[index].validity.status,
            cells=_cells(result.measurements[index], notes),
        )
        for index in chosen
    )
    speed = SPEED.get(mode, LATENCY)
    if any("builds" in row.cells for row in rows):
        speed = {**speed, **BUILDS}
    return Table(mode=mode, speed=speed, rows=rows, ranking=ranking)


def _order(measurement: Measurement) -> tuple[bool, float]:
    latency, rate = measurement.latency, measurement.throughput
    invalid = measurement.validity.status == "invalid"
    if not isinstance(latency, Missing):
        return invalid, latency.median_s
    if not isinstance(rate, Missing):
        return invalid, -rate.inferences_per_s
    return True, 0.0


def _cells(measurement: Measurement, notes: Notes) -> dict[str, Cell]:
    phases = measurement.phases
    speed = _throughput_cells if measurement.settings.mode == "throughput" else _latency_cells
    parity = measurement.parity
    if isinstance(parity, Missing):
        difference = notes.missing(parity)
    elif parity.finite:
        difference = Cell(f"{parity.max_relative:.1e}")
    else:
        difference = Cell("NOT FINITE", (notes.number("the outputs hold NaN or infinity"),))
    return {
        **speed(measurement, notes),
        **_mode_cells(measurement, notes),
        "load": _seconds(phases.load_s, notes, 3),
        "compile": _seconds(phases.compile_s, notes, 3),
        "first": Cell(format_seconds(phases.first_inference_s)),
        "memory": _memory(measurement, notes),
        "energy": _energy(measurement, notes),
        "parity": difference,
        "validity": Cell(measurement.validity.status),
    }


def _memory(measurement: Measurement, notes: Notes) -> Cell:
    """Return the peak of the process, or of the GPU for what ran there."""
    on_gpu = gpu_peak(measurement)
    if on_gpu is not None:
        peak, told = on_gpu
        return notes.missing(peak) if isinstance(peak, Missing) else Cell(format_bytes(peak), (notes.number(told),))
    memory = memory_over_baseline(measurement.memory)
    return notes.missing(memory) if isinstance(memory, Missing) else Cell(format_bytes(memory))


def _latency_cells(measurement: Measurement, notes: Notes) -> dict[str, Cell]:
    latency = measurement.latency
    if isinstance(latency, Missing):
        return dict.fromkeys(LATENCY, notes.missing(latency))
    middle = {"median": Cell(format_seconds(latency.median_s, 4)), "interval": _interval_cell(latency, notes)}
    if "p90" not in SPEED.get(measurement.settings.mode, LATENCY):
        return middle
    return {
        **middle,
        "p90": _seconds(latency.p90_s, notes),
        "p99": _seconds(latency.p99_s, notes),
    }


def _interval_cell(latency: LatencySummary, notes: Notes) -> Cell:
    interval = latency.interval_s
    if isinstance(interval, Missing):
        return notes.missing(interval)
    low, high = (format_seconds(bound, 4) for bound in interval)
    return Cell(between(low, high))


def _mode_cells(measurement: Measurement, notes: Notes) -> dict[str, Cell]:
    """Return the cells of the columns that only one mode has; none of the others', whose reasons nobody asks for."""
    series, state, server = measurement.series, measurement.steady_state, measurement.server
    cold, builds, cells = measurement.cold, measurement.builds, dict[str, Cell]()
    if not isinstance(series, Missing):
        ratio = series.last_over_first
        cells["course"] = notes.missing(ratio) if isinstance(ratio, Missing) else Cell(f"{ratio:.3f}")
    if not isinstance(state, Missing):
        after = format_seconds(state.after_s)
        cells["plateau"] = Cell(f"after {after}" if state.reached else f"NOT in {after}", (notes.number(state.basis),))
    if not isinstance(server, Missing):
        cells["completed"] = Cell(format_si(server.completed_per_s, "/s", 4))
        cells["queueing"] = Cell(format_seconds(server.queueing.median_s))
        cells["service"] = Cell(format_seconds(server.service.median_s))
    if not isinstance(cold, Missing):
        cells["runtime"] = Cell(format_seconds(statistics.median(start.runtime_s for start in cold.starts)))
    if not isinstance(builds, Missing):
        cells["builds"] = Cell(f"{builds.between_s / builds.mean_s:.1%}" if builds.mean_s > 0 else DASH)
    elif builds.code != "one_build":
        cells["builds"] = notes.missing(builds)
    return cells


def _throughput_cells(measurement: Measurement, notes: Notes) -> dict[str, Cell]:
    rate = measurement.throughput
    if isinstance(rate, Missing):
        return dict.fromkeys(SPEED["throughput"], notes.missing(rate))
    low, high = format_si(rate.low_per_s, "/s", 4), format_si(rate.high_per_s, "/s", 4)
    items = rate.items_per_s
    return {
        "rate": Cell(format_si(rate.inferences_per_s, "/s", 4)),
        "interval": Cell(between(low, high)),
        "items": notes.missing(items) if isinstance(items, Missing) else Cell(format_si(items, "/s", 4)),
        "streams": Cell(str(rate.streams)),
    }


def _seconds(value: float | Missing, notes: Notes, digits: int = 4) -> Cell:
    return notes.missing(value) if isinstance(value, Missing) else Cell(format_seconds(value, digits))


def between(low: str, high: str) -> str:
    """Join two quantities, naming a common unit once: ``2.301–2.330 ms``."""
    number, _, unit = low.partition(" ")
    return f"{number}–{high}" if high.endswith(f" {unit}") else f"{low} – {high}"


def _energy(measurement: Measurement, notes: Notes) -> Cell:
    per_inference, reading = measurement.energy_per_inference_j, measurement.energy
    if isinstance(per_inference, Missing):
        return notes.missing(per_inference)
    if isinstance(reading, Missing):
        return Cell(format_si(per_inference, "J"), (notes.number(f"no reading was kept: {reading}"),))
    run = measurement.energy_run
    total = reading if isinstance(run, Missing) or isinstance(run.total_j, Missing) else run.total_j
    text = f"{format_si(per_inference, 'J')} ±{total.relative_uncertainty * 100:.2g}%"
    return Cell(text, (notes.number(energy_note(reading)),))
