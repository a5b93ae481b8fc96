"""Rows of energy out of results: what each measurement says of its energy, or why it says nothing."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hwbench.records.base import Missing
from hwbench.records.energy import EnergyReading, EnergyRun, PowerLevels, Repeated
from hwbench.records.measurement import Measurement, ProfileResult
from hwbench.records.model import Model
from hwbench.report.energy_rows import AbsentRow, Energies, EnergyRow, EstimateRow, Joules, Subject
from hwbench.report.energy_setting import power_setting
from hwbench.report.ranking import labels

_CURE = "--mode energy"
_OTHER_MODE = "other_mode"  # energy by the plateau method was not asked for
ONE_WINDOW = Missing(code="one_window", why="one window has no repeats, so its scatter is not known", cure=_CURE)
_NO_IDLE = Missing(code="no_idle", why="no idle power was measured around this window", cure=_CURE)
_MEAN_ONLY = Missing(code="one_window", why="a single window gives its mean power only", cure=_CURE)
_NOT_KEPT = Missing(code="not_kept", why="kept for runs by the plateau method only", cure=_CURE)


def letter(index: int) -> str:
    """Return the letter of the result at ``index``, as in the comparison."""
    return chr(ord("A") + index) if index < 26 else f"#{index + 1}"


def energies(results: Sequence[ProfileResult]) -> Energies:
    """Return the energy in ``results``."""
    rows: list[EnergyRow] = []
    estimates: list[EstimateRow] = []
    absent: list[AbsentRow] = []
    for number, result in enumerate(results):
        before = f"{letter(number)}: " if len(results) > 1 else ""
        for index, label in enumerate(labels(result.measurements)):
            name, estimate = before + label, result.measurements[index].energy_estimate
            row = _row(result, number, index, name)
            if isinstance(row, Missing):
                absent.append(AbsentRow(result=number, index=index, name=name, reason=row))
            else:
                rows.append(row)
            if not isinstance(estimate, Missing):
                of = {"model": result.model.name, "device": result.device.title}
                estimates.append(EstimateRow(result=number, index=index, name=name, estimate=estimate, **of))
    return Energies(rows=tuple(_distinct(rows)), estimates=tuple(estimates), absent=tuple(absent))


def _distinct(rows: Sequence[EnergyRow]) -> list[EnergyRow]:
    """Add to the names what the rows differ in: batch size and power setting."""
    batches = {str(row.subject.batch_size) for row in rows}
    settings = {row.subject.setting.words for row in rows}
    named = []
    for row in rows:
        subject, parts = row.subject, [row.name]
        if len(batches) > 1:
            unknown = isinstance(subject.batch_size, Missing)
            parts.append("batch unknown" if unknown else f"batch {subject.batch_size}")
        if len(settings) > 1:
            parts.append(subject.setting.words or "power setting unknown")
        named.append(replace(row, subject=replace(subject, name=", ".join(parts))))
    return named


def _row(result: ProfileResult, number: int, index: int, name: str) -> EnergyRow | Missing:
    measurement = result.measurements[index]
    run, reading = measurement.energy_run, measurement.energy
    if not isinstance(run, Missing):
        return _of_run(_subject(result, number, index, name, run.settings), result.model, run)
    if not isinstance(reading, Missing):
        return _of_reading(_subject(result, number, index, name, {}), result.model, measurement, reading)
    return reading if run.code == _OTHER_MODE else run


def _subject(result: ProfileResult, number: int, index: int, name: str, settings: Mapping[str, str]) -> Subject:
    model, m = result.model, result.measurements[index]
    return Subject(
        result=number,
        index=index,
        run_id=result.run_id,
        name=name,
        model=model.name,
        network=f"{model.hub_sha256} {model.inputs}",
        family=_family(model),
        engine=m.engine,
        version=m.built.version,
        precision=m.built.precision,
        mode=m.settings.mode,
        threads=m.settings.threads,
        streams=m.settings.streams,
        batch_size=model.batch_size,
        device=result.device.title,
        fingerprint=result.device.fingerprint,
        setting=power_setting(result.device, settings),
        validity=m.validity.status,
        latency=m.latency,
    )


def _family(model: Model) -> str:
    """Return what stays the same when only the batch size changes; the hash of the graph does not."""
    ops = " ".join(layer.op for layer in model.layers)
    return f"{model.name} {model.source} {model.parameters} {model.arithmetic} {ops}"


def _of_run(subject: Subject, model: Model, run: EnergyRun) -> EnergyRow:
    readings = [window.reading for window in run.windows if not isinstance(window.reading, Missing)]
    unread = [window.reading for window in run.windows if isinstance(window.reading, Missing)]
    total = _joules(run.total_j)
    return EnergyRow(
        subject=subject,
        kind="plateau",
        meter=run.meter,
        boundary=run.boundary,
        provenance=run.provenance,
        settings=run.settings,
        not_used=run.not_used,
        total=total,
        dynamic=_joules(run.dynamic_j),
        idle=run.idle,
        inferences_per_j=run.inferences_per_j,
        energy_delay_js=run.energy_delay_js,
        j_per_op=_per_op(model, total),
        power=run.power,
        time_per_inference_s=run.time_per_inference_s,
        windows=len(run.windows),
        windows_read=len(readings),
        window_s=statistics.fmean(w.end_s - w.start_s for w in run.windows) if run.windows else 0.0,
        paused_s=sum(window.paused_s for window in run.windows),
        inferences=sum(window.inferences for window in run.windows),
        coverage=min((r.coverage for r in readings), default=unread[0] if unread else _NOT_KEPT),
        crosscheck=run.crosscheck,
        throttled_s=run.throttled_s,
        start_c=run.start_c,
        end_c=run.end_c,
        settled=run.plateau.reached,
        settled_by=f"after {run.plateau.after_s:.3g} s, by {run.plateau.by}",
        recorder_cpu_share=run.recorder_cpu_share,
        domains_j=_domains(run),
        flags=_flags(run, readings),
        trace=run.trace,
        trace_sha256=run.trace_sha256,
    )


def _joules(value: Repeated | Missing) -> Joules | Missing:
    if isinstance(value, Missing):
        return value
    return Joules(
        value=value.value,
        low=value.low,
        high=value.high,
        stdev=value.stdev,
        n=value.n,
        instrument=value.relative_uncertainty,
    )


def _per_op(model: Model, total: Joules | Missing) -> float | Missing:
    """Return joules per operation, a multiply-add being two."""
    if isinstance(total, Missing):
        return total
    if model.macs == 0:
        return Missing(code="no_macs", why="no multiply-adds could be counted in this model")
    return total.value / (2 * model.macs)


def _domains(run: EnergyRun) -> dict[str, float]:
    """Return each domain's joules per inference, over the windows that have it."""
    joules: dict[str, float] = defaultdict(float)
    inferences: dict[str, int] = defaultdict(int)
    for window in run.windows:
        if not isinstance(window.reading, Missing):
            for name, value in window.reading.domains_j.items():
                joules[name] += value
                inferences[name] += window.inferences
    return {name: joules[name] / inferences[name] for name in joules if inferences[name] > 0}


def _flags(run: EnergyRun, readings: Sequence[EnergyReading]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*run.flags, *(flag for reading in readings for flag in reading.flags)]))


def _of_reading(subject: Subject, model: Model, measurement: Measurement, reading: EnergyReading) -> EnergyRow:
    each = measurement.energy_per_inference_j
    total = each if isinstance(each, Missing) else _single(each, reading)
    count = each if isinstance(each, Missing) else _count(each, reading)
    time_s = count if isinstance(count, Missing) else reading.window_s / count
    return EnergyRow(
        subject=subject,
        kind="window",
        meter=reading.meter,
        boundary=reading.boundary,
        provenance=reading.provenance,
        settings={},
        not_used=reading.not_used,
        total=total,
        dynamic=_NO_IDLE,
        idle=_NO_IDLE,
        inferences_per_j=_inverse(each),
        energy_delay_js=_product(each, time_s),
        j_per_op=_per_op(model, total),
        power=PowerLevels(
            average_w=reading.energy_j / reading.window_s, p95_w=_MEAN_ONLY, peak_w=_MEAN_ONLY, averaging_s=_MEAN_ONLY
        ),
        time_per_inference_s=time_s,
        windows=1,
        windows_read=1,
        window_s=reading.window_s,
        paused_s=0.0,
        inferences=count,
        coverage=reading.coverage,
        crosscheck=reading.crosscheck,
        throttled_s=reading.throttled_s,
        start_c=_NOT_KEPT,
        end_c=_NOT_KEPT,
        settled=_NOT_KEPT,
        settled_by="",
        recorder_cpu_share=_NOT_KEPT,
        domains_j={} if isinstance(count, Missing) else {k: v / count for k, v in reading.domains_j.items()},
        flags=reading.flags,
        trace=_NOT_KEPT,
        trace_sha256=_NOT_KEPT,
    )


def _single(each_j: float, reading: EnergyReading) -> Joules:
    return Joules(
        value=each_j,
        low=ONE_WINDOW,
        high=ONE_WINDOW,
        stdev=ONE_WINDOW,
        n=1,
        instrument=reading.relative_uncertainty,
    )


def _count(each_j: float, reading: EnergyReading) -> int | Missing:
    """Return over how many inferences the reading was shared out."""
    count = round(reading.energy_j / each_j) if each_j > 0 else 0
    return count or Missing(code="no_inferences", why="the reading does not say over how many inferences it is")


def _inverse(each_j: float | Missing) -> float | Missing:
    if isinstance(each_j, Missing):
        return each_j
    return 1 / each_j if each_j > 0 else Missing(code="no_energy", why="the reading is 0 J")


def _product(each_j: float | Missing, time_s: float | Missing) -> float | Missing:
    if isinstance(each_j, Missing):
        return each_j
    return time_s if isinstance(time_s, Missing) else each_j * time_s
