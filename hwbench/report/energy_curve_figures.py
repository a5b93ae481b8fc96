"""Charts over several energy runs: efficiency over batch size, power limit or mode, and the front of energy and time.

Only measured points are drawn as points. The dotted lines between them join what belongs together and claim nothing
about what lies between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwbench.report.energy_curves import Curve, Plane
from hwbench.report.energy_figures import JOULES, WATTS
from hwbench.report.energy_rank import Point
from hwbench.report.figures import GREY, SECONDS, Figure, axis, colour, label, layout

PER_JOULE = {"ticksuffix": "/J", "tickformat": "~s", "hoverformat": ".4~s", "rangemode": "tozero"}


def over_batch(curves: Sequence[Curve], knees: Sequence[Point | None]) -> Figure:
    """Return items per joule and, beside them, inferences per joule over the batch size; ``knees`` in items."""
    data = []
    for index, (curve, knee) in enumerate(zip(curves, knees, strict=True)):
        data += _points(index, curve, knee, per_item=True)
        second = {"xaxis": "x2", "yaxis": "y2", "showlegend": False}
        data += [{**trace, **second} for trace in _points(index, curve, None, per_item=False)]
    sizes = sorted({point.x for curve in curves for point in curve.points})
    form: dict[str, Any] = {"type": "log", "tickvals": sizes, "ticktext": [f"{size:g}" for size in sizes]}
    return {
        "data": data,
        "layout": layout(
            360,
            xaxis=axis("batch size", domain=[0, 0.44], **form),
            yaxis=axis("items per joule", **PER_JOULE),
            xaxis2=axis("batch size", domain=[0.56, 1], anchor="y2", **form),
            yaxis2=axis("inferences per joule", anchor="x2", **PER_JOULE),
        ),
    }


def over_setting(curves: Sequence[Curve]) -> Figure:
    """Return inferences per joule over the power limit, or the power mode."""
    data = [trace for index, curve in enumerate(curves) for trace in _points(index, curve, None, per_item=False)]
    limits = curves[0].axis == "limit"
    form: dict[str, Any] = WATTS if limits else {"type": "category"}
    return {
        "data": data,
        "layout": layout(
            340,
            xaxis=axis("power limit" if limits else "power mode", **form),
            yaxis=axis("inferences per joule", **PER_JOULE),
        ),
    }


def _points(index: int, curve: Curve, knee: Point | None, *, per_item: bool) -> list[Figure]:
    points = curve.points
    times = [point.x if per_item else 1.0 for point in points]
    places = [curve.ticks[int(point.x)] if curve.ticks else point.x for point in points]
    values = [point.y * factor for point, factor in zip(points, times, strict=True)]
    line = {"dash": "dot", "width": 1, "color": colour(index)}
    traces: list[Figure] = [
        {
            "type": "scatter",
            "mode": "markers" if curve.ticks else "lines+markers",
            "name": label(curve.name),
            "x": [label(place) if isinstance(place, str) else place for place in places],
            "y": values,
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [(point.high - point.y) * factor for point, factor in zip(points, times, strict=True)],
                "arrayminus": [(point.y - point.low) * factor for point, factor in zip(points, times, strict=True)],
            },
            "line": line,
            "marker": {"size": 9, "color": colour(index)},
            "text": [label(point.row.name) for point in points],
            "hovertemplate": "%{y:.4~s}/J at %{x}<extra>%{text}</extra>",
        }
    ]
    if knee is not None:
        traces.append(_ring([knee.x], [knee.y], "knee"))
    return traces


def _ring(x: list[float], y: list[float], name: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": x,
        "y": y,
        "marker": {"size": 17, "symbol": "circle-open", "color": "#cc3311", "line": {"width": 2}},
        "hoverinfo": "name",
        "showlegend": False,
    }


def energy_over_time(plane: Plane) -> Figure:
    """Return energy over time per inference; the front joined, what others beat open."""
    kept = {id(point.row) for point in plane.front}
    beaten = [point for point in plane.points if id(point.row) not in kept]
    data = [_cloud("on the front", plane.front, joined=True), _cloud("beaten in both", beaten, joined=False)]
    if plane.balanced is not None:
        data.append(_ring([plane.balanced.x], [plane.balanced.y], "least energy × time"))
    return {
        "data": data,
        "layout": layout(
            400,
            xaxis=axis("time per inference, one in flight", rangemode="tozero", **SECONDS),
            yaxis=axis("energy per item" if plane.per_item else "energy per inference", rangemode="tozero", **JOULES),
        ),
    }


def _cloud(name: str, points: Sequence[Point], *, joined: bool) -> Figure:
    tint = colour(0) if joined else GREY
    return {
        "type": "scatter",
        "mode": "lines+markers+text" if joined else "markers+text",
        "name": name,
        "x": [point.x for point in points],
        "y": [point.y for point in points],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [point.high - point.y for point in points],
            "arrayminus": [point.y - point.low for point in points],
        },
        "text": [label(point.row.name) for point in points],
        "textposition": "top center",
        "textfont": {"size": 11},
        "cliponaxis": False,
        "line": {"dash": "dot", "width": 1, "color": tint},
        "marker": {"size": 10, "color": tint, "symbol": "circle" if joined else "circle-open"},
        "hovertemplate": "%{y:.4~s}J, %{x:.4~s}s<extra>%{text}</extra>",
    }
