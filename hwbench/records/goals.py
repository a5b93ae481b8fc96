"""What a user wants of a plan, in the user's words, and what became of it."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, check, check_finite

GoalMetric = Literal["accuracy", "latency", "energy", "memory", "size", "throughput"]
GoalKind = Literal[
    "threshold", "min-improvement", "percent-min-improvement", "max-degradation", "percent-max-degradation"
]


class PlanGoal(Record, frozen=True, kw_only=True):
    """One goal.

    ``value``: of the percent kinds a share (30 % is 0.3); of the others in the metric's SI unit (seconds, joules,
    bytes, inferences a second; accuracy is a share, 1 pp is 0.01). ``priority``: 1 is the most important.
    """

    text: str  # as typed
    metric: GoalMetric
    kind: GoalKind
    value: float
    priority: int = 1

    def __post_init__(self) -> None:
        check_finite(self, "value")
        check(self.priority >= 1, "priority must be at least 1")

    @property
    def more_is_better(self) -> bool:
        """Whether the metric should be large."""
        return self.metric in {"accuracy", "throughput"}


class PlanGoalOutcome(Record, frozen=True, kw_only=True):
    """What became of one goal, in the metric's unit.

    ``limit``: what the value must reach, or stay within. ``miss``: how far beyond the limit it is, as a share of the
    limit; 0 where the goal is met.
    """

    goal: PlanGoal
    limit: float | Missing
    value: float | Missing
    miss: float | Missing
    why: str

    @property
    def met(self) -> bool:
        """Whether the goal is known to be met."""
        return self.miss == 0
