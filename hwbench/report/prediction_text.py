"""Predictions and probes as text; every one says that it was not measured, and how far off it may be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hwbench.records.base import Missing
from hwbench.records.prediction import Prediction, Probe, UnitPrediction
from hwbench.stats import quantile
from hwbench.units import format_bytes, format_seconds, format_si

_TIERS = {"B": "adapted to a probe of the device", "C": "from its data sheet"}


def render_prediction(prediction: Prediction, top: int) -> RenderableType:
    """Return a prediction for people: the total, what it rests on, and its ``top`` longest units."""
    mode = "" if isinstance(prediction.power_mode, Missing) else f", power mode {prediction.power_mode}"
    head = (
        f"{prediction.model} on {prediction.title}: {prediction.engine}, {prediction.precision}, "
        f"{prediction.threads} thread{'' if prediction.threads == 1 else 's'}{mode}"
    )
    latency = prediction.latency
    lines = [
        head,
        f"  latency {format_seconds(latency.value)}, between {format_seconds(latency.low)} and "
        f"{format_seconds(latency.high)} ({latency.coverage:.0%})",
        f"  not measured: tier {latency.tier}, {_TIERS[latency.tier]}; n = {latency.n}; {latency.method}",
        f"  energy {_energy(prediction)}",
        *(f"  assumed: {text}" for text in prediction.assumptions),
    ]
    if prediction.not_counted:
        lines.append(f"  not counted, since nobody knows their cost: {', '.join(prediction.not_counted)}")
    return Group(Text("\n".join(lines)), _bounds(prediction), _units(prediction, top))


def _energy(prediction: Prediction) -> str:
    energy = prediction.energy
    if isinstance(energy, Missing):
        return f"not known: {energy}"
    low, high = format_si(energy.low_j, "J"), format_si(energy.high_j, "J")
    return f"{format_si(energy.value_j, 'J')}, between {low} and {high}; {energy.basis}"


def _bounds(prediction: Prediction) -> Table:
    table = Table("kind", "computed in", "bound by", "units", "time", "share", title="Where the time goes")
    found: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    for unit in prediction.units:
        found[unit.family, unit.arithmetic, unit.bound].append(unit.time_s)
    rows = [(*key, str(len(times)), sum(times)) for key, times in found.items()]
    rows += [("conversions", "", "", "", prediction.borders_s), ("besides", "", "", "", prediction.fixed_s)]
    for *words, time_s in sorted(rows, key=lambda row: -row[-1]):
        if time_s:
            table.add_row(*words, format_seconds(time_s), f"{time_s / prediction.latency.value:.0%}")
    return table


def _units(prediction: Prediction, top: int) -> Table:
    table = Table("unit", "kind", "time", "arithmetic", "memory", "launch", "bound by", "level")
    longest = sorted(prediction.units, key=lambda unit: -unit.time_s)[:top]
    table.title = f"The {len(longest)} longest of {len(prediction.units)} units"
    for unit in longest:
        table.add_row(*_row(unit))
    return table


def _row(unit: UnitPrediction) -> Sequence[str]:
    times = (unit.time_s, unit.arithmetic_s, unit.memory_s, unit.launch_s)
    return (unit.name, unit.family, *(format_seconds(time_s) for time_s in times), unit.bound, unit.level)


def render_probe(probe: Probe, doubts: Sequence[str]) -> RenderableType:
    """Return what a probe measured, for people."""
    memory = "unknown" if probe.peak_rss_bytes is None else format_bytes(probe.peak_rss_bytes)
    lines = [
        f"probe of {probe.started_at}: {probe.runtime} {probe.runtime_version} ({probe.provider}), "
        f"{probe.threads} thread{'' if probe.threads == 1 else 's'}, pack {probe.pack}, peak memory {memory}",
        *(f"  {name}: {value}" for name, value in sorted(probe.facts.items())),
        *(f"  doubt: {text}" for text in doubts),
        *(f"  failed: {name}: {why}" for name, why in sorted(probe.failed.items())),
    ]
    table = Table("anchor", "precision", "median", "quartiles", "samples", title="Anchors")
    for point in probe.points:
        ordered = sorted(sample / 1e9 for sample in point.samples_ns)
        between = f"{format_seconds(quantile(ordered, 0.25))} to {format_seconds(quantile(ordered, 0.75))}"
        table.add_row(point.anchor, point.precision, format_seconds(point.median_s), between, str(len(ordered)))
    return Group(Text("\n".join(lines)), table)
