"""What contests measured of designs, against what was predicted of them: goals are of the one, bounds of the other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from hwbench.plan.assemble import MEMORY, SIZE
from hwbench.planning_pipeline.found import Found
from hwbench.planning_pipeline.meeting import Gauge
from hwbench.records.goals import PlanGoal
from hwbench.records.optimization import Feedback

_OFFSETS = (MEMORY, SIZE)  # what a runtime adds to
_OFF = 0.02  # of a bound: by how much what is measured may lie apart from what is predicted without solving again


def steering(goals: Sequence[PlanGoal], allowed: float) -> tuple[PlanGoal, ...]:
    """Return goals for the planner: those of accuracy as one drop, which has been held against the original already."""
    others = tuple(goal for goal in goals if goal.metric != "accuracy")
    first = min((goal.priority for goal in goals if goal.metric == "accuracy"), default=1)
    drop = PlanGoal(
        text=f"accuracy drop<{100 * allowed:.3g}pp", metric="accuracy", kind="max-degradation", value=allowed,
        priority=first,
    )  # fmt: skip
    return (*others, drop) if others else ()


def gauge_of(engine: str, found: Found, feedback: Sequence[Feedback], measured: str) -> Gauge:
    """Return what contests measured of designs of a runtime against what was predicted of that quantity.

    A factor is the median, free of drift between the rounds; an offset does not drift.
    """
    if measured in _OFFSETS:
        return gauges_of(engine, found, feedback, measured).get(measured, Gauge())
    uniform = [each for each in feedback if each.precision is not None and each.ratio == 1.0]
    base = [each.value for each in uniform if isinstance(each.value, float)]
    seen = [
        each.ratio * statistics.median(base) / expected
        for each in feedback
        if base and each.engine == engine and each.precision is None and isinstance(each.ratio, float)
        if (expected := found.values(each.design)[measured])  # nothing, where all layers are dropped, scales nothing
    ]
    return Gauge(factor=statistics.median(seen)) if seen else Gauge()


def gauges_of(engine: str, found: Found, feedback: Sequence[Feedback], measured: str) -> dict[str, Gauge]:
    """Return what was measured of designs of a runtime against what was predicted, by quantity.

    Times and energies go by a factor; memory and size by an offset, since much of them is not the network's weights.

    Args:
        engine: the runtime.
        found: predicts.
        feedback: what was measured.
        measured: what contests are held in.
    """
    pairs: dict[str, list[tuple[float, float]]] = {}
    for each in feedback:
        if each.engine == engine and each.precision is None and isinstance(each.value, float):
            predicted = found.values(each.design)
            for name, value in {**each.also, measured: each.value}.items():
                if name in predicted and (name in _OFFSETS or predicted[name]):  # as above: nothing scales nothing
                    pairs.setdefault(name, []).append((value, predicted[name]))
    return {
        name: Gauge(offset=statistics.median(value - expected for value, expected in some))
        if name in _OFFSETS
        else Gauge(factor=statistics.median(value / expected for value, expected in some))
        for name, some in pairs.items()
    }


def differ(one: Gauge, other: Gauge) -> bool:
    """Say whether two gauges differ by more than is worth solving again for."""
    shift = abs(one.offset - other.offset)
    return abs(math.log(one.factor / other.factor)) > _OFF or shift > _OFF * max(abs(one.offset), 1.0)
