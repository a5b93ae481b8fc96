"""Alumet: the CSV of its output plugin, ``metric;timestamp;value;resource_kind;resource_id;consumer_kind;...``.

One line a measurement, times in RFC 3339 with nanoseconds, the unit at the end of the metric's name
(``rapl_consumed_energy_J``), further columns for attributes. Energies are **since the measurement before** (Alumet's
CounterDiff), so they are added up here; the first one belongs to time before the file and is left out. Power is a
reading of the moment. Verified with the source and documents of the plugins ``csv``, ``rapl`` and ``nvidia-nvml``; no
file of a real run could be had.

The total: packages and DRAM of RAPL, the energy of each GPU (its power where there is none, as its check where there
is); of anything else the only series, or the one that ``channel`` names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hwbench.energy.imports.cells import UNITS, date_ns, number
from hwbench.energy.imports.lines import DELIMITERS, Line, TextFile, delimiter_of, rows_of, split
from hwbench.energy.imports.series import Column, Described, Reading, make_trace
from hwbench.energy.imports.table import Options
from hwbench.energy.trace import Trace
from hwbench.errors import StorageError
from hwbench.records.energy import Provenance, Role

_FIRST = ("metric", "timestamp", "value", "resource_kind", "resource_id", "consumer_kind", "consumer_id")
_NAMED = {  # where the unit is not appended to the name
    "rapl_consumed_energy": "J",
    "nvml_energy_consumption": "mJ",
    "nvml_instant_power": "mW",
}
_RAPL, _NVML_J, _NVML_W = "rapl_consumed_energy", "nvml_energy_consumption", "nvml_instant_power"
_UNIT = re.compile(r"^(?P<name>.+)_(?P<unit>[mknuµμ]?(?:J|W))$")


@dataclass(kw_only=True)
class _Series:
    """All values of one metric of one thing."""

    metric: str
    name: str
    domain: str
    of_machine: bool
    quantity: Literal["power", "energy"]
    readings: list[Reading] = field(default_factory=list)


def is_alumet(line: Line) -> bool:
    """Say whether a header is Alumet's."""
    return any(line.text.startswith(delimiter.join(_FIRST)) for delimiter in DELIMITERS)


def import_alumet(file: TextFile, options: Options) -> Trace:
    """Read all energies and powers of a file; see above for which are the total.

    Raises:
        StorageError: the file cannot be believed, or holds neither; ``channel`` names none of its series.
    """
    header = file.lines[0]
    if not is_alumet(header):
        raise file.refusal(header.number, f"the header does not begin with {';'.join(_FIRST)}")
    delimiter = delimiter_of(file, header)
    names = split(file, header, delimiter)
    series: dict[tuple[str, ...], _Series] = {}
    for line, cells in rows_of(file, file.whole()[1:], delimiter, len(names)):
        _add(file, series, line, dict(zip(names, cells, strict=True)))
    if not series:
        raise StorageError(f"{file.path} holds neither energy nor power", hint="turn on Alumet's rapl or nvml plugin")
    found = list(series.values())
    roles = _roles(found, options.channel)
    known = Described(format="alumet", boundary=_boundary(found, roles), provenance=_provenance(found))
    return make_trace(file, [_column(file, one, roles[one.name]) for one in found], known)


def _add(file: TextFile, series: dict[tuple[str, ...], _Series], line: int, cells: Mapping[str, str]) -> None:
    metric, unit = _metric(cells["metric"])
    if unit is None or cells["consumer_kind"] not in {"local_machine", ""}:
        return  # another quantity, or a share of it that Alumet gives to a process
    try:
        time_ns, value = date_ns(cells["timestamp"]), number(cells["value"])
    except ValueError as error:
        raise file.refusal(line, str(error)) from error
    if time_ns is None:
        raise file.refusal(line, f"'{cells['timestamp'][:40]}' is no date and time")
    domain = cells.get("domain", "")
    key = (metric, cells["resource_kind"], cells["resource_id"], domain)
    quantity: Literal["power", "energy"] = "energy" if unit.endswith("J") else "power"
    one = series.setdefault(
        key,
        _Series(
            metric=metric,
            name=":".join(part for part in key if part),
            domain=domain,
            of_machine=cells["resource_kind"] == "local_machine",
            quantity=quantity,
        ),
    )
    one.readings.append(Reading(line, time_ns, value * UNITS[quantity][unit]))


def _metric(text: str) -> tuple[str, str | None]:
    if text in _NAMED:
        return text, _NAMED[text]
    found = _UNIT.match(text)
    return (found["name"], found["unit"]) if found else (text, None)


def _roles(series: Sequence[_Series], channel: str | None) -> dict[str, Role]:
    """Return the role of each series, each joule in the total once."""
    if channel is not None:
        if channel not in {one.name for one in series}:
            names = ", ".join(one.name for one in series)
            raise StorageError(f"the file has no series '{channel}'", hint=f"it has {names}")
        return {one.name: "total" if one.name == channel else "part" for one in series}
    if len(series) == 1:
        return {series[0].name: "total"}
    counted = any(one.metric == _NVML_J for one in series)
    roles: dict[str, Role] = {}
    for one in series:
        roles[one.name] = "part"
        if one.metric == _NVML_J or (one.metric == _NVML_W and not counted):
            roles[one.name] = "total"
        elif one.metric == _NVML_W and not any(other.metric == _RAPL for other in series):
            roles[one.name] = "check"
        elif one.metric == _RAPL and one.domain in {"package", "dram"} and not one.of_machine:
            roles[one.name] = "total"
    if "total" not in roles.values():
        names = ", ".join(roles)
        raise StorageError("nobody says which series is the total", hint=f"channel=: one of {names}")
    return roles


def _column(file: TextFile, one: _Series, role: Role) -> Column:
    readings = one.readings if one.quantity == "power" else _added_up(file, one)
    essential = one.domain != "dram"  # some machines have a DRAM counter that stands still
    return Column(
        name=one.name, quantity=one.quantity, role=role, readings=readings, told=one.metric, essential=essential
    )


def _added_up(file: TextFile, one: _Series) -> list[Reading]:
    """Return the sum so far at each time; without one increment every later sum would be wrong."""
    first, *later = one.readings
    total_j = 0.0
    sums = [Reading(first.line, first.time_ns, 0.0)]
    for reading in later:
        if not math.isfinite(reading.value):
            raise file.refusal(reading.line, f"{one.name} has no value, so the sum after it is not known")
        total_j += reading.value
        sums.append(Reading(reading.line, reading.time_ns, total_j))
    return sums


def _provenance(series: Sequence[_Series]) -> Provenance:
    metrics = {one.metric for one in series}
    if _RAPL in metrics:
        return "vendor_modelled"
    return "measured_onboard" if metrics & {_NVML_J, _NVML_W} else "measured_external"


def _boundary(series: Sequence[_Series], roles: Mapping[str, Role]) -> str:
    return " and ".join(one.name for one in series if roles[one.name] == "total") + ", as Alumet read it"
