"""Charts over layers: the time by kind of op, and the roofline (Williams, Waterman and Patterson, CACM 2009)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hwbench.records.base import Missing
from hwbench.records.measurement import LayerTable
from hwbench.report.figures import GREY, PALETTE, SECONDS, Figure, axis, colour, label, layout
from hwbench.units import format_seconds, format_si

KINDS = 8
UNATTRIBUTED = "no layer (unattributed)"


def by_kind(names: Sequence[str], tables: Sequence[LayerTable]) -> Figure:
    """Return one stacked bar a measurement: the time of each kind of op, and what no layer accounts for."""
    times = [_times(table) for table in tables]
    total: dict[str, float] = defaultdict(float)
    for kinds in times:
        for kind, seconds in kinds.items():
            total[kind] += seconds
    kept = sorted(total, key=lambda kind: -total[kind])[: KINDS if len(total) <= KINDS else KINDS - 1]
    y = [label(name) for name in names]
    data = [
        _bar(label(kind), y, [kinds.get(kind, 0.0) for kinds in times], PALETTE[index])
        for index, kind in enumerate(kept)
    ]
    if len(total) > len(kept):
        others = [sum(s for kind, s in kinds.items() if kind not in kept) for kinds in times]
        data.append(_bar(f"{len(total) - len(kept)} other kinds", y, others, "#ccbb44"))
    data.append(_bar(UNATTRIBUTED, y, [table.unattributed_s for table in tables], GREY))
    return {
        "data": data,
        "layout": layout(
            140 + 40 * len(names),
            barmode="relative",
            xaxis=axis("time, adding up to the median latency", **SECONDS),
            yaxis=axis("", type="category", autorange="reversed"),
        ),
    }


def _times(table: LayerTable) -> dict[str, float]:
    times: dict[str, float] = defaultdict(float)
    for row in table.rows:
        times[row.unit.op] += row.scaled_s
    return times


def _bar(name: str, y: list[str], x: list[float], tint: str) -> Figure:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": y,
        "x": x,
        "marker": {"color": tint},
        "hovertemplate": "%{x:.4~s}s<extra>%{y}: %{fullData.name}</extra>",
    }


@dataclass(frozen=True, kw_only=True)
class Point:
    """One layer in the roofline: operations per byte, operations per second, share of the time."""

    name: str
    intensity: float
    ops_per_s: float
    share: float
    seconds: float


def points(table: LayerTable) -> list[Point]:
    """Return the layers whose operations and bytes are known, and neither is zero."""
    found = []
    for row in table.rows:
        macs, moved = row.macs, row.moved_bytes
        if isinstance(macs, Missing) or isinstance(moved, Missing) or macs <= 0 or moved <= 0 or row.scaled_s <= 0:
            continue
        found.append(
            Point(
                name=f"{' + '.join(row.unit.members) or row.unit.name} ({row.unit.op})",
                intensity=2 * macs / moved,
                ops_per_s=2 * macs / row.scaled_s,
                share=row.share,
                seconds=row.scaled_s,
            )
        )
    return found


def roofline(
    layers: Sequence[Point],
    peak_ops_per_s: dict[str, float],
    bandwidth_bytes_per_s: dict[str, float],
    *,
    precision: str,
    index: int,
) -> Figure:
    """Return the roofs and one point a layer, log-log; ``precision`` has the solid roof, ``index`` the colour."""
    ridges = [peak / rate for peak in peak_ops_per_s.values() for rate in bandwidth_bytes_per_s.values()]
    low = min([*ridges, *(point.intensity for point in layers)]) / 3
    high = max([*ridges, *(point.intensity for point in layers)]) * 3
    top = max(peak_ops_per_s.values())
    fastest = max(bandwidth_bytes_per_s.values())
    data = [
        _roof(f"{level} {format_si(rate, 'B/s')}", (low, low * rate), (top / rate, top), solid=level == "dram")
        for level, rate in bandwidth_bytes_per_s.items()
    ]
    data += [
        _roof(f"{name} {format_si(peak, 'op/s')}", (high, peak), (peak / fastest, peak), solid=name == precision)
        for name, peak in peak_ops_per_s.items()
    ]
    if layers:
        data.append(_layer_points(layers, colour(index)))
    floor = min([low * min(bandwidth_bytes_per_s.values()), *(point.ops_per_s for point in layers)])
    log: dict[str, Any] = {"type": "log", "tickformat": "~s", "dtick": 1}
    return {
        "data": data,
        "layout": layout(
            480,
            showlegend=False,
            xaxis=axis(
                "operations per byte moved (a multiply-add is two)",
                range=[math.log10(low), math.log10(high)],
                **log,
            ),
            yaxis=axis(
                "operations per second",
                ticksuffix="op/s",
                range=[math.log10(floor) - 0.2, math.log10(top) + 0.4],
                **log,
            ),
        ),
    }


def _roof(name: str, start: tuple[float, float], end: tuple[float, float], *, solid: bool) -> Figure:
    flat = start[1] == end[1]
    return {
        "type": "scatter",
        "mode": "lines+text",
        "name": label(name),
        "x": [start[0], end[0]],
        "y": [start[1], end[1]],
        "text": [label(name), ""],
        "textposition": "top left" if flat else "top right",
        "cliponaxis": False,
        "line": {"color": GREY, "width": 2 if solid else 1, "dash": "solid" if solid else "dash"},
        "hoverinfo": "name",
    }


def _layer_points(layers: Sequence[Point], tint: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "layers",
        "x": [point.intensity for point in layers],
        "y": [point.ops_per_s for point in layers],
        "text": [
            f"{label(point.name)}<br>{format_seconds(point.seconds)}, {point.share * 100:.1f}% of the time<br>"
            f"{format_si(point.ops_per_s, 'op/s')} at {point.intensity:.3g} op/B"
            for point in layers
        ],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "color": tint,
            "opacity": 0.75,
            "size": [6 + 60 * math.sqrt(max(0.0, point.share)) / 2 for point in layers],
            "line": {"width": 1},
        },
    }
