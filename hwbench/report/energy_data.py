"""The energy table as CSV and JSON: plain numbers in SI units, for spreadsheets and programs.

``kind`` says what a line is: ``plateau`` and ``window`` are measured, ``absent`` says why there is no energy. Estimates
are lines of their own (``estimated``) with columns of their own, so no column mixes them with measured values.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

import msgspec

from hwbench.records.base import Missing
from hwbench.records.measurement import LatencySummary, ProfileResult
from hwbench.report.delimited import Line, safe, split
from hwbench.report.energy_curves import planes
from hwbench.report.energy_gather import energies
from hwbench.report.energy_rank import verdicts
from hwbench.report.energy_rows import Energies, EnergyRow, EstimateRow, Joules, grouped
from hwbench.report.energy_words import ESTIMATES, PLATEAU

ENERGY_SCHEMA = 1

COLUMNS = (
    "run_id", "name", "kind", "model", "engine", "version", "precision", "mode", "threads", "streams", "batch_size",
    "device", "fingerprint", "power_mode", "power_limit_w", "governor", "validity",
    "meter", "boundary", "provenance",
    "settled", "start_c", "end_c", "throttled_s", "throttled_by",
    "time_per_inference_s", "median_s", "p90_s", "p99_s", "inferences", "windows", "windows_read", "window_s",
    "paused_s",
    "total_j", "total_low_j", "total_high_j", "total_stdev_j", "total_n", "total_instrument_k2",
    "dynamic_j", "dynamic_low_j", "dynamic_high_j", "dynamic_stdev_j", "dynamic_n", "dynamic_instrument_k2",
    "idle_state", "idle_w", "idle_standard_uncertainty_w", "idle_before_w", "idle_after_w",
    "inferences_per_j", "items_per_j", "energy_delay_js", "j_per_op",
    "average_w", "p95_w", "peak_w", "averaging_s",
    "coverage", "crosscheck_channel", "crosscheck_ratio", "recorder_cpu_share", "domains_j", "flags",
    "trace", "trace_sha256",
    "estimated_j", "estimated_low_j", "estimated_high_j", "estimated_method", "estimated_boundary", "estimated_inputs",
    "missing",
)  # fmt: skip


def energy_csv(results: Sequence[ProfileResult]) -> str:
    """Return one line a measurement with energy, one an estimate, and one a measurement without either value."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, restval="")
    writer.writeheader()
    for line in _lines(energies(results), results):
        writer.writerow({name: safe(value) for name, value in split(line).items()})
    return out.getvalue()


def _lines(found: Energies, results: Sequence[ProfileResult]) -> Iterator[Line]:
    for row in found.rows:
        yield {**_numbers(row), **_flat(row)}
    for estimate in found.estimates:
        yield _estimate(estimate, results[estimate.result].run_id)
    for absent in found.absent:
        result = results[absent.result]
        yield {
            "run_id": result.run_id,
            "name": absent.name,
            "kind": "absent",
            "model": result.model.name,
            "device": result.device.title,
            "missing:energy": absent.reason,
        }


def _flat(row: EnergyRow) -> Line:
    """Return what is a table of its own in JSON, as text."""
    return {
        "throttled_s": sum(row.throttled_s.values()) if row.throttled_s else NOT_TOLD,
        "throttled_by": _joined(row.throttled_s),
        "domains_j": _joined(row.domains_j),
        "flags": ";".join(row.flags),
    }


NOT_TOLD = Missing(code="not_told", why="the instrument does not tell how long the device was held back")


def _joined(values: dict[str, float]) -> str:
    return ";".join(f"{name}={value:.6g}" for name, value in values.items())


def _numbers(row: EnergyRow) -> Line:
    subject, setting = row.subject, row.subject.setting
    return {
        "run_id": subject.run_id,
        "name": subject.name,
        "kind": row.kind,
        "model": subject.model,
        "engine": subject.engine,
        "version": subject.version,
        "precision": subject.precision,
        "mode": subject.mode,
        "threads": subject.threads,
        "streams": subject.streams,
        "batch_size": subject.batch_size,
        "device": subject.device,
        "fingerprint": subject.fingerprint,
        "power_mode": setting.mode,
        "power_limit_w": setting.limit_w,
        "governor": setting.governor,
        "validity": subject.validity,
        "meter": row.meter,
        "boundary": row.boundary,
        "provenance": row.provenance,
        "settled": row.settled,
        "start_c": row.start_c,
        "end_c": row.end_c,
        "time_per_inference_s": row.time_per_inference_s,
        **_latency(subject.latency),
        **{name: getattr(row, name) for name in ("inferences", "windows", "windows_read", "window_s", "paused_s")},
        **_joules(row.total, "total"),
        **_joules(row.dynamic, "dynamic"),
        **_idle(row),
        "inferences_per_j": row.inferences_per_j,
        "items_per_j": _items(row),
        "energy_delay_js": row.energy_delay_js,
        "j_per_op": row.j_per_op,
        **_power(row),
        "coverage": row.coverage,
        **_crosscheck(row),
        "recorder_cpu_share": row.recorder_cpu_share,
        "trace": row.trace,
        "trace_sha256": row.trace_sha256,
    }


def _latency(latency: LatencySummary | Missing) -> Line:
    if isinstance(latency, Missing):
        return {"missing:latency": latency}
    return {name: getattr(latency, name) for name in ("median_s", "p90_s", "p99_s")}


def _joules(joules: Joules | Missing, name: str) -> Line:
    if isinstance(joules, Missing):
        return {f"missing:{name}": joules}
    return {
        f"{name}_j": joules.value,
        f"{name}_low_j": joules.low,
        f"{name}_high_j": joules.high,
        f"{name}_stdev_j": joules.stdev,
        f"{name}_n": joules.n,
        f"{name}_instrument_k2": joules.instrument,
    }


def _idle(row: EnergyRow) -> Line:
    idle = row.idle
    if isinstance(idle, Missing):
        return {"missing:idle": idle}
    return {
        "idle_state": idle.state,
        "idle_w": idle.mean_w,
        "idle_standard_uncertainty_w": idle.standard_uncertainty_w,
        "idle_before_w": idle.before_w,
        "idle_after_w": idle.after_w,
    }


def _items(row: EnergyRow) -> float | Missing:
    size, rate = row.subject.batch_size, row.inferences_per_j
    if isinstance(rate, Missing):
        return rate
    return size if isinstance(size, Missing) else rate * size


def _power(row: EnergyRow) -> Line:
    if isinstance(row.power, Missing):
        return {"missing:power": row.power}
    return {name: getattr(row.power, name) for name in ("average_w", "p95_w", "peak_w", "averaging_s")}


def _crosscheck(row: EnergyRow) -> Line:
    check = row.crosscheck
    if isinstance(check, Missing):
        return {"missing:crosscheck": check}
    return {"crosscheck_channel": check.channel, "crosscheck_ratio": check.ratio}


def _estimate(row: EstimateRow, run_id: str) -> Line:
    estimate = row.estimate
    return {
        "run_id": run_id,
        "name": row.name,
        "kind": "estimated",
        "model": row.model,
        "device": row.device,
        "estimated_j": estimate.energy_per_inference_j,
        "estimated_low_j": estimate.low_j,
        "estimated_high_j": estimate.high_j,
        "estimated_method": estimate.method,
        "estimated_boundary": estimate.boundary,
        "estimated_inputs": "; ".join(f"{name}={value}" for name, value in estimate.inputs.items()),
    }


def energy_json(results: Sequence[ProfileResult]) -> bytes:
    """Return the same as JSON: rows by boundary with the verdict on them, estimates apart, and what has no energy."""
    found = energies(results)
    groups = []
    for group in grouped(found.rows):
        said = verdicts(group)
        groups.append(
            {
                "kind": group.kind,
                "boundary": group.boundary,
                "ranked": group.kind == "plateau",
                "verdicts": [{"least": v.best.name if v.best else None, "sentence": v.sentence} for v in said],
                "rows": [_whole(row) for row in group.rows],
            }
        )
    fronts = [
        {
            "model": plane.name,
            "boundary": plane.boundary,
            "per": "item" if plane.per_item else "inference",
            "names": [point.row.name for point in plane.front],
        }
        for plane in planes(found.rows)
    ]
    document = {
        "schema_version": ENERGY_SCHEMA,
        "method": PLATEAU,
        "groups": groups,
        "fronts": fronts,
        "estimates_are": ESTIMATES,
        "estimates": [
            {"name": r.name, "model": r.model, "device": r.device, **msgspec.structs.asdict(r.estimate)}
            for r in found.estimates
        ],
        "absent": [{"name": row.name, "reason": row.reason} for row in found.absent],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


def _whole(row: EnergyRow) -> Line:
    """Return the row with its tables, a missing value under the name of what is missing."""
    line = {name.removeprefix("missing:"): value for name, value in _numbers(row).items()}
    return {**line, "throttled_s": row.throttled_s, "domains_j": row.domains_j, "flags": row.flags}
