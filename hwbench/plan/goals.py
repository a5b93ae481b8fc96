"""Goals as users know them: read, held against what was measured, and turned into bounds for the solver.

A goal is ``METRIC KIND VALUE [priority N]``, such as ``accuracy max-degradation 1pp``, ``latency threshold 5ms priority
2`` or ``latency percent-min-improvement 30``; a threshold may be written ``latency<5ms`` or ``accuracy>75%``, and a
degradation of accuracy ``accuracy drop<1pp``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.records.goals import GoalKind, GoalMetric, PlanGoal, PlanGoalOutcome
from hwbench.units import Comparison, format_bytes, format_seconds, format_si, parse_comparison, parse_quantity

OTHERWISE = 0.01  # the drop that is allowed where nothing is said, of the metric
ANYTHING = 1e9  # a drop that everything keeps, in whatever unit the metric has: records hold no infinity

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
_STEP, _STEPS = 1e-3, 12  # three digits are off by 0.5 % at the most
_EXAMPLES = '"latency<5ms priority 2", "accuracy max-degradation 1pp" or "latency percent-min-improvement 30"'
_DROP = "accuracy drop"
_NOT_MEASURED = Missing(code="not_measured", why="it was not measured")


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
    if (asked := parse_comparison(" ".join(words))) is not None:
        return _goal(text.strip(), *_compared(text, asked), _priority(text, priority))
    if len(words) < 3:
        raise UsageError(f"goal '{text}' is not METRIC KIND VALUE", hint=f"write for example {_EXAMPLES}")
    return _goal(text.strip(), words[0], words[1], " ".join(words[2:]), _priority(text, priority))


def _priority(text: str, given: str) -> int:
    if not (given.isascii() and given.isdigit()):
        raise UsageError(f"goal '{text}': '{given}' is no priority", hint="write 1 for the most important, 2, ...")
    return int(given)


def _compared(text: str, asked: Comparison) -> tuple[str, str, str]:
    """Return metric, kind and value of a goal with a sign."""
    metric, kind = ("accuracy", "max-degradation") if asked.name == _DROP else (asked.name, "threshold")
    sign = ">" if asked.name in {"accuracy", "throughput"} else "<"
    if metric in _METRICS and asked.sign != sign:
        word = "large" if sign == ">" else "small"
        raise UsageError(f"goal '{text}': {asked.name} is to be {word}", hint=f"write {asked.name}{sign}{asked.value}")
    return metric, kind, asked.value


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
    return tuple(
        outcome(goal, baseline.get(goal.metric, _NOT_MEASURED), candidate.get(goal.metric, _NOT_MEASURED))
        for goal in goals
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


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a goal asks of the solver: at most ``limit`` of the quantity ``name``, in SI units."""

    goal: PlanGoal
    name: str
    limit: float


def bounds_of(
    goals: Sequence[PlanGoal], baseline: Mapping[str, float | Missing], *, batch_size: int
) -> tuple[Bound, ...]:
    """Return the solver's bounds that stand for goals but those of accuracy, the most important first.

    Accuracy is bounded by the drop of designs that were run as a whole (:func:`drop_of`), which no sum of losses tells.

    Args:
        goals: what is wanted.
        baseline: what the original network has, by metric.
        batch_size: inferences a run: a throughput is a latency of the whole batch.

    Raises:
        UsageError: a goal is relative to a baseline that is not known, or asks for nothing.
    """
    found = []
    for goal in sorted(goals, key=lambda each: each.priority):
        if goal.metric == "accuracy":
            continue
        limit = limit_of(goal, baseline.get(goal.metric, _NOT_MEASURED))
        if isinstance(limit, Missing):
            raise UsageError(f"goal '{goal.text}' needs the {goal.metric} of the original: {limit}")
        if goal.metric == "throughput" and limit <= 0:
            raise UsageError(f"goal '{goal.text}' asks for nothing: any plan has a throughput above 0")
        by_batch = goal.metric == "throughput"
        name = "latency" if by_batch else goal.metric
        found.append(Bound(goal=goal, name=name, limit=batch_size / limit if by_batch else limit))
    return tuple(found)


def check_bounded(objective: str, goals: Sequence[PlanGoal]) -> None:
    """Refuse accuracy as the objective where no goal holds it back.

    Raises:
        UsageError: that is so.
    """
    if objective == "accuracy" and all(goal.metric == "accuracy" for goal in goals):
        raise UsageError(
            "--objective accuracy needs something that holds it back: the network as it is loses nothing",
            hint='--goal "latency<5ms", or one of throughput, energy, memory or size',
        )


def tightest(bounds: Iterable[Bound]) -> dict[str, float]:
    """Return bounds by quantity; where several bound the same, the tightest."""
    found: dict[str, float] = {}
    for each in bounds:
        found[each.name] = min(each.limit, found.get(each.name, each.limit))
    return found


def stated_drop(goals: Sequence[PlanGoal], max_drop: float | None, otherwise: float) -> float:
    """Return by how much the metric may fall, as far as the request says: the least of what it says.

    Where nothing is said it is ``otherwise``; or anything, where goals are about the accuracy itself, which
    :func:`drop_of` holds against that of the original.
    """
    accuracy = [goal for goal in goals if goal.metric == "accuracy"]
    said = [goal.value for goal in accuracy if goal.kind == "max-degradation"]
    said += [] if max_drop is None else [max_drop]
    return min(said, default=ANYTHING if accuracy else otherwise)


def drop_of(goals: Sequence[PlanGoal], max_drop: float, original: float | Missing) -> float:
    """Return by how much accuracy may fall so that all goals of it hold; 0 where the original fails one.

    Args:
        goals: all of them.
        max_drop: what the request says by itself.
        original: the accuracy of the network as it came in.

    Raises:
        UsageError: a goal is about the accuracy itself, and there is none.
    """
    about = [goal for goal in goals if goal.metric == "accuracy" and goal.kind != "max-degradation"]
    if not about:
        return max_drop
    if isinstance(original, Missing):
        raise UsageError(
            f"goal '{about[0].text}' needs an accuracy: {original.why}", hint="give labels, or --max-drop instead"
        )
    limits = [limit_of(goal, original) for goal in about]
    return max(0.0, min(max_drop, *(original - limit for limit in limits if not isinstance(limit, Missing))))


def shown(metric: str, value: float) -> str:
    """Return a value of a metric as text."""
    if metric == "accuracy":
        return f"{value:.2%}"
    if metric == "latency":
        return format_seconds(value)
    if metric in {"memory", "size"}:
        return format_bytes(value)
    if metric == "energy":
        return format_si(value, "J")
    return format_si(value, "/s") if value >= 1 else f"{value:.3g} /s"


def within_reach(metric: GoalMetric | str, value: float) -> str:
    """Return a value that was reached as text that a goal may ask for: rounded, but to the side that is easier."""
    more = metric in {"accuracy", "throughput"}
    unit = _UNITS[_METRICS[metric]]
    texts = [shown(metric, value * (1 + step * (-_STEP if more else _STEP))) for step in range(_STEPS)]
    reads = ((text, parse_quantity(text, unit)) for text in texts)
    return next((text for text, read in reads if (read <= value if more else read >= value)), texts[-1])
