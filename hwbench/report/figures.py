"""Charts as plotly dicts ``{"data": [...], "layout": {...}}``; the page draws them, tests read them.

Axes are in SI units with plotly's SI prefixes, so nothing is converted here. Colours of text, grid and background are
not set: the page's script sets them to fit a light or a dark screen, and gives the text's colour to lines with
``meta: "ink"``. Plotly reads tags in labels, so every string from outside goes through :func:`label`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hwbench.records.base import Missing
from hwbench.records.measurement import Measurement, Throughput
from hwbench.report.thinning import ECDF_POINTS, SERIES_POINTS, block_medians, histogram, thin_series, thin_sorted
from hwbench.stats import quantile
from hwbench.units import format_bytes

Figure = dict[str, Any]

PALETTE = ("#0077bb", "#ee7733", "#009988", "#cc3311", "#aa4499", "#88aa22", "#33bbee", "#997700")
GREY = "#999999"
DASHES = ("solid", "dash", "dot", "dashdot")

SECONDS = {"ticksuffix": "s", "tickformat": "~s", "hoverformat": ".4~s"}


def label(text: str) -> str:
    """Return ``text`` so that plotly shows it as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def colour(index: int) -> str:
    """Return the colour of the measurement at ``index``, the same in every chart."""
    return PALETTE[index % len(PALETTE)]


def layout(height: int, **more: Any) -> Figure:
    """Return what all charts have in common, with ``more``."""
    return {
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 52, "b": 50},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        **more,
    }


def axis(title: str, **more: Any) -> Figure:
    """Return an axis with a title."""
    return {"title": {"text": title, "standoff": 8}, "automargin": True, **more}


def ecdf(names: Sequence[str], measurements: Sequence[Measurement]) -> Figure:
    """Return the share of samples at or below each latency, one line a measurement."""
    data, extremes = [], []
    for index, (name, measurement) in enumerate(zip(names, measurements, strict=True)):
        ordered = [sample / 1e9 for sample in sorted(measurement.samples_ns)]
        extremes += [ordered[0], ordered[-1]]
        kept = thin_sorted(ordered, ECDF_POINTS)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": label(name),
                "x": [ordered[i] for i in kept],
                "y": [(i + 1) / len(ordered) for i in kept],
                "line": {"shape": "hv", "width": 1.8, "color": colour(index), "dash": DASHES[index % len(DASHES)]},
                "hovertemplate": "%{y:.1%} at or below %{x:.4~s}s<extra>%{fullData.name}</extra>",
            }
        )
    scale = {"type": "log"} if extremes and min(extremes) > 0 and max(extremes) > 5 * min(extremes) else {}
    share = axis("share of samples", tickformat=".0%", range=[0, 1.01])
    return {"data": data, "layout": layout(340, xaxis=axis("latency", **SECONDS, **scale), yaxis=share)}


def samples(index: int, measurement: Measurement) -> Figure:
    """Return one measurement's histogram beside its samples in the order they were taken."""
    seconds = [sample / 1e9 for sample in measurement.samples_ns]
    ordered = sorted(seconds)
    edges, counts, _ = histogram(ordered)
    kept = thin_series(seconds, SERIES_POINTS)
    warm = [sample / 1e9 for sample in measurement.warmup_ns]
    warm_kept = thin_series(warm, SERIES_POINTS)
    middles, medians = block_medians(seconds)
    median = quantile(ordered, 0.5)
    dots = {"type": "scatter", "mode": "markers", "xaxis": "x2", "yaxis": "y2"}
    data: list[Figure] = [
        {
            "type": "bar",
            "x": [(a + b) / 2 for a, b in itertools.pairwise(edges)],
            "y": counts,
            "width": [(b - a) or a * 0.01 or 1e-9 for a, b in itertools.pairwise(edges)],
            "marker": {"color": colour(index)},
            "hovertemplate": "%{y} samples around %{x:.4~s}s<extra></extra>",
            "showlegend": False,
        },
        {
            **dots,
            "name": "sample",
            "x": kept,
            "y": [seconds[i] for i in kept],
            "marker": {"size": 3, "color": colour(index), "opacity": 0.6},
            "hovertemplate": "sample %{x}: %{y:.4~s}s<extra></extra>",
        },
        {
            **dots,
            "mode": "lines",
            "name": "median of each stretch",
            "x": middles,
            "y": medians,
            "line": {"width": 1.5},
            "meta": "ink",
            "hovertemplate": "median %{y:.4~s}s<extra></extra>",
        },
        {
            **dots,
            "name": "warm-up (click to show)",
            "visible": "legendonly",
            "x": [i - len(warm) for i in warm_kept],
            "y": [warm[i] for i in warm_kept],
            "marker": {"size": 3, "color": GREY, "symbol": "x"},
            "hovertemplate": "warm-up: %{y:.4~s}s<extra></extra>",
        },
    ]
    line = {"type": "line", "xref": "x", "yref": "y domain", "y0": 0, "y1": 1, "line": {"width": 1.5, "dash": "dot"}}
    return {
        "data": data,
        "layout": layout(
            280,
            bargap=0,
            shapes=[{**line, "x0": median, "x1": median}],
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0.44},
            xaxis=axis("latency (dotted: median)", domain=[0, 0.36], **SECONDS),
            yaxis=axis("samples"),
            xaxis2=axis("sample number, in order", domain=[0.44, 1], anchor="y2"),
            yaxis2=axis("latency", anchor="x2", **SECONDS),
        ),
    }


def throughput(names: Sequence[str], rates: Sequence[tuple[int, Throughput]]) -> Figure:
    """Return inferences per second with their intervals, and the rate over the window; ``rates`` with indexes."""
    bars: Figure = {
        "type": "bar",
        "orientation": "h",
        "y": [label(names[index]) for index, _ in rates],
        "x": [rate.inferences_per_s for _, rate in rates],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [rate.high_per_s - rate.inferences_per_s for _, rate in rates],
            "arrayminus": [rate.inferences_per_s - rate.low_per_s for _, rate in rates],
        },
        "marker": {"color": [colour(index) for index, _ in rates]},
        "hovertemplate": "%{x:.4~s}/s<extra>%{y}</extra>",
        "showlegend": False,
    }
    lines = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "xaxis": "x2",
            "yaxis": "y2",
            "name": label(names[index]),
            "x": [
                (part + 0.5) * rate.window_s / len(rate.sub_window_per_s) for part in range(len(rate.sub_window_per_s))
            ],
            "y": list(rate.sub_window_per_s),
            "line": {"color": colour(index), "dash": DASHES[index % len(DASHES)]},
            "hovertemplate": "%{y:.4~s}/s at %{x:.3~s}s<extra>%{fullData.name}</extra>",
        }
        for index, rate in rates
    ]
    per_second = {"ticksuffix": "/s", "tickformat": "~s", "rangemode": "tozero"}
    return {
        "data": [bars, *lines],
        "layout": layout(
            160 + 60 * len(rates),
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0.56},
            xaxis=axis("inferences per second", domain=[0, 0.46], **per_second),
            yaxis=axis("", type="category", autorange="reversed"),
            xaxis2=axis("time in the window", domain=[0.56, 1], anchor="y2", **SECONDS),
            yaxis2=axis("rate", anchor="x2", **per_second),
        ),
    }


MEMORY = {
    "baseline_rss_bytes": ("without a model", "#bbbbbb"),
    "loaded_rss_bytes": ("model loaded", "#77aadd"),
    "peak_load_rss_bytes": ("peak while loading", "#ee8866"),
    "peak_run_rss_bytes": ("peak while running", "#225588"),
}


def memory(names: Sequence[str], measurements: Sequence[Measurement]) -> Figure:
    """Return the resident set in each phase; a phase that was not measured has no bar."""
    data = []
    for field, (title, tint) in MEMORY.items():
        values = [(name, getattr(m.memory, field)) for name, m in zip(names, measurements, strict=True)]
        known = [(label(name), value) for name, value in values if not isinstance(value, Missing)]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": title,
                "y": [name for name, _ in known],
                "x": [value for _, value in known],
                "text": [format_bytes(value) for _, value in known],
                "textposition": "auto",
                "textfont": {"size": 11},
                "marker": {"color": tint},
                "hovertemplate": "%{text}<extra>%{y}, %{fullData.name}</extra>",
            }
        )
    ticks = byte_ticks(max((value for trace in data for value in trace["x"]), default=1))
    order = {"categoryorder": "array", "categoryarray": [label(name) for name in names]}
    return {
        "data": data,
        "layout": layout(
            120 + 75 * len(names),
            barmode="group",
            bargap=0.25,
            xaxis=axis("resident set", tickvals=ticks, ticktext=[format_bytes(tick) for tick in ticks]),
            yaxis=axis("", type="category", autorange="reversed", **order),
        ),
    }


def byte_ticks(highest: float) -> list[int]:
    """Return four to eight round binary sizes from zero to about ``highest``."""
    step = 1
    while highest / step > 8:
        step *= 2
    return [step * count for count in range(int(highest // step) + 1)]


def across_results(points: Sequence[tuple[str, float, float, float]], mode: str) -> Figure:
    """Return one small multiple: value and interval (``name, value, low, high``) of one engine in several results."""
    form = SECONDS if mode != "throughput" else {"ticksuffix": "/s", "tickformat": "~s", "hoverformat": ".4~s"}
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [value for _, value, _, _ in points],
        "y": [label(name) for name, _, _, _ in points],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - value for _, value, _, high in points],
            "arrayminus": [value - low for _, value, low, _ in points],
        },
        "marker": {"size": 8, "color": PALETTE[0]},
        "hovertemplate": "%{x}<extra>%{y}</extra>",
        "showlegend": False,
    }
    title = "median latency" if mode != "throughput" else "inferences per second"
    return {
        "data": [trace],
        "layout": layout(
            110 + 28 * len(points),
            xaxis=axis(title, rangemode="tozero", nticks=5, **form),
            yaxis=axis("", type="category", autorange="reversed"),
        ),
    }
