"""The course of a window over time: medians of its parts, and the temperature where one was read."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.records.base import Missing
from hwbench.records.modes import Series
from hwbench.report.figures import DASHES, SECONDS, Figure, axis, colour, label, layout


def series(names: Sequence[str], found: Sequence[tuple[int, Series]]) -> Figure:
    """Return one line a measurement; ``found`` holds series with the index of their measurement in ``names``."""
    data: list[Figure] = []
    hot = False
    for index, one in found:
        line = {"color": colour(index), "dash": DASHES[index % len(DASHES)]}
        middles = [(part.start_s + part.end_s) / 2 for part in one.bins]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label(names[index]),
                "x": middles,
                "y": [part.median_s for part in one.bins],
                "line": line,
                "hovertemplate": "median %{y:.4~s}s at %{x:.3~s}s<extra>%{fullData.name}</extra>",
            }
        )
        heat = [(x, p.temperature_c) for x, p in zip(middles, one.bins, strict=True)]
        known = [(x, value) for x, value in heat if not isinstance(value, Missing)]
        if known:
            hot = True
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": f"{label(names[index])}, temperature",
                    "yaxis": "y2",
                    "x": [x for x, _ in known],
                    "y": [value for _, value in known],
                    "line": {**line, "width": 1},
                    "opacity": 0.5,
                    "hovertemplate": "%{y:.1f} °C at %{x:.3~s}s<extra>%{fullData.name}</extra>",
                }
            )
    second = {"yaxis2": axis("temperature", ticksuffix=" °C", overlaying="y", side="right")} if hot else {}
    return {
        "data": data,
        "layout": layout(
            320,
            xaxis=axis("time in the window", rangemode="tozero", **SECONDS),
            yaxis=axis("median latency", rangemode="tozero", **SECONDS),
            **second,
        ),
    }
