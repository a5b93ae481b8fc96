"""The state of a Jetson's GPU, from what the kernel shows; NVML knows nothing of it before JetPack 7.

* clock and its limits: ``/sys/class/devfreq/<GPU>/{cur,min,max}_freq``, in hertz. ``min`` and ``max`` are equal while
  ``jetson_clocks`` holds the clock.
* clock of the memory: ``/sys/kernel/debug/bpmp/debug/clk/emc/rate``, in hertz; for root alone.
* temperature: the thermal zone of the GPU.
* over-current events: ``/sys/class/hwmon/*/oc*_event_cnt``, each of which has throttled CPU or GPU for a moment.
* memory of all programs that use the GPU: the total of ``/sys/kernel/debug/nvmap/iovmm/clients``; for root alone. CPU
  and GPU share one memory: what is here is part of what the processes use, and none of it is apart from the system's.

Names and files: NVIDIA Jetson Linux Developer Guide, "Clock Frequency and Power Management" and "Over-current event
counter" (L4T 32 to 38). Tested with made-up trees; not verified on a board.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from hwbench.records.base import Missing
from hwbench.records.gpu import GpuState
from hwbench.resources import sysfs_root
from hwbench.tegra import DEVFREQ, is_gpu_clock

_EMC = "sys/kernel/debug/bpmp/debug/clk/emc/rate"
_NVMAP = "sys/kernel/debug/nvmap/iovmm/clients"
_NO_NVML = Missing(
    code="not_applicable", why="a Jetson's GPU has no power states and no limit of its own: see the power mode"
)
_RAILS = Missing(code="not_applicable", why="power is that of rails, which the meter jetson reads")
_COUNTED = Missing(code="not_applicable", why="a Jetson counts events, not for how long")


def read_jetson(root: Path | None = None) -> GpuState:
    """Return the state of the Jetson under ``root`` now, each value or why it is not told."""
    base = root if root is not None else sysfs_root()
    gpu = gpu_clock_folder(base)
    return GpuState(
        of="the Jetson's own GPU",
        sm_hz=_hertz(gpu, "cur_freq"),
        memory_hz=_memory_hz(base),
        sm_least_hz=_hertz(gpu, "min_freq"),
        sm_most_hz=_hertz(gpu, "max_freq"),
        temperature_c=_temperature_c(base),
        power_w=_RAILS,
        performance_state=_NO_NVML,
        limited_by=_COUNTED,
        limited=_COUNTED,
        throttle_events=over_current_events(base),
        power_limit_w=_NO_NVML,
        default_power_limit_w=_NO_NVML,
        memory_used_bytes=nvmap_bytes(base),
    )


def gpu_clock_folder(base: Path) -> Path | Missing:
    """Return the devfreq folder of the GPU, ``17000000.gpu`` (or ``gpu-gpc-0`` on Thor)."""
    found = [entry for entry in _entries(base / DEVFREQ) if is_gpu_clock(entry.name)]
    return found[0] if found else Missing(code="not_exposed", why=f"there is no clock of a GPU in /{DEVFREQ}")


def over_current_events(base: Path) -> int | Missing:
    """Return how often over-current protection has throttled the board since boot."""
    files = [file for chip in _entries(base / "sys/class/hwmon") for file in sorted(chip.glob("oc*_event_cnt"))]
    counts = [count for file in files if (count := _integer(file)) is not None]
    if counts:
        return sum(counts)
    return Missing(
        code="not_exposed", why="the kernel counts no over-current events (/sys/class/hwmon/*/oc*_event_cnt)"
    )


def nvmap_bytes(base: Path) -> int | Missing:
    """Return the memory that all programs hold for the GPU; the file is for root alone."""
    path = base / _NVMAP
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except PermissionError:
        why = f"/{_NVMAP}, which tells what the GPU's programs hold, is for root alone"
        return Missing(code="permission_denied", why=why, cure="run it as root (sudo)")
    except OSError:
        return Missing(code="not_exposed", why=f"the kernel does not show what the GPU's programs hold (/{_NVMAP})")
    total = re.search(r"^total\s+(\d+)([KMG]?)", text, re.MULTILINE)
    if total is None:
        return Missing(code="unreadable", why=f"/{_NVMAP} has no line of a total")
    return int(total[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[total[2]]


def _memory_hz(base: Path) -> float | Missing:
    path = base / _EMC
    value = _integer(path)
    if value is not None:
        return float(value)
    if os.geteuid() == 0:
        return Missing(code="not_exposed", why=f"the kernel does not show the clock of the memory (/{_EMC})")
    why = f"the clock of the memory is for root alone (/{_EMC})"
    return Missing(code="permission_denied", why=why, cure="run it as root (sudo)")


def _temperature_c(base: Path) -> float | Missing:
    zones = [zone for zone in _entries(base / "sys/class/thermal") if "gpu" in _text(zone / "type").lower()]
    values = [value for zone in zones if (value := _integer(zone / "temp")) is not None and value > -100_000]
    if values:
        return max(values) / 1e3
    if zones:  # -256 °C, or a refusal, while the GPU's power is off
        return Missing(code="sensor_not_ready", why="the GPU's temperature sensor gives no value: its power is off")
    return Missing(code="not_exposed", why="there is no temperature of a GPU in /sys/class/thermal")


def _hertz(folder: Path | Missing, name: str) -> float | Missing:
    if isinstance(folder, Missing):
        return folder
    value = _integer(folder / name)
    return Missing(code="not_exposed", why=f"{folder.name} does not tell its {name}") if value is None else float(value)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _integer(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None
