"""The fuel gauge of a phone's battery: power is its current times its voltage, of the whole phone.

What phones get wrong, and what becomes of it:

* Charging or plugged in: the gauge sees what the charger leaves, so there is no energy (``battery_charging``).
* Current in mA, where Android asks for µA: told by its size. A phone at work draws far more than 20 mA, so 350 is 350
  mA; the trace is flagged ``unit_guess``. Where both units make sense it is refused (``unit_ambiguous``).
* Sign: Android wants the current negative while discharging; some phones show it the other way round. The status tells.
  Flagged ``sign_reversed``; with readings of both signs refused (``current_sign_mixed``).
* The same reading again and again: gauges change every 0.2 to 5 s, whatever they are polled at. Readings that differ
  count, and the time between them is the update period.

The charge counter times the voltage is the check. A gauge is good to some 5 to 10 %: use windows of a minute and more.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from hwbench.energy.android.battery import Battery
from hwbench.energy.integrate import Sample
from hwbench.energy.trace import Trace
from hwbench.energy.uncertainty import GAIN
from hwbench.records.base import Missing
from hwbench.records.energy import TRACE_SCHEMA, Channel, TraceHeader

LEAST_BUSY_A = 0.02  # a phone at work draws more
MOST_A = 10.0  # and less than this
MIXED = 0.05  # share of readings of the other sign that is more than noise
_COULOMBS_PER_UAH = 3.6e-3


class GaugeReading(NamedTuple):
    """The battery at a time on the phone's monotonic clock."""

    t_s: float
    battery: Battery


def gauge_trace(readings: Sequence[GaugeReading]) -> Trace | Missing:
    """Return power (the total) and, from the charge counter, energy (its check).

    Codes: ``battery_charging``, ``battery_status_unknown``, ``time_backwards``, ``no_samples``, ``unit_ambiguous``,
    ``current_sign_mixed``.
    """
    refused = _refused(readings)
    if refused is not None:
        return refused
    found = [
        (t_s, battery.current_raw, battery.voltage_v)
        for t_s, battery in readings
        if isinstance(battery.current_raw, float) and isinstance(battery.voltage_v, float)
    ]
    distinct = [found[0], *(b for a, b in pairwise(found) if a[1:] != b[1:])] if found else []
    if len(distinct) < 2:
        why = f"the gauge showed {len(distinct)} different readings of current and voltage in {len(readings)}"
        return Missing(code="no_samples", why=why, cure="measure for longer, or with another meter")
    scale = _scale([raw for _, raw, _ in distinct])
    if isinstance(scale, Missing):
        return scale
    sign = _sign([raw for _, raw, _ in distinct])
    if isinstance(sign, Missing):
        return sign
    power = [Sample(t_s, raw * scale * sign * volts) for t_s, raw, volts in distinct if raw * sign > 0]
    flags = ["unit_guess"] if scale != 1e-6 else []
    flags += ["sign_reversed"] if sign > 0 else []
    flags += ["unreadable_readings"] if len(power) < len(distinct) else []
    return _trace(power, _energy(readings), flags)


def _refused(readings: Sequence[GaugeReading]) -> Missing | None:
    for before, after in pairwise(readings):
        if after.t_s <= before.t_s:
            why = f"the time of the gauge goes from {before.t_s:g} s to {after.t_s:g} s"
            return Missing(code="time_backwards", why=why, cure="measure again")
    for t_s, battery in readings:
        if battery.plugged is True or battery.status in {"charging", "full"}:
            why = f"the phone was plugged in or charging at {t_s:g} s: its gauge does not see what it draws"
            cure = "unplug it and work over Wi-Fi (adb tcpip 5555), or use a hub that cuts the power"
            return Missing(code="battery_charging", why=why, cure=cure)
        if battery.status == "unknown":
            return Missing(code="battery_status_unknown", why=f"nobody tells whether the battery charges at {t_s:g} s")
    return None


def _scale(currents: Sequence[float]) -> float | Missing:
    """Return amperes per unit of the gauge: 1e-6, or 1e-3 where the size leaves no other sense."""
    typical = statistics.median(abs(raw) for raw in currents)
    if typical * 1e-6 >= LEAST_BUSY_A:
        return 1e-6
    if LEAST_BUSY_A <= typical * 1e-3 <= MOST_A:
        return 1e-3
    why = f"the gauge shows {typical:g}: {typical / 1e3:g} mA or {typical:g} mA, and neither is a phone at work"
    return Missing(code="unit_ambiguous", why=why, cure="measure with an external meter")


def _sign(currents: Sequence[float]) -> float | Missing:
    """Return what makes power of the current while discharging: -1, as Android has it, or 1."""
    positive = sum(raw > 0 for raw in currents) / len(currents)
    negative = sum(raw < 0 for raw in currents) / len(currents)
    if min(positive, negative) > MIXED:
        why = f"{positive:.0%} of the currents are positive and {negative:.0%} negative, all while discharging"
        return Missing(code="current_sign_mixed", why=why, cure="measure with an external meter")
    return 1.0 if positive > negative else -1.0


def _energy(readings: Sequence[GaugeReading]) -> list[Sample]:
    """Return the energy drawn so far, by the charge counter; empty where it is not told, or rises."""
    told = [
        (t_s, battery.charge_uah, battery.voltage_v)
        for t_s, battery in readings
        if isinstance(battery.charge_uah, float) and isinstance(battery.voltage_v, float)
    ]
    if len(told) < 2 or any(b[1] > a[1] for a, b in pairwise(told)):
        return []
    samples, total_j = [Sample(told[0][0], 0.0)], 0.0
    for before, after in pairwise(told):
        total_j += (before[1] - after[1]) * _COULOMBS_PER_UAH * (before[2] + after[2]) / 2
        samples.append(Sample(after[0], total_j))
    return samples


def _trace(power: Sequence[Sample], energy: Sequence[Sample], flags: Sequence[str]) -> Trace:
    steps = [b.t_s - a.t_s for a, b in pairwise(power)]
    channels = [
        Channel(
            name="battery",
            quantity="power",
            role="total",
            source="current_now x voltage_now",
            period_s=statistics.median(steps) if steps else Missing(code="no_samples", why="too few readings"),
            averaging_s=Missing(code="not_known", why="over how long a gauge averages is its maker's own"),
            gain=GAIN["fuel_gauge"].standard,
            gain_basis=GAIN["fuel_gauge"].basis,
        )
    ]
    samples = {"battery": list(power)}
    changes = [energy[0], *(b for a, b in pairwise(energy) if b.value != a.value)] if energy else []
    if len(changes) > 2:  # a charge counter has coarse steps: fewer say nothing
        channels.append(
            Channel(
                name="charge",
                quantity="energy",
                role="check",
                source="charge_counter x voltage_now",
                period_s=max(b.t_s - a.t_s for a, b in pairwise(changes)),
                lsb=min(b.value - a.value for a, b in pairwise(changes)),
                gain=GAIN["fuel_gauge"].standard,
                gain_basis=GAIN["fuel_gauge"].basis,
            )
        )
        samples["charge"] = list(energy)
    header = TraceHeader(
        schema_version=TRACE_SCHEMA,
        meter="fuel-gauge",
        boundary="the whole phone, display and radios with it, at its battery",
        provenance="measured_onboard",
        clock="monotonic clock of the phone",
        started_at="not told by the phone",
        channels=tuple(channels),
        settings={"flags": " ".join(flags)},
    )
    return Trace(header, samples)
