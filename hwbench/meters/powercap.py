"""The powercap tree of Linux: which energy counters there are, which of them to add, and why there may be none.

``/sys/class/powercap/`` lists every zone flat: ``intel-rapl:0`` is a package or ``psys``, ``intel-rapl:0:1`` a part of
package 0 (the name is ``intel-rapl`` on AMD too), ``intel-rapl-mmio:0`` the same package seen through another
register. Each joule must count once:

* ``package-N`` contains its ``core`` and ``uncore``: they are a breakdown;
* ``dram`` lies outside its package: it is added;
* ``psys`` (the platform) contains the packages, and on some boards more: never added;
* an ``intel-rapl-mmio`` zone that also exists as ``intel-rapl`` is left out.

Layout: Documentation/power/powercap/powercap.rst of the kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hwbench.records.base import Missing

ZoneKind = Literal["package", "dram", "part", "platform"]

_ENTRY = re.compile(r"(intel-rapl|intel-rapl-mmio):(\d+)(?::(\d+))?")
_PACKAGE = re.compile(r"package-\d+(-die-\d+)?")
_CURE_PERMISSION = (
    "the kernel keeps these counters for root (CVE-2020-8694, a side channel: open them only where you trust every "
    "user). Until the next boot: sudo chmod a+r /sys/class/powercap/intel-rapl*/energy_uj. To stay: put "
    'SUBSYSTEM=="powercap", KERNEL=="intel-rapl*:*", RUN+="/bin/chmod a+r /sys%p/energy_uj" into '
    "/etc/udev/rules.d/70-rapl.rules and run sudo udevadm trigger --subsystem-match=powercap --action=add. "
    "In a container, do it on the host"
)
_CURE_CONTAINER = (
    "start the container with -v /sys:/host/sys:ro -v /proc:/host/proc:ro (Docker masks "
    "/sys/devices/virtual/powercap) and set HWBENCH_SYSFS_ROOT=/host"
)


@dataclass(frozen=True, kw_only=True)
class Zone:
    """One energy counter. ``domain`` names it: ``package-0``, ``package-0/dram``, ``psys``."""

    domain: str
    kind: ZoneKind
    counter: Path
    range_uj: int | None  # where the counter restarts from zero; None when the kernel does not say

    @property
    def counted(self) -> bool:
        """Whether it belongs in the total."""
        return self.kind in {"package", "dram"}


def find_zones(root: Path, *, virtual: bool, container: bool) -> tuple[Zone, ...] | Missing:
    """Return the zones of the tree under ``root``, each joule's once, or why there is none.

    Args:
        root: where ``/sys`` and ``/proc`` lie.
        virtual: the machine is known to be virtual; the CPU's own flag is looked at besides.
        container: this process is known to run in a container.
    """
    folder = root / "sys/class/powercap"
    entries = _entries(folder)
    if isinstance(entries, Missing):
        return entries
    zones: dict[str, Zone] = {}
    origin: dict[str, str] = {}
    names: dict[str, str] = {}
    for driver, entry in entries:
        name = _text(entry / "name")
        if name is None:
            continue
        names[entry.name] = name
        parent = names.get(entry.name.rpartition(":")[0])
        domain = name if parent is None else f"{parent}/{name}"
        if origin.get(domain, driver) != driver:
            continue
        if domain in zones:  # the same name twice in one driver: two counters, which may or may not be mirrors
            domain = f"{domain}@{entry.name}"
        origin[domain] = driver
        zones[domain] = Zone(
            domain=domain,
            kind=_kind(name, top=parent is None),
            counter=entry / "energy_uj",
            range_uj=_positive(_text(entry / "max_energy_range_uj")),
        )
    if any(zone.kind == "package" for zone in zones.values()):
        return tuple(zones.values())
    masked = bool(entries) or _is_empty(root / "sys/devices/virtual/powercap")
    return _why_absent(masked=masked and not zones, virtual=virtual or has_hypervisor(root), container=container)


def _entries(folder: Path) -> list[tuple[str, Path]] | Missing:
    """Return (driver, zone folder), ``intel-rapl`` before its duplicates and parents before their parts."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except PermissionError:
        return Missing(code="permission_denied", why=f"{folder} may not be listed", cure="run on the host, or as root")
    except OSError:
        return []
    found = [match for match in map(_ENTRY.fullmatch, names) if match]
    found.sort(key=lambda match: (match[1], int(match[2]), int(match[3] or -1)))
    return [(match[1], folder / match[0]) for match in found]


def _kind(name: str, *, top: bool) -> ZoneKind:
    if top and _PACKAGE.fullmatch(name):
        return "package"
    if name == "dram":
        return "dram"
    return "platform" if name == "psys" else "part"


def _why_absent(*, masked: bool, virtual: bool, container: bool) -> Missing:
    if masked:
        return Missing(
            code="masked_by_container", why="the energy counters are masked in this container", cure=_CURE_CONTAINER
        )
    if virtual:
        return Missing(
            code="not_exposed_in_vm",
            why="this is a virtual machine, and its hypervisor shows no energy counters",
            cure="measure on the physical machine, or on a bare-metal instance",
        )
    if container:
        return Missing(code="masked_by_container", why="this container shows no energy counters", cure=_CURE_CONTAINER)
    return Missing(
        code="no_rapl",
        why="the kernel shows no RAPL package (/sys/class/powercap/intel-rapl:*)",
        cure="sudo modprobe intel_rapl_msr (AMD: Linux 5.11 or later); other CPUs have no RAPL",
    )


def read_uj(zone: Zone) -> int | Missing:
    """Return the counter in microjoules, or why it cannot be read."""
    try:
        return int(zone.counter.read_bytes())
    except PermissionError:
        return Missing(
            code="permission_denied",
            why=f"{zone.counter} may not be read by this user",
            cure=_CURE_PERMISSION,
        )
    except (OSError, ValueError) as error:
        return Missing(code="counter_unreadable", why=f"{zone.counter} cannot be read: {error}")


def has_hypervisor(root: Path) -> bool:
    """Say whether the CPU tells of a hypervisor above it (x86 only)."""
    for line in (_text(root / "proc/cpuinfo") or "").splitlines():
        if line.startswith("flags"):
            return "hypervisor" in line.split()
    return False


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _positive(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and int(text) > 0 else None


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
