"""Charts of a search: Pareto fronts, the best so far, what each parameter decides, all points beside each other.

Parallel coordinates are drawn as lines over the axes' ranks, since the basic build of plotly on the page has no trace
of that kind.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from hwbench.records.search import UNITS, Importance, Objective, SearchResult, Trial
from hwbench.report.figures import GREY, PALETTE, SECONDS, Figure, axis, colour, label, layout
from hwbench.report.search import amount, settings
from hwbench.stats import non_dominated

_STATES = {"feasible": PALETTE[0], "breaks a constraint": PALETTE[1], "pruned": GREY}
_MOST_LINES = 300


def state_of(trial: Trial) -> str:
    """Return what a trial is drawn as."""
    if trial.state != "complete":
        return trial.state
    return "feasible" if trial.feasible else "breaks a constraint"


def pairs(found: SearchResult) -> list[tuple[Objective, Objective, Figure]]:
    """Return a chart of each pair of objectives, with the front of the feasible points in that pair."""
    wanted = found.request.objectives
    return [(one, other, _pair(found, one, other)) for one, other in itertools.combinations(wanted, 2)]


def _pair(found: SearchResult, one: Objective, other: Objective) -> Figure:
    trials = [trial for trial in _own(found) if None not in {trial.value(one.metric), trial.value(other.metric)}]
    data = [_cloud(name, [trial for trial in trials if state_of(trial) == name], one, other) for name in _STATES]
    feasible = [trial for trial in trials if trial.feasible]
    signs = [1 if each.direction == "minimize" else -1 for each in (one, other)]
    points = [(signs[0] * _of(trial, one), signs[1] * _of(trial, other)) for trial in feasible]
    front = sorted((feasible[index] for index in non_dominated(points)), key=lambda trial: _of(trial, one))
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": [_of(trial, one) for trial in front],
            "y": [_of(trial, other) for trial in front],
            "line": {"shape": "vh" if signs[0] == -1 else "hv", "width": 1.5},
            "meta": "ink",
            "hoverinfo": "skip",
        }
    )
    return {"data": data, "layout": layout(420, xaxis=_axis(one.metric), yaxis=_axis(other.metric))}


def _cloud(name: str, trials: Sequence[Trial], one: Objective, other: Objective) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [_of(trial, one) for trial in trials],
        "y": [_of(trial, other) for trial in trials],
        "error_x": _ends(trials, one),
        "error_y": _ends(trials, other),
        "text": [label(f"trial {trial.number}: {settings(trial)}") for trial in trials],
        "hovertemplate": "%{text}<br>%{x:.4~s}, %{y:.4~s}<extra></extra>",
        "marker": {"color": _STATES[name], "size": 8, "symbol": "x" if name == "pruned" else "circle"},
    }


def _ends(trials: Sequence[Trial], objective: Objective) -> Figure:
    """Return the intervals as error bars."""
    above, below = [], []
    for trial in trials:
        each = next(one for one in trial.quantities if one.metric == objective.metric)
        above.append(0.0 if each.high is None else max(0.0, each.high - each.value))
        below.append(0.0 if each.low is None else max(0.0, each.value - each.low))
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 2}


def history(found: SearchResult, objective: Objective) -> Figure:
    """Return every trial's value in their order, and the best feasible one so far."""
    trials = [trial for trial in _own(found) if trial.value(objective.metric) is not None]
    better = min if objective.direction == "minimize" else max
    numbers: list[int] = []
    so_far: list[float] = []
    for trial in trials:
        if trial.feasible:
            value = _of(trial, objective)
            numbers.append(trial.number)
            so_far.append(better(so_far[-1], value) if so_far else value)
    data: list[Figure] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [trial.number for trial in trials if state_of(trial) == name],
            "y": [_of(trial, objective) for trial in trials if state_of(trial) == name],
            "text": [label(settings(trial)) for trial in trials if state_of(trial) == name],
            "hovertemplate": "trial %{x}: %{text}<br>%{y:.4~s}<extra></extra>",
            "marker": {"color": tint, "size": 7},
        }
        for name, tint in _STATES.items()
    ]
    best = {"type": "scatter", "mode": "lines", "name": "best so far", "x": numbers, "y": so_far, "meta": "ink"}
    data.append({**best, "line": {"shape": "hv", "width": 1.5}, "hoverinfo": "skip"})
    return {"data": data, "layout": layout(320, xaxis=axis("trial", tickformat="d"), yaxis=_axis(objective.metric))}


def importance(found: Sequence[Importance]) -> Figure:
    """Return what share of each objective each parameter decides."""
    names = list(dict.fromkeys(name for one in found for name in one.shares))
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": one.metric,
            "y": [label(name) for name in names],
            "x": [one.shares.get(name, 0.0) for name in names],
            "marker": {"color": colour(index)},
            "hovertemplate": "%{y}: %{x:.1%}<extra>" + one.metric + "</extra>",
        }
        for index, one in enumerate(found)
    ]
    height = 120 + 26 * len(names) * max(1, len(found))
    share = axis("share of what is decided", tickformat=".0%", rangemode="tozero")
    bars = layout(height, barmode="group", xaxis=share, yaxis=axis("", type="category", autorange="reversed"))
    return {"data": data, "layout": bars}


def parallel(found: SearchResult) -> Figure:
    """Return all complete points as lines over parameters and objectives, each on a scale of its own."""
    trials = [trial for trial in _own(found) if trial.state == "complete"][-_MOST_LINES:]
    parameters = [one for one in found.request.space.parameters if not one.fixed]
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    logs = {one.name for one in parameters if one.log}
    columns = {name: _scaled([trial.params.get(name) for trial in trials], log=name in logs) for name in names}
    for objective in found.request.objectives:
        columns[objective.metric] = _scaled([trial.value(objective.metric) for trial in trials], log=False)
    titles = list(columns)
    data = []
    for index, trial in enumerate(trials):
        on_front = trial.number in found.pareto
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": [label(name) for name in titles],
                "y": [columns[name][index] for name in titles],
                "connectgaps": True,
                "line": {"color": PALETTE[3] if on_front else GREY, "width": 2 if on_front else 0.8},
                "marker": {"size": 4},
                "opacity": 1 if on_front else 0.5,
                "text": [label(_told(trial, name)) for name in titles],
                "hovertemplate": f"trial {trial.number}, " + "%{x}: %{text}<extra></extra>",
                "showlegend": False,
            }
        )
    scale = axis("lowest to highest, each for itself", showticklabels=False, range=[-0.05, 1.05])
    return {"data": data, "layout": layout(420, xaxis=axis("", type="category"), yaxis=scale)}


def _told(trial: Trial, name: str) -> str:
    if name in UNITS:
        value = trial.value(name)
        return "" if value is None else amount(name, value)
    return str(trial.params.get(name, ""))


def _scaled(values: Sequence[object], *, log: bool) -> list[float | None]:
    """Return values between 0 and 1: numbers by size, others by their order of first appearance; None stays."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known):
        numbers = [math.log(float(str(value))) if log else float(str(value)) for value in known]
    else:
        order = sorted({str(value) for value in known})
        numbers = [float(order.index(str(value))) for value in known]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 0.0)
    scaled = iter([(one - low) / (high - low) if high > low else 0.5 for one in numbers])
    return [None if value is None else next(scaled) for value in values]


def _own(found: SearchResult) -> list[Trial]:
    """Return the trials that tried a point for the first time."""
    return [trial for trial in found.trials if trial.same_as is None]


def _of(trial: Trial, objective: Objective) -> float:
    value = trial.value(objective.metric)
    assert value is not None
    return value


def _axis(metric: str) -> Figure:
    if UNITS[metric] == "s":
        return axis(metric, **SECONDS)
    return axis(metric, tickformat="~s" if UNITS[metric] else "", ticksuffix=UNITS[metric])
