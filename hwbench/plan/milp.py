"""The least of one quantity under bounds on others, found by HiGHS and proved to within a gap.

The programme is that of :mod:`hwbench.plan.program`; every bound is one row (a peak: one a cut). HiGHS works with
tolerances, so its answer is taken as a choice, evaluated from the tables, and, where a bound turns out to be exceeded,
that one choice is forbidden and the search goes on. (Huangfu and Hall, Mathematical Programming Computation 10, 2018,
doi:10.1007/s12532-017-0130-5.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hwbench.errors import UsageError
from hwbench.plan.highs import Search
from hwbench.plan.moves import Moves, polished
from hwbench.plan.problem import Choice, Problem
from hwbench.plan.program import programme
from hwbench.plan.reduction import reduce
from hwbench.units import MonotonicClock

Status = Literal["optimal", "time_limit", "infeasible"]


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """A bound of an infeasible problem.

    ``alone``: the least that was found of the quantity when nothing else is bounded. ``beside``: the same with all
    other bounds kept, to which this one would have to be relaxed; None: those cannot be met even without it.
    """

    quantity: str
    limit: float
    alone: float | None
    beside: float | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found. ``choice`` is None where there is none: infeasible, or nothing found in time.

    ``bound``: no choice has a lower objective; ``gap``: how far it is below ``objective``, as a share of that.
    ``optimal``: to within the gap that was asked for. ``shortfalls``: why an infeasible problem is.
    """

    choice: Choice | None
    objective: float | None
    totals: Mapping[str, float]
    bound: float
    gap: float
    status: Status
    took_s: float
    shortfalls: tuple[Shortfall, ...] = ()

    def taking(self, choice: Choice, totals: Mapping[str, float], objective: str, gap: float) -> Answer:
        """Return the answer with this choice in place of its own, held against the bound that was proved."""
        value = totals[objective]
        bound = min(self.bound, value)
        share = 0.0 if value == bound else (value - bound) / abs(value) if value else np.inf
        status: Status = "optimal" if share <= gap else "time_limit"
        return replace(
            self, choice=choice, objective=value, totals=totals, bound=bound, gap=share, status=status, shortfalls=()
        )


def solve(
    problem: Problem,
    *,
    objective: str,
    bounds: Mapping[str, float],
    time_limit_s: float = 10.0,
    gap: float = 1e-3,
) -> Answer:
    """Return the choice with the least ``objective`` that keeps every bound.

    Args:
        problem: the costs and losses.
        objective: the name of a quantity, a peak, or ``loss``.
        bounds: by name, what must not be exceeded.
        time_limit_s: for the search; explaining an infeasible problem takes two more searches a bound.
        gap: relative; stop when the objective is proved to be no further above the least one.

    Raises:
        UsageError: the objective or a bound names nothing that the problem has, or a bound is not finite.
        EngineError: scipy is not installed, or HiGHS gave up for a reason of its own.
    """
    for name, limit in bounds.items():
        if not np.isfinite(limit):
            raise UsageError(f"the bound of {name} is {limit}", hint="leave out what is not bounded")
    answer = _search(problem, objective, bounds, time_limit_s, gap)
    if answer.status != "infeasible":
        return answer
    found = tuple(_shortfall(problem, name, bounds, time_limit_s, gap) for name in bounds)
    return replace(answer, shortfalls=found)


def _shortfall(problem: Problem, name: str, bounds: Mapping[str, float], time_limit_s: float, gap: float) -> Shortfall:
    others = {other: limit for other, limit in bounds.items() if other != name}
    alone = _search(problem, name, {}, time_limit_s, gap)
    beside = _search(problem, name, others, time_limit_s, gap) if others else alone
    return Shortfall(quantity=name, limit=bounds[name], alone=alone.objective, beside=beside.objective)


def _search(problem: Problem, objective: str, bounds: Mapping[str, float], time_limit_s: float, gap: float) -> Answer:
    clock = MonotonicClock()
    start = clock.now_ns()

    def passed() -> float:
        return (clock.now_ns() - start) / 1e9

    reduced = reduce(problem, (objective, *bounds))
    made = programme(reduced)
    search = Search(made, problem.peaks, objective, bounds)
    while True:
        result = search.run(time_limit_s - passed(), gap)
        if result.x is None:
            status: Status = "infeasible" if result.status == 2 else "time_limit"
            return _without_choice(status, search.bound(result), passed())
        mine = made.choice(result.x)
        choice = reduced.original(mine)
        if problem.fits(problem.totals(choice), bounds):
            break
        if passed() > time_limit_s:
            return _without_choice("time_limit", search.bound(result), passed())
        search.forbid(mine)
    choice = polished(Moves(problem), choice, objective, bounds)
    return _answer(problem, choice, objective, search.bound(result), gap, passed())


def _answer(problem: Problem, choice: Choice, objective: str, bound: float, gap: float, took_s: float) -> Answer:
    totals = problem.totals(choice)
    proved = totals[objective] if totals[objective] - bound <= _tiny(problem, objective) else bound
    return _without_choice("time_limit", proved, took_s).taking(choice, totals, objective, gap)


def _tiny(problem: Problem, objective: str) -> float:
    """Return what HiGHS cannot tell from nothing: 1e-8 of the largest entry of a table."""
    accounts = problem.accounts((objective,))
    return 1e-8 * max((float(np.abs(f.table).max()) for factors in accounts.values() for f in factors), default=0.0)


def _without_choice(status: Status, bound: float, took_s: float) -> Answer:
    return Answer(choice=None, objective=None, totals={}, bound=bound, gap=np.inf, status=status, took_s=took_s)
