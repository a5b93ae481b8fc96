"""A result as CSV (RFC 4180, UTF-8, SI units in the column names): for spreadsheets and notebooks.

A value that is missing is an empty cell, and the last column, ``missing``, says why. A text cell that a spreadsheet
would run as a formula gets a leading apostrophe.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Literal

from hwbench.errors import UsageError
from hwbench.records.base import Missing, Record
from hwbench.records.measurement import LayerTime, Measurement, ProfileResult
from hwbench.report.mode_columns import COLUMNS as MODE_COLUMNS
from hwbench.report.mode_columns import SERIES_COLUMNS, mode_columns, series_lines
from hwbench.report.words import achieved_ops_per_s, memory_over_baseline

What = Literal["measurements", "layers", "samples", "series"]

_LATENCY = ("n", "n_effective", "median_s", "median_low_s", "median_high_s", "mean_s", "min_s", "max_s", "stdev_s",
            "iqr_s", "p90_s", "p95_s", "p99_s", "p999_s", "outliers")  # fmt: skip
_THROUGHPUT = ("inferences_per_s", "low_per_s", "high_per_s", "items_per_s", "window_s", "inferences")
_MEMORY = ("baseline_rss_bytes", "baseline_pss_bytes", "loaded_rss_bytes", "loaded_pss_bytes", "peak_load_rss_bytes",
           "peak_run_rss_bytes", "model_file_bytes")  # fmt: skip
_RUNTIME_MEMORY = ("weights_bytes", "activations_bytes", "workspace_bytes", "arena_bytes")
_TRANSFERS = ("h2d_median_s", "d2h_median_s", "bytes_in", "bytes_out", "pinned")
_GPU_MEMORY = ("torch_peak_allocated_bytes", "torch_peak_reserved_bytes", "nvml_process_peak_bytes",
               "nvml_device_delta_bytes")  # fmt: skip
_ENERGY = ("meter", "boundary", "provenance", "energy_j", "window_s", "relative_uncertainty")
_ESTIMATE = ("energy_per_inference_j", "low_j", "high_j", "method")
_PARITY = ("reference", "max_absolute", "max_relative", "finite")

Line = dict[str, object]


def to_csv(result: ProfileResult, what: What = "measurements") -> str:
    """Return a table of ``result`` as CSV text with a header.

    Args:
        result: the result.
        what: ``measurements`` (one line an engine and precision, those without numbers too), ``layers`` (one line an
            executed unit, one more for what no unit accounts for), ``samples`` (one line a sample), or ``series`` (one
            line a part of the window, of the modes that have a course over time).

    Raises:
        UsageError: there is no such table.
    """
    tables = {"measurements": _measurements, "layers": _layers, "samples": _samples, "series": _series}
    if what not in tables:
        msg = f"there is no table '{what}' of a result"
        raise UsageError(msg, hint=f"one of {', '.join(tables)}")
    header = {
        "measurements": _MEASUREMENT_COLUMNS,
        "layers": _LAYER_COLUMNS,
        "samples": _SAMPLE_COLUMNS,
        "series": SERIES_COLUMNS,
    }[what]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, header, restval="")
    writer.writeheader()
    for line in tables[what](result):
        writer.writerow({name: safe(value) for name, value in split(line).items()})
    return out.getvalue()


_SAMPLE_COLUMNS = ("engine", "precision", "precision_asked", "mode", "phase", "build", "index", "sample_ns")
_LAYER_COLUMNS = ("engine", "precision", "precision_asked", "index", "name", "op", "members", "kernel",
                  "layer_precision", "measured_s", "scaled_s", "share", "macs", "moved_bytes", "ops_per_s",
                  "missing")  # fmt: skip
_MEASUREMENT_COLUMNS = (
    "model", "device", "outcome", "engine", "version", "precision", "precision_asked", "mode", "threads", "streams",
    "batch_size", "validity", "findings", *_LATENCY, *(f"throughput_{n}" for n in _THROUGHPUT),
    "load_s", "compile_s", "first_inference_s", "peak_over_baseline_bytes", *_MEMORY,
    *(f"runtime_{n}" for n in _RUNTIME_MEMORY), *(f"transfers_{n}" for n in _TRANSFERS),
    *(f"runtime_{n}" for n in _RUNTIME_MEMORY),
    *(f"gpu_loading_{n}" for n in _GPU_MEMORY), *(f"gpu_{n}" for n in _GPU_MEMORY),
    "energy_per_inference_j", *(f"energy_{n}" for n in _ENERGY), *(f"estimate_{n}" for n in _ESTIMATE),
    *(f"parity_{n}" for n in _PARITY), *MODE_COLUMNS, "started_at", "stopped_by", "missing",
)  # fmt: skip


def _identity(measurement: Measurement) -> Line:
    return {
        "engine": measurement.engine,
        "precision": measurement.built.precision,
        "precision_asked": measurement.precision_asked,
    }


def _measurements(result: ProfileResult) -> Iterator[Line]:
    common: Line = {
        "model": result.model.name,
        "device": result.device.title,
        "batch_size": result.model.batch_size,
    }
    for m in result.measurements:
        yield {
            **common,
            **_identity(m),
            "outcome": "measured",
            "version": m.built.version,
            "mode": m.settings.mode,
            "threads": m.settings.threads,
            "streams": m.settings.streams,
            "validity": m.validity.status,
            "findings": "; ".join(f"{f.severity} {f.code}: {f.why}" for f in m.validity.findings),
            **_fields(m.latency, _LATENCY, "", whole="latency"),
            **_fields(m.throughput, _THROUGHPUT, "throughput_", whole="throughput"),
            **_fields(m.phases, ("load_s", "compile_s", "first_inference_s"), "", whole="phases"),
            "peak_over_baseline_bytes": memory_over_baseline(m.memory),
            **_fields(m.memory, _MEMORY, "", whole="memory"),
            **_fields(m.runtime_memory, _RUNTIME_MEMORY, "runtime_", whole="runtime_memory"),
            **_fields(m.transfers, _TRANSFERS, "transfers_", whole="transfers"),
            **_gpu_memory(m),
            "energy_per_inference_j": m.energy_per_inference_j,
            **_fields(m.energy, _ENERGY, "energy_", whole="energy"),
            **_fields(m.energy_estimate, _ESTIMATE, "estimate_", whole="estimate"),
            **_fields(m.parity, _PARITY, "parity_", whole="parity"),
            **mode_columns(m),
            "started_at": m.started_at,
            "stopped_by": m.stopped_by,
        }
    for entry in result.not_measured:
        yield {
            **common,
            "outcome": "failed" if entry.failed else "not_measured",
            "engine": entry.engine,
            "precision_asked": entry.precision,
            "missing:all": entry.reason,
        }


def _layers(result: ProfileResult) -> Iterator[Line]:
    for m in result.measurements:
        if isinstance(m.layers, Missing):
            yield {**_identity(m), "missing:layers": m.layers}
            continue
        for index, row in enumerate(m.layers.rows):
            yield {**_identity(m), "index": index, **_layer(row)}
        share = m.layers.unattributed_s / m.layers.median_s if m.layers.median_s > 0 else ""
        yield {**_identity(m), "name": "(unattributed)", "scaled_s": m.layers.unattributed_s, "share": share}


def _layer(row: LayerTime) -> Line:
    return {
        "name": row.unit.name,
        "op": row.unit.op,
        "members": ";".join(row.unit.members),
        "kernel": row.unit.kernel,
        "layer_precision": row.unit.precision,
        **_fields(row, ("measured_s", "scaled_s", "share", "macs", "moved_bytes"), "", whole="layer"),
        "ops_per_s": achieved_ops_per_s(row),
    }


def _samples(result: ProfileResult) -> Iterator[Line]:
    for m in result.measurements:
        for build, run in enumerate((m, *m.more_builds), start=1):
            for phase, samples in (("warmup", run.warmup_ns), ("timed", run.samples_ns)):
                for index, sample in enumerate(samples):
                    yield {
                        **_identity(m),
                        "mode": m.settings.mode,
                        "phase": phase,
                        "build": build,
                        "index": index,
                        "sample_ns": sample,
                    }


def _series(result: ProfileResult) -> Iterator[Line]:
    for m in result.measurements:
        for line in series_lines(m):
            yield {**_identity(m), **line}


def _fields(record: Record, names: Iterable[str], prefix: str, *, whole: str) -> Line:
    """Return the named fields under prefixed names; for a missing record, the one reason under ``whole``."""
    if isinstance(record, Missing):
        return {f"missing:{whole}": record}
    return {f"{prefix}{name}": getattr(record, name) for name in names}


def _gpu_memory(m: Measurement) -> Line:
    """Return the memory of the GPU, nothing of what ran on the CPU."""
    if isinstance(m.gpu_memory, Missing):
        return {}
    return {
        **_fields(m.gpu_memory_loading, _GPU_MEMORY, "gpu_loading_", whole="gpu_memory_loading"),
        **_fields(m.gpu_memory, _GPU_MEMORY, "gpu_", whole="gpu_memory"),
    }


def split(line: Line) -> Line:
    """Move every missing value's reason to the column ``missing``."""
    missing = {name.removeprefix("missing:"): value for name, value in line.items() if isinstance(value, Missing)}
    values: Line = {name: value for name, value in line.items() if not isinstance(value, Missing)}
    if missing:
        values["missing"] = " | ".join(f"{name}: {reason}" for name, reason in missing.items())
    return values


def safe(value: object) -> object:
    """Return ``value`` for a CSV cell: no text that a spreadsheet would run."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
