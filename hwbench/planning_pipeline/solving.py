"""From costs and losses to a front of designs, corrected by what whole designs really lose.

What options lose one by one does not add up to what a design loses. So every design of the front is stitched together
and run as a whole, each kind of site gets a factor from that, and the front is solved again: what was solved for moves
until it is where it was predicted to be. Then the budgets around the one that is allowed are looked at more closely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np

from hwbench.plan.assemble import MEMORY, SIZE, Costs, assemble
from hwbench.plan.designs import choice_of, design_of, precision_plan, steps_of
from hwbench.plan.explain import Terms, explain
from hwbench.plan.front import front, price
from hwbench.plan.milp import Answer
from hwbench.plan.problem import LOSS, Problem
from hwbench.records.base import Missing
from hwbench.records.plan import Joint, Planned
from hwbench.records.planning import Design, Interval, Sensitivity, Solved, Space
from hwbench.records.quantization import Floating

ROUNDS = 3
CLOSER = 3  # budgets between the last that is allowed and the first that is not
_SETTLED = 0.15  # mean |log(measured / predicted)| of the losses of a front
_HOLD = 0.1  # how strongly the factors hold on to one, as if it had been measured so
_FACTORS = (0.05, 20.0)
_TIME_LIMIT_S = 5.0  # of one budget
_NOT_RUN = Missing(code="not_run", why="it was not run as a whole")

AskJoint = Callable[[Design], Joint | Missing]


class Predicts(Costs, Protocol):
    """Costs that also tell what whole designs take."""

    def predict(self, space: Space, design: Design) -> Interval:
        """Return the latency from end to end."""
        ...


@dataclass(kw_only=True)
class Solving:
    """Designs for one runtime. ``known``: what whole designs lose, shared by all runtimes, since it does not differ."""

    space: Space
    costs: Predicts
    sensitivity: Sensitivity
    ask: AskJoint
    max_drop: float
    budgets: int
    objective: str = "latency"
    floating: Floating = "auto"
    known: dict[str, Joint | Missing] = field(default_factory=dict)

    def run(self) -> tuple[tuple[Planned, ...], int | Missing, tuple[str, ...]]:
        """Return the front, from the most careful design to the fastest, the number of the chosen one, and notes."""
        factors = dict.fromkeys(("precision", "width", "depth", "rank"), 1.0)
        found: list[tuple[Answer, Design]] = []
        for _ in range(ROUNDS):
            problem = assemble(self.space, self.costs, scaled(self.sensitivity, factors), floating=self.floating)
            found = self._solved(problem, self._row(problem))
            again = self._factors(found)
            if again is None:
                break
            off = max(abs(np.log(again[kind] / factors[kind])) for kind in factors)
            if off < _SETTLED:
                break
            factors = again
        found = self._closer(problem, found)
        answers = [answer for answer, _ in found]
        chosen = self._chosen(found)
        planned = tuple(
            self._planned(problem, answers, number, design, explained=number == chosen)
            for number, (_, design) in enumerate(found)
        )
        note = ", ".join(f"{kind} {factor:.2g}" for kind, factor in factors.items() if abs(factor - 1) > 0.01)
        return planned, chosen, ((f"what whole designs lose, over the sum of their parts: {note}",) if note else ())

    def _row(self, problem: Problem) -> list[float]:
        """Return budgets from almost nothing to what everything together can lose, evenly in the logarithm."""
        most = sum(float(np.max(loss)) for loss in problem.losses)
        known = [value for loss in problem.losses for value in loss if value > 0]
        least = min(known, default=most)
        return [0.0, *np.geomspace(max(least, 1e-4 * most), max(most, least), self.budgets - 1).tolist()]

    def _solved(self, problem: Problem, budgets: Sequence[float]) -> list[tuple[Answer, Design]]:
        """Return the distinct designs of a row of budgets, each run as a whole, the most careful first."""
        objective = {"memory": MEMORY, "size": SIZE}.get(self.objective, self.objective)
        answers = front(problem, budgets, objective=objective, time_limit_s=_TIME_LIMIT_S)
        return self._distinct([(answer, self._design(problem, answer)) for answer in answers if answer.choice])

    def _distinct(self, found: Sequence[tuple[Answer, Design]]) -> list[tuple[Answer, Design]]:
        kept: dict[str, tuple[Answer, Design]] = {}
        for answer, design in found:
            kept.setdefault(key_of(design), (answer, design))
        for key, (_, design) in kept.items():
            if key not in self.known:
                self.known[key] = self.ask(design)
        return sorted(kept.values(), key=lambda each: (each[0].totals[LOSS], -(each[0].objective or 0.0)))

    def _design(self, problem: Problem, answer: Answer) -> Design:
        assert answer.choice is not None
        names = [variable.name for variable in problem.variables]
        return design_of(self.space, dict(zip(names, answer.choice, strict=True)), floating=self.floating)

    def _factors(self, found: Sequence[tuple[Answer, Design]]) -> dict[str, float] | None:
        """Return by kind of site what whole designs lose over what the sites of the kind lose one by one."""
        rows, values = [], []
        for _, design in found:
            joint = self.known[key_of(design)]
            parts = by_kind(self.space, self.sensitivity, design)
            if isinstance(joint, Missing) or not sum(parts.values()) or joint.divergence <= 0:
                continue
            rows.append([parts[kind] / joint.divergence for kind in parts])
            values.append(1.0)
        if not rows:
            return None
        kinds = list(by_kind(self.space, self.sensitivity, Design()))
        return dict(zip(kinds, held_nnls(np.array(rows), np.array(values)).clip(*_FACTORS).tolist(), strict=True))

    def _closer(self, problem: Problem, found: list[tuple[Answer, Design]]) -> list[tuple[Answer, Design]]:
        """Look between the last design that is allowed and the first that is not."""
        for _ in range(CLOSER):
            chosen = self._chosen(found)
            if isinstance(chosen, Missing) or chosen + 1 >= len(found):
                break
            low, high = (found[number][0].totals[LOSS] for number in (chosen, chosen + 1))
            if high <= 1.02 * low:
                break
            between = float(np.sqrt(max(low, 0.05 * high) * high))
            more = self._solved(problem, [between])
            there = {key_of(design) for _, design in found}
            new = [each for each in more if key_of(each[1]) not in there]
            if not new:
                break
            found = self._distinct([*found, *new])
        return found

    def _chosen(self, found: Sequence[tuple[Answer, Design]]) -> int | Missing:
        """Return the last design, of those whose drop is allowed: drops are taken to rise with the predicted loss."""
        drops = [self._drop(design) for _, design in found]
        run = [number for number, drop in enumerate(drops) if not isinstance(drop, Missing)]
        if not run:
            return Missing(code="not_run", why="no design of the front could be run as a whole")
        smooth = rising([float(drops[number]) for number in run])  # type: ignore[arg-type]
        allowed = [number for number, drop in zip(run, smooth, strict=True) if drop <= self.max_drop + 1e-12]
        if not allowed:
            least = min(smooth)
            return Missing(
                code="over_budget",
                why=f"the most careful design of the front loses {100 * least:.2f} pp, and {100 * self.max_drop:g} are "
                "allowed",
                cure="allow more, give more samples, or let more stay as it is (--choose)",
            )
        return min(allowed, key=lambda number: (found[number][0].objective or 0.0, number))

    def _drop(self, design: Design) -> float | Missing:
        joint = self.known[key_of(design)]
        return joint if isinstance(joint, Missing) else joint.drop

    def _planned(
        self, problem: Problem, answers: Sequence[Answer], number: int, design: Design, *, explained: bool
    ) -> Planned:
        answer = answers[number]
        assert answer.choice is not None
        budget = answer.totals[LOSS]
        objective = {"memory": MEMORY, "size": SIZE}.get(self.objective, self.objective)
        terms = Terms(objective=objective, bounds={LOSS: budget}, price=price(answers, number))
        layers = [name for cluster in self.space.clusters for name in cluster.layers]
        solved = Solved(
            budget=budget,
            design=design,
            latency_s=answer.totals["latency"],
            loss=budget,
            weight_bytes=round(answer.totals[SIZE]),
            status=answer.status,
            gap=answer.gap,
            took_s=answer.took_s,
            decisions=explain(problem, answer.choice, terms) if explained else (),
        )
        return Planned(
            solved=solved,
            latency=self.costs.predict(self.space, design),
            joint=self.known.get(key_of(design), _NOT_RUN),
            steps=steps_of(self.space, design),
            precision=precision_plan(self.space, design, layers),
        )


def key_of(design: Design) -> str:
    """Return what a design goes by, whatever arithmetic its float layers have: its losses do not depend on that."""
    return msgspec.json.encode(msgspec.structs.replace(design, floating="auto"), order="sorted").decode()


def by_kind(space: Space, found: Sensitivity, design: Design) -> dict[str, float]:
    """Return what the options of a design lose one by one, summed by the kind of their sites."""
    choice = choice_of(space, design)
    taken = {(site.name, site.options[choice[site.name]].name): site.kind for site in space.sites}
    sums = dict.fromkeys(("precision", "width", "depth", "rank"), 0.0)
    for loss in found.losses:
        kind = taken.get((loss.site, loss.option))
        if kind is not None:
            sums[kind] += loss.divergence
    return sums


def scaled(found: Sensitivity, factors: Mapping[str, float]) -> Sensitivity:
    """Return losses times the factor of their kind; of a pair, the geometric mean of the two."""

    def factor(site: str) -> float:
        return factors[site.partition(":")[0]]

    losses = tuple(
        msgspec.structs.replace(each, divergence=each.divergence * factor(each.site)) for each in found.losses
    )
    pairs = tuple(
        msgspec.structs.replace(each, extra=each.extra * float(np.sqrt(factor(each.site) * factor(each.other_site))))
        for each in found.pairs
    )
    return msgspec.structs.replace(found, losses=losses, pairs=pairs)


def held_nnls(rows: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Solve rows @ x = values for x >= 0 in the least-squares sense, with x held to one."""
    from scipy.optimize import nnls

    size = rows.shape[1]
    hold = np.sqrt(_HOLD * len(rows) / size) * np.eye(size)
    found: np.ndarray[Any, Any] = nnls(np.vstack([rows, hold]), np.concatenate([values, hold.sum(axis=1)]))[0]
    return found


def rising(values: Sequence[float]) -> list[float]:
    """Return the values as a sequence that never falls, nearest in squares (isotonic regression)."""
    from scipy.optimize import isotonic_regression

    smooth: list[float] = isotonic_regression(values).x.tolist()
    return smooth
