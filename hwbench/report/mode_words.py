"""What single modes found, as short sentences: the same in the terminal and on the page."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from hwbench.records.base import Missing
from hwbench.records.measurement import Measurement
from hwbench.records.modes import (
    BuildVariance,
    ColdRun,
    PresetCheck,
    Requirement,
    Series,
    ServerRun,
    Spread,
    SteadyState,
)
from hwbench.units import format_seconds, format_si

_MOST_PARTS = 12  # of a series, in words
_VERDICTS = {"holds": "holds", "does_not_hold": "DOES NOT HOLD", "not_checked": "not checked"}


def mode_lines(measurement: Measurement) -> list[str]:
    """Return what the mode found beside the numbers of the table."""
    found: list[str] = []
    for part, words in (
        (measurement.steady_state, steady_words),
        (measurement.series, series_words),
        (measurement.server, server_words),
        (measurement.cold, cold_words),
        (measurement.builds, builds_words),
        (measurement.preset, preset_words),
    ):
        if not isinstance(part, Missing):
            found.extend(words(part))  # type: ignore[arg-type]  # each with its own
    return found


def steady_words(state: SteadyState) -> Iterator[str]:
    """Yield how the plateau came about."""
    reached = "plateau" if state.reached else "NO plateau"
    yield f"{reached} after {format_seconds(state.after_s)} of warm-up: {state.basis}"


def series_words(series: Series) -> Iterator[str]:
    """Yield the course over time, thinned to what fits a few lines."""
    rest = f" after {format_seconds(series.rest_s)} of rest" if series.rest_s else ""
    ratio = series.last_over_first
    change = "" if isinstance(ratio, Missing) else f"; the last part takes {ratio:.3f} times the first"
    events = [part.throttle_events for part in series.bins]
    told = [count for count in events if not isinstance(count, Missing)]
    throttled = f"{sum(told)} throttle events" if told else f"throttling not known ({events[0]})"
    yield f"{len(series.bins)} parts of {format_seconds(series.bin_s)}{rest}{change}; {throttled}"
    reasons: dict[str, float] = {}
    for part in series.bins:
        for reason, seconds in part.throttled_s.items():
            reasons[reason] = reasons.get(reason, 0.0) + seconds
    if reasons:
        yield f"throttled, by reason: {', '.join(f'{name} {format_seconds(s)}' for name, s in reasons.items())}"
    step = -(-len(series.bins) // _MOST_PARTS)
    for part in series.bins[::-step][::-1]:
        heat = "" if isinstance(part.temperature_c, Missing) else f", {part.temperature_c:.1f} °C"
        clock = "" if isinstance(part.clock_hz, Missing) else f", {format_si(part.clock_hz, 'Hz')}"
        power = "" if isinstance(part.power_w, Missing) else f", {format_si(part.power_w, 'W')}"
        p90 = "" if isinstance(part.p90_s, Missing) else f", p90 {format_seconds(part.p90_s, 4)}"
        yield (
            f"to {format_seconds(part.end_s)}: median {format_seconds(part.median_s, 4)}{p90}, "
            f"{format_si(part.inferences_per_s, '/s', 4)}{heat}{clock}{power}"
        )


def server_words(run: ServerRun) -> Iterator[str]:
    """Yield load, queueing beside service, and the timer's own error."""
    workers = "1 worker" if run.workers == 1 else f"{run.workers} workers"
    growing = ", GROWING" if run.backlog_grew else ""
    yield (
        f"asked {format_si(run.rate_per_s, '/s', 4)}, arrived {format_si(run.arrived_per_s, '/s', 4)}, completed "
        f"{format_si(run.completed_per_s, '/s', 4)}; {workers}, offered load {run.offered_load:.1%}; "
        f"backlog at the end {run.backlog}{growing}; latency from the scheduled arrival"
    )
    yield f"queueing {_spread(run.queueing)}; service {_spread(run.service)}"
    timer = run.timer
    if isinstance(timer, Missing):
        yield f"error of the arrival timer: {timer}"
    else:
        yield (
            f"error of the arrival timer, in the latency: median {format_seconds(timer.median_s)}, most "
            f"{format_seconds(timer.max_s)} over {timer.waits} waits ({timer.method})"
        )


def _spread(spread: Spread) -> str:
    p99 = "" if isinstance(spread.p99_s, Missing) else f", p99 {format_seconds(spread.p99_s)}"
    return f"median {format_seconds(spread.median_s)}{p99}, most {format_seconds(spread.max_s)}"


def cold_words(run: ColdRun) -> Iterator[str]:
    """Yield what a start's time goes into, medians over the processes."""
    parts = []
    for name, field in COLD_PARTS.items():
        values = [value for start in run.starts if not isinstance(value := getattr(start, field), Missing)]
        parts.append(f"{name} {format_seconds(statistics.median(values)) if values else 'not apart'}")
    yield f"medians of {len(run.starts)} processes: {', '.join(parts)}; page cache {run.page_cache}"


COLD_PARTS = {
    "interpreter": "interpreter_s",
    "runtime": "runtime_s",
    "load": "load_s",
    "compile": "compile_s",
    "first inference": "first_inference_s",
    "other": "other_s",
}


def builds_words(builds: BuildVariance) -> Iterator[str]:
    """Yield the components of variance."""
    icc = "not defined" if isinstance(builds.icc, Missing) else f"{builds.icc:.2f}"
    medians = ", ".join(format_seconds(median, 4) for median in builds.medians_s)
    yield (
        f"{len(builds.medians_s)} builds: mean of medians {format_seconds(builds.mean_s, 4)} (95% interval "
        f"{format_seconds(max(0.0, builds.low_s), 4)} to {format_seconds(builds.high_s, 4)}); sigma between builds "
        f"{format_seconds(builds.between_s)}, within a build {format_seconds(builds.within_s)}, ICC {icc}; "
        f"medians {medians}"
    )


def preset_words(check: PresetCheck) -> Iterator[str]:
    """Yield what the preset's metric is, what it is not, and each rule."""
    value = check.value
    if isinstance(value, Missing):
        text = str(value)
    else:
        text = format_seconds(value, 4) if check.unit == "s" else format_si(value, "/s", 4)
    yield f"{check.name}: {check.metric}: {text}"
    yield check.statement
    yield "; ".join(map(_rule, check.requirements))


def _rule(rule: Requirement) -> str:
    return f"{rule.name} {_VERDICTS[rule.verdict]} ({rule.why})"
