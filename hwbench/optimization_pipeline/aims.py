"""Goals in the user's words, held against what was built and measured.

Improvements and degradations are counted from the network as it came in: in its own arithmetic, on the runtime that is
fastest with that. Accuracy counted so is on the same samples as the candidate's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hwbench.errors import UsageError
from hwbench.plan.goals import limit_of, misses, outcomes
from hwbench.records.base import Missing
from hwbench.records.goals import PlanGoal, PlanGoalOutcome
from hwbench.records.optimization import Candidate, Made, Scored
from hwbench.records.verification import Score

OTHERWISE = 0.01  # of the metric, where nothing is said
_ANYTHING = 1.0
_ARITHMETIC = {"fp32": ("fp32", "auto"), "fp16": ("fp16",), "bf16": ("bf16",)}
Values = dict[str, "float | Missing"]


def stated_drop(goals: Sequence[PlanGoal], max_drop: float | None) -> float:
    """Return by how much the metric may fall, as far as the request says: the least of what it says.

    Where nothing is said it is :data:`OTHERWISE`; or anything, where goals are about the accuracy itself, which
    :func:`settled_drop` holds against that of the original.
    """
    accuracy = [goal for goal in goals if goal.metric == "accuracy"]
    said = [goal.value for goal in accuracy if goal.kind == "max-degradation"]
    said += [] if max_drop is None else [max_drop]
    return min(said, default=_ANYTHING if accuracy else OTHERWISE)


def settled_drop(goals: Sequence[PlanGoal], max_drop: float, original: Sequence[Score]) -> float:
    """Return by how much the metric may fall so that all goals of accuracy hold; 0 where the original fails one.

    Args:
        goals: all of them.
        max_drop: what the request says by itself.
        original: scores of the network as it came in, on the selection split.

    Raises:
        UsageError: a goal is about the accuracy itself, and there is none.
    """
    about = [goal for goal in goals if goal.metric == "accuracy" and goal.kind != "max-degradation"]
    if not about:
        return max_drop
    if not original or not original[0].higher_is_better:
        what = f"'{original[0].name}' is small where it is good" if original else "the samples have no labels"
        raise UsageError(f"goal '{about[0].text}' needs an accuracy: {what}", hint="give labels, or --max-drop instead")
    score = original[0].value
    limits = [limit_of(goal, score) for goal in about]
    return max(0.0, min(max_drop, *(score - limit for limit in limits if not isinstance(limit, Missing))))


def missed_by(goals: Sequence[PlanGoal], before: Values, candidate: Values, objective: str) -> tuple[float, ...]:
    """Return by what a candidate misses the goals but those of accuracy, by priority; see :func:`misses`.

    A goal of the objective is missed or not: among those that miss it the guard takes the best anyhow, and asks for
    more than a point value.
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
    candidate: Candidate | None, objective: str, value: float | None, scores: Sequence[Score], batch: int
) -> Values:
    """Return what is known of a candidate, by metric, in SI units. ``value``: of the objective."""
    nothing = Missing(
        code="not_measured", why="it was not measured in this run", cure="--objective measures one of them"
    )
    found: Values = dict.fromkeys(("latency", "energy", "memory", "throughput"), nothing)
    if value is not None and objective in {"latency", "energy", "memory"}:
        found[objective] = value
        if objective == "latency" and value > 0:
            found["throughput"] = batch / value
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
    values: Mapping[str, float],
    objective: str,
    batch: int,
) -> dict[str, tuple[float, ...]]:
    """Return by what each candidate misses the goals but those of accuracy; arguments as of :func:`held`."""
    name = None if original is None else values.get(original.name)
    before = values_of(original, objective, name, (), batch)
    return {
        each.name: missed_by(goals, before, values_of(each, objective, values.get(each.name), (), batch), objective)
        for each in candidates
    }


def held(
    goals: Sequence[PlanGoal],
    chosen: tuple[Candidate, Scored],
    original: tuple[Candidate | None, Sequence[Score]],
    values: Mapping[str, float],
    objective: str,
    batch: int,
) -> tuple[PlanGoalOutcome, ...]:
    """Hold all goals against what was chosen.

    Args:
        goals: in the order of the request.
        chosen: the candidate, and how it scored.
        original: the network as it came in, if it was built, and its scores on the same samples.
        values: of the objective, by candidate.
        objective: what was measured.
        batch: samples of one inference.
    """
    candidate, scored = chosen
    before, scores = original
    mine = values_of(candidate, objective, values.get(candidate.name), scored.scores, batch)
    name = None if before is None else values.get(before.name)
    theirs = values_of(before, objective, name, scores, batch)
    return outcomes(goals, theirs, mine)
