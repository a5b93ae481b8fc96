"""Several results beside each other: the same engine and precision in each, against one of them.

The results were taken one after the other, perhaps on other days or machines, never interleaved: the section says
so, and gives intervals and ratios, no verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwbench.records.base import Missing
from hwbench.records.measurement import Measurement, Mode, ProfileResult
from hwbench.report import figures
from hwbench.report.grid import Grid
from hwbench.report.page import Book, Chart
from hwbench.report.ranking import labels
from hwbench.report.table import Cell, Notes
from hwbench.report.words import DASH
from hwbench.units import format_seconds, format_si

RESERVE = (
    "These results were not interleaved: each ran at its own time, in its own conditions. The intervals cover the "
    "scatter inside a run, not the drift between runs, so small differences here are no evidence."
)
Value = tuple[float, float, float]  # value, and its interval


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison section; ``names`` are the results' letters and titles, the base first."""

    reserve: str
    names: tuple[tuple[str, str], ...]
    differs: Grid
    values: Grid
    charts: tuple[Chart, ...]


def compare(results: Sequence[ProfileResult], book: Book) -> Comparison:
    """Return the comparison of two or more results against the first."""
    letters = [_letter(index) for index in range(len(results))]
    by_engine = [_by_engine(result) for result in results]
    keys = list(dict.fromkeys(key for found in by_engine for key in found))
    charts = []
    for label, mode in keys:
        points = []
        for letter, found in zip(letters, by_engine, strict=True):
            value = _value(found[label, mode]) if (label, mode) in found else None
            if value is not None:
                points.append((letter, *value))
        if len(points) > 1:
            charts.append(book.add(figures.across_results(points, mode), f"{label}, {mode}"))
    return Comparison(
        reserve=RESERVE,
        names=tuple(
            (letter, f"{r.model.name} on {r.device.title}, {r.created_at}, {r.run_id}")
            for letter, r in zip(letters, results, strict=True)
        ),
        differs=_differs(letters, results),
        values=_values(letters, results, by_engine, keys),
        charts=tuple(charts),
    )


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"#{index + 1}"


def _by_engine(result: ProfileResult) -> dict[tuple[str, Mode], Measurement]:
    pairs = zip(labels(result.measurements), result.measurements, strict=True)
    return {(name, m.settings.mode): m for name, m in pairs}


def _value(measurement: Measurement) -> Value | None:
    latency, rate = measurement.latency, measurement.throughput
    if not isinstance(latency, Missing):
        interval = latency.interval_s
        return (latency.median_s, *((latency.median_s,) * 2 if isinstance(interval, Missing) else interval))
    if not isinstance(rate, Missing):
        return rate.inferences_per_s, rate.low_per_s, rate.high_per_s
    return None


def _values(
    letters: Sequence[str],
    results: Sequence[ProfileResult],
    by_engine: Sequence[dict[tuple[str, Mode], Measurement]],
    keys: Sequence[tuple[str, Mode]],
) -> Grid:
    notes, rows = Notes(), []
    for key in keys:
        base = by_engine[0].get(key)
        cells = [Cell(f"{key[0]}, {key[1]}")]
        for result, found in zip(results, by_engine, strict=True):
            measurement = found.get(key)
            if measurement is None:
                cells.append(Cell(DASH, (notes.number("not measured in this result; its own section says why"),)))
            else:
                same = _same_network(results[0], result)
                cells.append(_cell(measurement, base if result is not results[0] else None, same, notes))
        rows.append(tuple(cells))
    caption = (
        f"Median latency or inferences per second, 95% interval; in brackets the ratio to {letters[0]}, where both may "
        "be believed."
    )
    return Grid(head=("", *letters), rows=tuple(rows), notes=tuple(notes.texts), caption=caption)


def _cell(measurement: Measurement, base: Measurement | None, same: bool, notes: Notes) -> Cell:
    value = _value(measurement)
    if value is None:
        return Cell(DASH, (notes.number(str(measurement.latency)),))
    latency = not isinstance(measurement.latency, Missing)
    middle, low, high = (format_seconds(v, 4) if latency else format_si(v, "/s", 4) for v in value)
    summary, numbers = measurement.latency, list[int]()
    text = f"{middle} [{low} – {high}]"
    if not isinstance(summary, Missing) and isinstance(reason := summary.interval_s, Missing):
        text = middle
        numbers.append(notes.number(str(reason)))
    if measurement.validity.status != "valid":
        text += f" {measurement.validity.status}"
    believed = base is not None and "invalid" not in {measurement.validity.status, base.validity.status}
    base_value = _value(base) if base is not None and believed else None
    if base_value is not None and base_value[0] > 0:
        if same:
            text += f" ({value[0] / base_value[0]:.3f}x)"
        else:
            numbers.append(notes.number("no ratio: another network or batch size than the first result's"))
    return Cell(text, tuple(numbers))


def _same_network(a: ProfileResult, b: ProfileResult) -> bool:
    return a.model.hub_sha256 == b.model.hub_sha256 and a.model.inputs == b.model.inputs


def _differs(letters: Sequence[str], results: Sequence[ProfileResult]) -> Grid:
    """Return the conditions in which the results differ."""
    conditions = [_conditions(result) for result in results]
    names = list(dict.fromkeys(name for found in conditions for name in found))
    rows = [(name, [found.get(name, DASH) for found in conditions]) for name in names]
    different = tuple((Cell(name), *map(Cell, values)) for name, values in rows if len(set(values)) > 1)
    caption = "Conditions that differ." if different else "No recorded condition differs."
    return Grid(head=("", *letters), rows=different, notes=(), caption=caption)


def _conditions(result: ProfileResult) -> dict[str, str]:
    request, environment = result.request, result.environment
    return {
        "model": result.model.name,
        "network (hash)": result.model.hub_sha256[:12],
        "inputs": ", ".join(f"{spec.name} {'x'.join(map(str, spec.shape))}" for spec in result.model.inputs),
        "device": result.device.title,
        "device fingerprint": result.device.fingerprint,
        "power mode": _text(result.device.power_mode),
        "governor": _text(result.device.cpu.governor) if result.device.cpu else DASH,
        "threads": str(request.threads),
        "streams": str(request.streams),
        "mode": request.mode,
        "stop rule": f"{request.stop.name} {request.stop.settings}",
        "hwbench": environment.hwbench,
        "kernel": environment.kernel,
        **{p.name: p.version for p in environment.packages},
    }


def _text(value: object) -> str:
    return DASH if isinstance(value, Missing) else str(value)
