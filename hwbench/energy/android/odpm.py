"""On-device power monitors (ODPM) of Pixel phones: energy counters of rails, downstream of the battery.

Three roads lead to the same readings, each in microwatt-seconds since boot:

* the kernel's ``/sys/bus/iio/devices/iio:device*/energy_value`` (root): ``t=<ms>`` and then, for each channel,
  ``CH<n>(T=<ms>)[<rail>], <µWs>``. Verified with recorded text of a Pixel 6. A file of many such readings, one after
  the other, is the import format ``odpm``;
* ``SystemHealthManager.getPowerMonitorReadings`` (API 35): rails (``MEASUREMENT``) and consumers (``CONSUMER``, which
  may be modelled); ``ENERGY_UNAVAILABLE`` is -1;
* Perfetto's ``android.power`` data source with ``collect_power_rails``.

No document says of a rail that it carries the whole phone, so every rail is a part, and nothing is added up. Where a
phone's maker does say so, name that rail in ``totals``. A consumer is context: it may be a model's figure, and it
shares its joules with rails.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from hwbench.energy.integrate import Sample
from hwbench.energy.trace import Trace
from hwbench.errors import StorageError
from hwbench.records.base import Missing
from hwbench.records.energy import TRACE_SCHEMA, Channel, TraceHeader

ENERGY_UNAVAILABLE = -1
LSB_J = 1e-6
TIME = re.compile(r"^t=(\d+)$")
_RAIL = re.compile(r"^CH(\d+)\(T=(\d+)\)\[([^\]]+)\],\s*(-?\d+)$")


class RailReading(NamedTuple):
    """One counter at one time. ``consumer``: it belongs to a part of the system, not to a rail."""

    rail: str
    t_ms: int
    energy_uws: int
    consumer: bool = False


def parse_energy_value(text: str) -> tuple[RailReading, ...]:
    """Read what ``energy_value`` shows.

    Raises:
        StorageError: a line has another shape; the message names it.
    """
    lines = ((i, line.strip()) for i, line in enumerate(text.splitlines(), start=1) if line.strip())
    return tuple(rail_readings(lines, "energy_value"))


def rail_readings(lines: Iterable[tuple[int, str]], where: str) -> Iterator[RailReading]:
    """Read numbered lines of one or more ``energy_value`` texts; raises as :func:`parse_energy_value` does."""
    for number, text in lines:
        found = _RAIL.match(text)
        if found is not None:
            yield RailReading(found[3], int(found[2]), int(found[4]))
        elif TIME.match(text) is None:
            why = f"line {number} of {where}: '{text[:60]}' is not 'CH<n>(T=<ms>)[<rail>], <µWs>'"
            raise StorageError(why, hint="give the text of energy_value as it is")


def rails_trace(
    readings: Sequence[RailReading], *, totals: Collection[str] = (), settings: Mapping[str, str] | None = None
) -> Trace:
    """Return the counters as a trace; time zero is the first reading, on the phone's clock since boot.

    Raises:
        StorageError: time or a counter goes back, a counter shows two values at one time, or ``totals`` names a rail
            that is not there.
    """
    by_rail: dict[str, list[RailReading]] = {}
    for reading in readings:
        by_rail.setdefault(reading.rail, []).append(reading)
    unknown = set(totals) - set(by_rail)
    if unknown:
        raise StorageError(f"there is no rail {', '.join(sorted(unknown))}", hint=f"rails: {', '.join(by_rail)}")
    origin_ms = min((reading.t_ms for reading in readings), default=0)
    samples: dict[str, list[Sample]] = {}
    faults: dict[str, tuple[float, Missing]] = {}
    channels: list[Channel] = []
    for rail, found in by_rail.items():
        told = [reading for reading in found if reading.energy_uws != ENERGY_UNAVAILABLE]
        samples[rail] = _samples(rail, told, origin_ms)
        channels.append(_channel(found[0], samples[rail], totals))
        if not told:
            why = f"the phone says that the energy of {rail} is not available"
            faults[rail] = ((found[0].t_ms - origin_ms) / 1e3, Missing(code="energy_unavailable", why=why))
    header = TraceHeader(
        schema_version=TRACE_SCHEMA,
        meter="odpm",
        boundary="rails of the phone behind the battery",
        provenance="measured_onboard",
        clock="milliseconds since the phone started",
        started_at="not told by the phone",
        channels=tuple(channels),
        settings={"flags": "gain_unknown", **(settings or {})},
    )
    return Trace(header, samples, faults)


def _samples(rail: str, readings: Sequence[RailReading], origin_ms: int) -> list[Sample]:
    samples: list[Sample] = []
    for before, after in pairwise(readings):
        if after.t_ms < before.t_ms:
            raise StorageError(f"the time of {rail} goes back from {before.t_ms} ms to {after.t_ms} ms")
        if after.energy_uws < before.energy_uws or (
            after.t_ms == before.t_ms and after.energy_uws != before.energy_uws
        ):
            why = f"the counter of {rail} goes from {before.energy_uws} to {after.energy_uws} µWs at {after.t_ms} ms"
            raise StorageError(why, hint="did the phone restart? measure again")
    for reading in readings:
        t_s = (reading.t_ms - origin_ms) / 1e3
        if not samples or t_s > samples[-1].t_s:
            samples.append(Sample(t_s, reading.energy_uws * LSB_J))
    return samples


def _channel(first: RailReading, samples: Sequence[Sample], totals: Collection[str]) -> Channel:
    steps = [b.t_s - a.t_s for a, b in pairwise(samples)]
    role: Literal["total", "part", "context"] = "part"
    if first.consumer:
        role = "context"
    elif first.rail in totals:
        role = "total"
    return Channel(
        name=first.rail,
        quantity="energy",
        role=role,
        source=f"power monitor {first.rail}",
        period_s=max(steps) if steps else Missing(code="no_samples", why="fewer than two readings"),
        lsb=LSB_J,
    )
