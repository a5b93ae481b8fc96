"""Heat and power: what makes a machine slow down by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hwbench.devices import jetson
from hwbench.devices.jetson_clocks import power_modes
from hwbench.doctor.answers import cannot_tell, info, ok, warning
from hwbench.doctor.subject import Subject
from hwbench.records.base import Missing
from hwbench.records.health import HealthCheck

_HEADROOM_C = 15.0
_PLAUSIBLE_C = (1.0, 150.0)  # firmware that knows no limit writes 0, 65261.85 and the like
_SLOWING = frozenset({"passive", "hot", "critical"})  # trip points at which the kernel slows or stops the machine


@dataclass(frozen=True)
class _Sensor:
    """A temperature and the limit above it, in degrees Celsius; None where there is no plausible limit."""

    name: str
    now_c: float
    limit_c: float | None


def headroom(subject: Subject) -> HealthCheck:
    """Check that no sensor is close to the temperature at which the machine slows down."""
    name = "temperature"
    sensors = [*_chips(subject), *_zones(subject)]
    if not sensors:
        return cannot_tell(name, subject.not_shown("any temperature", "/sys/class/hwmon, /sys/class/thermal"))
    limited = [(sensor.limit_c - sensor.now_c, sensor) for sensor in sensors if sensor.limit_c is not None]
    if not limited:
        hottest = max(sensors, key=lambda sensor: sensor.now_c)
        why = f"the hottest sensor, {hottest.name}, is at {hottest.now_c:.0f} °C, and none tells its limit"
        return cannot_tell(name, Missing(code="no_limit", why=why), temperature_c=hottest.now_c)
    left, sensor = min(limited, key=lambda pair: pair[0])
    text = f"closest to its limit is {sensor.name}: {sensor.now_c:.0f} °C of {sensor.limit_c:.0f} °C"
    figures = {"temperature_c": sensor.now_c, "headroom_c": left}
    if left >= _HEADROOM_C:
        return ok(name, text, **figures)
    return warning(
        name,
        text,
        "under load it will reach the limit, and the clock falls in the middle of a measurement",
        "cool it: clean fans and filters, move it, lower the power limit; let it rest before each run",
        **figures,
    )


def _chips(subject: Subject) -> Iterator[_Sensor]:
    """Yield the sensors of hwmon; values in thousandths of a degree (Documentation/hwmon/sysfs-interface.rst)."""
    tree = subject.tree
    for chip in tree.glob("sys/class/hwmon", "hwmon*"):
        for path in tree.glob(chip, "temp*_input"):
            now = tree.integer(path)
            if now is None:
                continue
            stem = path.removesuffix("_input")
            label = tree.text(f"{stem}_label") or stem.rpartition("/")[2]
            limit = tree.integer(f"{stem}_crit")
            yield _Sensor(f"{tree.text(f'{chip}/name') or 'unnamed'} {label}", now / 1e3, _plausible(limit))


def _zones(subject: Subject) -> Iterator[_Sensor]:
    tree = subject.tree
    for zone in tree.glob("sys/class/thermal", "thermal_zone*"):
        now = tree.integer(f"{zone}/temp")
        if now is None:
            continue
        limits = [
            limit
            for path in tree.glob(zone, "trip_point_*_type")
            if tree.text(path) in _SLOWING
            and (limit := _plausible(tree.integer(path.replace("_type", "_temp")))) is not None
        ]
        yield _Sensor(tree.text(f"{zone}/type") or zone.rpartition("/")[2], now / 1e3, min(limits, default=None))


def _plausible(thousandths: int | None) -> float | None:
    low, high = _PLAUSIBLE_C
    return thousandths / 1e3 if thousandths is not None and low < thousandths / 1e3 < high else None


def throttling(subject: Subject) -> HealthCheck:
    """Check that the CPU has not throttled since boot."""
    name, events = "thermal_throttling", subject.host.throttle_events
    if isinstance(events, Missing):
        return cannot_tell(name, events)
    if not events:
        return ok(name, "no thermal throttling since boot")
    return warning(
        name,
        f"{events} thermal throttling events since boot",
        "this machine gets too hot under load: what runs long is slower than what runs short",
        "cool it; then see whether hwbench profile still reports throttling during the run",
        throttle_events=events,
    )


def power_supply(subject: Subject) -> HealthCheck:
    """Check that no battery is being drained."""
    name, tree = "power_supply", subject.tree
    if not tree.exists("sys/class/power_supply"):
        return cannot_tell(name, subject.not_shown("power supplies", "/sys/class/power_supply"))
    batteries = [
        supply
        for supply in tree.glob("sys/class/power_supply", "*")
        if tree.text(f"{supply}/type") == "Battery" and tree.text(f"{supply}/scope") != "Device"
    ]
    if not batteries:
        return ok(name, "no battery")
    states = {tree.text(f"{battery}/status") or "unknown" for battery in batteries}
    if "Discharging" not in states:
        return ok(name, f"battery: {', '.join(sorted(states)).lower()}")
    return warning(
        name,
        "running on battery",
        "firmware and system save power: lower clocks, and lower still as the charge falls",
        "plug it in, unless the battery is what you measure",
    )


def jetson_mode(subject: Subject) -> HealthCheck | None:
    """Check that a Jetson runs in its fastest power mode."""
    tree, name = subject.tree, "jetson_power_mode"
    if not jetson.is_jetson(tree):
        return None
    mode = jetson.power_mode(tree)
    if isinstance(mode, Missing):
        return cannot_tell(name, mode)
    if "MAXN" in mode:
        return info(name, f"power mode {mode}")
    offered = "; ".join(one.words for one in power_modes(tree.text("etc/nvpmodel.conf") or ""))
    return warning(
        name,
        f"power mode {mode}" + (f"; there are {offered}" if offered else ""),
        "it limits cores, clocks and power: times hold for this mode only",
        "hwbench doctor --apply power_mode=NUMBER -- COMMAND, as root, or sudo nvpmodel -m NUMBER; keep it if it is "
        "the mode that you deploy in",
    )
