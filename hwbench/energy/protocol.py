"""From a marked trace to the energy of an inference: the plateau method. A pure function of the file.

Never one inference: a window of ten seconds and more, of a whole number of inferences, five of them and more, of a
machine that has settled, with its idle power before and after. Total first, above idle second; what is not known is
:class:`Missing` and what speaks against a value is in its flags (:mod:`hwbench.energy.flags`).
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from hwbench.energy.account import Headline, energy_between
from hwbench.energy.circumstances import circumstances, temperatures
from hwbench.energy.dephase import phase_known, sensors
from hwbench.energy.idle import idle_flags, idle_power
from hwbench.energy.per_inference import dynamic_per_inference, inverse, total_per_inference, window_rule_s
from hwbench.energy.phases import LOOK, RECORDER, WARMUP, WINDOW, Span, first, loaded_stretch, looks, spans
from hwbench.energy.plateau import longest_averaging_s, settled, slowest_period_s, summed
from hwbench.energy.power_levels import power_levels
from hwbench.energy.shares import STALE_READINGS, adds_power
from hwbench.energy.trace import Trace, read_trace
from hwbench.files import read_bytes
from hwbench.records.base import Missing
from hwbench.records.energy import (
    CrossCheck,
    EnergyReading,
    EnergyRun,
    EnergyWindow,
    Idle,
    Plateau,
    Repeated,
)

TRACE = "energy.jsonl"  # beside the result of its run
REPEATS = 5
_GAP_S = 0.5  # between phases, the machine may read and note for so long


def trace_sha256(path: Path) -> str:
    """Return the SHA-256 of a trace file."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def energy_run_of(path: Path) -> EnergyRun | Missing:
    """Return the energy run that a trace file holds.

    Raises:
        StorageError: the file is no whole trace, or a phase in it is without its other end.
    """
    return energy_run(read_trace(path), name=trace_name(path), sha256=trace_sha256(path))


def readings_of(path: Path) -> list[EnergyReading | Missing]:
    """Return the plain reading of each window in a trace file: of any mode, without the protocol.

    Raises:
        StorageError: as :func:`energy_run_of`.
    """
    trace = read_trace(path)
    return [energy_between(trace, window.start_s, window.end_s) for window in spans(trace, WINDOW)]


def trace_name(path: Path) -> str:
    """Return how a result names a trace: as seen from the result's own folder, where the runs lie in ``runs/``."""
    parts = path.resolve().parts[-3:]
    return "/".join(parts) if len(parts) == 3 and parts[0] == "runs" else parts[-1]


def energy_run(trace: Trace, *, name: str = "", sha256: str = "") -> EnergyRun | Missing:
    """Return the energy of an inference in a trace with the marks of :mod:`hwbench.energy.phases`.

    Args:
        trace: what was recorded.
        name: of the file, for the record.
        sha256: of the file.

    Returns:
        The run, whose parts may be missing with a reason; :class:`Missing` with ``no_windows`` (no marks of windows),
        ``no_readings`` (marks alone), ``sensor_frozen`` (a sensor that never moved, idle or not).

    Raises:
        StorageError: a phase is without its other end.
    """
    windows = [window for window in spans(trace, WINDOW) if window.fact("inferences", 0) >= 1]
    if not windows:
        why = "the trace has no window with a number of inferences"
        return Missing(code="no_windows", why=why, cure="record with --mode energy")
    refusal = _refusal(trace, windows[0].end_s)
    if refusal is not None:
        return refusal
    return _run(trace, windows, name, sha256)


def _refusal(trace: Trace, loaded_s: float) -> Missing | None:
    if not summed(trace):
        return Missing(
            code="no_readings",
            why="the trace holds marks alone: it was recorded for an external meter",
            cure="hwbench energy import RUN_FOLDER FILE",
        )
    for channel in summed(trace):
        samples = trace.of(channel)
        if not adds_power(channel) or len(samples) < STALE_READINGS or samples[-1].t_s < loaded_s:
            continue
        if all(sample.value == samples[0].value for sample in samples):
            why = f"{channel.name} stood at {samples[0].value:g} W with and without work"
            return Missing(code="sensor_frozen", why=why, cure="another meter (--meter)")
    return None


def _run(trace: Trace, windows: Sequence[Span], name: str, sha256: str) -> EnergyRun:
    load_period_s = statistics.median(_per_inference_s(window) for window in windows)
    headline = _headline(trace, windows)
    steered = all(phase_known(trace, channel) for channel in sensors(trace))  # then pauses show every phase of the load
    results = [
        EnergyWindow(
            start_s=window.start_s,
            end_s=window.end_s,
            inferences=int(window.fact("inferences", 0)),
            paused_s=window.fact("paused_s", 0.0),
            reading=energy_between(
                trace,
                window.start_s,
                window.end_s,
                load_period_s=None if window.fact("paused_s", 0.0) and steered else load_period_s,
                headline=headline,
            ),
        )
        for window in windows
    ]
    idle = idle_power(trace, headline)
    plateau = _plateau(trace)
    total = total_per_inference(results, idle)
    dynamic = dynamic_per_inference(trace, results, idle, total)
    time_s = sum(w.end_s - w.start_s - w.paused_s for w in results) / sum(w.inferences for w in results)
    start_c, end_c = temperatures(trace, windows[0].start_s, windows[-1].end_s)
    readings = _readings(results)
    facts = [mark.facts for mark in looks(trace, RECORDER)]
    return EnergyRun(
        meter=trace.header.meter,
        boundary=readings[0].boundary if readings else trace.header.boundary,
        provenance=trace.header.provenance,
        windows=tuple(results),
        plateau=plateau,
        total_j=total,
        dynamic_j=dynamic,
        idle=idle,
        inferences_per_j=inverse(total),
        time_per_inference_s=time_s,
        energy_delay_js=total if isinstance(total, Missing) else total.value * time_s,
        power=power_levels(trace, windows, readings),
        throttled_s=_throttled(readings),
        start_c=start_c,
        end_c=end_c,
        crosscheck=_crosscheck(readings),
        recorder_cpu_share=facts[-1]["cpu_s"] / facts[-1]["span_s"] if facts else _NO_COST,
        settings=dict(trace.header.settings),
        not_used=dict(trace.header.not_used),
        flags=_flags(trace, windows, results, idle, plateau, dynamic, headline),
        trace=name,
        trace_sha256=sha256,
    )


_NO_COST = Missing(code="not_recorded", why="the trace does not say what recording cost")


def _readings(windows: Sequence[EnergyWindow]) -> list[EnergyReading]:
    return [window.reading for window in windows if isinstance(window.reading, EnergyReading)]


def _per_inference_s(window: Span) -> float:
    return (window.seconds - window.fact("paused_s", 0.0)) / window.fact("inferences", 1)


def _headline(trace: Trace, windows: Sequence[Span]) -> Headline:
    """Return which view all windows show: the one that holds over the whole of them."""
    start_s, end_s = windows[0].start_s, windows[-1].end_s
    whole = energy_between(trace, start_s, end_s)
    check = energy_between(trace, start_s, end_s, headline="check")
    return "check" if isinstance(whole, EnergyReading) and whole == check else "total"


def _plateau(trace: Trace) -> Plateau:
    """Judge the warm-up as it was judged when it ended: at its last look."""
    warmup = first(trace, WARMUP)
    if warmup is None:
        return Plateau(reached=False, after_s=0.0, by="the trace has no warm-up")
    inside = [mark.t_s for mark in looks(trace, LOOK) if warmup.start_s < mark.t_s <= warmup.end_s]
    return settled(trace, warmup.start_s, inside[-1] if inside else warmup.end_s)


def _throttled(readings: Sequence[EnergyReading]) -> dict[str, float]:
    found: dict[str, float] = {}
    for reading in readings:
        for reason, seconds in reading.throttled_s.items():
            found[reason] = found.get(reason, 0.0) + seconds
    return found


def _crosscheck(readings: Sequence[EnergyReading]) -> CrossCheck | Missing:
    """Return the windows together through the second channel, where each has it."""
    checks = [reading.crosscheck for reading in readings]
    if not checks:
        return Missing(code="no_windows", why="no window has an energy")
    found = [check for check in checks if isinstance(check, CrossCheck)]
    if len(found) < len(checks):
        return next(check for check in checks if isinstance(check, Missing))
    energy_j = math.fsum(check.energy_j for check in found)
    headline_j = math.fsum(reading.energy_j for reading in readings)
    return CrossCheck(channel=found[0].channel, energy_j=energy_j, ratio=headline_j / energy_j)


def _flags(
    trace: Trace,
    windows: Sequence[Span],
    results: Sequence[EnergyWindow],
    idle: Idle | Missing,
    plateau: Plateau,
    dynamic: Repeated | Missing,
    headline: Headline,
) -> tuple[str, ...]:
    readings = _readings(results)
    flags = [flag for reading in readings for flag in reading.flags]
    if headline == "check":  # no window need be long enough to say so itself
        flags.append("counter_power_mismatch")
    rule_s = window_rule_s(slowest_period_s(trace))
    if any(window.seconds < rule_s * 0.999 for window in windows):  # a whole number of inferences may fall short
        flags.append("window_too_short")
    if len(readings) < REPEATS:
        flags.append("few_repeats")
    if len(readings) < len(results):
        flags.append("windows_lost")
    if not plateau.reached:
        flags.append("no_plateau")
    if any(window.paused_s for window in results):
        flags.append("dephased")
    if any(_edge_not_settled(trace, window) for window in windows):
        flags.append("edges_not_settled")
    if isinstance(idle, Idle):
        flags += idle_flags(idle)
    if isinstance(dynamic, Repeated) and abs(dynamic.value) < abs(dynamic.relative_uncertainty * dynamic.value):
        flags.append("dynamic_not_resolved")
    flags += circumstances(trace, windows)
    return tuple(dict.fromkeys(flags))


def _edge_not_settled(trace: Trace, window: Span) -> bool:
    """Say whether an averaging sensor saw something else than this work near an edge of the window."""
    averaging_s = longest_averaging_s(trace)
    if not averaging_s:
        return False
    start_s, end_s = loaded_stretch(trace, window.start_s, window.end_s, _GAP_S)
    return window.start_s - start_s < averaging_s or end_s - window.end_s < averaging_s
