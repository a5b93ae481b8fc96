"""``hwbench energy import``: bring the recording of an external meter into a saved result.

The run kept its marks and made strong load pulses at both ends (``--meter external``). The file is read
(:mod:`hwbench.energy.imports`), brought onto the run's clock (:mod:`hwbench.energy.align`), written beside the run as a
trace of our own, and the energy computed from that. The result before stays beside as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hwbench.energy.account import energy_between
from hwbench.energy.align import Alignment, align, merge
from hwbench.energy.imports import import_trace
from hwbench.energy.phases import RECORDER, WINDOW
from hwbench.energy.protocol import TRACE, energy_run_of, trace_sha256
from hwbench.energy.trace import Trace, read_trace, write_trace
from hwbench.errors import InvalidMeasurement, UsageError
from hwbench.files import RESULT, read_bytes, write_bytes, write_record
from hwbench.measure.validity import judge
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyReading, EnergyRun
from hwbench.records.measurement import Measurement, ProfileResult
from hwbench.results import read_result


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The file of an external meter and how to read it; see :func:`hwbench.energy.imports.import_trace`."""

    path: Path
    format: str = "auto"
    interval_s: float | None = None
    columns: Mapping[str, str] | None = None
    channel: str | None = None


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What came of it: the run, how the clocks stand, the trace that was written, and where the result before is."""

    measurement: Measurement
    run: EnergyRun
    alignment: Alignment
    trace: Path
    before: Path


def import_energy(
    folder: Path, recording: Recording, *, engine: str | None = None, precision: str | None = None
) -> Imported:
    """Put the energy of an external meter into the result in ``folder``, atomically.

    Args:
        folder: of the result.
        recording: the meter's file.
        engine: whose run it was recorded beside, where the result holds several.
        precision: in which it was asked for, where one engine has several.

    Raises:
        UsageError: none, or more than one, of the runs fits; no such format or column.
        StorageError: a file cannot be read or written, or not be believed.
        InvalidMeasurement: the recording cannot be brought onto the run's clock, or gives no energy.
    """
    result = read_result(folder)
    measurement = _choose(result, engine, precision)
    run_folder = _run_folder(folder, measurement)
    own = read_trace(run_folder / TRACE)
    theirs = import_trace(
        recording.path,
        recording.format,
        interval_s=recording.interval_s,
        columns=recording.columns,
        channel=recording.channel,
    )
    alignment = align(own, theirs)
    if isinstance(alignment, Missing):
        msg = f"{recording.path} cannot be brought onto the clock of {measurement.label}: {alignment.why}"
        raise InvalidMeasurement(msg, hint=alignment.cure)
    digest = trace_sha256(recording.path)
    merged = merge(own, theirs, alignment)
    merged.header = msgspec.structs.replace(
        merged.header,
        settings={**merged.header.settings, "imported_file": recording.path.name, "imported_sha256": digest},
        not_used=own.header.not_used,
    )
    merged.marks = [mark for mark in merged.marks if mark.mark != RECORDER]  # nothing was recorded on this machine
    path = run_folder / f"energy-{digest[:12]}.jsonl"
    write_trace(path, merged)
    run = energy_run_of(path)
    if isinstance(run, Missing):
        raise InvalidMeasurement(f"{recording.path} gives no energy: {run.why}", hint=run.cure)
    if not any(isinstance(window.reading, EnergyReading) for window in run.windows):
        raise InvalidMeasurement(
            f"{recording.path} gives no energy: {run.total_j}", hint="it must cover the windows of the run"
        )
    changed = _with(measurement, run, merged, result)
    before = _keep_before(folder)
    kept = tuple(changed if item is measurement else item for item in result.measurements)
    write_record(folder / RESULT, msgspec.structs.replace(result, measurements=kept))
    return Imported(measurement=changed, run=run, alignment=alignment, trace=path, before=before)


def _run_folder(folder: Path, measurement: Measurement) -> Path:
    return folder / "runs" / f"{measurement.engine}-{measurement.precision_asked}"


def _choose(result: ProfileResult, engine: str | None, precision: str | None) -> Measurement:
    """Return the one energy run that fits."""
    able = [item for item in result.measurements if item.settings.mode == "energy"]
    found = [item for item in able if engine in {None, item.engine} and precision in {None, item.precision_asked}]
    there = ", ".join(f"{item.engine} {item.precision_asked}" for item in able) or "none"
    if not able:
        raise UsageError("the result holds no energy run", hint="hwbench profile MODEL --mode energy --meter external")
    if len(found) != 1:
        which = "several energy runs fit" if found else "no energy run fits"
        raise UsageError(f"{which} what was asked", hint=f"--engine and --precision choose one of: {there}")
    return found[0]


def _with(measurement: Measurement, run: EnergyRun, trace: Trace, result: ProfileResult) -> Measurement:
    """Return the measurement with the energy of the trace in every field that holds one."""
    windows = trace.windows(WINDOW)
    reading = energy_between(trace, windows[0][0].t_s, windows[-1][1].t_s)
    each_j = run.total_j if isinstance(run.total_j, Missing) else run.total_j.value
    changed = msgspec.structs.replace(measurement, energy_run=run, energy=reading, energy_per_inference_j=each_j)
    cpu = result.device.cpu
    return msgspec.structs.replace(changed, validity=judge(changed, len(cpu.usable_cpus) if cpu is not None else 1))


def _keep_before(folder: Path) -> Path:
    """Copy the result as it is to a name of its own, ``result.before-import-N.json``, and return that."""
    number = 1
    while (path := folder / f"result.before-import-{number}.json").exists():
        number += 1
    write_bytes(path, read_bytes(folder / RESULT))
    return path
