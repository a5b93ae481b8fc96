"""RAPL, the energy counters of x86 CPUs, through powercap.

The counters are read at the edges of a window; between the two, only as often as a wrap could otherwise be missed.
Which counters are added up is in :mod:`hwbench.meters.powercap`.

The total is that of the sockets, whoever kept them busy: other processes and the idle power are in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hwbench import resources
from hwbench.energy.integrate import poll_interval_s, smallest_range_j
from hwbench.energy.uncertainty import GAIN
from hwbench.meters.hwmon_tree import SensorInstrument
from hwbench.meters.powercap import Zone, find_zones, has_hypervisor, read_uj
from hwbench.meters.thermal import context_sources
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.energy import Channel
from hwbench.units import Clock, MonotonicClock

UPDATE_PERIOD_S = 1e-3  # Hähnel et al., "Measuring energy consumption for short code paths using RAPL", 2012
MAX_POWER_W = 1000.0  # no zone draws more: about twice the largest socket sold
_LSB_J = 2.0**-14  # 61 µJ, the coarsest of the usual units; the kernel does not tell
_PROBE_S = 20 * UPDATE_PERIOD_S


class Rapl:
    """The meter.

    Args:
        root: where ``/sys`` and ``/proc`` are; ``resources.sysfs_root()`` when not given.
        clock: tests pass a fake.
    """

    name = "rapl"
    priority = 50

    def __init__(self, root: Path | None = None, clock: Clock | None = None) -> None:
        self.root = resources.sysfs_root() if root is None else root
        self.clock = MonotonicClock() if clock is None else clock

    def supports(self, device: Device) -> Support:
        """Say whether the counters are here, readable and moving; takes some 20 ms.

        Codes: ``wrong_device``, ``no_rapl``, ``not_exposed_in_vm``, ``masked_by_container``, ``permission_denied``,
        ``counter_unreadable``, ``counter_constant``.
        """
        if device.kind != "cpu":
            return unsupported("wrong_device", f"rapl measures the CPU of this machine, not {device.name}")
        virtual, container = not isinstance(device.virtual, Missing), not isinstance(device.container, Missing)
        zones = find_zones(self.root, virtual=virtual, container=container)
        if isinstance(zones, Missing):
            return Support(reasons=(zones,))
        before = _read_counted(zones)
        self.clock.sleep(_PROBE_S)
        after = _read_counted(zones)
        for reading in (before, after):
            if isinstance(reading, Missing):
                return Support(reasons=(reading,))
        return Support(reasons=(_constant(_PROBE_S),)) if before == after else Support()

    def open(self, device: Device) -> SensorInstrument | Missing:
        """Find the counters; see :meth:`supports` for the codes."""
        virtual, container = not isinstance(device.virtual, Missing), not isinstance(device.container, Missing)
        zones = find_zones(self.root, virtual=virtual, container=container)
        if isinstance(zones, Missing):
            return zones
        return SensorInstrument(
            meter=self.name,
            boundary="CPU packages, DRAM where it is named, and all that runs on them",
            provenance="vendor_modelled",
            sources=(_Zones(zones), *context_sources(self.root)),
            settings={"flags": "vm"} if virtual or has_hypervisor(self.root) else {},
        )


class _Zones:
    """All counters, read one after the other."""

    def __init__(self, zones: tuple[Zone, ...]) -> None:
        self._zones = zones
        self.channels = tuple(_channel(zone) for zone in zones)
        self.every_s: float | None = poll_interval_s(
            min(smallest_range_j(channel.range) for channel in self.channels), MAX_POWER_W
        )

    def read(self) -> Sequence[float | Missing]:
        values = [read_uj(zone) for zone in self._zones]
        return [value if isinstance(value, Missing) else value / 1e6 for value in values]

    def close(self) -> None:
        """Nothing is held open."""


def _channel(zone: Zone) -> Channel:
    return Channel(
        name=zone.domain,
        quantity="energy",
        role="total" if zone.counted else "part",
        source=str(zone.counter),
        period_s=UPDATE_PERIOD_S,
        sensed_s=UPDATE_PERIOD_S,
        lsb=_LSB_J,
        range=None if zone.range_uj is None else zone.range_uj / 1e6,
        max_w=MAX_POWER_W,
        gain=GAIN["rapl"].standard,
        gain_basis=GAIN["rapl"].basis,
        essential=zone.kind == "package",
        may_mirror=zone.kind == "package",
    )


def _read_counted(zones: Iterable[Zone]) -> list[int] | Missing:
    values: list[int] = []
    for zone in zones:
        if zone.counted:
            value = read_uj(zone)
            if isinstance(value, Missing):
                return value
            values.append(value)
    return values


def _constant(window_s: float) -> Missing:
    return Missing(
        code="counter_constant",
        why=f"the RAPL counters did not move in {window_s:.3g} s",
        cure="some hypervisors answer reads with a constant; measure on the physical machine",
    )
