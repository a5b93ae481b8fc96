"""The battery of a phone as Android shows it: ``dumpsys battery``, ``/sys/class/power_supply/battery``, and heat.

Units differ by road. ``dumpsys battery``: voltage in mV, temperature in 0.1 °C, charge counter in µAh. sysfs: current
in µA, voltage in µV, charge counter in µAh, temperature in 0.1 °C. ``dumpsys thermalservice``: °C, and a status from 0
(none) to 6 (shutdown). Verified with recorded text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hwbench.records.base import Missing

Status = Literal["unknown", "charging", "discharging", "not charging", "full"]
_STATUS: dict[str, Status] = {  # BatteryManager.BATTERY_STATUS_*, and the words of sysfs
    "1": "unknown",
    "2": "charging",
    "3": "discharging",
    "4": "not charging",
    "5": "full",
    "unknown": "unknown",
    "charging": "charging",
    "discharging": "discharging",
    "not charging": "not charging",
    "full": "full",
}
THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_THERMAL = re.compile(r"^Thermal Status:\s*(\d+)\s*$", re.MULTILINE)
_TEMPERATURE = re.compile(r"Temperature\{mValue=(-?[\d.]+), mType=(-?\d+), mName=([^,]+), mStatus=(\d+)\}")


@dataclass(frozen=True, kw_only=True)
class Battery:
    """The state of a battery; ``current_raw`` is what the phone says, its unit and sign not to be trusted."""

    status: Status
    plugged: bool | Missing
    current_raw: float | Missing
    voltage_v: float | Missing
    charge_uah: float | Missing
    temperature_c: float | Missing


def parse_dumpsys_battery(text: str) -> Battery | Missing:
    """Read ``dumpsys battery``.

    Returns:
        The state; Missing with ``battery_faked`` (``dumpsys battery unplug`` or ``set`` was used: what it shows is made
        up) or ``battery_unreadable``.
    """
    if "UPDATES STOPPED" in text:
        why = "the phone shows a battery state that somebody set"
        return Missing(code="battery_faked", why=why, cure="adb shell dumpsys battery reset")
    _, found, body = text.partition("Current Battery Service state:")
    fields = _fields(body.split("\n\n")[0].split("[EventLogBuffer]")[0])
    status = _STATUS.get(fields.get("status", "").lower())
    if not found or status is None:
        return Missing(code="battery_unreadable", why="this is not what dumpsys battery shows: it has no status")
    plugs = [value for name, value in fields.items() if name.endswith(" powered")]
    plugged: bool | Missing = "true" in plugs
    if not plugs:
        plugged = Missing(code="not_told", why="nobody tells whether the phone is plugged in")
    return Battery(
        status=status,
        plugged=plugged,
        current_raw=Missing(code="not_told", why="dumpsys battery does not tell the current"),
        voltage_v=_number(fields, "voltage", 1e-3),
        charge_uah=_number(fields, "Charge counter", 1.0),
        temperature_c=_number(fields, "temperature", 0.1),
    )


def parse_sysfs_battery(files: Mapping[str, str]) -> Battery | Missing:
    """Read the files of ``/sys/class/power_supply/battery``, by name; ``battery_unreadable`` without a status."""
    fields = {name: text.strip() for name, text in files.items()}
    status = _STATUS.get(fields.get("status", "").lower())
    if status is None:
        return Missing(code="battery_unreadable", why="the battery's status cannot be read")
    plugged: bool | Missing = Missing(code="not_told", why="the battery's files do not tell whether it is plugged in")
    if "online" in fields:
        plugged = fields["online"] != "0"
    return Battery(
        status=status,
        plugged=plugged,
        current_raw=_number(fields, "current_now", 1.0),
        voltage_v=_number(fields, "voltage_now", 1e-6),
        charge_uah=_number(fields, "charge_counter", 1.0),
        temperature_c=_number(fields, "temp", 0.1),
    )


def _fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields


def _number(fields: Mapping[str, str], name: str, scale: float) -> float | Missing:
    text = fields.get(name)
    if text is None:
        return Missing(code="not_told", why=f"'{name}' is not told")
    if not re.fullmatch(r"-?\d+", text):
        return Missing(code="not_told", why=f"'{name}' is '{text[:40]}', no whole number")
    return int(text) * scale


@dataclass(frozen=True, kw_only=True)
class Heat:
    """Throttling status (0 to 6, :data:`THERMAL_STATUS`) and temperatures in °C by sensor."""

    status: int
    temperatures_c: Mapping[str, float]

    @property
    def name(self) -> str:
        return THERMAL_STATUS[self.status]


def parse_thermalservice(text: str) -> Heat | Missing:
    """Read ``dumpsys thermalservice``; what the sensors show now, where it says so, else what it kept of them.

    Only types of temperatures in °C are taken (CPU, GPU, battery, skin, and so on: 0 to 5, 9, 10 and vendors' own);
    currents and voltages have types of their own. Code: ``thermal_unreadable``.
    """
    found = _THERMAL.search(text)
    if found is None or int(found[1]) >= len(THERMAL_STATUS):
        return Missing(code="thermal_unreadable", why="this is not what dumpsys thermalservice shows")
    _, now, body = text.partition("Current temperatures from HAL:")
    part = body.partition("Current cooling devices")[0] if now else text
    values = {name: float(value) for value, kind, name, _ in _TEMPERATURE.findall(part) if kind not in _ELECTRIC}
    return Heat(status=int(found[1]), temperatures_c=values)


_ELECTRIC = frozenset({"6", "7", "8"})  # BCL_VOLTAGE, BCL_CURRENT, BCL_PERCENTAGE of android.hardware.thermal
