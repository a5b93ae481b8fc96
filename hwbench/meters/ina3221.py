"""The power monitors of a Jetson: INA3221 (and INA238 on Thor), every generation.

Voltage times current of each rail, twenty times a second. Rails go by their labels; which of them are the total is in
:mod:`hwbench.meters.jetson_rails`. Two things bound what can be measured:

* The chip looks at a rail's current for 1.1 ms of every 6.6 ms, and is read every 50 ms: many samples are needed.
* A step of the current is 40 µV over the shunt: 20 mA at 2 mΩ, which is 0.39 W at 19.7 V; the offset may be twice that.
  Readings of a step below zero are real, and are kept: without them the mean would be too high.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from hwbench import resources
from hwbench.energy.uncertainty import GAIN
from hwbench.meters.hwmon_tree import Attribute, SensorInstrument, absent, first_missing
from hwbench.meters.jetson_rails import SHUNT_OFFSET_V, SHUNT_STEP_V, Rail, Rule, find_rails, rule_for
from hwbench.meters.thermal import context_sources
from hwbench.protocols import NOT_NOW
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.energy import Channel
from hwbench.units import Clock, MonotonicClock

EVERY_S = 0.05
_VOLTAGE_MARGIN = 1.05  # the step of the power at a voltage a little above the one found
_CURE = "in a container, mount the host's /sys; JetPack 4 may keep the files for root: sudo chmod a+r them"


class Jetson:
    """The meter.

    Args:
        root: where ``/sys`` is; ``resources.sysfs_root()`` when not given.
        clock: tests pass a fake.
    """

    name = "jetson"
    priority = 60

    def __init__(self, root: Path | None = None, clock: Clock | None = None) -> None:
        self.root = resources.sysfs_root() if root is None else root
        self.clock = MonotonicClock() if clock is None else clock

    def supports(self, device: Device) -> Support:
        """Say whether the rails of the total are here and readable; takes some milliseconds.

        Codes: ``wrong_device``, ``no_sensor``, ``not_exposed_in_vm``, ``masked_by_container``, ``no_total`` (an unknown
        board), ``permission_denied``, ``sensor_unreadable``.
        """
        instrument = self.open(device)
        if isinstance(instrument, Missing):
            return Support(reasons=(instrument,))
        rails = instrument.sources[0]
        totals = [v for c, v in zip(rails.channels, rails.read(), strict=True) if c.role == "total"]
        instrument.close()
        failed = first_missing(totals, lambda code: code == NOT_NOW)
        return Support() if failed is None else Support(reasons=(failed,))

    def open(self, device: Device) -> SensorInstrument | Missing:
        """Find the rails; see :meth:`supports` for the codes."""
        rails, settings = find_rails(self.root)
        if device.kind != "jetson" and not (device.kind == "cpu" and rails):  # the CPU of a Jetson is measured with it
            return unsupported("wrong_device", f"jetson measures a Jetson board, not {device.name}").reasons[0]
        if not rails:
            return absent("power monitor (INA3221)", "sys/bus/i2c/devices", device, self.root, _CURE)
        rule = rule_for({rail.label for rail in rails})
        if rule is None:
            return Missing(
                code="no_total",
                why=f"which of the rails {', '.join(rail.label for rail in rails)} make up the total is not known",
                cure="an unknown board, or one of its monitors is missing; measure with an external meter",
            )
        settings["headline"] = f"{' + '.join(rule.total)}: {rule.why}"
        source = _Rails(rails, rule)
        if any(math.isclose(channel.offset, 0.0) for channel in source.channels if channel.role == "total"):
            settings["flags"] = "offset_unknown"
        return SensorInstrument(
            meter=self.name,
            boundary=rule.boundary,
            provenance="measured_onboard",
            sources=(source, *context_sources(self.root)),
            settings=settings,
        )


class _Rails:
    """All rails, read one after the other; the total first, so that its parts are closest in time."""

    every_s: float | None = EVERY_S

    def __init__(self, rails: Sequence[Rail], rule: Rule) -> None:
        ordered = sorted(rails, key=lambda rail: rail.label not in rule.total)
        self._readers = [_RailReader(rail) for rail in ordered]
        bound = {*rule.total, *rule.more}
        labels = [rail.label for rail in ordered]
        self._bound = [i for i, label in enumerate(labels) if label in bound] if {*rule.more} & {*labels} else []
        self.channels = tuple(
            reader.channel("total" if reader.rail.label in rule.total else "part") for reader in self._readers
        )
        if self._bound:
            self.channels = (*self.channels, _upper_bound(self.channels, self._bound))

    def read(self) -> Sequence[float | Missing]:
        values = [reader.read() for reader in self._readers]
        if not self._bound:
            return values
        added = [values[i] for i in self._bound]
        return [*values, first_missing(added, lambda _: False) or math.fsum(v for v in added if isinstance(v, float))]

    def close(self) -> None:
        for reader in self._readers:
            reader.close()


class _RailReader:
    """One rail's files, held open."""

    def __init__(self, rail: Rail) -> None:
        self.rail = rail
        self._power = None if rail.power is None else Attribute(rail.power, rail.power_scale)
        self._voltage = None if rail.voltage is None else Attribute(rail.voltage, 1e-3)
        self._current = None if rail.current is None else Attribute(rail.current, 1e-3)

    def read(self) -> float | Missing:
        """Return the power in watts."""
        if self._power is not None:
            return self._power.read()
        if self._voltage is None or self._current is None:
            return Missing(code="sensor_unreadable", why=f"{self.rail.label} has neither power nor voltage and current")
        volts, amperes = self._voltage.read(), self._current.read()
        if isinstance(volts, Missing):
            return volts
        return amperes if isinstance(amperes, Missing) else volts * amperes

    def channel(self, role: str) -> Channel:
        """Describe the rail; its step and offset follow from its voltage of now."""
        rail = self.rail
        volts = self._voltage.read() if self._voltage is not None else None
        known = isinstance(volts, float) and rail.shunt_ohm is not None
        watts_per_shunt_volt = volts / rail.shunt_ohm if isinstance(volts, float) and rail.shunt_ohm else 0.0
        gain = GAIN["ina238" if rail.chip.startswith("ina238") else "ina3221"]
        return Channel(
            name=rail.label,
            quantity="power",
            role="total" if role == "total" else "part",
            source=f"{rail.chip}: {rail.power or rail.voltage}",
            period_s=rail.period_s,
            averaging_s=rail.averaging_s,
            sensed_s=rail.sensed_s,
            lsb=_VOLTAGE_MARGIN * SHUNT_STEP_V * watts_per_shunt_volt if known else _UNKNOWN_STEP,
            gain=gain.standard,
            offset=SHUNT_OFFSET_V / math.sqrt(3) * watts_per_shunt_volt,
            gain_basis=gain.basis,
        )

    def close(self) -> None:
        """Close its files."""
        for attribute in (self._power, self._voltage, self._current):
            if attribute is not None:
                attribute.close()


_UNKNOWN_STEP = Missing(code="not_known", why="a step follows from the shunt, which the driver does not show")


def _upper_bound(channels: Sequence[Channel], bound: Sequence[int]) -> Channel:
    first = channels[bound[0]]
    return Channel(
        name="sum_of_all_rails",
        quantity="power",
        role="part",
        source=" + ".join(channels[i].name for i in bound),
        period_s=first.period_s,
        averaging_s=first.averaging_s,
        sensed_s=first.sensed_s,
        gain=first.gain,
        offset=sum(channels[i].offset for i in bound),
        gain_basis=first.gain_basis,
    )
