"""The roofline (Williams, Waterman, Patterson, CACM 52(4), 2009): each layer's rate under what the machine attains.

A multiply-add is two operations. Bytes are those of a layer's inputs, weights and outputs, once each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hwbench.records.base import Missing
from hwbench.records.measurement import LayerTable, Measurement, ProfileResult
from hwbench.report.figures import GREY, Figure, axis, colour, label, layout
from hwbench.units import format_seconds, format_si

_HEIGHT = 480
# What a label takes up, as a share of the plot: 110 x 17 pixels on one of 700 x 370, the narrowest that is usual.
_LABEL_WIDTH, _LABEL_HEIGHT = 0.16, 0.047


@dataclass(frozen=True, kw_only=True)
class Point:
    """One layer in the roofline: operations per byte, operations per second, share of the time."""

    name: str
    intensity: float
    ops_per_s: float
    share: float
    seconds: float


def attainable_ops_per_s(intensity: float, peak_ops_per_s: float, bandwidth_bytes_per_s: float) -> float:
    """Return the most operations per second at ``intensity`` operations per byte."""
    return min(peak_ops_per_s, intensity * bandwidth_bytes_per_s)


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


def why_none(result: ProfileResult, measurements: Sequence[Measurement]) -> str | None:
    """Return why there is no roofline for this result, None where there is."""
    if isinstance(result.roofline_source, Missing):
        return f"No roofline: {result.roofline_source}."
    if not result.peak_ops_per_s or not result.bandwidth_bytes_per_s:
        return "No roofline: no peak or no bandwidth is known for this device."
    if not any(_is_shown(measurement) for measurement in measurements):
        return "No roofline: no measurement that may be believed has per-layer times."
    return None


def charts(
    result: ProfileResult, names: Sequence[str], measurements: Sequence[Measurement]
) -> Iterator[tuple[Figure, str, str]]:
    """Yield figure, title and caption for every measurement that may be believed and has layers, fastest first."""
    for index, (name, measurement) in enumerate(zip(names, measurements, strict=True)):
        table, precision = measurement.layers, measurement.built.precision
        if _is_shown(measurement) and not isinstance(table, Missing):
            found = points(table)
            peaks, bandwidths = result.peak_ops_per_s, result.bandwidth_bytes_per_s
            figure = roofline(found, peaks, bandwidths, precision=precision, index=index)
            yield figure, f"Layers of {name}", _caption(found, len(table.rows), name, precision, peaks, bandwidths)


def _is_shown(measurement: Measurement) -> bool:
    return measurement.validity.status != "invalid" and not isinstance(measurement.layers, Missing)


def _caption(
    found: Sequence[Point],
    layers: int,
    name: str,
    precision: str,
    peaks: dict[str, float],
    bandwidths: dict[str, float],
) -> str:
    text = (
        f"{len(found)} of {layers} layers of {name}: those with known, nonzero operations and bytes. "
        "Area by share of the time. Bytes are each layer's inputs, weights and outputs, once: real traffic differs, "
        "so points may lie above a memory roof where a cache serves them. Solid roofs: main memory, and the precision "
        "that was built."
    )
    if precision not in peaks:
        return f"{text} No peak is known for {precision}."
    peak = peaks[precision]
    above = [point for point in found if point.ops_per_s > peak]
    fastest = max(bandwidths.values())
    beyond = [
        point
        for point in found
        if point.ops_per_s > attainable_ops_per_s(point.intensity, peak, fastest) and point not in above
    ]
    if above:
        highest = max(point.ops_per_s for point in above) / peak
        text += (
            f" {len(above)} lie above the {precision} peak, the highest at {highest:.2g} times it: the peak is what a "
            "matrix product reached, which is too low where that was disturbed, had other "
            "threads or clocks, or where a convolution does fewer multiplications than are counted (Winograd)."
        )
    if beyond:
        text += (
            f" {len(beyond)} lie above every memory roof: a copy counts what it reads and writes, a layer whose inputs "
            "stay in registers or in a nearer cache moves less than is counted."
        )
    return text


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
    low = min([*ridges, *(point.intensity for point in layers)]) / 10  # room for the labels of the memory roofs
    high = max([*ridges, *(point.intensity for point in layers)]) * 3
    top, fastest = max(peak_ops_per_s.values()), max(bandwidth_bytes_per_s.values())
    floor = min([low * min(bandwidth_bytes_per_s.values()), *(point.ops_per_s for point in layers)])
    x_range = (math.log10(low), math.log10(high))
    y_range = (math.log10(floor) - 0.2, math.log10(max([top, *(p.ops_per_s for p in layers)])) + 0.4)
    wide, tall = x_range[1] - x_range[0], y_range[1] - y_range[0]
    slots = _slots({level: math.log10(rate) for level, rate in bandwidth_bytes_per_s.items()}, tall)
    data = []
    for level, rate in bandwidth_bytes_per_s.items():
        at = min(low * 10 ** (wide * _LABEL_WIDTH * (slots[level] + 1)), top / rate)
        path = [low, at, top / rate]
        name = f"{level} {format_si(rate, 'B/s')}"
        data.append(_roof(name, path, [x * rate for x in path], solid=level == "dram"))
    slots = _slots({key: math.log10(peak) for key, peak in peak_ops_per_s.items()}, tall)
    for key, peak in peak_ops_per_s.items():
        path = [high, high / 10 ** (wide * _LABEL_WIDTH * slots[key]), peak / fastest]
        data.append(_roof(f"{key} {format_si(peak, 'op/s')}", path, [peak] * 3, solid=key == precision))
    if layers:
        data.append(_layer_points(layers, colour(index)))
    log: dict[str, Any] = {"type": "log", "tickformat": "~s", "dtick": 1}
    return {
        "data": data,
        "layout": layout(
            _HEIGHT,
            showlegend=False,
            xaxis=axis("operations per byte moved (a multiply-add is two)", range=list(x_range), **log),
            yaxis=axis("operations per second", ticksuffix="op/s", range=list(y_range), **log),
        ),
    }


def _slots(heights: dict[str, float], tall: float) -> dict[str, int]:
    """Return how many label widths each label has to move along its roof, so that none lies on the one next to it."""
    slots: dict[str, int] = {}
    ordered = sorted(heights, key=heights.__getitem__)
    for position, key in enumerate(ordered):
        near = {slots[other] for other in ordered[:position] if heights[key] - heights[other] < _LABEL_HEIGHT * tall}
        slots[key] = next(slot for slot in range(len(ordered)) if slot not in near)
    return slots


def _roof(name: str, x: list[float], y: list[float], *, solid: bool) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines+text",
        "name": label(name),
        "x": x,
        "y": y,
        "text": ["", label(name), ""],
        "textposition": "top left",
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
