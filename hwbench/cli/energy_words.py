"""An energy run in lines of words, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwbench.energy.flags import explain
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyReading, EnergyRun, Idle, PowerLevels, Repeated
from hwbench.units import format_seconds, format_si

if TYPE_CHECKING:
    from hwbench.energy.align import Alignment

Lines = list[tuple[str, str]]


def run_lines(run: EnergyRun) -> Lines:
    """Return the run, total first; what is missing with its reason, each flag with its cure."""
    lines = [
        ("energy of", f"{run.boundary}; {run.provenance.replace('_', ' ')}"),
        ("an inference", _repeated(run.total_j)),
        ("above idle", _repeated(run.dynamic_j)),
        ("idle", _idle(run.idle)),
        ("inferences/J", _value(run.inferences_per_j, "")),
        ("time", f"{format_seconds(run.time_per_inference_s)} an inference"),
        ("energy × time", _value(run.energy_delay_js, "J·s")),
        ("power", _power(run.power)),
        ("windows", _windows(run)),
        ("settled", f"{'yes' if run.plateau.reached else 'no'}, after {run.plateau.after_s:.3g} s: {run.plateau.by}"),
        ("second view", _crosscheck(run)),
        ("throttled", ", ".join(f"{name} {seconds:.3g} s" for name, seconds in run.throttled_s.items()) or "not told"),
        ("temperature", f"{_celsius(run.start_c)} at the start, {_celsius(run.end_c)} at the end"),
        ("recorder", _share(run.recorder_cpu_share)),
    ]
    lines += [("setting", f"{name}: {value}") for name, value in run.settings.items() if name != "flags"]
    lines += [("not used", f"{name}: {why}") for name, why in run.not_used.items()]
    lines += [("flag", _flag(flag)) for flag in run.flags]
    return [*lines, ("trace", f"{run.trace}, SHA-256 {run.trace_sha256}")]


def reading_lines(reading: EnergyReading) -> Lines:
    """Return the reading of one window, of a mode that has no protocol."""
    lines = [
        ("energy of", f"{reading.boundary}; {reading.provenance.replace('_', ' ')}"),
        ("energy", f"{format_si(reading.energy_j, 'J', 4)} in {format_seconds(reading.window_s)}"),
        ("uncertainty", f"±{reading.relative_uncertainty:.1%} (k=2); coverage {reading.coverage:.1%}"),
        *((f"of it {name}", format_si(joules, "J", 4)) for name, joules in reading.domains_j.items()),
    ]
    return [*lines, *(("flag", _flag(flag)) for flag in reading.flags)]


def alignment_lines(alignment: Alignment) -> Lines:
    """Return how the meter's clock was brought onto ours."""
    told = (
        f"{alignment.method}; offset {alignment.offset_s:.4g} s, skew {alignment.skew_ppm:.3g} ppm, residual "
        f"{format_seconds(alignment.residual_s)}, correlation {alignment.quality:.3f}"
    )
    return [("clocks", told)]


def _repeated(value: Repeated | Missing) -> str:
    if isinstance(value, Missing):
        return f"none: {value}"
    low, high = format_si(value.low, "J", 4), format_si(value.high, "J", 4)
    return (
        f"{format_si(value.value, 'J', 4)} [{low}, {high}] (95 %, repeatability over {value.n} windows); "
        f"instrument ±{_half(value)} (k=2)"
    )


def _half(value: Repeated) -> str:
    """Return the instrument's half-width: a share of the value, or joules where that says nothing."""
    if value.relative_uncertainty < 1:
        return f"{value.relative_uncertainty:.1%}"
    return format_si(value.relative_uncertainty * abs(value.value), "J", 2)


def _idle(idle: Idle | Missing) -> str:
    if isinstance(idle, Missing):
        return f"not known: {idle}"
    before = "?" if isinstance(idle.before_w, Missing) else format_si(idle.before_w, "W", 4)
    after = "?" if isinstance(idle.after_w, Missing) else format_si(idle.after_w, "W", 4)
    return f"{format_si(idle.mean_w, 'W', 4)} ({idle.state}: {before} before, {after} after)"


def _power(power: PowerLevels | Missing) -> str:
    if isinstance(power, Missing):
        return f"not known: {power}"
    over = "" if isinstance(power.averaging_s, Missing) else f", each over {format_seconds(power.averaging_s)}"
    p95, peak = _value(power.p95_w, "W"), _value(power.peak_w, "W")
    return f"{format_si(power.average_w, 'W', 4)} mean; 95th percentile {p95}; peak {peak}{over}"


def _windows(run: EnergyRun) -> str:
    lengths = [window.end_s - window.start_s for window in run.windows]
    each = (
        f"{min(lengths):.4g} s" if max(lengths) - min(lengths) < 0.01 else f"{min(lengths):.4g} to {max(lengths):.4g} s"
    )
    return f"{len(run.windows)} of {each}, {run.windows[0].inferences} inferences each"


def _crosscheck(run: EnergyRun) -> str:
    if isinstance(run.crosscheck, Missing):
        return f"none: {run.crosscheck}"
    return f"{run.crosscheck.channel}: {format_si(run.crosscheck.energy_j, 'J', 4)}, ratio {run.crosscheck.ratio:.4f}"


def _value(value: float | Missing, unit: str) -> str:
    return f"none: {value}" if isinstance(value, Missing) else format_si(value, unit, 4).strip()


def _celsius(value: float | Missing) -> str:
    return f"unknown ({value.why})" if isinstance(value, Missing) else f"{value:.1f} °C"


def _share(value: float | Missing) -> str:
    return f"unknown: {value}" if isinstance(value, Missing) else f"{value:.2%} of one core"


def _flag(flag: str) -> str:
    known = explain(flag)
    return flag if known is None else f"{flag}: {known.when}; {known.cure}"
