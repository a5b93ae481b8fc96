"""What one point of a sweep says for one item, and which points no other beats: functions of saved results."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hwbench.records.base import Missing
from hwbench.records.energy import EnergyRun
from hwbench.records.measurement import Measurement, ProfileResult
from hwbench.records.sweep import SweepFigures, SweepPoint
from hwbench.stats import non_dominated


def figures_of(result: ProfileResult, size: int) -> SweepFigures | Missing:
    """Return what a point says for one item, or why it says nothing.

    Args:
        result: of one engine, mode ``energy``.
        size: items in one inference.
    """
    if not result.measurements:
        failed = next((item.reason for item in result.not_measured), None)
        return failed or Missing(code="not_measured", why="the engine gave no numbers")
    measurement = result.measurements[0]
    run = measurement.energy_run
    if not isinstance(run, EnergyRun):
        return run
    if isinstance(run.total_j, Missing):
        return run.total_j
    total = run.total_j
    if total.value <= 0:
        return Missing(code="no_energy", why="the meter shows no energy")
    memory, memory_of = _memory(measurement)
    return SweepFigures(
        items_per_s=size / run.time_per_inference_s,
        power_w=run.power if isinstance(run.power, Missing) else run.power.average_w,
        item_j=total.value / size,
        item_low_j=max(0.0, total.low / size),
        item_high_j=total.high / size,
        relative_uncertainty=total.relative_uncertainty,
        items_per_j=size / total.value,
        clock_hz=_clock_hz(measurement),
        memory_bytes=memory,
        memory_of=memory_of,
        boundary=run.boundary,
        provenance=run.provenance,
        validity=measurement.validity.status,
    )


def with_front(points: Sequence[SweepPoint]) -> tuple[SweepPoint, ...]:
    """Mark the points that no other beats in both items per second and energy for one.

    What is invalid, or was played back from a recording, stands aside: it says nothing of this machine.
    """
    able = [
        (place, point.figures)
        for place, point in enumerate(points)
        if not isinstance(point.figures, Missing)
        and point.figures.validity != "invalid"
        and point.figures.provenance != "replayed"
    ]
    kept = {able[index][0] for index in non_dominated([(-each.items_per_s, each.item_j) for _, each in able])}
    return tuple(
        point
        if isinstance(point.figures, Missing)
        else msgspec.structs.replace(point, figures=msgspec.structs.replace(point.figures, front=place in kept))
        for place, point in enumerate(points)
    )


def _clock_hz(measurement: Measurement) -> float | Missing:
    before, after = measurement.host_before.clock_hz, measurement.host_after.clock_hz
    if isinstance(before, Missing) or isinstance(after, Missing):
        return before if isinstance(before, Missing) else after
    return (before + after) / 2


def _memory(measurement: Measurement) -> tuple[int | Missing, str]:
    """Return the highest memory that was seen while inferences ran, and whose: on a GPU where there was one."""
    gpu = measurement.gpu_memory
    if isinstance(gpu, Missing):
        return measurement.memory.peak_run_rss_bytes, "the process (RSS)"
    if not isinstance(gpu.nvml_process_peak_bytes, Missing):
        return gpu.nvml_process_peak_bytes, "the process on the GPU (NVML)"
    return gpu.nvml_device_delta_bytes, "the GPU, less what was used before (NVML)"
