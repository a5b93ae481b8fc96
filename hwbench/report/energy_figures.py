"""Charts of energy as plotly dicts. See ``figures.py`` for what all charts have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwbench.records.base import Missing
from hwbench.report.energy_rank import interval
from hwbench.report.energy_rows import EnergyRow, EstimateRow, Joules
from hwbench.report.energy_traces import Line, Phase
from hwbench.report.figures import DASHES, GREY, SECONDS, Figure, axis, colour, label, layout

JOULES = {"ticksuffix": "J", "tickformat": "~s", "hoverformat": ".4~s"}
WATTS = {"ticksuffix": "W", "tickformat": "~s", "hoverformat": ".4~s"}
_TINT = {
    "idle": "rgba(0,119,187,0.10)",
    "warm-up": "rgba(238,119,51,0.12)",
    "window": "rgba(0,153,136,0.20)",
    "tail": "rgba(153,153,153,0.12)",
    "pulse": "rgba(170,68,153,0.15)",
}


def per_inference(rows: Sequence[EnergyRow]) -> Figure | None:
    """Return each row's total with both intervals: thick, repeatability; thin, the instrument's part added."""
    known = [(row, row.total) for row in rows if not isinstance(row.total, Missing)]
    if not known:
        return None
    repeats = "repeatability (95%)" if any(joules.n > 1 for _, joules in known) else "one window, not repeated"
    return {
        "data": [
            _intervals(known, whole=True, name="with the instrument's uncertainty (k=2)", width=1.2, tint=GREY),
            _intervals(known, whole=False, name=repeats, width=4, tint=colour(0)),
        ],
        "layout": layout(
            130 + 34 * len(known),
            xaxis=axis("energy per inference, total", rangemode="tozero", nticks=7, **JOULES),
            yaxis=axis("", type="category", autorange="reversed"),
        ),
    }


def _intervals(known: Sequence[tuple[EnergyRow, Joules]], *, whole: bool, name: str, width: float, tint: str) -> Figure:
    edges = [interval(joules, whole=whole) for _, joules in known]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [joules.value for _, joules in known],
        "y": [label(row.name) for row, _ in known],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - joules.value for (_, joules), (_, high) in zip(known, edges, strict=True)],
            "arrayminus": [joules.value - low for (_, joules), (low, _) in zip(known, edges, strict=True)],
            "thickness": width,
            "width": 0 if not whole else 5,
            "color": tint,
        },
        "marker": {"size": 3 if whole else 8, "color": tint},
        "hovertemplate": f"%{{x:.4~s}}J, {name}<extra>%{{y}}</extra>",
    }


def estimated(rows: Sequence[EstimateRow]) -> Figure:
    """Return estimates as hatched bars with their bands; never drawn beside measured values."""
    values = [row.estimate.energy_per_inference_j for row in rows]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": values,
        "y": [label(f"~ {row.name}") for row in rows],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [row.estimate.high_j - row.estimate.energy_per_inference_j for row in rows],
            "arrayminus": [row.estimate.energy_per_inference_j - row.estimate.low_j for row in rows],
        },
        "marker": {"color": GREY, "pattern": {"shape": "/", "fgcolor": GREY, "bgcolor": "rgba(0,0,0,0)"}},
        "hovertemplate": "~%{x:.3~s}J, estimated<extra>%{y}</extra>",
        "showlegend": False,
    }
    return {
        "data": [bars],
        "layout": layout(
            120 + 34 * len(rows),
            xaxis=axis("~ energy per inference, ESTIMATED", rangemode="tozero", nticks=7, **JOULES),
            yaxis=axis("", type="category", autorange="reversed"),
        ),
    }


def domains(rows: Sequence[EnergyRow]) -> Figure | None:
    """Return the breakdown as grouped bars: parts may overlap or leave something out, so they are not stacked."""
    names = list(dict.fromkeys(name for row in rows for name in row.domains_j))
    if not names:
        return None
    data = []
    for index, name in enumerate(names):
        known = [row for row in rows if name in row.domains_j]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": label(name),
                "x": [row.domains_j[name] for row in known],
                "y": [label(row.name) for row in known],
                "marker": {"color": colour(index)},
                "hovertemplate": "%{x:.4~s}J<extra>%{y}: %{fullData.name}</extra>",
            }
        )
    return {
        "data": data,
        "layout": layout(
            110 + (16 * len(names) + 20) * len(rows),
            barmode="group",
            xaxis=axis("energy per inference of each domain", nticks=7, **JOULES),
            yaxis=axis("", type="category", autorange="reversed"),
        ),
    }


def power_trace(lines: Sequence[Line], heat: Sequence[Line], phases: Sequence[Phase]) -> Figure:
    """Return power over time with its phases, and temperature below where there is one."""
    data = [_trace_line(index, line) for index, line in enumerate(lines)]
    data += [{**_trace_line(len(lines) + index, line), "yaxis": "y2"} for index, line in enumerate(heat)]
    top = 0.42 if heat else 0.0
    shapes = [_shade(phase) for phase in phases]
    names = [_phase_name(phase) for phase in phases if phase.kind != "pulse"]
    panels: dict[str, Any] = {"yaxis": axis("power", rangemode="tozero", domain=[top, 1], **WATTS)}
    if heat:
        panels["yaxis2"] = axis("temperature", ticksuffix="°C", domain=[0, 0.34], anchor="x")
    time_axis = axis("time since recording began", anchor="y2" if heat else "y", **SECONDS)
    more = {"shapes": shapes, "annotations": names, "margin": {"l": 60, "r": 20, "t": 76, "b": 50}}
    figure = layout(460 if heat else 340, xaxis=time_axis, **panels)
    return {"data": data, "layout": {**figure, **more}}


def _trace_line(index: int, line: Line) -> Figure:
    channel = line.channel
    role = {"total": "", "check": " (crosscheck)"}.get(channel.role, "")
    return {
        "type": "scatter",
        "mode": "lines",
        "name": label(f"{channel.name}{role}"),
        "x": list(line.times_s),
        "y": list(line.values),
        "connectgaps": False,
        "line": {
            "width": 1.4 if channel.role != "check" else 1,
            "color": colour(index),
            "dash": "solid" if channel.role == "total" else DASHES[1 + index % 3],
        },
        "hovertemplate": "%{y:.4~s}"
        + ("°C" if channel.quantity == "temperature" else "W")
        + " at %{x:.4~s}s<extra>%{fullData.name}</extra>",
    }


def _shade(phase: Phase) -> Figure:
    return {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": phase.start_s,
        "x1": phase.end_s,
        "y0": 0,
        "y1": 1,
        "layer": "below",
        "fillcolor": _TINT[phase.kind],
        "line": {"width": 0},
    }


def _phase_name(phase: Phase) -> Figure:
    return {
        "xref": "x",
        "yref": "paper",
        "x": (phase.start_s + phase.end_s) / 2,
        "y": 1,
        "yanchor": "top",
        "text": label(phase.title),
        "textangle": -90 if phase.kind != "warm-up" else 0,
        "showarrow": False,
        "font": {"size": 11},
    }
