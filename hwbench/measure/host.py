"""What could disturb a measurement, read before and after it.

One reading is a few small files a CPU, through file descriptors rather than ``pathlib``, because it sits next to the
timed region. Which files there are does not change while a process runs, so they are looked up once for each root.
Temperatures follow the kernel's hwmon and thermal sysfs interfaces (millidegrees), clocks cpufreq (kHz), times
``proc_stat(5)`` (ticks).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from hwbench.records.base import Missing
from hwbench.records.device import HostState
from hwbench.resources import sysfs_root
from hwbench.units import Clock, MonotonicClock

_CPU_CHIPS: Final = frozenset({"coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal"})
_CPU_ZONES: Final = re.compile(r"cpu|x86_pkg_temp|^tj|^soc", re.IGNORECASE)
_HEAD_BYTES = 8192  # more than the first processor's part of /proc/cpuinfo
_FILE_BYTES = 1 << 20
_ATTRIBUTE_BYTES = 4096  # sysfs attributes are at most a page


@dataclass(frozen=True, kw_only=True)
class _Files:
    """The files of one root that are read each time."""

    virtual: bool
    live_mhz: bool  # /proc/cpuinfo shows the clock of now, not the nominal one
    clocks: tuple[str, ...]
    governors: tuple[str, ...]
    throttles: tuple[str, ...]
    temperatures: tuple[str, ...]


def read_host(root: Path | None = None, cpus: Collection[int] = (), clock: Clock | None = None) -> HostState:
    """Return the state of this machine now.

    Args:
        root: what lies above ``proc/`` and ``sys/``; the system's own by default.
        cpus: the logical CPUs whose busy and stolen times are summed; all CPUs by default.
        clock: where ``monotonic_s`` comes from; tests pass a fake.
    """
    now_s = (clock or MonotonicClock()).now_ns() * 1e-9
    base = str(root if root is not None else sysfs_root()).rstrip("/")
    stat = _read(f"{base}/proc/stat")
    if stat is None:
        return _read_foreign(now_s, cpus)
    files = _files(base)
    busy_s, steal_s = _cpu_times(stat, cpus)
    return HostState(
        monotonic_s=now_s,
        load_1min=_load(base),
        cpu_hz=_clocks(base, files),
        temperature_c=_temperature(files),
        throttle_events=_throttle_events(files),
        steal_s=steal_s,
        busy_s=busy_s,
        memory_available_bytes=_memory_available(base),
        swap_out_bytes=_swap_out(base),
        governor=_governor(files),
    )


def _load(base: str) -> float | Missing:
    text = _read(f"{base}/proc/loadavg")
    return float(text.split()[0]) if text else _hidden("the load", where="/proc/loadavg")


def _clocks(base: str, files: _Files) -> tuple[float, ...] | Missing:
    known = [value for value in map(_integer, files.clocks) if value is not None]
    if known:
        return tuple(value * 1e3 for value in known)
    if files.live_mhz:
        text = _read(f"{base}/proc/cpuinfo") or ""
        return tuple(float(mhz) * 1e6 for mhz in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE))
    return _hidden("the clocks of its CPUs", virtual=files.virtual, where="scaling_cur_freq")


def _governor(files: _Files) -> str | Missing:
    names = {name for path in files.governors if (name := _attribute(path))}
    return "+".join(sorted(names)) if names else _hidden("a governor", virtual=files.virtual, where="scaling_governor")


def _throttle_events(files: _Files) -> int | Missing:
    known = [value for value in map(_integer, files.throttles) if value is not None]
    return sum(known) if known else _hidden("throttling", virtual=files.virtual, where="thermal_throttle")


def _temperature(files: _Files) -> float | Missing:
    if not files.temperatures:
        return _hidden("a CPU temperature", virtual=files.virtual, where="/sys/class/hwmon, /sys/class/thermal")
    # A sensor whose power is gated off answers EAGAIN.
    known = [value for value in map(_integer, files.temperatures) if value is not None]
    if known:
        return max(known) / 1e3
    return Missing(code="sensor_not_ready", why="there are CPU temperature sensors, and none gives a value now")


def _cpu_times(stat: str, cpus: Collection[int]) -> tuple[float | Missing, float | Missing]:
    """Return busy and stolen seconds of ``cpus``, of all when empty; guest time is in user time already."""
    wanted = {f"cpu{cpu}" for cpu in cpus} or {"cpu"}
    rows = [fields for line in stat.splitlines() if (fields := line.split()) and fields[0] in wanted]
    if len(rows) < len(wanted) or any(len(fields) < 9 for fields in rows):
        named = f"CPU {', '.join(map(str, sorted(cpus)))}" if cpus else "all CPUs"
        missing = _hidden(f"the times of {named}", where="/proc/stat")
        return missing, missing
    busy = steal = 0
    for fields in rows:
        user, nice, system, _idle, _iowait, irq, softirq, stolen = (int(field) for field in fields[1:9])
        busy += user + nice + system + irq + softirq
        steal += stolen
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    return busy * tick_s, steal * tick_s


def _memory_available(base: str) -> int:
    match = re.search(r"^MemAvailable:\s*(\d+) kB", _read(f"{base}/proc/meminfo") or "", re.MULTILINE)
    return int(match[1]) * 1024 if match else _psutil_available()


def _swap_out(base: str) -> int | Missing:
    match = re.search(r"^pswpout (\d+)$", _read(f"{base}/proc/vmstat") or "", re.MULTILINE)
    if match is None:
        return _hidden("what is swapped out", where="/proc/vmstat")
    return int(match[1]) * os.sysconf("SC_PAGE_SIZE")


def _hidden(what: str, *, virtual: bool = False, where: str) -> Missing:
    if virtual:
        return Missing(code="not_exposed_in_vm", why=f"a virtual machine is not shown {what}")
    return Missing(code="not_exposed", why=f"the kernel does not show {what} ({where})")


@lru_cache(maxsize=16)
def _files(base: str) -> _Files:
    flags = re.search(r"^flags\s*:(.*)$", _read(f"{base}/proc/cpuinfo", _HEAD_BYTES) or "", re.MULTILINE)
    words = flags[1].split() if flags else []
    cpus = Path(f"{base}/sys/devices/system/cpu")
    return _Files(
        virtual="hypervisor" in words,
        live_mhz="aperfmperf" in words,  # without it the kernel prints the nominal clock (arch/x86 cpuinfo)
        clocks=_paths(cpus, "cpu[0-9]*/cpufreq/scaling_cur_freq"),
        governors=_paths(cpus, "cpufreq/policy*/scaling_governor"),
        throttles=_throttles(cpus),
        temperatures=_sensors(base),
    )


def _paths(folder: Path, pattern: str) -> tuple[str, ...]:
    found = (str(path) for path in folder.glob(pattern))
    return tuple(sorted(found, key=lambda path: [int(part) for part in re.findall(r"\d+", path)]))


def _throttles(cpus: Path) -> tuple[str, ...]:
    """Return one counter a core and one a package: the CPUs that share one are interrupted, and count, together."""
    found: dict[tuple[str, str], str] = {}
    for scope, shared in (("core", "thread_siblings_list"), ("package", "physical_package_id")):
        for path in _paths(cpus, f"cpu[0-9]*/thermal_throttle/{scope}_throttle_count"):
            cpu = path.partition("/thermal_throttle/")[0]
            found.setdefault((scope, _attribute(f"{cpu}/topology/{shared}") or cpu), path)
    return tuple(found.values())


def _sensors(base: str) -> tuple[str, ...]:
    """Return the CPU's temperature files: of the sensor chips, else of the thermal zones."""
    chips = [chip for chip in Path(f"{base}/sys/class/hwmon").glob("hwmon*") if _word(f"{chip}/name") in _CPU_CHIPS]
    found = [path for chip in chips for path in _chip_sensors(chip)]
    if not found:
        zones = Path(f"{base}/sys/class/thermal").glob("thermal_zone*")
        found = [f"{zone}/temp" for zone in zones if _CPU_ZONES.search(_word(f"{zone}/type"))]
    return tuple(sorted(found))


def _chip_sensors(chip: Path) -> Sequence[str]:
    labels = {str(path): _word(str(path).replace("_input", "_label")) for path in chip.glob("temp*_input")}
    if "Tdie" in labels.values():
        # On some AMD CPUs Tctl is Tdie plus an offset, for the fan control (Linux Documentation/hwmon/k10temp.rst).
        return [path for path, label in labels.items() if label != "Tctl"]
    return list(labels)


def _word(path: str) -> str:
    return _attribute(path) or ""


def _integer(path: str) -> int | None:
    try:
        return int(_attribute(path) or "")
    except ValueError:
        return None


def _attribute(path: str) -> str | None:
    """Return a sysfs attribute; the kernel gives it whole in the first read."""
    text = _read(path, _ATTRIBUTE_BYTES, once=True)
    return text.strip() if text is not None else None


def _read(path: str, size: int = _FILE_BYTES, *, once: bool = False) -> str | None:
    """Return a file's text, None when there is none or the kernel refuses it now."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        chunks = []
        while size > 0 and (chunk := os.read(descriptor, min(size, 65536))):
            chunks.append(chunk)
            size = 0 if once else size - len(chunk)
        return b"".join(chunks).decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _psutil_available() -> int:
    import psutil  # noqa: PLC0415 - 30 ms, and Linux does without

    return int(psutil.virtual_memory().available)


def _psutil_busy(cpus: Collection[int]) -> float | Missing:
    import psutil  # noqa: PLC0415 - 30 ms, and Linux does without

    times: Sequence[Any] = psutil.cpu_times(percpu=True) if cpus else [psutil.cpu_times()]
    if cpus and max(cpus) >= len(times):
        return _hidden(f"the times of CPU {max(cpus)}", where="psutil.cpu_times")
    rows = [times[cpu] for cpu in cpus] if cpus else times
    return float(sum(getattr(row, name, 0.0) for row in rows for name in ("user", "nice", "system", "irq", "softirq")))


def _read_foreign(now_s: float, cpus: Collection[int]) -> HostState:
    """Read what psutil tells on a system without ``/proc/stat``."""
    untold = Missing(code="not_on_this_os", why="hwbench reads this on Linux only")
    return HostState(
        monotonic_s=now_s,
        load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else untold,
        cpu_hz=untold,
        temperature_c=untold,
        throttle_events=untold,
        steal_s=untold,
        busy_s=_psutil_busy(cpus),
        memory_available_bytes=_psutil_available(),
        swap_out_bytes=untold,
        governor=untold,
    )
