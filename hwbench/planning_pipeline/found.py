"""What was found for one runtime: a front of designs, the one of them that is allowed, and why it is what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from hwbench.plan.assemble import MEMORY, SIZE
from hwbench.plan.designs import choice_of, key_of, layers_left, precision_plan, steps_of
from hwbench.plan.explain import Terms, explain, explain_infeasible, format_amount
from hwbench.plan.front import price
from hwbench.plan.goals import within_reach
from hwbench.plan.milp import Answer
from hwbench.plan.problem import LOSS, Problem
from hwbench.planning_pipeline.factors import after_training, rising
from hwbench.records.base import Missing
from hwbench.records.plan import Joint, Planned
from hwbench.records.planning import Decision, Design, Interval, Solved

if TYPE_CHECKING:
    from hwbench.planning_pipeline.solving import Solving

CLOSER = 3  # budgets between the last that is allowed and the first that is not
_AS_GOOD = 0.005  # of the objective: designs that are apart by less are as good as each other
Each = tuple[Answer, Design]


@dataclass(kw_only=True)
class Found:
    """A front that can be asked on. ``row``: answers and designs, the most careful first.

    ``regardless``: where no design that keeps the bounds is allowed, the one of them that loses least is chosen.
    ``told``: what had to be given up for it.
    """

    solving: Solving
    problem: Problem
    row: list[Each]
    factors: Mapping[str, float]
    regardless: bool = False
    told: tuple[str, ...] = ()

    def after_training(self) -> Found:
        """Return the front of what designs lose once they have been trained, as far as it is known.

        Budgets of it are to be asked for (:meth:`at`): what its designs lose as a whole is what they lose before.
        """
        solving = self.solving.losing(after_training(self.solving.sensitivity))
        return replace(solving.found(self.factors), regardless=self.regardless, told=self.told)

    def look_closer(self) -> None:
        """Look between the last design that is allowed and the first that is not."""
        for _ in range(0 if self.solving.name == LOSS else CLOSER):
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
        """Solve for one more budget of loss, and return its design, which may be in the row; None where there is none.

        What is new joins the row, which is longer then. Where loss is what is minimised it has no budgets.
        """
        if self.solving.name == LOSS:
            return None
        solved = self.solving.solved(self.problem, [budget])
        self.row = distinct([*self.row, *solved])
        return solved[0][1] if solved else None

    def chosen(self, max_drop: float | None = None) -> int | Missing:
        """Return the best design, of those whose drop is allowed: drops are taken to rise with the predicted loss.

        Of those that are as good, it is the one that loses least: nobody could measure which of them is better.

        So not all of them need be run as a whole: where the limit lies in the row is found by halving it.
        """
        limit = self.solving.max_drop if max_drop is None else max_drop
        keeping = [number for number, (_, design) in enumerate(self.row) if self.keeps(design)]
        if not keeping:
            return self._infeasible()
        least = self.solving.name == LOSS or self.regardless
        smooth = self._smooth_drops(limit, keeping[:CLOSER] if least else [])
        if not smooth:
            return self._no_drop()
        able = [number for number in smooth if number in set(keeping)]
        allowed = [number for number in able if smooth[number] <= limit + 1e-12]
        if least and (allowed or (self.regardless and able)):
            return min(allowed or able, key=lambda number: (smooth[number], number))
        if not allowed:
            return self._over_budget([smooth[number] for number in able] or list(smooth.values()), limit)
        best = min(self._objective(number) for number in allowed)
        return min(number for number in allowed if self._objective(number) <= (1 + _AS_GOOD) * best)

    def _objective(self, number: int) -> float:
        return self.row[number][0].objective or 0.0

    @property
    def drop_kept(self) -> bool:
        """Whether the chosen design loses no more than is allowed: not where other goals come first."""
        chosen = self.chosen()
        if not self.regardless or isinstance(chosen, Missing):
            return True
        drop = self.solving.drop(self.row[chosen][1])
        return not isinstance(drop, Missing) and drop <= self.solving.max_drop + 1e-12

    def _smooth_drops(self, limit: float, numbers: Sequence[int]) -> dict[int, float]:
        """Return by place in the row the drops of designs that were run: some, or those around a limit."""
        for number in numbers:  # by predicted loss; what they really lose need not be in this order
            self.solving.drop(self.row[number][1])
        if not numbers:
            self._run_around(limit)
        drops = {number: self.solving.drop(self.row[number][1]) for number in self._run()}
        run = {number: drop for number, drop in drops.items() if not isinstance(drop, Missing)}
        return dict(zip(run, rising(list(run.values())), strict=True))

    def _no_drop(self) -> Missing:
        """Say why no drop is known: what the outputs lack, or that nothing could be run."""
        drops = [self.solving.drop(self.row[number][1]) for number in self._run()]
        return next(
            (drop for drop in drops if isinstance(drop, Missing)),
            Missing(code="not_run", why="no design of the front could be run as a whole"),
        )

    def _infeasible(self) -> Missing:
        """Say which bounds no design keeps, and what they would have to be relaxed to."""
        relaxed = [
            f"{each.quantity} to {within_reach(each.quantity, each.beside)}"
            for each in self.solving.shortfalls
            if each.beside is not None and each.beside > each.limit
        ]
        why = (
            "; ".join(explain_infeasible(self.solving.shortfalls))
            or "no design that keeps all bounds was found in time"
        )
        return Missing(code="infeasible", why=why, cure=f"relax {' or '.join(relaxed)}" if relaxed else None)

    def _over_budget(self, drops: Sequence[float], limit: float) -> Missing:
        bounds = self.solving.bounds
        kept = f" that keeps {' and '.join(map(_bound, bounds.items()))}" if bounds else " of the front"
        return Missing(
            code="over_budget",
            why=f"the most careful design{kept} loses {100 * min(drops):.2f} pp, and {100 * limit:g} are allowed",
            cure=f"allow more, {'relax a bound, ' if bounds else ''}give more samples, or let more stay (--choose)",
        )

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

    def has(self, design: Design) -> bool:
        """Say whether a design is one of its space: where two schemes are not mixed, the other's is not."""
        try:
            choice_of(self.solving.space, design)
        except ValueError:
            return False
        return True

    def loss(self, design: Design) -> float:
        """Return the predicted loss of a design."""
        choice = choice_of(self.solving.space, design)
        return self.problem.totals([choice[variable.name] for variable in self.problem.variables])[LOSS]

    def predict(self, design: Design) -> Interval:
        """Return the predicted latency of a design."""
        return self.solving.costs.predict(self.solving.space, design)

    def energy(self, design: Design) -> Interval | Missing:
        """Return the predicted energy of one inference."""
        joules = self.solving.joules
        if joules is None:
            return Missing(
                code="not_asked", why="energy was neither to be small nor bounded", cure="--objective energy"
            )
        return joules.predict(self.solving.space, design)

    def values(self, design: Design) -> dict[str, float]:
        """Return what a design is predicted to take, by quantity, in SI units."""
        return self.solving.values(self.problem, design)

    def keeps(self, design: Design) -> bool:
        """Say whether a design is predicted to keep all bounds."""
        return self.solving.keeps(self.problem, design)

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
        used = self.solving.budget_of
        slope = None if number is None else price(answers, number, budget_of=used)
        bounds = {**self.solving.limits, used: self.problem.totals(taken)[used]}
        terms = Terms(objective=self.solving.name, bounds=bounds, budget_of=used, price=slope)
        return tuple(self._remarked(each) for each in explain(self.problem, taken, terms))

    def _remarked(self, decision: Decision) -> Decision:
        """Return a decision that tells what is known of its option, and of the runner-up, beyond their costs."""
        told = [self.solving.remarks.get((decision.site, str(name))) for name in (decision.option, decision.runner_up)]
        return msgspec.structs.replace(decision, why="; ".join([decision.why, *filter(None, told)]))

    def planned(self) -> tuple[Planned, ...]:
        """Return the front as it is written down; the chosen design with its reasons."""
        for (
            _,
            design,
        ) in self.row:  # each is written with what it loses as a whole, and what is run may change the choice
            self.joint(design)
        chosen = self.chosen()
        return tuple(self._planned(number, explained=number == chosen) for number in range(len(self.row)))

    def _planned(self, number: int, *, explained: bool) -> Planned:
        answer, design = self.row[number]
        space = self.solving.space
        solved = Solved(
            budget=answer.totals[LOSS],
            design=design,
            latency_s=answer.totals["latency"],
            loss=answer.totals[LOSS],
            weight_bytes=round(answer.totals[SIZE]),
            memory_bytes=round(answer.totals[MEMORY]),
            status=answer.status,
            gap=answer.gap,
            took_s=answer.took_s,
            decisions=self.decisions(design) if explained else (),
        )
        return Planned(
            solved=solved,
            latency=self.predict(design),
            energy=self.energy(design),
            joint=self.joint(design),
            steps=steps_of(space, design, criterion=self.solving.criterion),
            precision=precision_plan(space, design, layers_left(space, design)),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What whole designs have taught, and what was left out for want of time."""
        told = ", ".join(f"{kind} {factor:.2g}" for kind, factor in self.factors.items() if abs(factor - 1) > 0.01)
        learnt = (f"what whole designs lose, over the sum of their parts: {told}",) if told else ()
        joules = self.solving.joules
        source = (f"energy: {joules.basis}",) if joules is not None else ()
        return (*self.told, *source, *learnt, *(f"the time was over: {what}" for what in self.solving.cut_short))


def _bound(item: tuple[str, float]) -> str:
    name, limit = item
    return f"{name} of at most {format_amount(name, limit)}"


def distinct(row: Sequence[Each]) -> list[Each]:
    """Return designs once each, by what they are predicted to lose."""
    kept: dict[str, Each] = {}
    for answer, design in row:
        kept.setdefault(key_of(design), (answer, design))
    return sorted(kept.values(), key=lambda each: (each[0].totals[LOSS], -(each[0].objective or 0.0)))
