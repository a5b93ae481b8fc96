"""RAPL's energy counters through the kernel's performance events.

The same registers as :mod:`hwbench.meters.rapl` reads, by another door: useful where powercap is masked, or where one
process may be given ``CAP_PERFMON`` and nothing else. The kernel accumulates to 64 bits, so nothing wraps, and a count
begins at zero when the event is opened. There is no file to be read by others: whoever opens, reads.

Each joule counts once: ``energy-pkg`` and ``energy-ram`` are added, ``energy-cores`` and ``energy-gpu`` lie inside the
package, ``energy-psys`` contains it. ``cpumask`` names a CPU for each counter. Before Linux 6.11 it names one for each
*die*, and on AMD all dies of a package show one register: there one CPU a package is taken.

Sources: arch/x86/events/rapl.c of Linux, Documentation/admin-guide/perf-security.rst.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwbench import resources
from hwbench.energy.uncertainty import GAIN
from hwbench.meters.hwmon_tree import SensorInstrument, absent, first_missing, text_of
from hwbench.meters.perf_calls import KernelCalls, PerfCalls, attributes
from hwbench.meters.thermal import context_sources
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.energy import Channel, Role
from hwbench.units import Clock, MonotonicClock

FOLDER = "sys/bus/event_source/devices/power"
UPDATE_PERIOD_S = 1e-3  # as in rapl.py
MAX_POWER_W = 1000.0  # as in rapl.py
_LSB_J = 2.0**-14  # of the register; the event's own unit of 2^-32 J is finer than what it counts
_PROBE_S = 20 * UPDATE_PERIOD_S
_DOMAINS: dict[str, tuple[str, Role]] = {
    "energy-pkg": ("", "total"),
    "energy-ram": ("/dram", "total"),
    "energy-cores": ("/core", "part"),
    "energy-gpu": ("/uncore", "part"),
    "energy-psys": ("psys", "part"),
}
_ALIKE = {"AuthenticAMD", "HygonGenuine"}  # every die of a package shows the package's register
_CURE_PERMISSION = (
    "it takes CAP_PERFMON or perf_event_paranoid 0 or less: sudo sysctl kernel.perf_event_paranoid=0 (all users, until "
    "the next boot), or a copy of Python with sudo setcap cap_perfmon=ep; a container needs --cap-add PERFMON, and a "
    "seccomp profile that allows perf_event_open"
)


@dataclass(frozen=True, kw_only=True)
class Event:
    """One counter to open: on ``cpu``, in steps of ``scale_j``."""

    domain: str
    role: Role
    config: int
    scale_j: float
    cpu: int


@dataclass(frozen=True, kw_only=True)
class Pmu:
    """The ``power`` unit of the kernel."""

    kind: int
    events: tuple[Event, ...]


class Perf:
    """The meter.

    Args:
        root: where ``/sys`` and ``/proc`` are; ``resources.sysfs_root()`` when not given.
        clock: tests pass a fake.
        calls: tests pass their own kernel.
    """

    name = "perf"
    priority = 45

    def __init__(self, root: Path | None = None, clock: Clock | None = None, calls: PerfCalls | None = None) -> None:
        self.root = resources.sysfs_root() if root is None else root
        self.clock = MonotonicClock() if clock is None else clock
        self.calls = KernelCalls() if calls is None else calls

    def supports(self, device: Device) -> Support:
        """Say whether the counters can be opened and move; takes some 20 ms.

        Codes: ``wrong_device``, ``no_sensor``, ``not_exposed_in_vm``, ``masked_by_container``, ``permission_denied``,
        ``not_exposed`` (the kernel does not know the events), ``counter_unreadable``, ``counter_constant``.
        """
        instrument = self.open(device)
        if isinstance(instrument, Missing):
            return Support(reasons=(instrument,))
        source = instrument.sources[0]
        before = source.read()
        self.clock.sleep(_PROBE_S)
        after = source.read()
        instrument.close()
        failed = first_missing([*before, *after], lambda _: False)
        if failed is not None:
            return Support(reasons=(failed,))
        if list(before) == list(after):
            why = f"the energy events did not move in {_PROBE_S:.3g} s"
            cure = "some hypervisors answer reads with a constant; measure on the physical machine"
            return unsupported("counter_constant", why, cure)
        return Support()

    def open(self, device: Device) -> SensorInstrument | Missing:
        """Open the counters; see :meth:`supports` for the codes."""
        if device.kind != "cpu":
            return unsupported("wrong_device", f"perf measures the CPU of this machine, not {device.name}").reasons[0]
        pmu = find_pmu(self.root)
        if pmu is None:
            cure = "sudo modprobe rapl (x86 with RAPL, Linux 3.14 or later; AMD 5.8 or later)"
            return absent("energy events (the perf unit «power»)", FOLDER, device, self.root, cure)
        counters = _open(pmu, self.calls)
        if isinstance(counters, Missing):
            return counters
        return SensorInstrument(
            meter=self.name,
            boundary="CPU packages, DRAM where it is named, and all that runs on them",
            provenance="vendor_modelled",
            sources=(counters, *context_sources(self.root)),
            settings={} if isinstance(device.virtual, Missing) else {"flags": "vm"},
        )


class _Counters:
    """The opened events. They are read at marks alone: the kernel sees to it that none wraps."""

    every_s: float | None = None

    def __init__(self, opened: Sequence[tuple[Event, int]], calls: PerfCalls) -> None:
        self._opened, self._calls = opened, calls
        self.channels = tuple(_channel(event) for event, _ in opened)

    def read(self) -> Sequence[float | Missing]:
        return [self._read(event, file) for event, file in self._opened]

    def _read(self, event: Event, file: int) -> float | Missing:
        try:
            return self._calls.read(file) * event.scale_j
        except OSError as error:
            return Missing(code="counter_unreadable", why=f"the event of {event.domain} cannot be read: {error}")

    def close(self) -> None:
        for _, file in self._opened:
            self._calls.close(file)
        self._opened = ()


def _channel(event: Event) -> Channel:
    return Channel(
        name=event.domain,
        quantity="energy",
        role=event.role,
        source=f"perf_event_open(power, config {event.config:#x}, cpu {event.cpu})",
        period_s=UPDATE_PERIOD_S,
        sensed_s=UPDATE_PERIOD_S,
        lsb=_LSB_J,
        max_w=MAX_POWER_W,
        gain=GAIN["rapl"].standard,
        gain_basis=GAIN["rapl"].basis,
        essential=event.role == "total" and "/" not in event.domain,
    )


def _open(pmu: Pmu, calls: PerfCalls) -> _Counters | Missing:
    """Open every event, or say why a package's cannot be; parts that cannot are left out."""
    opened: list[tuple[Event, int]] = []
    for event in pmu.events:
        file = _opened(event, pmu.kind, calls)
        if isinstance(file, int):
            opened.append((event, file))
        elif event.role == "total":
            _Counters(opened, calls).close()
            return file
    return _Counters(opened, calls)


def _opened(event: Event, kind: int, calls: PerfCalls) -> int | Missing:
    try:
        return calls.open(attributes(kind, event.config), event.cpu)
    except OSError as error:
        return _refused(event, error)


def _refused(event: Event, error: OSError) -> Missing:
    if error.errno in {errno.EACCES, errno.EPERM}:
        why = "the energy events may not be opened by this user"
        return Missing(code="permission_denied", why=why, cure=_CURE_PERMISSION)
    if error.errno in {errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
        return Missing(code="not_exposed", why=f"the kernel does not offer the event of {event.domain}: {error}")
    return Missing(code="counter_unreadable", why=f"the event of {event.domain} cannot be opened: {error}")


def find_pmu(root: Path) -> Pmu | None:
    """Return the ``power`` unit and its events, a package's first; None where there is no package event."""
    kind = text_of(root / FOLDER / "type") or ""
    cpus = _cpus(root)
    if not kind.isdecimal() or not cpus:
        return None
    events: list[Event] = []
    for name, (suffix, role) in _DOMAINS.items():
        config, scale_j = _config(root / FOLDER / "events" / name), _scale_j(root / FOLDER / "events", name)
        if config is None or scale_j is None:
            continue
        for package, cpu in list(cpus.items())[: 1 if name == "energy-psys" else None]:
            domain = suffix if name == "energy-psys" else f"{package}{suffix}"
            events.append(Event(domain=domain, role=role, config=config, scale_j=scale_j, cpu=cpu))
    has_package = any(event.role == "total" and "/" not in event.domain for event in events)
    return Pmu(kind=int(kind), events=tuple(events)) if has_package else None


def _cpus(root: Path) -> dict[str, int]:
    """Return a CPU for each counter, by the name of what it counts: ``package-0``, ``package-0-die-1``."""
    listed = [int(cpu) for cpu in _expanded(text_of(root / FOLDER / "cpumask") or "")]
    alike = _vendor(root) in _ALIKE
    found: dict[str, int] = {}
    packages = {cpu: text_of(root / f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id") for cpu in listed}
    for cpu in listed:
        package = packages[cpu] if packages[cpu] is not None else str(cpu)
        dies = [other for other in listed if packages[other] == packages[cpu]]
        several = len(dies) > 1 and packages[cpu] is not None and not alike
        found.setdefault(f"package-{package}-die-{dies.index(cpu)}" if several else f"package-{package}", cpu)
    return found


def _expanded(text: str) -> list[int]:
    """Read the kernel's list of CPUs, ``0,18-19``."""
    ranges = re.findall(r"(\d+)(?:-(\d+))?", text)
    return [cpu for first, last in ranges for cpu in range(int(first), int(last or first) + 1)]


def _vendor(root: Path) -> str:
    match = re.search(r"^vendor_id\s*:\s*(\S+)", text_of(root / "proc/cpuinfo") or "", re.MULTILINE)
    return match[1] if match else ""


def _config(path: Path) -> int | None:
    """Read ``event=0x02``; None for anything else, which this program does not understand."""
    match = re.fullmatch(r"event=(0x[0-9a-fA-F]+|\d+)", text_of(path) or "")
    return int(match[1], 0) if match else None


def _scale_j(folder: Path, name: str) -> float | None:
    """Return the size of one count; None where the unit is not the joule."""
    unit, scale = text_of(folder / f"{name}.unit"), text_of(folder / f"{name}.scale") or ""
    try:
        return float(scale) if unit == "Joules" else None
    except ValueError:
        return None
