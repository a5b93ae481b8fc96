"""Arm SCMI power capping: power that the firmware of an Arm system reports, through powercap.

``/sys/class/powercap/arm-scmi:*`` looks like RAPL's tree, but holds no energy counter: the driver offers ``power_uw``,
the mean over the *power averaging interval*, which is the zone's ``constraint_0_time_window_us``
(drivers/powercap/arm_scmi_powercap.c). Zones nest, and a zone contains those below it. One zone on top is the total;
several on top are refused, because nothing says that they do not overlap.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hwbench import resources
from hwbench.energy.uncertainty import GAIN
from hwbench.meters.hwmon_tree import Attribute, Reader, Readings, SensorInstrument, absent, numbered, text_of
from hwbench.meters.thermal import context_sources
from hwbench.protocols import NOT_NOW
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.energy import Channel
from hwbench.units import Clock, MonotonicClock

FOLDER = "sys/class/powercap"
EVERY_S = 0.05
_ENTRY = re.compile(r"arm-scmi(:\d+)+")
_UNKNOWN = Missing(code="not_known", why="SCMI does not tell how often the firmware updates its mean")


@dataclass(frozen=True, kw_only=True)
class PowerZone:
    """One zone. ``depth`` 0 is on top; ``name`` is that of the firmware, after those of the zones it lies in."""

    name: str
    folder: Path
    depth: int
    averaging_s: float | Missing


class Scmi:
    """The meter.

    Args:
        root: where ``/sys`` is; ``resources.sysfs_root()`` when not given.
        clock: tests pass a fake.
    """

    name = "scmi"
    priority = 42

    def __init__(self, root: Path | None = None, clock: Clock | None = None) -> None:
        self.root = resources.sysfs_root() if root is None else root
        self.clock = MonotonicClock() if clock is None else clock

    def supports(self, device: Device) -> Support:
        """Say whether there is one zone on top, and it tells its power.

        Codes: ``wrong_device``, ``no_sensor``, ``not_exposed_in_vm``, ``masked_by_container``, ``no_total``,
        ``not_monitored``, ``permission_denied``, ``sensor_unreadable``.
        """
        instrument = self.open(device)
        if isinstance(instrument, Missing):
            return Support(reasons=(instrument,))
        value = instrument.sources[0].read()[0]
        instrument.close()
        failed = isinstance(value, Missing) and value.code != NOT_NOW
        return Support(reasons=(value,)) if failed and isinstance(value, Missing) else Support()

    def open(self, device: Device) -> SensorInstrument | Missing:
        """Find the zones; see :meth:`supports` for the codes."""
        if device.kind != "cpu":
            return unsupported("wrong_device", f"scmi measures this machine, not {device.name}").reasons[0]
        zones = find_power_zones(self.root)
        if not zones:
            return absent("SCMI power zone (arm-scmi)", FOLDER, device, self.root)
        top = [zone for zone in zones if zone.depth == 0]
        if len(top) != 1:
            names = ", ".join(zone.name for zone in top)
            why = f"{len(top)} SCMI zones stand side by side ({names}), and nothing says whether they overlap"
            return Missing(code="no_total", why=why, cure="measure with an external meter")
        if not (top[0].folder / "power_uw").exists():
            return Missing(code="not_monitored", why=f"the firmware does not report the power of {top[0].name}")
        monitored = [zone for zone in zones if (zone.folder / "power_uw").exists()]
        return SensorInstrument(
            meter=self.name,
            boundary=f"what the firmware calls {top[0].name}",
            provenance="measured_onboard",
            sources=(Readings([_described(zone) for zone in monitored], EVERY_S), *context_sources(self.root)),
            settings={"zones": ", ".join(zone.name for zone in zones)},
        )


def find_power_zones(root: Path) -> list[PowerZone]:
    """Return the zones, parents before those they contain."""
    zones: list[PowerZone] = []
    names: dict[str, str] = {}
    for folder in numbered(root / FOLDER, "arm-scmi:*"):
        own = text_of(folder / "name")
        if own is None or not _ENTRY.fullmatch(folder.name):
            continue
        parent = names.get(folder.name.rpartition(":")[0])
        name = own if parent is None else f"{parent}/{own}"
        names[folder.name] = name if name not in names.values() else f"{name}@{folder.name}"
        window_us = text_of(folder / "constraint_0_time_window_us") or ""
        told = window_us.isdecimal() and int(window_us) > 0
        averaging = Missing(code="not_known", why="the zone does not tell its averaging interval")
        zones.append(
            PowerZone(
                name=names[folder.name],
                folder=folder,
                depth=folder.name.count(":") - 1,
                averaging_s=int(window_us) / 1e6 if told else averaging,
            )
        )
    return zones


def _described(zone: PowerZone) -> tuple[Channel, Reader]:
    path = zone.folder / "power_uw"
    channel = Channel(
        name=zone.name,
        quantity="power",
        role="total" if zone.depth == 0 else "part",
        source=str(path),
        period_s=_UNKNOWN,
        averaging_s=zone.averaging_s,
        gain=GAIN["soc_telemetry"].standard,
        gain_basis=GAIN["soc_telemetry"].basis,
    )
    return channel, Attribute(path, 1e-6)
