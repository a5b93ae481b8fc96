"""The chart over the layers of every engine: the time by kind of op."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from hwbench.records.measurement import LayerTable
from hwbench.report.figures import GREY, PALETTE, SECONDS, Figure, axis, label, layout

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
