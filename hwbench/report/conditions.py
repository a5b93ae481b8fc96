"""The conditions of a result as tables: what was built, the machine around each measurement, the software."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hwbench.records.base import Missing
from hwbench.records.gpu import GpuState
from hwbench.records.measurement import Measurement, ProfileResult
from hwbench.report.grid import Grid
from hwbench.report.table import Cell, Notes
from hwbench.report.words import DASH
from hwbench.units import format_bytes, format_seconds, format_si

_HEAD = (
    "", "duration", "load (1 min)", "hottest sensor", "mean clock", "throttle events", "stolen", "all CPUs busy",
    "CPUs of worker", "swapped out", "governor",
)  # fmt: skip


def host_rows(names: Sequence[str], measurements: Sequence[Measurement]) -> Grid:
    """Return one row a measurement: ``before → after`` for states, the difference for counters."""
    notes = Notes()
    rows = tuple((Cell(name), *_cells(m, notes)) for name, m in zip(names, measurements, strict=True))
    return Grid(head=_HEAD, rows=rows, notes=tuple(notes.texts), caption="Before → after each measurement.")


def _cells(measurement: Measurement, notes: Notes) -> list[Cell]:
    before, after = measurement.host_before, measurement.host_after

    def state(field: str, show: Callable[..., str]) -> Cell:
        a, b = getattr(before, field), getattr(after, field)
        if missing := _missing(a, b):
            return notes.missing(missing)
        first, second = show(a), show(b)
        return Cell(first if first == second else f"{first} → {second}")

    def difference(field: str, show: Callable[..., str]) -> Cell:
        a, b = getattr(before, field), getattr(after, field)
        missing = _missing(a, b)
        return notes.missing(missing) if missing else Cell(show(b - a))

    return [
        difference("monotonic_s", format_seconds),
        state("load_1min", lambda load: f"{load:.2f}"),
        state("temperature_c", lambda degrees: f"{degrees:.1f} °C"),
        state("cpu_hz", lambda clocks: format_si(sum(clocks) / len(clocks), "Hz") if clocks else "no CPU"),
        difference("throttle_events", str),
        difference("steal_s", format_seconds),
        difference("busy_s", format_seconds),
        Cell(f"{measurement.process_cpu_s / measurement.window_s:.2f}" if measurement.window_s > 0 else DASH),
        difference("swap_out_bytes", format_bytes),
        state("governor", str),
    ]


def gpu_rows(names: Sequence[str], measurements: Sequence[Measurement]) -> Grid | None:
    """Return one row for each measurement of a GPU: its state before and after; None where there is none."""
    notes, rows = Notes(), []
    for name, measurement in zip(names, measurements, strict=True):
        before, after = measurement.host_before.gpu, measurement.host_after.gpu
        if not isinstance(before, Missing) and not isinstance(after, Missing):
            rows.append((Cell(f"{name} ({before.of})"), *_gpu_cells(before, after, notes)))
    if not rows:
        return None
    head = ("GPU", "clock", "memory clock", "temperature", "state", "power limit", "memory in use", "held down for")
    return Grid(head=head, rows=tuple(rows), notes=tuple(notes.texts), caption="The GPU, before → after.")


def _gpu_cells(before: GpuState, after: GpuState, notes: Notes) -> list[Cell]:
    def state(field: str, show: Callable[..., str]) -> Cell:
        a, b = getattr(before, field), getattr(after, field)
        if missing := _missing(a, b):
            return notes.missing(missing)
        first, second = show(a), show(b)
        return Cell(first if first == second else f"{first} → {second}")

    def hertz(value: float) -> str:
        return format_si(value, "Hz")

    return [
        state("sm_hz", hertz),
        state("memory_hz", hertz),
        state("temperature_c", lambda degrees: f"{degrees:.0f} °C"),
        state("performance_state", str),
        state("power_limit_w", lambda watts: f"{watts:g} W"),
        state("memory_used_bytes", format_bytes),
        _held(before, after, notes),
    ]


def _held(before: GpuState, after: GpuState, notes: Notes) -> Cell:
    """Return for how long the clocks were held down meanwhile, by reason."""
    if isinstance(before.limited, Missing) or isinstance(after.limited, Missing):
        missing = _missing(before.limited, after.limited)
        assert missing is not None
        return notes.missing(missing)
    first = {entry.reason: entry.held_s for entry in before.limited}
    spans = {entry.reason: entry.held_s - first.get(entry.reason, 0.0) for entry in after.limited}
    told = [f"{reason} {format_seconds(seconds)}" for reason, seconds in spans.items() if seconds > 0]
    return Cell(", ".join(told) or "not at all")


def _missing(*values: object) -> Missing | None:
    return next((value for value in values if isinstance(value, Missing)), None)


def built_rows(names: Sequence[str], measurements: Sequence[Measurement]) -> Grid:
    """Return one row a measurement: versions, and what was asked beside what was built."""
    notes, rows = Notes(), []
    for name, measurement in zip(names, measurements, strict=True):
        built, settings = measurement.built, measurement.settings
        threads = notes.missing(built.threads) if isinstance(built.threads, Missing) else Cell(str(built.threads))
        rows.append(
            (
                Cell(name),
                Cell(built.version),
                Cell(f"{measurement.precision_asked} / {built.precision}"),
                Cell(f"{settings.threads} / {threads.text}", threads.notes),
                Cell(", ".join(map(str, settings.cpus)) or "not pinned"),
                Cell(", ".join(built.execution_units)),
                Cell("; ".join(f"{k}={v}" for k, v in built.settings.items())),
            )
        )
    head = ("", "version", "precision asked / built", "threads asked / built", "CPUs", "ran on", "settings read back")
    return Grid(head=head, rows=tuple(rows), notes=tuple(notes.texts))


def environment_lines(result: ProfileResult) -> list[tuple[str, str]]:
    """Return the software, and what the machine says about itself, as names and values."""
    environment, device = result.environment, result.device
    lines = [
        ("hwbench", environment.hwbench),
        ("python", environment.python),
        ("os", f"{environment.os}, kernel {environment.kernel}, {_text(environment.libc)}"),
        ("packages", ", ".join(f"{p.name} {p.version}" for p in environment.packages)),
        ("device profile", _text(device.profile)),
        ("memory limit", _text(device.memory_limit_bytes, format_bytes)),
        ("virtualised by", _text(device.virtual)),
        ("container", _text(device.container)),
        ("power mode", _text(device.power_mode)),
    ]
    if (cpu := device.cpu) is not None:
        lines += [
            (
                "cpu" if device.kind == "cpu" else "host cpu",
                f"{cpu.model_name}, {_text(cpu.cpuid)}, {' '.join(cpu.isa)}",
            ),
            ("governor; turbo; max clock", f"{_text(cpu.governor)}; {_text(cpu.turbo)}; {_text(cpu.max_hz, _hertz)}"),
        ]
    if (gpu := device.gpu) is not None:
        lines.append(("gpu", f"{gpu.name}, driver {_text(gpu.driver_version)}, CUDA {_text(gpu.cuda_version)}"))
    return lines


def _text(value: object, show: Callable[..., str] = str) -> str:
    return f"{DASH} ({value})" if isinstance(value, Missing) else show(value)


def _hertz(value: float) -> str:
    return format_si(value, "Hz")
