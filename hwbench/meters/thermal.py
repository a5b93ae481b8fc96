"""What goes along with power: temperatures, clocks and throttling of the CPU, as channels that no energy is made of.

:func:`context_sources` gives sources that any instrument may append to its own. One is read once a second: the package
temperature of the CPU, or the thermal zones where there is no such sensor, and the clock of the fastest core of each
kind. The other is read at marks alone: how long each package has been throttled (``throttle_total_time_ms``). The
kernel adds to that counter when an episode *ends*, so one that goes on is not in it yet. AMD and Arm have no such
counter.

A thermal zone whose part of the chip is switched off answers EAGAIN: then there is no reading, and nothing failed.

Sources: Documentation/hwmon/{coretemp,k10temp}.rst, Documentation/driver-api/thermal/sysfs-api.rst (m°C),
Documentation/admin-guide/pm/cpufreq.rst (kHz), arch/x86/kernel/cpu/mce/therm_throt.c.
"""

from __future__ import annotations

import re
from pathlib import Path

from hwbench.meters.hwmon_tree import Attribute, Chip, Reader, Readings, find_chips, numbered, text_of
from hwbench.records.base import Missing
from hwbench.records.energy import Channel, Quantity

EVERY_S = 1.0
_CHIPS = {"coretemp": r"Package id \d+", "k10temp": r"Tdie|Tctl", "zenpower": r"Tdie|Tctl", "smpro_hwmon": r"temp1 SoC"}
_ZONES = re.compile(r"cpu|gpu|x86_pkg_temp|^tj|^soc|^cv", re.IGNORECASE)
_MOST_ZONES = 10
_MOST_KINDS = 4  # of cores
_MOST_CORES = 8  # of a kind, whose clocks are read
_UNKNOWN = Missing(code="not_known", why="how often this sensor changes is not documented")

_Pairs = list[tuple[Channel, Reader]]


def context_sources(root: Path, every_s: float = EVERY_S) -> tuple[Readings, ...]:
    """Return the sources of temperatures and clocks, and of throttling; none where the kernel shows nothing.

    Args:
        root: where ``/sys`` lies.
        every_s: how often to read temperatures and clocks.
    """
    polled = [*temperatures(root), *_clocks(root)]
    throttled = _throttles(root)
    sources = []
    if polled:
        sources.append(Readings(polled, every_s))
    if throttled:
        sources.append(Readings(throttled, None))
    return tuple(sources)


def temperatures(root: Path) -> _Pairs:
    """Return the CPU's temperature sensors: of the sensor chips, else of the thermal zones."""
    found: _Pairs = []
    for chip in find_chips(root):
        if chip.name in _CHIPS:
            found += [_context(f"{chip.name}:{label}", "temperature", path, 1e-3) for label, path in _sensors(chip)]
    found = found or _zones(root)
    return list({channel.name: (channel, reader) for channel, reader in found}.values())


def _sensors(chip: Chip) -> list[tuple[str, Path]]:
    """Return label and file of the sensors that stand for the package.

    On some AMD CPUs Tctl is Tdie plus an offset, for the fan control (Documentation/hwmon/k10temp.rst).
    """
    labelled = [(chip.label(name) or "", chip.path(name)) for name in chip.inputs(r"temp\d+_input")]
    found = [(label, path) for label, path in labelled if path is not None and re.fullmatch(_CHIPS[chip.name], label)]
    return [item for item in found if item[0] != "Tctl"] if "Tdie" in dict(found) else found


def _zones(root: Path) -> _Pairs:
    folder = root / "sys/class/thermal"
    kinds = [(text_of(zone / "type") or "", zone / "temp") for zone in numbered(folder, "thermal_zone*")]
    wanted = [(kind, path) for kind, path in kinds if _ZONES.search(kind)]
    return [_context(f"zone:{kind}", "temperature", path, 1e-3) for kind, path in wanted[:_MOST_ZONES]]


class _Fastest:
    """The highest of several clocks: idle cores sleep or slow down, and say nothing about the busy ones."""

    def __init__(self, paths: list[Path]) -> None:
        self._clocks = [Attribute(path, 1e3) for path in paths]

    def read(self) -> float | Missing:
        values = [clock.read() for clock in self._clocks]
        known = [value for value in values if isinstance(value, float)]
        return max(known) if known else next(value for value in values if isinstance(value, Missing))

    def close(self) -> None:
        for clock in self._clocks:
            clock.close()


def _clocks(root: Path) -> _Pairs:
    """Return one clock for each kind of core, told apart by its highest frequency."""
    folder = root / "sys/devices/system/cpu/cpufreq"
    kinds: dict[int, list[Path]] = {}
    for policy in numbered(folder, "policy*"):
        highest, clock = text_of(policy / "cpuinfo_max_freq") or "", policy / "scaling_cur_freq"
        if highest.isdecimal() and clock.exists():
            kinds.setdefault(int(highest), []).append(clock)
    pairs: _Pairs = []
    for khz in sorted(kinds, reverse=True)[:_MOST_KINDS]:
        channel, _ = _context(f"clock:cores up to {khz / 1e6:g} GHz", "frequency", kinds[khz][0], 1e3)
        pairs.append((channel, _Fastest(kinds[khz][:_MOST_CORES])))
    return pairs


def _throttles(root: Path) -> _Pairs:
    """Return one counter a package: every CPU of a package shows the same."""
    found: dict[str, tuple[Channel, Reader]] = {}
    for cpu in numbered(root / "sys/devices/system/cpu", "cpu[0-9]*"):
        counter = cpu / "thermal_throttle/package_throttle_total_time_ms"
        package = text_of(cpu / "topology/physical_package_id")
        if package is not None and package not in found and counter.exists():
            found[package] = _context(f"cpu_thermal:package-{package}", "throttled", counter, 1e-3)
    return list(found.values())


def _context(name: str, quantity: Quantity, path: Path, scale: float) -> tuple[Channel, Reader]:
    channel = Channel(name=name, quantity=quantity, role="context", source=str(path), period_s=_UNKNOWN)
    return channel, Attribute(path, scale)
