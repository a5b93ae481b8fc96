"""Measure what this machine attains: the bandwidth of each memory level, and the arithmetic peak at each precision.

The result holds only for the machine with its ``fingerprint``; :mod:`hwbench.cost.overlay` keeps it where the next
``profile`` finds it.
"""

from __future__ import annotations

import datetime
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil

from hwbench.children import run_child
from hwbench.cost.bandwidth import measure_copy
from hwbench.cost.doubts import doubts
from hwbench.cost.gemm import GemmJob, GemmRate, GemmResult
from hwbench.cost.gemm_runtimes import GemmEngine, GemmPrecision
from hwbench.cost.levels import LEVELS, footprint
from hwbench.errors import DeviceError, EngineError
from hwbench.records.base import Missing
from hwbench.records.device import Cpu, Device, Environment
from hwbench.records.profile import CALIBRATION_SCHEMA, Calibration, CalibrationPoint
from hwbench.units import format_si

OnProgress = Callable[[str, float], None]
"""Called with what is being measured and the fraction done."""

_BANDWIDTH_SHARE = 0.3  # of the time
_SILENCE_S = 300.0

# What a CPU must have to do arithmetic in a precision; fp32 and int8 every one has.
_NEEDED_ISA: dict[GemmPrecision, frozenset[str]] = {
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "fp16": frozenset({"avx512_fp16", "amx_fp16", "fp16"}),
}
_PRODUCTS: tuple[tuple[GemmEngine, GemmPrecision], ...] = (
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "fp16"),
    ("openvino", "int8"),
)


def calibrate(
    device: Device, *, seconds: float, environment: Environment, on_progress: OnProgress | None = None
) -> Calibration:
    """Measure this machine's CPU.

    Args:
        device: the CPU of this machine.
        seconds: time to spend on measuring; starting the runtimes comes on top, some seconds each.
        environment: the software, for the record.
        on_progress: told before each measurement.

    Raises:
        DeviceError: not a CPU, or its threads cannot be pinned.
        StorageError: scratch files cannot be written.
    """
    cpu = device.cpu
    if cpu is None or device.kind != "cpu":
        raise DeviceError(
            f"calibrate measures the CPU it runs on; '{device.name}' is of kind {device.kind}", hint="use --device cpu"
        )
    cores = working_cores(cpu)
    run = _Run(cpu=cpu, cores=cores, on_progress=on_progress or _silent)
    run.bandwidths(seconds * _BANDWIDTH_SHARE, _available_bytes(device))
    run.peaks(seconds * (1 - _BANDWIDTH_SHARE))
    return Calibration(
        schema_version=CALIBRATION_SCHEMA,
        fingerprint=device.fingerprint,
        device=device.name,
        created_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        environment=environment,
        points=tuple(run.points),
        unavailable=run.unavailable,
        warnings=doubts(run.points),
    )


def working_cores(cpu: Cpu) -> tuple[int, ...]:
    """Return one logical CPU for each core that may be used, no more of them than a cgroup quota lets run at once."""
    quota = cpu.quota_cpus
    most = len(cpu.usable_cores) if isinstance(quota, Missing) else max(1, int(quota))
    return cpu.usable_cores[:most]


class _Run:
    """One calibration in the making."""

    def __init__(self, *, cpu: Cpu, cores: tuple[int, ...], on_progress: OnProgress) -> None:
        self.points: list[CalibrationPoint] = []
        self.unavailable: dict[str, str] = {}
        self._cpu = cpu
        self._cores = cores
        self._on_progress = on_progress
        self._done = 0

    def bandwidths(self, seconds: float, available_bytes: int) -> None:
        for level in LEVELS:
            self._announce(f"{level} bandwidth")
            plan = footprint(level, self._cpu, len(self._cores), available_bytes)
            if isinstance(plan, Missing):
                self.unavailable[level] = str(plan)
            else:
                self.points.append(measure_copy(plan, self._cores, seconds=seconds / len(LEVELS)))

    def peaks(self, seconds: float) -> None:
        found: dict[GemmPrecision, list[CalibrationPoint]] = {}
        with tempfile.TemporaryDirectory(prefix="hwbench-calibrate-") as scratch:
            for engine, precision in _PRODUCTS:
                self._announce(f"{precision} peak with {engine}")
                point = self._peak(engine, precision, seconds / len(_PRODUCTS), Path(scratch) / f"{engine}-{precision}")
                if isinstance(point, Missing):
                    self.unavailable[f"{precision} with {engine}"] = str(point)
                else:
                    found.setdefault(precision, []).append(point)
        self.points.extend(best_of(points) for points in found.values())

    def _peak(
        self, engine: GemmEngine, precision: GemmPrecision, seconds: float, folder: Path
    ) -> CalibrationPoint | Missing:
        reason = _not_possible(engine, precision, self._cpu)
        if reason is not None:
            return reason
        job = GemmJob(engine=engine, precision=precision, cpus=self._cores, seconds=seconds)
        try:
            result = run_child(
                "hwbench.cost.gemm",
                job,
                GemmResult,
                folder=folder,
                what=f"the {precision} matrix product with {engine}",
                failure=EngineError,
                timeout_s=_SILENCE_S,
            )
        except EngineError as error:
            return Missing(code="engine_failed", why=error.message)
        return peak_point(job, result)

    def _announce(self, what: str) -> None:
        self._on_progress(what, self._done / (len(LEVELS) + len(_PRODUCTS)))
        self._done += 1


def peak_point(job: GemmJob, result: GemmResult) -> CalibrationPoint:
    """Return the best size of a child's result as a point; ``method`` gives the other sizes' best rates."""
    best = max(result.rates, key=_best)
    others = ", ".join(f"{rate.size}: {format_si(_best(rate), 'OP/s')}" for rate in result.rates)
    return CalibrationPoint(
        quantity="peak_ops_per_s",
        key=job.precision,
        value=_best(best),
        samples=best.ops_per_s,
        method=(
            f"{job.engine} {result.version} square matrix product of size {best.size} ({result.kernel}); "
            f"best of {others}"
        ),
        threads=len(job.cpus),
    )


def best_of(points: list[CalibrationPoint]) -> CalibrationPoint:
    """Return the highest of the points of one key; its ``method`` names what the others reached."""
    ranked = sorted(points, key=lambda point: point.value, reverse=True)
    best = ranked[0]
    others = "".join(
        f"; {format_si(point.value, 'OP/s')} with {point.method.split(' square')[0]}" for point in ranked[1:]
    )
    return CalibrationPoint(
        quantity=best.quantity,
        key=best.key,
        value=best.value,
        samples=best.samples,
        method=best.method + others,
        threads=best.threads,
    )


def _best(rate: GemmRate) -> float:
    return max(rate.ops_per_s)


def _not_possible(engine: GemmEngine, precision: GemmPrecision, cpu: Cpu) -> Missing | None:
    needed = _NEEDED_ISA.get(precision)
    if needed is not None and not needed & set(cpu.isa):
        return Missing(
            code="no_isa",
            why=f"this CPU has no {precision} arithmetic (it would take one of {', '.join(sorted(needed))})",
        )
    if importlib.util.find_spec(engine) is None:
        return Missing(code="not_installed", why=f"{engine} is not installed", cure=f"pip install {engine}")
    return None


def _available_bytes(device: Device) -> int:
    available = psutil.virtual_memory().available
    limit = device.memory_limit_bytes
    return available if isinstance(limit, Missing) else min(available, limit)


def _silent(what: str, fraction: float) -> None:
    pass
