"""From costs and losses to a front of designs, corrected by what whole designs really lose.

What options lose one by one does not add up to what a design loses. So every design of the front is stitched together
and run as a whole, each kind of site gets a factor from that, and the front is solved again: what was solved for moves
until it is where it was predicted to be. Then the budgets around the one that is allowed are looked at more closely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from hwbench.plan.assemble import ENERGY, LATENCY, MEMORY, SIZE, Costs, assemble, with_losses
from hwbench.plan.designs import choice_of, design_of, key_of
from hwbench.plan.front import front
from hwbench.plan.milp import Answer, Shortfall, solve
from hwbench.plan.overlap import bounded
from hwbench.plan.problem import LOSS, Problem
from hwbench.planning_pipeline.factors import KINDS, by_kind, held_nnls, scaled
from hwbench.planning_pipeline.found import Each, Found, distinct
from hwbench.records.base import Missing
from hwbench.records.plan import Joint
from hwbench.records.planning import Design, Interval, Sensitivity, Space
from hwbench.records.quantization import Floating

ROUNDS = 3
_SETTLED = 0.15  # largest |log| by which a factor still moves
_FACTORS = (0.05, 20.0)
_USELESS = 1.0  # nats, or relative error: a network that loses so much is another one
_TIME_LIMIT_S, _LEAST_LIMIT_S = 5.0, 0.5  # of one budget: at most, and where no time is left
ROUNDING = 1e-6  # by which a bound may be exceeded
_GAP, _ROUGH = 1e-3, 5e-3  # of an answer; while the losses are still being corrected

AskJoint = Callable[[Design, bool], Joint | Missing]  # a design, and whether few samples will do


class Predicts(Costs, Protocol):
    """Costs that also tell what whole designs take."""

    @property
    def start_s(self) -> float:
        """What an inference takes beyond its parts, in seconds."""
        ...

    def predict(self, space: Space, design: Design) -> Interval:
        """Return the latency from end to end."""
        ...


class Energies(Costs, Protocol):
    """The same of joules. ``basis``: where they come from."""

    @property
    def basis(self) -> str: ...

    @property
    def start_j(self) -> float:
        """What an inference takes beyond its parts, in joules."""
        ...

    def predict(self, space: Space, design: Design) -> Interval:
        """Return the energy of one inference."""
        ...


@dataclass(kw_only=True)
class Solving:
    """Designs for one runtime.

    ``objective``: what is made small within the drop that is allowed; ``accuracy`` loses as little as ``bounds`` let.
    ``joules``: of the parts, where energy is minimised or bounded. ``bounds``: by quantity, what no design may be
    predicted to exceed, in SI units, the most important first. ``criterion``: by which channels were chosen when losses
    were measured. ``known``: what whole designs lose, shared by all runtimes, since it does not differ. ``remarks``: by
    site and option, what a decision about it is to tell. ``left_s``: how long may still be solved and designs be run as
    a whole. ``cut_short``: what was left out because that was nothing. ``stored``: what weights and activations that
    are not quantised are held in; None: in what they are computed in.
    """

    space: Space
    costs: Predicts
    sensitivity: Sensitivity
    ask: AskJoint
    max_drop: float
    budgets: int
    objective: str = "latency"
    joules: Energies | None = None
    bounds: Mapping[str, float] = field(default_factory=dict)
    floating: Floating = "auto"
    stored: Floating | None = None
    criterion: str = "l2"
    known: dict[str, Joint | Missing] = field(default_factory=dict)
    remarks: Mapping[tuple[str, str], str] = field(default_factory=dict)
    left_s: Callable[[], float] = lambda: math.inf
    cut_short: dict[str, None] = field(default_factory=dict)  # in order, each once
    limits: dict[str, float] = field(default_factory=dict, init=False)  # bounds as the solver is given them
    shortfalls: tuple[Shortfall, ...] = field(default=(), init=False)  # why no design keeps them

    def run(self) -> Found:
        """Solve, correct, and solve again; then look closely at the budgets around the one that is allowed."""
        factors = dict.fromkeys(KINDS, 1.0)
        for done in range(ROUNDS - 1):
            if self.late(f"losses were corrected in {done} rounds of at most {ROUNDS - 1}"):
                break
            _, row = self._front(factors, _ROUGH)
            again = self._factors(row)
            if again is None or max(abs(np.log(again[kind] / factors[kind])) for kind in factors) < _SETTLED:
                break
            factors = again
        found = self.found(factors)
        found.look_closer()
        return found

    def found(self, factors: Mapping[str, float]) -> Found:
        """Return the front where the losses of each kind of site count so many times."""
        problem, row = self._front(factors, _GAP)
        return Found(solving=self, problem=problem, row=row, factors=factors)

    def asking(self, objective: str, bounds: Mapping[str, float]) -> Solving:
        """Return the same question with another objective and other bounds; what is known of the network stays."""
        return self._same_costs(replace(self, objective=objective, bounds=bounds))

    def losing(self, sensitivity: Sensitivity) -> Solving:
        """Return the same question with other losses."""
        return self._same_costs(replace(self, sensitivity=sensitivity))

    def _same_costs(self, other: Solving) -> Solving:
        other.__dict__["costed"] = self.costed
        return other

    @cached_property
    def costed(self) -> Problem:
        """The problem with the losses as they were measured; its costs stay the same when these are corrected.

        What an inference takes beyond its parts is in it, so that totals are those of whole networks.
        """
        parts = assemble(
            self.space, self.costs, self.sensitivity, floating=self.stored or self.floating, joules=self.joules
        )
        energy = {} if self.joules is None else {ENERGY: self.joules.start_j}
        return parts.plus({LATENCY: self.costs.start_s, **energy})

    @property
    def as_it_is(self) -> Design:
        """The design that changes nothing."""
        return Design(floating=self.floating)

    @property
    def name(self) -> str:
        """What is minimised, as the problem calls it."""
        return LOSS if self.objective == "accuracy" else self.objective

    @property
    def budget_of(self) -> str:
        """What the designs of a front differ in beside the objective: the loss, or what is bounded first."""
        return LOSS if self.name != LOSS else next(iter(self.bounds), LATENCY)

    def values(self, problem: Problem, design: Design) -> dict[str, float]:
        """Return what a design is predicted to take, by quantity, in SI units."""
        choice = choice_of(self.space, design)
        totals = problem.totals([choice[variable.name] for variable in problem.variables])
        found = {MEMORY: totals[MEMORY], SIZE: totals[SIZE], LATENCY: self.costs.predict(self.space, design).value}
        return found if self.joules is None else {**found, ENERGY: self.joules.predict(self.space, design).value}

    def keeps(self, problem: Problem, design: Design) -> bool:
        """Say whether a design is predicted to keep all bounds."""
        if not self.bounds:
            return True
        values = self.values(problem, design)
        return all(values[name] <= (1 + ROUNDING) * limit for name, limit in self.bounds.items())

    def _front(self, factors: Mapping[str, float], gap: float) -> tuple[Problem, list[Each]]:
        """Return the front; bounds are tightened where the sum of the parts says less than the whole design takes."""
        problem = with_losses(self.costed, self.space, scaled(self.sensitivity, factors))
        self.limits = dict(self.bounds)
        row = self._row(problem, gap)
        beyond = self._beyond(problem, row)
        if beyond:
            self.limits = {name: limit / beyond.get(name, 1.0) for name, limit in self.bounds.items()}
            row = self._row(problem, gap)
        return problem, distinct([self._unchanged(problem), *row])

    def _beyond(self, problem: Problem, row: Sequence[Each]) -> dict[str, float]:
        """Return by bound, where a design that keeps it by the sum of its parts breaks it, by how much at most."""
        found: dict[str, float] = {}
        for answer, design in row if self.bounds else ():
            for name, value in self.values(problem, design).items():
                limit = self.bounds.get(name, math.inf)
                if answer.totals[name] <= limit * (1 + ROUNDING) < value:
                    found[name] = max(found.get(name, 1.0), value / answer.totals[name])
        return found

    def _row(self, problem: Problem, gap: float) -> list[Each]:
        """Return the designs of a front that keep the bounds, the one that loses least among them."""
        if not self.bounds:
            return self.solved(problem, _budgets(problem, self.budgets), gap)
        careful = solve(problem, objective=LOSS, bounds=self.limits, time_limit_s=self._limit_s(2), gap=gap)
        self.shortfalls = careful.shortfalls
        if careful.choice is None:
            return []
        if self.name == LOSS:
            budgets = self._around(problem, gap)
        else:
            budgets = [each for each in _budgets(problem, self.budgets) if each > careful.totals[LOSS]]
        careful = replace(careful, objective=careful.totals[self.name])  # of the row, not the loss it was solved for
        return [(careful, self._design(problem, careful)), *self.solved(problem, budgets, gap)]

    def _around(self, problem: Problem, gap: float) -> list[float]:
        """Return budgets of what is bounded first, from the least that can be reached to what nothing changed takes."""
        name = self.budget_of
        others = {other: limit for other, limit in self.limits.items() if other != name}
        least = solve(problem, objective=name, bounds=others, time_limit_s=self._limit_s(2), gap=gap).objective
        most = self._unchanged(problem)[0].totals[name]
        if least is None or not 0 < least < most:
            return [self.limits[name]]
        return [*np.geomspace(least * (1 + gap), most, max(2, self.budgets - 1)).tolist(), self.limits[name]]

    def solved(self, problem: Problem, budgets: Sequence[float], gap: float = _GAP) -> list[Each]:
        """Return the distinct designs of a row of budgets, the most careful first."""
        others = {name: limit for name, limit in self.limits.items() if name != self.budget_of}
        answers = front(
            problem, budgets, objective=self.name, budget_of=self.budget_of, bounds=others,
            time_limit_s=self._limit_s(len(budgets)), gap=gap,
        )  # fmt: skip
        return distinct([(answer, self._design(problem, answer)) for answer in answers if answer.choice])

    def _limit_s(self, count: int) -> float:
        return min(_TIME_LIMIT_S, max(_LEAST_LIMIT_S, self.left_s() / max(1, count)))

    def _unchanged(self, problem: Problem) -> Each:
        """Return the design that loses nothing, whatever the losses say of others."""
        choice = (0,) * len(problem.variables)
        totals = problem.totals(choice)
        value = totals[self.name]
        answer = Answer(
            choice=choice, objective=value, totals=totals, bound=value, gap=0.0, status="optimal", took_s=0.0
        )
        return answer, self._design(problem, answer)

    def late(self, what: str) -> bool:
        """Say whether the time is over, and note what is left out for that."""
        if self.left_s() > 0:
            return False
        self.cut_short[what] = None
        return True

    def joint(self, design: Design, *, rough: bool = False) -> Joint | Missing:
        """Return what a design loses as a whole; it is run once, and once more on few samples where ``rough``.

        When the time is over, only the unchanged design is still run.
        """
        key = f"{key_of(design)} {rough}"
        if key not in self.known:
            if (design.schemes or design.cuts) and self.late("not every design was run as a whole"):
                return Missing(code="no_time", why="the time for solving was over")
            self.known[key] = self.ask(design, rough)
        return self.known[key]

    def was_run(self, design: Design) -> bool:
        """Say whether a design was run as a whole, on enough samples."""
        return f"{key_of(design)} {False}" in self.known

    def drop(self, design: Design) -> float | Missing:
        """Return the share of decisions that a design loses as a whole."""
        joint = self.joint(design)
        return joint if isinstance(joint, Missing) else joint.drop

    def _design(self, problem: Problem, answer: Answer) -> Design:
        assert answer.choice is not None
        names = [variable.name for variable in problem.variables]
        return design_of(self.space, dict(zip(names, answer.choice, strict=True)), floating=self.floating)

    def _factors(self, row: Sequence[Each]) -> dict[str, float] | None:
        """Return by kind of site what whole designs lose over what the sites of the kind lose one by one."""
        rows, values = [], []
        found = bounded(self.sensitivity)
        for _, design in row:
            parts = by_kind(self.space, found, design)
            if sum(parts.values()) <= 0:
                continue
            joint = self.joint(design, rough=True)
            if isinstance(joint, Missing) or joint.divergence <= 0:
                continue
            rows.append([parts[kind] / joint.divergence for kind in KINDS])
            values.append(1.0)
        if not rows:
            return None
        return dict(zip(KINDS, held_nnls(np.array(rows), np.array(values)).clip(*_FACTORS).tolist(), strict=True))


def _budgets(problem: Problem, count: int) -> list[float]:
    """Return budgets from nothing to what no plan takes, or everything together can lose, evenly in the logarithm."""
    most = min(_USELESS, sum(float(np.max(loss)) for loss in problem.losses))
    least = min((float(value) for loss in problem.losses for value in loss if value > 0), default=most)
    return [0.0, *np.geomspace(max(least, 1e-3 * most), max(most, least), max(2, count - 1)).tolist()]
