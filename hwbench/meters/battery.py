"""The battery of a laptop or a board: what its fuel gauge says the whole device draws.

Only while it discharges: with a charger connected the gauge shows what goes in or out of the cells, which is not what
the device draws. So a window during which a charger is plugged in has no reading.

Gauges differ (Documentation/ABI/testing/sysfs-class-power; µA, µV, µW, µWh):

* Some have ``power_now``, others ``current_now`` and ``voltage_now``.
* By the kernel's rule current is negative while discharging; many drivers show the amount, or the other sign. Which way
  energy goes is taken from ``status``, and the sign must not change on the way.
* Some drivers give mA or mV. A computer that runs this program draws more than 20 mA, and no battery has less than
  0.1 V: smaller values are taken for the coarser unit, and every reading is flagged ``unit_guess``.
* Updates come every 0.2 to 5 s. How often is found from the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwbench import resources
from hwbench.energy.uncertainty import GAIN
from hwbench.meters.hwmon_tree import Attribute, SensorInstrument, absent, first_missing, numbered, text_of
from hwbench.meters.thermal import context_sources
from hwbench.protocols import NOT_NOW
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.energy import Channel, Role
from hwbench.units import Clock, MonotonicClock

FOLDER = "sys/class/power_supply"
EVERY_S = 0.25
LEAST_A = 0.02  # less is no computer at work: the unit is mA
LEAST_V = 0.1  # less is no battery: the unit is mV
_CURE = "unplug the charger; a charge limit of 100 % does not help: the device then draws from the charger"
_FROM_DATA = Missing(code="not_known", why="how often the gauge updates differs; it is found from the data")
_J_PER_UWH = 3.6e-3


@dataclass(frozen=True, kw_only=True)
class Battery:
    """One battery's folder, and the factors that make A and V of its numbers."""

    folder: Path
    ampere: float = 1e-6
    volt: float = 1e-6

    @property
    def guessed(self) -> bool:
        """Whether its unit is not the kernel's."""
        return self.ampere != 1e-6 or self.volt != 1e-6


class BatteryGauge:
    """The meter.

    Args:
        root: where ``/sys`` is; ``resources.sysfs_root()`` when not given.
        clock: tests pass a fake.
    """

    name = "battery"
    priority = 10

    def __init__(self, root: Path | None = None, clock: Clock | None = None) -> None:
        self.root = resources.sysfs_root() if root is None else root
        self.clock = MonotonicClock() if clock is None else clock

    def supports(self, device: Device) -> Support:
        """Say whether a battery discharges, and tells how fast.

        Codes: ``wrong_device``, ``no_sensor``, ``not_exposed_in_vm``, ``masked_by_container``, ``battery_charging`` (or
        full, or idle: a charger is connected), ``no_gauge``, ``permission_denied``, ``sensor_unreadable``.
        """
        instrument = self.open(device)
        if isinstance(instrument, Missing):
            return Support(reasons=(instrument,))
        failed = first_missing(instrument.sources[0].read(), lambda code: code == NOT_NOW)
        instrument.close()
        return Support() if failed is None else Support(reasons=(failed,))

    def open(self, device: Device) -> SensorInstrument | Missing:
        """Find the batteries; see :meth:`supports` for the codes."""
        if device.kind != "cpu":
            return unsupported("wrong_device", f"battery measures this machine, not {device.name}").reasons[0]
        folders = [path for path in numbered(self.root / FOLDER, "*") if _is_battery(path)]
        if not folders:
            return absent("battery", FOLDER, device, self.root)
        charging = _charging(self.root / FOLDER, folders)
        if charging is not None:
            return charging
        batteries = [_units(folder) for folder in folders if _has_gauge(folder)]
        if not batteries:
            names = ", ".join(folder.name for folder in folders)
            return Missing(code="no_gauge", why=f"{names} tells neither power nor current and voltage")
        settings = {battery.folder.name: _told(battery.folder) for battery in batteries}
        if any(battery.guessed for battery in batteries):
            settings["flags"] = "unit_guess"
        counters = [_Remaining(battery.folder) for battery in batteries if (battery.folder / "energy_now").exists()]
        checks = counters if len(counters) == len(batteries) else []
        return SensorInstrument(
            meter=self.name,
            boundary="the whole device, screen and radios included, out of the battery",
            provenance="measured_onboard",
            sources=(_Gauges(self.root / FOLDER, batteries), *checks, *context_sources(self.root)),
            settings=settings,
        )


class _Gauges:
    """All batteries, and whether a charger is connected, read together.

    Of several, the sum is the total and each of them a part: the device draws from one after the other, and the one
    that rests shows nothing for minutes, which of a sensor alone would mean that it is stuck.
    """

    every_s: float | None = EVERY_S

    def __init__(self, folder: Path, batteries: Sequence[Battery]) -> None:
        self._folder, self._batteries = folder, batteries
        self._gauges = [_Gauge(battery) for battery in batteries]
        names = [battery.folder.name for battery in batteries]
        parts = tuple(
            _channel(battery.folder.name, str(battery.folder), "total" if len(batteries) == 1 else "part")
            for battery in batteries
        )
        self.channels = parts if len(parts) == 1 else (_channel(" + ".join(names), str(folder), "total"), *parts)

    def read(self) -> Sequence[float | Missing]:
        charging = _charging(self._folder, [battery.folder for battery in self._batteries])
        if charging is not None:
            return [charging] * len(self.channels)
        values = [gauge.read() for gauge in self._gauges]
        return values if len(values) == 1 else [_sum(values), *values]

    def close(self) -> None:
        for gauge in self._gauges:
            gauge.close()


def _channel(name: str, source: str, role: Role) -> Channel:
    return Channel(
        name=name,
        quantity="power",
        role=role,
        source=source,
        period_s=_FROM_DATA,
        averaging_s=Missing(code="not_known", why="over how long a gauge averages is not documented"),
        gain=GAIN["fuel_gauge"].standard,
        gain_basis=GAIN["fuel_gauge"].basis,
    )


def _sum(values: Sequence[float | Missing]) -> float | Missing:
    """Return the sum, or the first reading that failed."""
    failed = first_missing(values, lambda _: False)
    return failed if failed is not None else sum(value for value in values if not isinstance(value, Missing))


class _Gauge:
    """The power of one battery, as an amount; its sign must stay what it was at first."""

    def __init__(self, battery: Battery) -> None:
        folder, self._name, self._sign = battery.folder, battery.folder.name, 0.0
        if (folder / "power_now").exists():
            self._factors = [Attribute(folder / "power_now", 1e-6)]
        else:
            self._factors = [
                Attribute(folder / "current_now", battery.ampere),
                Attribute(folder / "voltage_now", battery.volt),
            ]

    def read(self) -> float | Missing:
        power_w = 1.0
        for factor in self._factors:
            value = factor.read()
            if isinstance(value, Missing):
                return value
            power_w *= value
        sign = math.copysign(1.0, power_w) if power_w else 0.0
        if sign * self._sign < 0:
            why = f"the current of {self._name} changed its direction: the battery was charged for a while"
            return Missing(code="battery_charging", why=why, cure=_CURE)
        self._sign = sign or self._sign
        return abs(power_w)

    def close(self) -> None:
        for factor in self._factors:
            factor.close()


class _Remaining:
    """The energy left in a battery, as energy taken out since the start: another view of the same.

    It moves in steps of 10 mWh (36 J) or so, and stands still between them. Only the moments at which it moved tell
    anything, so all other readings are left out.
    """

    every_s: float | None = EVERY_S

    def __init__(self, folder: Path) -> None:
        self._left = Attribute(folder / "energy_now", _J_PER_UWH)
        self._first: float | None = None
        self._last: float | None = None
        self.channels: tuple[Channel, ...] = (
            Channel(
                name=f"{folder.name}/energy_now",
                quantity="energy",
                role="check",
                source=str(folder / "energy_now"),
                period_s=_FROM_DATA,
                gain=GAIN["fuel_gauge"].standard,
                gain_basis=GAIN["fuel_gauge"].basis,
            ),
        )

    def read(self) -> Sequence[float | Missing]:
        left = self._left.read()
        if isinstance(left, Missing):
            return [left]
        before, self._last = self._last, left
        if self._first is None or left == before:
            self._first = left if self._first is None else self._first
            return [Missing(code=NOT_NOW, why="it has not moved since the last reading")]
        return [self._first - left]

    def close(self) -> None:
        self._left.close()


def _is_battery(folder: Path) -> bool:
    """Say whether it feeds this machine: that of a mouse has the scope ``Device``."""
    kind, scope, present = (text_of(folder / name) for name in ("type", "scope", "present"))
    return kind == "Battery" and scope != "Device" and present != "0"


def _has_gauge(folder: Path) -> bool:
    pair = (folder / "current_now").exists() and (folder / "voltage_now").exists()
    return pair or (folder / "power_now").exists()


def _charging(folder: Path, batteries: Sequence[Path]) -> Missing | None:
    """Return why the batteries do not feed the device alone, if so."""
    for supply in numbered(folder, "*"):
        if text_of(supply / "type") in {"Mains", "USB", "Wireless"} and text_of(supply / "online") not in {None, "0"}:
            why = f"a charger is connected ({supply.name}), so the battery does not feed the device alone"
            return Missing(code="battery_charging", why=why, cure=_CURE)
    states = {battery.name: text_of(battery / "status") or "unknown" for battery in batteries}
    if "Charging" in states.values() or "Discharging" not in states.values():
        told = ", ".join(f"{name}: {state}" for name, state in states.items())
        return Missing(code="battery_charging", why=f"the battery does not discharge ({told})", cure=_CURE)
    return None


def _units(folder: Path) -> Battery:
    """Guess the units from what the gauge shows now."""
    if (folder / "power_now").exists():
        return Battery(folder=folder)
    amperes, volts = (abs(_number(folder / name)) * 1e-6 for name in ("current_now", "voltage_now"))
    return Battery(
        folder=folder,
        ampere=1e-3 if 0 < amperes < LEAST_A else 1e-6,
        volt=1e-3 if 0 < volts < LEAST_V else 1e-6,
    )


def _number(path: Path) -> float:
    attribute = Attribute(path)
    value = attribute.read()
    attribute.close()
    return 0.0 if isinstance(value, Missing) else value


def _told(folder: Path) -> str:
    names = (
        "manufacturer",
        "model_name",
        "technology",
        "status",
        "capacity",
        "current_now",
        "voltage_now",
        "power_now",
    )
    return ", ".join(f"{name} {text}" for name in names if (text := text_of(folder / name)))
