"""Per-layer times: a run of its own with the runtime's profiler on, reconciled with the timed run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from hwbench.children import Emit, serve
from hwbench.inference import inference
from hwbench.measure.job import Job, prepare
from hwbench.records.base import Missing
from hwbench.records.measurement import LayerRun, LayerTable, LayerTime, UnitSamples
from hwbench.records.model import Layer

_PROFILE_SECONDS = 2.0
_FEWEST, _MOST = 10, 200
_QUIET_SHARE, _QUIET_FEWEST = 0.25, 3


def iterations_for(median_s: float) -> int:
    """Return how many inferences to profile: about two seconds' worth."""
    return max(_FEWEST, min(_MOST, int(_PROFILE_SECONDS / max(median_s, 1e-9))))


def work(job: Job, folder: Path, emit: Emit) -> LayerRun:
    """Profile the layers of one engine and return the raw times."""
    prepared = prepare(job, folder, emit, profile_layers=True)
    emit({"event": "phase", "phase": "layers"})
    runner = prepared.engine.load(prepared.request).compile()
    with inference(job.engine):
        profile = runner.profile_layers(prepared.inputs, job.layer_iterations)
    runner.close()
    if isinstance(profile, Missing):
        return LayerRun(units=profile, end_to_end_s=(), method="")
    units = tuple(UnitSamples(unit=times.unit, times_s=times.times_s) for times in profile.units)
    return LayerRun(units=units, end_to_end_s=profile.end_to_end_s, method=profile.method)


def reconcile(run: LayerRun, layers: Sequence[Layer], median_s: float) -> LayerTable | Missing:
    """Return the table whose column adds up to ``median_s``, the median of the timed run.

    A unit's share is its part of the time of the quiet inferences: the quarter of the profiled ones that took least
    from end to end. Its scaled time is that share of ``median_s``, and what the shares leave over is
    ``unattributed_s``. Over all inferences the medians would not fit together: a stall strikes one unit at a time, so
    that where most inferences have one, the median of no unit shows it, and that of the whole does.
    """
    if isinstance(run.units, Missing):
        return run.units
    known = {layer.name: layer for layer in layers}
    fault = _fault(run.units, run.end_to_end_s, known)
    if fault is not None:
        return fault
    quiet = quiet_ones(run.end_to_end_s)
    whole_s = sum(run.end_to_end_s[index] for index in quiet)
    rows = []
    for samples in run.units:
        spent_s = sum(samples.times_s[index] for index in quiet)
        rows.append(
            LayerTime(
                unit=samples.unit,
                measured_s=spent_s / len(quiet),
                scaled_s=spent_s / whole_s * median_s,
                share=spent_s / whole_s,
                macs=_total(known, samples.unit.members, "macs"),
                moved_bytes=_total(known, samples.unit.members, "moved_bytes"),
            )
        )
    profiled_s = statistics.median(run.end_to_end_s)
    return LayerTable(
        iterations=len(run.end_to_end_s),
        median_s=median_s,
        profiled_median_s=profiled_s,
        profiling_overhead=profiled_s / median_s - 1,
        rows=tuple(rows),
        unattributed_s=median_s - sum(row.scaled_s for row in rows),
        method=f"{run.method}; shares from the {len(quiet)} inferences that took least",
    )


def quiet_ones(end_to_end_s: Sequence[float]) -> list[int]:
    """Return which inferences took least: a quarter of them, though at least three where there are so many."""
    count = max(_QUIET_FEWEST, math.ceil(_QUIET_SHARE * len(end_to_end_s)))
    return sorted(range(len(end_to_end_s)), key=end_to_end_s.__getitem__)[:count]


def _fault(units: Sequence[UnitSamples], end_to_end_s: Sequence[float], known: Mapping[str, Layer]) -> Missing | None:
    """Return why no table can be made of what an engine brought back, if none can."""
    if not units or not end_to_end_s or not all(samples.times_s for samples in units):
        return Missing(code="no_layer_times", why="the engine's profiler returned no times")
    uneven = [samples for samples in units if len(samples.times_s) != len(end_to_end_s)]
    if uneven:
        why = (
            f"the engine's profiler returned {len(uneven[0].times_s)} times of '{uneven[0].unit.name}' for "
            f"{len(end_to_end_s)} inferences"
        )
        return Missing(code="no_layer_times", why=why)
    unknown = sorted({name for samples in units for name in samples.unit.members if name not in known})
    if unknown:
        why = f"the engine's profile names layers that the model does not have: {', '.join(unknown[:5])}"
        return Missing(code="unknown_layers", why=why)
    return None


def _total(known: Mapping[str, Layer], members: Sequence[str], field: str) -> int | Missing:
    """Return the sum of a cost over the members.

    Bytes of a fused unit are an upper bound: what passes between its members may never leave the cache.
    """
    if not members:
        return Missing(code="inserted", why="the runtime inserted this unit: no source layer stands behind it")
    total = 0
    for name in members:
        cost: int | Missing = getattr(known[name], field)
        if isinstance(cost, Missing):
            return cost
        total += cost
    return total


if __name__ == "__main__":
    serve(work, Job)
