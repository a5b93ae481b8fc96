"""Goals in the user's words, held against what was built and measured.

Improvements and degradations are counted from the network as it came in: in its own arithmetic, on the runtime that is
fastest with that. Accuracy counted so is on the same samples as the candidate's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hwbench.plan.goals import drop_of, misses, outcomes
from hwbench.records.base import Missing
from hwbench.records.goals import PlanGoal, PlanGoalOutcome
from hwbench.records.optimization import Candidate, Made, Scored
from hwbench.records.verification import Score

_SHARES = ("accuracy", "token accuracy")  # of metrics, the first that a task is scored by
_ARITHMETIC = {"fp32": ("fp32", "auto"), "fp16": ("fp16",), "bf16": ("bf16",)}
Values = dict[str, "float | Missing"]
Measured = Mapping[str, Mapping[str, float]]


def settled_drop(goals: Sequence[PlanGoal], max_drop: float, original: Sequence[Score]) -> float:
    """Return by how much the metric may fall so that all goals of accuracy hold; 0 where the original fails one.

    A share cannot fall by more than 1; a metric in a unit of its own can, and may where nothing is said.

    Args:
        goals: all of them.
        max_drop: what the request says by itself.
        original: scores of the network as it came in, on the selection split.

    Raises:
        UsageError: a goal is about the accuracy itself, and there is none.
    """
    if not original or original[0].name in _SHARES:
        max_drop = min(max_drop, 1.0)
    if original and original[0].higher_is_better:
        return drop_of(goals, max_drop, original[0].value)
    why = f"'{original[0].name}' is small where it is good" if original else "the samples have no labels"
    return drop_of(goals, max_drop, Missing(code="no_accuracy", why=why))


def missed_by(goals: Sequence[PlanGoal], before: Values, candidate: Values, objective: str) -> tuple[float, ...]:
    """Return by what a candidate misses the goals but those of accuracy, by priority; see :func:`misses`.

    A goal of the objective is missed or not: among those that miss it the guard takes the best anyhow, and asks for
    more than a point value. Where accuracy is the objective no goal is: of those that miss one the nearest is taken.
    """
    own = {objective, "throughput"} if objective == "latency" else {objective}
    found = outcomes([goal for goal in goals if goal.metric != "accuracy"], before, candidate)
    return misses(
        [
            msgspec.structs.replace(each, miss=1.0)
            if each.goal.metric in own and not isinstance(each.miss, Missing) and each.miss > 0
            else each
            for each in found
        ]
    )


def of_arithmetic(arithmetic: str) -> tuple[str, ...]:
    """Return the uniform precisions that leave a network of this arithmetic as it is, the nearest first."""
    return _ARITHMETIC.get(arithmetic, (arithmetic,))


def as_it_came(candidates: Sequence[Candidate], arithmetic: str, values: Mapping[str, float]) -> Candidate | None:
    """Return the uniform candidate that is the network as it came in, on the runtime that is fastest with it."""
    own = [
        each
        for precision in of_arithmetic(arithmetic)
        for each in candidates
        if each.precision == precision and isinstance(each.made, Made)
    ]
    first = [each for each in own if own and each.precision == own[0].precision]
    return min(first, key=lambda each: values.get(each.name, float("inf")), default=None)


def values_of(
    candidate: Candidate | None, measured: Mapping[str, float], scores: Sequence[Score], batch: int
) -> Values:
    """Return what is known of a candidate, by metric, in SI units. ``measured``: latency, energy and memory."""
    nothing = Missing(code="not_measured", why="it was not measured in this run")
    found: Values = dict.fromkeys(("latency", "energy", "memory", "throughput"), nothing)
    found |= measured
    latency = measured.get("latency", 0.0)
    if latency > 0:
        found["throughput"] = batch / latency
    made = None if candidate is None else candidate.made
    gone = Missing(code="not_built", why="it was not built")
    found["size"] = float(made.engine.size_bytes) if isinstance(made, Made) else gone
    unlabelled = Missing(code="no_score", why="the samples have no score", cure="give labels")
    found["accuracy"] = scores[0].value if scores else unlabelled
    return found


def by_candidate(
    goals: Sequence[PlanGoal],
    candidates: Sequence[Candidate],
    original: Candidate | None,
    measured: Measured,
    objective: str,
    batch: int,
) -> dict[str, tuple[float, ...]]:
    """Return by what each candidate misses the goals but those of accuracy; arguments as of :func:`held`."""
    before = values_of(original, _of(original, measured), (), batch)
    return {
        each.name: missed_by(goals, before, values_of(each, _of(each, measured), (), batch), objective)
        for each in candidates
    }


def held(
    goals: Sequence[PlanGoal],
    chosen: tuple[Candidate, Scored],
    original: tuple[Candidate | None, Sequence[Score]],
    measured: Measured,
    batch: int,
) -> tuple[PlanGoalOutcome, ...]:
    """Hold all goals against what was chosen.

    Args:
        goals: in the order of the request.
        chosen: the candidate, and how it scored.
        original: the network as it came in, if it was built, and its scores on the same samples.
        measured: by candidate, latency, energy and memory as far as they were.
        batch: samples of one inference.
    """
    candidate, scored = chosen
    before, scores = original
    mine = values_of(candidate, _of(candidate, measured), scored.scores, batch)
    return outcomes(goals, values_of(before, _of(before, measured), scores, batch), mine)


def _of(candidate: Candidate | None, measured: Measured) -> Mapping[str, float]:
    return {} if candidate is None else measured.get(candidate.name, {})
