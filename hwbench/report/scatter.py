"""A scatter of few points as SVG: no script, so that a page of records alone needs none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 860, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 20, 20, 50
_COLOURS = {"chosen": "var(--good)", "uniform": "var(--dim)", "planned": "#0077bb"}
_TICKS = 5
_LABEL_WIDTH, _LABEL_HEIGHT = 130, 14


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point. ``front``: it is on the Pareto front, which is drawn as a line. ``kind``: chosen, uniform or planned."""

    label: str
    x: float
    y: float
    kind: str
    front: bool


def scatter(points: Sequence[Point], x_title: str, y_title: str) -> Markup:
    """Return the chart; empty where there is no point."""
    if not points:
        return Markup("")
    xs, ys = ([getattr(point, axis) for point in points] for axis in ("x", "y"))
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(*ys, 0.0), max(*ys, 0.0))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{} against {}">').format(
            _WIDTH, _HEIGHT, y_title, x_title
        )
    ]
    for tick in x_ticks:
        at, bottom = place(tick, y_ticks[0])
        parts.append(_line(at, _TOP, at, bottom) + _text(at, bottom + 18, f"{tick:.4g}", "middle"))
    for tick in y_ticks:
        left, at = place(x_ticks[0], tick)
        parts.append(_line(left, at, _WIDTH - _RIGHT, at) + _text(left - 6, at + 4, f"{tick:.4g}", "end"))
    parts.append(_text(_WIDTH / 2, _HEIGHT - 8, x_title, "middle") + _text(_LEFT, 12, y_title, "start"))
    front = " ".join("{:.1f},{:.1f}".format(*place(p.x, p.y)) for p in sorted(points, key=lambda p: p.x) if p.front)
    parts.append(
        Markup('<polyline points="{}" fill="none" stroke="var(--good)" stroke-dasharray="4 3"/>').format(front)
    )
    taken: list[tuple[float, float]] = []
    for point in points:
        x, y = place(point.x, point.y)
        told = f"{point.label}: {point.x:.4g}, {point.y:+.4g}"
        parts.append(
            Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" fill="{}"><title>{}</title></circle>').format(
                x, y, 7 if point.kind == "chosen" else 5, Markup(_COLOURS[point.kind]), told
            )
        )
        parts.append(_text(x + 9, _free(taken, x, y - 6), point.label, "start"))
    return Markup("").join([*parts, Markup("</svg>")])


def _free(taken: list[tuple[float, float]], x: float, y: float) -> float:
    """Return how far down a label must go so that it lies on no earlier one, and take that place."""
    while any(abs(x - other_x) < _LABEL_WIDTH and abs(y - other_y) < _LABEL_HEIGHT for other_x, other_y in taken):
        y += _LABEL_HEIGHT
    taken.append((x, y))
    return y


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers from below ``low`` to above ``high``, three at least."""
    span = (high - low) or abs(high) or 1.0
    raw = span / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * number for number in range(first, max(last, first + 2) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="var(--line)"/>').format(x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" font-size="12" fill="currentColor" text-anchor="{}">{}</text>').format(
        x, y, anchor, escape(text)
    )
