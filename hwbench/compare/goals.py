"""``--fail-if``: a metric, a direction and a limit, such as ``latency>3%``, ``throughput<-5%`` or ``accuracy<-1pp``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hwbench.errors import InvalidMeasurement, UsageError
from hwbench.records.base import Missing
from hwbench.records.comparison import METRICS, AccuracyChange, Goal, GoalOutcome, Metric, Pair, Verdict
from hwbench.units import parse_comparison, parse_quantity

_SPELLINGS: dict[str, Metric] = {metric: metric for metric in METRICS} | {"p90": "latency_p90"}


def parse_goal(text: str) -> Goal:
    """Read one goal.

    Raises:
        UsageError: it is not of the form, names no metric, or its limit is a ratio that is not positive.
    """
    asked = parse_comparison(text)
    if asked is None:
        raise UsageError(f"--fail-if '{text}' is not METRIC>PERCENT", hint='write for example "latency>3%"')
    metric = _SPELLINGS.get(asked.name)
    if metric is None:
        raise UsageError(f"--fail-if '{text}': no metric is called '{asked.name}'", hint=f"there are: {_names()}")
    unit = "pp" if metric == "accuracy" else "%"
    try:
        share = parse_quantity(asked.value, unit)
    except UsageError as error:
        wanted, number = "percentage points" if unit == "pp" else "percent", asked.value.rstrip("%p ")
        raise UsageError(
            f"--fail-if '{text}': a change of {metric} is in {wanted}",
            hint=f'write "{metric}{asked.sign}{number}{unit}"',
        ) from error
    limit = share if unit == "pp" else 1 + share
    if unit == "%" and limit <= 0:
        raise UsageError(f"--fail-if '{text}': nothing can fall by {-share:.0%}")
    return Goal(text=text.strip(), metric=metric, direction="above" if asked.sign == ">" else "below", limit=limit)


def outcome(goal: Goal, verdict: Verdict) -> GoalOutcome:
    """Hold a goal against the whole interval: only what is certain counts.

    A failed A/A control leaves every goal open.
    """
    if verdict.why is not None and verdict.why.code == "control_differs":
        return GoalOutcome(goal=goal, status="unknown", why=verdict.why.why)
    low, high = verdict.ratio.low, verdict.ratio.high
    return _held(goal, low, high, f"{goal.metric} changed by {_change(low)} to {_change(high)}")


def accuracy_outcome(goal: Goal, change: AccuracyChange) -> GoalOutcome:
    """Hold a goal on accuracy against the whole interval of the difference."""
    said = f"accuracy changed by {100 * change.low:+.2f} pp to {100 * change.high:+.2f} pp (n = {change.n})"
    return _held(goal, change.low, change.high, said)


def _held(goal: Goal, low: float, high: float, said: str) -> GoalOutcome:
    limit = goal.limit
    beyond, within = (low > limit, high <= limit) if goal.direction == "above" else (high < limit, low >= limit)
    if beyond:
        return GoalOutcome(goal=goal, status="missed", why=f"{said}: surely beyond the limit")
    if within:
        return GoalOutcome(goal=goal, status="holds", why=f"{said}: surely within the limit")
    return GoalOutcome(goal=goal, status="unknown", why=f"{said}: the limit lies inside")


def refuse_missing(goals: Sequence[Goal], absent: Mapping[str, Missing], label: str) -> None:
    """Refuse goals whose metric is absent.

    Args:
        goals: what was asked for.
        absent: metrics that are not there, and why.
        label: what was compared, in words.

    Raises:
        InvalidMeasurement: a goal names one of them.
    """
    for goal in goals:
        reason = absent.get(goal.metric)
        if reason is not None:
            msg = f"--fail-if '{goal.text}': there is no {goal.metric} to compare for {label}: {reason.why}"
            raise InvalidMeasurement(msg, hint=reason.cure)


def with_goals(pair: Pair, goals: Sequence[Goal]) -> Pair:
    """Return ``pair`` with what became of the goals.

    Raises:
        InvalidMeasurement: a goal names a metric that this pair does not have.
    """
    refuse_missing(goals, pair.absent, pair.label)
    found = {verdict.metric: verdict for verdict in pair.verdicts}
    outcomes = (
        accuracy_outcome(goal, pair.accuracy)
        if isinstance(pair.accuracy, AccuracyChange) and goal.metric == "accuracy"
        else outcome(goal, found[goal.metric])
        for goal in goals
    )
    return msgspec.structs.replace(pair, goals=tuple(outcomes))


def _change(ratio: float) -> str:
    return f"{ratio - 1:+.1%}" if ratio < 1000 else "any amount"


def _names() -> str:
    return ", ".join(METRICS)
