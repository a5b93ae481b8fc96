"""Rows that differ in one thing only, as curves: over the batch size, the power limit, or the power mode.

A curve joins measurements of one network (up to its batch size), engine, precision, mode of running, device and
boundary. It needs two different values on its axis. Rows that are not ranked are in no curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hwbench.records.base import Missing
from hwbench.report.energy_rank import Point, balanced, eligible, front
from hwbench.report.energy_rows import EnergyRow, Joules

Axis = Literal["batch", "limit", "mode"]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points by rising ``x``; ``y`` is in inferences per joule.

    ``ticks`` names the places of power modes, which have no order of their own.
    """

    name: str
    axis: Axis
    points: tuple[Point, ...]
    ticks: tuple[str, ...] = ()


def curves(rows: Sequence[EnergyRow], axis: Axis) -> tuple[Curve, ...]:
    """Return the curves over ``axis`` that these rows hold."""
    families: dict[tuple[object, ...], list[EnergyRow]] = {}
    for row in rows:
        if eligible(row) is None and _value(row, axis) is not None:
            families.setdefault(_common(row, axis), []).append(row)
    several = len(families) > 1
    found = []
    for members in families.values():
        values = list(dict.fromkeys(_value(row, axis) for row in members))
        if len(values) < 2:
            continue
        places: dict[float | str | None, float] = {
            value: value if isinstance(value, float) else float(place) for place, value in enumerate(values)
        }
        points = sorted((_point(row, places[_value(row, axis)]) for row in members), key=lambda point: point.x)
        ticks = tuple(str(value) for value in values) if axis == "mode" else ()
        found.append(Curve(name=_name(members[0], axis, several), axis=axis, points=tuple(points), ticks=ticks))
    return tuple(found)


def _value(row: EnergyRow, axis: Axis) -> float | str | None:
    """Return where a row stands on an axis; None where that is not known."""
    subject = row.subject
    value = {"batch": subject.batch_size, "limit": subject.setting.limit_w, "mode": subject.setting.mode}[axis]
    if isinstance(value, Missing):
        return None
    return value if isinstance(value, str) else float(value)


def _common(row: EnergyRow, axis: Axis) -> tuple[object, ...]:
    """Return what the rows of a curve share; a limit changes the fingerprint, a power mode that and the threads."""
    subject, setting = row.subject, row.subject.setting
    fixed = (row.boundary, subject.family, subject.engine, subject.precision, subject.mode, subject.streams)
    if axis == "batch":
        return (*fixed, subject.fingerprint, subject.threads, setting.words)
    if axis == "limit":
        return (*fixed, subject.device, subject.threads, subject.network, str(setting.mode))
    return (*fixed, subject.device, subject.network)


def _point(row: EnergyRow, x: float) -> Point:
    total = row.total
    assert isinstance(total, Joules)  # `eligible` has seen to it
    low = total.value if isinstance(total.low, Missing) else total.low
    high = total.value if isinstance(total.high, Missing) else total.high
    return Point(row=row, x=x, y=1 / total.value, low=1 / high, high=1 / low if low > 0 else 1 / total.value)


def _name(row: EnergyRow, axis: Axis, several: bool) -> str:
    subject = row.subject
    name = f"{subject.engine} {subject.precision}"
    if not several:
        return name
    batch = "" if axis == "batch" or isinstance(subject.batch_size, Missing) else f", batch {subject.batch_size}"
    setting = f", {subject.setting.words}" if axis == "batch" and subject.setting.words else ""
    return f"{subject.model}, {name}{batch}, {subject.device}{setting}"


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Energy over time for one network within one boundary.

    ``x`` is the time per inference during the energy windows, with one request in flight: its latency. ``y`` is in
    joules per item where the batch sizes differ (``per_item``), else per inference.
    """

    name: str
    boundary: str
    per_item: bool
    points: tuple[Point, ...]
    front: tuple[Point, ...]
    balanced: Point | None


def planes(rows: Sequence[EnergyRow]) -> tuple[Plane, ...]:
    """Return a plane for each network and boundary with two points or more."""
    families: dict[tuple[str, str], list[EnergyRow]] = {}
    for row in rows:
        if eligible(row) is None and row.subject.streams == 1 and not isinstance(row.time_per_inference_s, Missing):
            families.setdefault((row.subject.family, row.boundary), []).append(row)
    return tuple(_plane(members) for members in families.values() if len(members) > 1)


def _plane(rows: Sequence[EnergyRow]) -> Plane:
    sizes = {row.subject.batch_size for row in rows if not isinstance(row.subject.batch_size, Missing)}
    per_item = len(sizes) > 1
    points = tuple(_in_plane(row, per_item) for row in rows if not (per_item and _value(row, "batch") is None))
    kept = front(points)
    return Plane(
        name=rows[0].subject.model,
        boundary=rows[0].boundary,
        per_item=per_item,
        points=points,
        front=kept,
        balanced=balanced(kept),
    )


def _in_plane(row: EnergyRow, per_item: bool) -> Point:
    total, size = row.total, row.subject.batch_size
    assert isinstance(total, Joules)
    assert not isinstance(row.time_per_inference_s, Missing)
    share = 1 / size if per_item and not isinstance(size, Missing) else 1.0
    low = total.value if isinstance(total.low, Missing) else total.low
    high = total.value if isinstance(total.high, Missing) else total.high
    return Point(row=row, x=row.time_per_inference_s, y=total.value * share, low=low * share, high=high * share)
