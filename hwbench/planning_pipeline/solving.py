"""From costs and losses to a front of designs, corrected by what whole designs really lose.

What options lose one by one does not add up to what a design loses. So every design of the front is stitched together
and run as a whole, each kind of site gets a factor from that, and the front is solved again: what was solved for moves
until it is where it was predicted to be. Then the budgets around the one that is allowed are looked at more closely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from hwbench.plan.assemble import MEMORY, SIZE, Costs, assemble, with_losses
from hwbench.plan.designs import choice_of, design_of, key_of, precision_plan, steps_of
from hwbench.plan.explain import Terms, explain
from hwbench.plan.front import front, price
from hwbench.plan.milp import Answer
from hwbench.plan.overlap import bounded
from hwbench.plan.problem import LOSS, Problem
from hwbench.planning_pipeline.factors import KINDS, by_kind, held_nnls, rising, scaled
from hwbench.records.base import Missing
from hwbench.records.plan import Joint, Planned
from hwbench.records.planning import Decision, Design, Interval, Sensitivity, Solved, Space
from hwbench.records.quantization import Floating

ROUNDS = 3
CLOSER = 3  # budgets between the last that is allowed and the first that is not
_SETTLED = 0.15  # largest |log| by which a factor still moves
_FACTORS = (0.05, 20.0)
_USELESS = 1.0  # nats, or relative error: a network that loses so much is another one
_TIME_LIMIT_S, _LEAST_LIMIT_S = 5.0, 0.5  # of one budget: at most, and where no time is left
_GAP, _ROUGH = 1e-3, 5e-3  # of an answer; while the losses are still being corrected

AskJoint = Callable[[Design, bool], Joint | Missing]  # a design, and whether few samples will do
_Each = tuple[Answer, Design]


class Predicts(Costs, Protocol):
    """Costs that also tell what whole designs take."""

    def predict(self, space: Space, design: Design) -> Interval:
        """Return the latency from end to end."""
        ...


@dataclass(kw_only=True)
class Solving:
    """Designs for one runtime.

    ``criterion``: by which channels were chosen when losses were measured. ``known``: what whole designs lose, shared
    by all runtimes, since it does not differ. ``left_s``: how long may still be solved and designs be run as a whole.
    ``cut_short``: what was left out because that was nothing.
    """

    space: Space
    costs: Predicts
    sensitivity: Sensitivity
    ask: AskJoint
    max_drop: float
    budgets: int
    objective: str = "latency"
    floating: Floating = "auto"
    criterion: str = "l2"
    known: dict[str, Joint | Missing] = field(default_factory=dict)
    left_s: Callable[[], float] = lambda: math.inf
    cut_short: dict[str, None] = field(default_factory=dict)  # in order, each once

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
        problem, row = self._front(factors, _GAP)
        found = Found(solving=self, problem=problem, row=row, factors=factors)
        found.look_closer()
        return found

    @cached_property
    def _costed(self) -> Problem:
        """The problem with the losses as they were measured; its costs stay the same when these are corrected."""
        return assemble(self.space, self.costs, self.sensitivity, floating=self.floating)

    def _front(self, factors: Mapping[str, float], gap: float) -> tuple[Problem, list[_Each]]:
        problem = with_losses(self._costed, self.space, scaled(self.sensitivity, factors))
        row = self.solved(problem, _budgets(problem, self.budgets), gap)
        return problem, distinct([self._unchanged(problem), *row])

    def solved(self, problem: Problem, budgets: Sequence[float], gap: float = _GAP) -> list[_Each]:
        """Return the distinct designs of a row of budgets, the most careful first."""
        limit_s = min(_TIME_LIMIT_S, max(_LEAST_LIMIT_S, self.left_s() / max(1, len(budgets))))
        answers = front(problem, budgets, objective=self.name, time_limit_s=limit_s, gap=gap)
        return distinct([(answer, self._design(problem, answer)) for answer in answers if answer.choice])

    def _unchanged(self, problem: Problem) -> _Each:
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

    @property
    def name(self) -> str:
        """What is minimised, as the problem calls it."""
        return {"memory": MEMORY, "size": SIZE}.get(self.objective, self.objective)

    def _design(self, problem: Problem, answer: Answer) -> Design:
        assert answer.choice is not None
        names = [variable.name for variable in problem.variables]
        return design_of(self.space, dict(zip(names, answer.choice, strict=True)), floating=self.floating)

    def _factors(self, row: Sequence[_Each]) -> dict[str, float] | None:
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


@dataclass(kw_only=True)
class Found:
    """A front that can be asked on. ``row``: answers and designs, the most careful first."""

    solving: Solving
    problem: Problem
    row: list[_Each]
    factors: Mapping[str, float]

    def look_closer(self) -> None:
        """Look between the last design that is allowed and the first that is not."""
        for _ in range(CLOSER):
            chosen = self.chosen()
            if isinstance(chosen, Missing) or chosen + 1 >= len(self.row):
                return
            low, high = (self.row[number][0].totals[LOSS] for number in (chosen, chosen + 1))
            if high <= 1.02 * low or self.solving.late(
                "the budgets around the one that is allowed were not all looked at"
            ):
                return
            before = len(self.row)
            self.at(float(np.sqrt(max(low, 0.05 * high) * high)))
            if len(self.row) == before:
                return

    def at(self, budget: float) -> Design | None:
        """Solve for one more budget, and return its design, which may be in the row already; None where there is none.

        What is new joins the row, which is longer then.
        """
        solved = self.solving.solved(self.problem, [budget])
        self.row = distinct([*self.row, *solved])
        return solved[0][1] if solved else None

    def chosen(self, max_drop: float | None = None) -> int | Missing:
        """Return the best design, of those whose drop is allowed: drops are taken to rise with the predicted loss.

        So not all of them need be run as a whole: where the limit lies in the row is found by halving it.
        """
        limit = self.solving.max_drop if max_drop is None else max_drop
        self._run_around(limit)
        drops = {number: self.solving.drop(self.row[number][1]) for number in self._run()}
        run = {number: drop for number, drop in drops.items() if not isinstance(drop, Missing)}
        if not run:
            return Missing(code="not_run", why="no design of the front could be run as a whole")
        smooth = dict(zip(run, rising(list(run.values())), strict=True))
        allowed = [number for number, drop in smooth.items() if drop <= limit + 1e-12]
        if not allowed:
            return Missing(
                code="over_budget",
                why=f"the most careful design of the front loses {100 * min(smooth.values()):.2f} pp, and "
                f"{100 * limit:g} are allowed",
                cure="allow more, give more samples, or let more stay as it is (--choose)",
            )
        return min(allowed, key=lambda number: (self.row[number][0].objective or 0.0, number))

    def _run_around(self, limit: float) -> None:
        """Run as a whole the designs that tell which of the row is the last whose drop is within a limit."""
        low, high = -1, len(self.row)
        while high - low > 1:
            middle = (low + high) // 2
            drop = self.solving.drop(self.row[middle][1])
            allowed = not isinstance(drop, Missing) and drop <= limit
            low, high = (middle, high) if allowed else (low, middle)

    def _run(self) -> list[int]:
        """Return the places in the row of the designs that were run as a whole."""
        return [number for number, (_, design) in enumerate(self.row) if self.solving.was_run(design)]

    def within(self, max_drop: float) -> Design | None:
        """Return the best design whose drop is allowed; None where there is none."""
        chosen = self.chosen(max_drop)
        return None if isinstance(chosen, Missing) else self.row[chosen][1]

    def loss(self, design: Design) -> float:
        """Return the predicted loss of a design."""
        choice = choice_of(self.solving.space, design)
        return self.problem.totals([choice[variable.name] for variable in self.problem.variables])[LOSS]

    def predict(self, design: Design) -> Interval:
        """Return the predicted latency of a design."""
        return self.solving.costs.predict(self.solving.space, design)

    def joint(self, design: Design) -> Joint | Missing:
        """Return what a design loses as a whole."""
        return self.solving.joint(design)

    def decisions(self, design: Design) -> tuple[Decision, ...]:
        """Say why each option of a design was chosen."""
        keys = [key_of(each) for _, each in self.row]
        choice = choice_of(self.solving.space, design)
        taken = tuple(choice[variable.name] for variable in self.problem.variables)
        number = keys.index(key_of(design)) if key_of(design) in keys else None
        answers = [answer for answer, _ in self.row]
        slope = None if number is None else price(answers, number)
        terms = Terms(objective=self.solving.name, bounds={LOSS: self.loss(design)}, price=slope)
        return explain(self.problem, taken, terms)

    def planned(self) -> tuple[Planned, ...]:
        """Return the front as it is written down; the chosen design with its reasons."""
        chosen = self.chosen()
        return tuple(self._planned(number, explained=number == chosen) for number in range(len(self.row)))

    def _planned(self, number: int, *, explained: bool) -> Planned:
        answer, design = self.row[number]
        space = self.solving.space
        layers = [name for cluster in space.clusters for name in cluster.layers]
        solved = Solved(
            budget=answer.totals[LOSS],
            design=design,
            latency_s=answer.totals["latency"],
            loss=answer.totals[LOSS],
            weight_bytes=round(answer.totals[SIZE]),
            status=answer.status,
            gap=answer.gap,
            took_s=answer.took_s,
            decisions=self.decisions(design) if explained else (),
        )
        return Planned(
            solved=solved,
            latency=self.predict(design),
            joint=self.joint(design),
            steps=steps_of(space, design, criterion=self.solving.criterion),
            precision=precision_plan(space, design, layers),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What whole designs have taught, and what was left out for want of time."""
        told = ", ".join(f"{kind} {factor:.2g}" for kind, factor in self.factors.items() if abs(factor - 1) > 0.01)
        learnt = (f"what whole designs lose, over the sum of their parts: {told}",) if told else ()
        return (*learnt, *(f"the time was over: {what}" for what in self.solving.cut_short))


def distinct(row: Sequence[_Each]) -> list[_Each]:
    """Return designs once each, by what they are predicted to lose."""
    kept: dict[str, _Each] = {}
    for answer, design in row:
        kept.setdefault(key_of(design), (answer, design))
    return sorted(kept.values(), key=lambda each: (each[0].totals[LOSS], -(each[0].objective or 0.0)))


def _budgets(problem: Problem, count: int) -> list[float]:
    """Return budgets from nothing to what no plan takes, or everything together can lose, evenly in the logarithm."""
    most = min(_USELESS, sum(float(np.max(loss)) for loss in problem.losses))
    least = min((float(value) for loss in problem.losses for value in loss if value > 0), default=most)
    return [0.0, *np.geomspace(max(least, 1e-3 * most), max(most, least), max(2, count - 1)).tolist()]
