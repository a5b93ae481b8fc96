"""Memory as tables for the page: of the process, as the system counts it, and of the runtime, as that tells it."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.records.base import Missing, Record
from hwbench.records.measurement import Measurement
from hwbench.records.memory import GpuMemory
from hwbench.report.grid import Grid
from hwbench.report.table import Cell, Notes
from hwbench.units import format_bytes

_PROCESS = {
    "baseline_rss_bytes": "without a model",
    "loaded_rss_bytes": "model loaded",
    "peak_load_rss_bytes": "peak loading",
    "peak_run_rss_bytes": "peak running",
    "baseline_pss_bytes": "without a model (PSS)",
    "loaded_pss_bytes": "model loaded (PSS)",
    "model_file_bytes": "model file",
}
_RUNTIME = {
    "weights_bytes": "weights",
    "activations_bytes": "activations, peak",
    "workspace_bytes": "scratch in kernels",
    "arena_bytes": "arena",
}


_GPU = {
    "nvml_process_peak_bytes": "process",
    "nvml_device_delta_bytes": "whole GPU, less before",
    "torch_peak_allocated_bytes": "torch, allocated",
    "torch_peak_reserved_bytes": "torch, reserved",
}


def process_memory(names: Sequence[str], measurements: Sequence[Measurement]) -> Grid:
    """Return one row a measurement: the process in each phase."""
    caption = "Resident set of the worker process; PSS counts shared pages by share."
    return _grid(names, [m.memory for m in measurements], _PROCESS, caption)


def runtime_memory(names: Sequence[str], measurements: Sequence[Measurement]) -> Grid:
    """Return one row a measurement: what the runtime says that it holds for the model."""
    caption = "What each runtime says of itself. Two runtimes do not count alike: see how, in the footnotes."
    return _grid(names, [m.runtime_memory for m in measurements], _RUNTIME, caption)


def gpu_memory(names: Sequence[str], measurements: Sequence[Measurement]) -> Grid | None:
    """Return two rows a measurement that ran on a GPU: its peaks loading and running; None where none did."""
    rows: list[tuple[str, GpuMemory | Missing]] = []
    for name, m in zip(names, measurements, strict=True):
        if not isinstance(m.gpu_memory, Missing):
            rows += [(f"{name}, loading", m.gpu_memory_loading), (f"{name}, running", m.gpu_memory)]
    caption = "Peak memory on the GPU. NVML's numbers are looked at now and then, torch's own are exact."
    return _grid([name for name, _ in rows], [record for _, record in rows], _GPU, caption) if rows else None


def _grid(names: Sequence[str], records: Sequence[Record | Missing], fields: dict[str, str], caption: str) -> Grid:
    notes, rows = Notes(), []
    for name, record in zip(names, records, strict=True):
        if isinstance(record, Missing):
            rows.append((Cell(name), *(notes.missing(record) for _ in fields)))
            continue
        values = [getattr(record, field) for field in fields]
        cells = [notes.missing(v) if isinstance(v, Missing) else Cell(format_bytes(v)) for v in values]
        rows.append((Cell(name, (notes.number(record.method),)), *cells))  # type: ignore[attr-defined]
    return Grid(head=("", *fields.values()), rows=tuple(rows), notes=tuple(notes.texts), caption=caption)
