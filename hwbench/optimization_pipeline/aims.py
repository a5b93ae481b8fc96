"""Goals in the user's words, held against what was built and measured.

Improvements and degradations are counted from the network as it came in: in its own arithmetic, on the runtime that is
fastest with that. Accuracy counted so is on the same samples as the candidate's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwbench.plan.goals import outcomes
from hwbench.records.base import Missing
from hwbench.records.goals import PlanGoal, PlanGoalOutcome
from hwbench.records.optimization import Candidate, Made, Scored
from hwbench.records.verification import Score

_ARITHMETIC = {"fp32": ("fp32", "auto"), "fp16": ("fp16",), "bf16": ("bf16",)}
Values = dict[str, "float | Missing"]


def allowed_drop(goals: Sequence[PlanGoal], otherwise: float) -> float:
    """Return by how much the metric may fall: what the goals say of it, or what holds otherwise."""
    said = [goal.value for goal in goals if goal.metric == "accuracy" and goal.kind == "max-degradation"]
    return min(said, default=otherwise)


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
