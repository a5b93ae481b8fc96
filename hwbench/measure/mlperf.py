"""MLPerf-like presets: the limits of the four scenarios of MLCommons' inference rules, and which were kept.

Facts from inference_rules.adoc (MLCommons inference_policies) and LoadGen's results.cc: every scenario lasts 600 s;
single stream is judged by the early-stopping estimate of p90, multi-stream (8 samples a query) by that of p99, server
(Poisson arrivals) by whether p99 is within the benchmark's bound, offline (at least 24 576 samples) by throughput.

A result is never an MLPerf result: those come from LoadGen, on MLCommons' models and data, with an accuracy run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hwbench.measure.early_stopping import believed, estimate, queries_needed
from hwbench.records.base import Missing
from hwbench.records.measurement import Measurement, Mode
from hwbench.records.modes import EarlyStopping, PresetCheck, Requirement
from hwbench.units import format_seconds

DURATION_S = 600.0
OFFLINE_SAMPLES = 24_576
STATEMENT = "NOT an MLPerf result: MLPerf-like limits only, without LoadGen, MLCommons' data sets, or an accuracy run"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What a scenario asks for; ``percentile`` None: it is judged by throughput."""

    mode: Mode
    percentile: float | None
    samples_per_query: int | None  # None: whatever the batch size is
    least: int  # queries, offline: samples


PRESETS = {
    "mlperf-single-stream": Preset(mode="latency", percentile=0.90, samples_per_query=1, least=queries_needed(1, 0.90)),
    "mlperf-multi-stream": Preset(mode="latency", percentile=0.99, samples_per_query=8, least=queries_needed(1, 0.99)),
    "mlperf-offline": Preset(mode="throughput", percentile=None, samples_per_query=None, least=OFFLINE_SAMPLES),
    "mlperf-server": Preset(mode="server", percentile=0.99, samples_per_query=1, least=1),
}
KEPT_BY_THE_RUN = ("duration", "queries", "samples", "latency bound", "samples in a query")


def check_preset(m: Measurement, batch_size: int | Missing) -> PresetCheck | Missing:
    """Return the metric of the preset and which of its rules hold; a function of the record."""
    if m.settings.preset is None:
        return Missing(code="not_asked", why="no preset was asked for", cure="--preset")
    preset = PRESETS[m.settings.preset]
    stopping: EarlyStopping | Missing = Missing(code="no_percentile", why="throughput has no percentile")
    if preset.percentile is not None:
        stopping = estimate(m.samples_ns, preset.percentile)
    metric, value, unit = _metric(m, preset, stopping)
    return PresetCheck(
        name=m.settings.preset,
        statement=STATEMENT,
        metric=metric,
        value=value,
        unit=unit,
        early_stopping=stopping,
        requirements=(*_kept(m, preset, stopping, batch_size), *_never()),
    )


def within_bound(m: Measurement, percentile: float) -> bool:
    """Say whether so few queries took longer than the bound that the percentile is within it."""
    slow = sum(1 for sample in m.samples_ns if sample / 1e9 > m.settings.mode_settings["latency_bound_s"])
    unserved = 0 if isinstance(m.server, Missing) else m.server.unserved  # those took longer than any bound
    return believed(slow + unserved, len(m.samples_ns) + unserved, percentile)


def _metric(m: Measurement, preset: Preset, stopping: EarlyStopping | Missing) -> tuple[str, float | Missing, str]:
    if preset.mode == "throughput":
        value = m.throughput if isinstance(m.throughput, Missing) else m.throughput.items_per_s
        return "samples a second", value, "1/s"
    percentile = preset.percentile or 0.0
    if preset.mode == "server":
        bound = format_seconds(m.settings.mode_settings["latency_bound_s"])
        if within_bound(m, percentile):
            return f"queries a second with p{percentile * 100:g} within {bound}", _rate(m), "1/s"
        why = f"at this rate p{percentile * 100:g} is not shown to be within {bound}"
        return (
            f"queries a second with p{percentile * 100:g} within {bound}",
            Missing(code="bound_missed", why=why, cure="lower --rate, or run longer (--duration)"),
            "1/s",
        )
    value = stopping if isinstance(stopping, Missing) else stopping.estimate_s
    return f"early-stopping estimate of p{percentile * 100:g}", value, "s"


def _rate(m: Measurement) -> float | Missing:
    return m.server if isinstance(m.server, Missing) else m.server.rate_per_s


def _kept(
    m: Measurement, preset: Preset, stopping: EarlyStopping | Missing, batch: int | Missing
) -> Iterator[Requirement]:
    yield _rule("duration", m.window_s >= DURATION_S, f"{m.window_s:.1f} s of at least {DURATION_S:g} s")
    if preset.mode == "throughput":
        samples = Missing(code="no_batch", why="the batch size is not known") if isinstance(batch, Missing) else batch
        if isinstance(samples, Missing):
            yield Requirement(name="samples", verdict="not_checked", why=samples.why)
        else:
            count = len(m.samples_ns) * samples
            yield _rule("samples", count >= OFFLINE_SAMPLES, f"{count} of at least {OFFLINE_SAMPLES}")
        why = "requests followed each other in every stream; the rules send all samples in one query"
        yield Requirement(name="one query", verdict="does_not_hold", why=why)
    elif preset.mode == "server":
        bound = format_seconds(m.settings.mode_settings["latency_bound_s"])
        yield _rule("latency bound", within_bound(m, preset.percentile or 0.0), f"p99 within {bound}, early stopping")
    else:
        why = stopping.why if isinstance(stopping, Missing) else f"{stopping.queries} queries of {preset.least}"
        yield _rule("queries", not isinstance(stopping, Missing), why)
    if preset.samples_per_query is not None:
        why = f"{'unknown' if isinstance(batch, Missing) else batch} of {preset.samples_per_query}"
        yield _rule("samples in a query", batch == preset.samples_per_query, why)


def _never() -> Iterator[Requirement]:
    """Yield the rules that hwbench cannot keep, or does not look at."""
    yield Requirement(name="LoadGen", verdict="does_not_hold", why="queries came from hwbench")
    why = "the same inputs again and again; the rules draw from a data set at random"
    yield Requirement(name="data set", verdict="does_not_hold", why=why)
    yield Requirement(name="accuracy run", verdict="not_checked", why="accuracy was not measured")
    yield Requirement(name="reference model", verdict="not_checked", why="whether the rules know this model")


def _rule(name: str, holds: bool, why: str) -> Requirement:
    return Requirement(name=name, verdict="holds" if holds else "does_not_hold", why=why)
