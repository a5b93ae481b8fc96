"""Goals as users know them: read, held against what was measured, and turned into bounds for the solver.

A goal is ``METRIC KIND VALUE [priority N]``, such as ``accuracy max-degradation 1pp``, ``latency threshold 5ms priority
2`` or ``latency percent-min-improvement 30``; in a TOML file it is a table with ``metric``, ``type``, ``value`` and
``priority``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from hwbench.errors import UsageError
from hwbench.plan.problem import LOSS
from hwbench.records.base import Missing
from hwbench.records.goals import GoalKind, GoalMetric, PlanGoal, PlanGoalOutcome
from hwbench.units import format_bytes, format_seconds, format_si, parse_quantity

_METRICS: dict[str, GoalMetric] = {name: name for name in get_args(GoalMetric)}
_KINDS: dict[str, GoalKind] = {name: name for name in get_args(GoalKind)}
_UNITS: dict[GoalMetric, str] = {
    "accuracy": "share",
    "latency": "s",
    "energy": "J",
    "memory": "B",
    "size": "B",
    "throughput": "1/s",
}
_EXAMPLES = '"accuracy max-degradation 1pp", "latency threshold 5ms priority 2" or "latency percent-min-improvement 30"'


def parse_goal(text: str) -> PlanGoal:
    """Read one goal.

    Raises:
        UsageError: it is not of the form, a word is unknown, or the value does not fit the metric.
    """
    words = text.split()
    priority = "1"
    if len(words) > 2 and words[-2] == "priority":
        priority = words[-1]
        words = words[:-2]
    if len(words) < 3:
        raise UsageError(f"goal '{text}' is not METRIC KIND VALUE", hint=f"write for example {_EXAMPLES}")
    if not (priority.isascii() and priority.isdigit()):
        raise UsageError(f"goal '{text}': '{priority}' is no priority", hint="write 1 for the most important, 2, ...")
    return _goal(text.strip(), words[0], words[1], " ".join(words[2:]), int(priority))


def goal_of_table(table: Mapping[str, Any]) -> PlanGoal:
    """Read one goal from a table of a TOML file: ``metric``, ``type``, ``value`` and, if need be, ``priority``.

    Raises:
        UsageError: a key is missing or unknown, or a value is not one.
    """
    text = ", ".join(f"{key} = {value!r}" for key, value in table.items())
    unknown = set(table) - {"metric", "type", "value", "priority"}
    lacking = {"metric", "type", "value"} - set(table)
    if unknown or lacking:
        said = f"has no key '{min(unknown)}'" if unknown else f"needs '{min(lacking)}'"
        raise UsageError(f"a goal {said}: {text}", hint="a goal has metric, type, value and priority")
    value, priority = table["value"], table.get("priority", 1)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UsageError(f"goal {text}: the value is a number or a text such as '5 ms'")
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise UsageError(f"goal {text}: the priority is a whole number", hint="1 is the most important")
    return _goal(text, str(table["metric"]), str(table["type"]), str(value), priority)


def _goal(text: str, metric: str, kind: str, value: str, priority: int) -> PlanGoal:
    if metric not in _METRICS:
        raise UsageError(f"goal '{text}': no metric is called '{metric}'", hint=f"there are: {', '.join(_METRICS)}")
    if kind not in _KINDS:
        raise UsageError(f"goal '{text}': no kind is called '{kind}'", hint=f"there are: {', '.join(_KINDS)}")
    if priority < 1:
        raise UsageError(f"goal '{text}': a priority is at least 1", hint="1 is the most important")
    name, word = _METRICS[metric], _KINDS[kind]
    number = _value(text, name, word, value)
    _check_value(text, name, word, number)
    return PlanGoal(text=text, metric=name, kind=word, value=number, priority=priority)


def _value(text: str, metric: GoalMetric, kind: GoalKind, value: str) -> float:
    try:
        if kind.startswith("percent-"):
            return float(value.removesuffix("%")) / 100
        change = metric == "accuracy" and kind != "threshold"
        return parse_quantity(value, "pp" if change else _UNITS[metric])
    except ValueError as error:
        raise UsageError(f"goal '{text}': '{value}' is no number of percent", hint="write for example 30") from error
    except UsageError as error:
        raise UsageError(f"goal '{text}': {error.message}", hint=error.hint) from error


def _check_value(text: str, metric: GoalMetric, kind: GoalKind, number: float) -> None:
    if not 0 <= number < float("inf"):
        raise UsageError(f"goal '{text}': the value must not be negative", hint="the kind says the direction")
    if metric == "accuracy" and number > 1:
        raise UsageError(
            f"goal '{text}': accuracy is a share", hint="write 1pp for a change, and 76% or 0.76 for a share"
        )
    falls = kind == "percent-min-improvement" and metric not in {"accuracy", "throughput"}
    if falls and number >= 1:
        raise UsageError(f"goal '{text}': {metric} cannot fall by {number:.0%}")


def limit_of(goal: PlanGoal, baseline: float | Missing) -> float | Missing:
    """Return what the goal asks of the metric: at most this much, or at least where more is better."""
    if goal.kind == "threshold":
        return goal.value
    if isinstance(baseline, Missing):
        return baseline
    change = goal.value * abs(baseline) if goal.kind.startswith("percent-") else goal.value
    upwards = goal.more_is_better == goal.kind.endswith("min-improvement")
    return baseline + change if upwards else baseline - change


def outcome(goal: PlanGoal, baseline: float | Missing, candidate: float | Missing) -> PlanGoalOutcome:
    """Hold a goal against measured values, in the metric's SI unit; what was not measured is not met."""
    limit = limit_of(goal, baseline)
    if isinstance(limit, Missing):
        return _unknown(goal, limit, candidate, limit, "the original")
    if isinstance(candidate, Missing):
        return _unknown(goal, limit, candidate, candidate, "the candidate")
    beyond = limit - candidate if goal.more_is_better else candidate - limit
    miss = max(0.0, beyond) / abs(limit) if limit else float(beyond > 0)
    word = "at least" if goal.more_is_better else "at most"
    said = f"{goal.metric} is {shown(goal.metric, candidate)}, wanted {word} {shown(goal.metric, limit)}"
    why = f"{said}: missed by {miss:.2%}" if miss else f"{said}: met"
    return PlanGoalOutcome(goal=goal, limit=limit, value=candidate, miss=miss, why=why)


def _unknown(
    goal: PlanGoal, limit: float | Missing, value: float | Missing, reason: Missing, what: str
) -> PlanGoalOutcome:
    why = f"{goal.metric} of {what} is not known: {reason.why}"
    return PlanGoalOutcome(goal=goal, limit=limit, value=value, miss=reason, why=why)


def outcomes(
    goals: Sequence[PlanGoal], baseline: Mapping[str, float | Missing], candidate: Mapping[str, float | Missing]
) -> tuple[PlanGoalOutcome, ...]:
    """Hold goals against measured values by metric; a metric that is in neither mapping is not known."""
    unknown = Missing(code="not_measured", why="it was not measured")
    return tuple(
        outcome(goal, baseline.get(goal.metric, unknown), candidate.get(goal.metric, unknown)) for goal in goals
    )


def misses(found: Sequence[PlanGoalOutcome]) -> tuple[float, ...]:
    """Return a key that orders candidates, the best first: by priority, what the goals are missed by together.

    A goal of higher priority that is met outweighs any miss at lower ones; what is not known counts as missed without
    end. Candidates must be held against the same goals.
    """
    levels = sorted({one.goal.priority for one in found})
    return tuple(
        sum(float("inf") if isinstance(one.miss, Missing) else one.miss for one in found if one.goal.priority == level)
        for level in levels
    )


def bounds_of(
    goals: Sequence[PlanGoal],
    baseline: Mapping[str, float | Missing],
    *,
    batch_size: int,
    loss_of: Callable[[float], float],
) -> dict[str, float]:
    """Return the solver's bounds that stand for goals; where several bound the same, the tightest.

    Args:
        goals: what is wanted.
        baseline: what the original network has, by metric.
        batch_size: inferences a run: a throughput is a latency of the whole batch.
        loss_of: from an allowed drop of accuracy (a share; negative where accuracy must rise) to a budget of loss.

    Returns:
        Bounds of ``latency``, ``energy``, ``size``, ``memory`` and ``loss``.

    Raises:
        UsageError: a goal is relative to a baseline that is not known, or cannot be met by any plan.
    """
    found: dict[str, float] = {}
    for goal in goals:
        limit = limit_of(goal, baseline.get(goal.metric, Missing(code="not_measured", why="it was not measured")))
        if isinstance(limit, Missing):
            raise UsageError(f"goal '{goal.text}' needs the {goal.metric} of the original: {limit}")
        name, bound = _bound(goal, limit, baseline, batch_size, loss_of)
        found[name] = min(bound, found.get(name, bound))
    return found


def _bound(
    goal: PlanGoal,
    limit: float,
    baseline: Mapping[str, float | Missing],
    batch_size: int,
    loss_of: Callable[[float], float],
) -> tuple[str, float]:
    if goal.metric == "throughput":
        if limit <= 0:
            raise UsageError(f"goal '{goal.text}' asks for nothing: any plan has a throughput above 0")
        return "latency", batch_size / limit
    if goal.metric != "accuracy":
        return goal.metric, limit
    original = baseline.get("accuracy", Missing(code="not_measured", why="it was not measured"))
    if isinstance(original, Missing):
        raise UsageError(f"goal '{goal.text}' needs the accuracy of the original: {original}")
    return LOSS, loss_of(original - limit)


def shown(metric: str, value: float) -> str:
    """Return a value of a metric as text."""
    if metric == "accuracy":
        return f"{value:.2%}"
    if metric == "latency":
        return format_seconds(value)
    if metric in {"memory", "size"}:
        return format_bytes(value)
    return format_si(value, "J" if metric == "energy" else "/s")
