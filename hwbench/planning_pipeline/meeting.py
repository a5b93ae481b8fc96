"""Goals beyond accuracy: as many as can be kept together with the drop that is allowed, the most important first.

A bound is a row of the solver's question, so what is found keeps it or there is nothing. Where there is nothing, the
goals are taken one by one, the most important first: one that cannot be kept beside those before it is given up as a
bound, and those after it are still tried. The most important one given up becomes what is made small, so that the
design misses it by as little as the others let. The drop counts like a goal of its own priority: where it is the less
important one, the bounds stay, and the design that loses least under them is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from hwbench.plan.assemble import ENERGY, LATENCY, MEMORY, SIZE
from hwbench.plan.explain import format_amount
from hwbench.plan.goals import Bound, bounds_of, outcomes, tightest, within_reach
from hwbench.planning_pipeline.found import Found
from hwbench.planning_pipeline.solving import ROUNDING, Solving
from hwbench.records.base import Missing
from hwbench.records.goals import PlanGoal, PlanGoalOutcome
from hwbench.records.planning import Design
from hwbench.records.quantization import Scheme

Values = dict[str, "float | Missing"]


@dataclass(frozen=True, kw_only=True)
class Gauge:
    """What is measured of a quantity: ``factor`` times what is predicted, and ``offset``, in SI units."""

    factor: float = 1.0
    offset: float = 0.0

    def measured(self, predicted: float) -> float:
        """Return what is to be measured."""
        return self.offset + self.factor * predicted

    def predicted(self, measured: float) -> float:
        """Return what has to be predicted for that; less than nothing where the offset alone is more."""
        return (measured - self.offset) / self.factor


def gauged(
    goals: Sequence[PlanGoal], before: Values, gauges: Mapping[str, Gauge], batch_size: int
) -> tuple[Bound, ...]:
    """Return bounds of what is predicted that stand for goals of what is measured, the most important first.

    Args:
        goals: what is wanted.
        before: what the network as it is is predicted to take, by metric.
        gauges: by quantity, where anything was measured.
        batch_size: inferences a run.

    Raises:
        UsageError: as :func:`hwbench.plan.goals.bounds_of`.
    """
    seen = {
        name: value if isinstance(value, Missing) or name not in gauges else gauges[name].measured(value)
        for name, value in before.items()
    }
    if isinstance(latency := seen.get("latency"), float):
        seen["throughput"] = batch_size / latency
    bounds = bounds_of(goals, seen, batch_size=batch_size)
    return tuple(replace(each, limit=gauges.get(each.name, Gauge()).predicted(each.limit)) for each in bounds)


def meeting(solving: Solving, wanted: Sequence[Bound], accuracy: int) -> Found:
    """Solve, and give up the goals that cannot be kept.

    Args:
        solving: the question without bounds.
        wanted: the bounds, the most important first.
        accuracy: the priority of the drop that is allowed.
    """
    found = solving.asking(solving.objective, tightest(wanted)).run()
    if not wanted or not isinstance(found.chosen(), Missing):
        return found
    kept, given_up, over = _keepable(solving, wanted, accuracy, found)
    objective = given_up[0][0].name if given_up and over is None else solving.objective
    found = solving.asking(objective, tightest(kept)).run()
    found.regardless = over is not None
    found.told = _told(found, given_up, over)
    return found


def _keepable(
    solving: Solving, wanted: Sequence[Bound], accuracy: int, every: Found
) -> tuple[list[Bound], list[tuple[Bound, Missing]], Missing | None]:
    """Return the goals that can be kept, those that cannot with the reason, and why the drop is not, if it is not.

    ``every``: what was found with all of them, which is nothing.
    """
    kept, given_up = list[Bound](), list[tuple[Bound, Missing]]()
    over: Missing | None = None  # what the drop lacks with the goals that come before it
    for number, each in enumerate(wanted):
        first = accuracy > each.goal.priority
        if over is not None and not first:
            given_up.append((each, Missing(code="drop_first", why="the drop comes first, and is not kept either")))
            continue
        last = number + 1 == len(wanted) and not given_up
        tried = every if last else solving.asking(solving.objective, tightest([*kept, each])).run()
        chosen = tried.chosen()
        if isinstance(chosen, Missing) and not (first and chosen.code == "over_budget"):
            given_up.append((each, chosen))
            continue
        kept.append(each)
        over = chosen if isinstance(chosen, Missing) else None
    return kept, given_up, over


def _told(found: Found, given_up: Sequence[tuple[Bound, Missing]], over: Missing | None) -> tuple[str, ...]:
    """Say what had to be given up, as far as the chosen design really misses it, and what it reaches."""
    chosen = found.chosen()
    values = {} if isinstance(chosen, Missing) else found.values(found.row[chosen][1])
    told = [] if over is None else [f"the drop is not kept, since other goals come first: {over}"]
    for number, (each, reason) in enumerate(given_up):
        value = values.get(each.name)
        if value is not None and value <= (1 + ROUNDING) * each.limit:
            continue
        small = f"; {each.name} is made small instead" if number == 0 and over is None else ""
        reached = "" if value is None else f"; relax {each.name} to {within_reach(each.name, value)}"
        told.append(f"'{each.goal.text}' is given up as a bound{small}: {reason.why}{reached}")
    return tuple(told)


def rank_of(found: Found) -> tuple[bool, int, float]:
    """Return a key that orders fronts of one runtime, the best first.

    By whether a design was chosen, how much was given up for it, and what is to be small of it.
    """
    chosen = found.chosen()
    nothing = isinstance(chosen, Missing)
    return nothing, len(found.told), math.inf if isinstance(chosen, Missing) else found.row[chosen][0].objective or 0.0


def best_of_either(fronts: Sequence[Found], one_of: Sequence[Scheme]) -> tuple[str, ...]:
    """Say what was found with each of some schemes that one network may not mix, where that decides.

    It does not where there is one front, the best of all has none of the schemes, or all are as good.
    """
    best = min(fronts, key=rank_of)
    chosen = best.chosen()
    used = set() if isinstance(chosen, Missing) else set(best.row[chosen][1].schemes.values())
    if not used & set(one_of) or len({rank_of(found) for found in fronts}) < 2:
        return ()
    told = []
    for found in fronts:
        options = [option.scheme for site in found.solving.space.sites for option in site.options]
        scheme = next(each for each in one_of if each in options)
        name, (nothing, _, value) = found.solving.name, rank_of(found)
        told.append(f"with {scheme} {'none' if nothing else format_amount(name, value) + f' of {name}'}")
    return (f"one network cannot have {' and '.join(one_of)} both; the best of either: {', '.join(told)}",)


def baseline_of(solving: Solving, batch_size: int) -> Values:
    """Return what the network as it is is predicted to take, by metric."""
    return taken(Found(solving=solving, problem=solving.costed, row=[], factors={}), solving.as_it_is, batch_size)


def taken(found: Found, design: Design, batch_size: int) -> Values:
    """Return what a design is predicted to take and known to be worth, by metric."""
    values = found.values(design)
    joint = found.joint(design)
    none = Missing(code="not_predicted", why="the energy of the parts is not known", cure="--objective energy")
    accuracy = joint if isinstance(joint, Missing) else joint.accuracy
    return {
        "latency": values[LATENCY],
        "throughput": batch_size / values[LATENCY],
        "energy": values.get(ENERGY, none),
        "memory": values[MEMORY],
        "size": values[SIZE],
        "accuracy": accuracy,
    }


def held(found: Found, goals: Sequence[PlanGoal], before: Mapping[str, float | Missing], batch_size: int) -> tuple[
    PlanGoalOutcome, ...
]:  # fmt: skip
    """Hold goals against what is predicted of the chosen design; none where nothing was chosen."""
    chosen = found.chosen()
    if isinstance(chosen, Missing):
        return ()
    design = found.row[chosen][1]
    after = taken(found, design, batch_size)
    drop = found.solving.drop(design)
    if isinstance(after["accuracy"], Missing) and not isinstance(drop, Missing):  # unlabelled: of decisions that stay
        before, after = {**before, "accuracy": 1.0}, {**after, "accuracy": 1 - drop}
    return tuple(msgspec.structs.replace(each, why=f"predicted: {each.why}") for each in outcomes(goals, before, after))
