"""Answers for many budgets, none worse than that of a smaller one.

The largest budget is solved first. An answer that already fits a smaller budget is the answer there too, without a
search. In the end every budget gets the best of all choices found that fits it: what fits a budget fits every larger
one, so a larger budget is never slower, whatever time limit and gap left open. A bound that was proved for a budget
holds for all smaller ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hwbench.plan.milp import Answer, solve
from hwbench.plan.problem import LOSS, Choice, Problem


def front(
    problem: Problem,
    budgets: Sequence[float],
    *,
    objective: str = "latency",
    budget_of: str = LOSS,
    bounds: Mapping[str, float] | None = None,
    time_limit_s: float = 10.0,
    gap: float = 1e-3,
) -> tuple[Answer, ...]:
    """Return the least ``objective`` for each budget of ``budget_of``, in the order of ``budgets``.

    Args:
        problem: the costs and losses.
        budgets: in the unit of ``budget_of``.
        objective: what is minimised.
        budget_of: what the budgets are of.
        bounds: what must not be exceeded besides.
        time_limit_s: for each budget.
        gap: relative, as for :func:`hwbench.plan.milp.solve`.

    Raises:
        UsageError, EngineError: as :func:`hwbench.plan.milp.solve`.
    """
    found: dict[float, Answer] = {}
    last: Answer | None = None
    for budget in sorted(set(budgets), reverse=True):
        limits = {**(bounds or {}), budget_of: budget}
        if last is not None and last.choice is not None and problem.fits(last.totals, limits):
            last = replace(last, took_s=0.0)
        else:
            lower = float("-inf") if last is None else last.bound
            last = solve(problem, objective=objective, bounds=limits, time_limit_s=time_limit_s, gap=gap)
            last = replace(last, bound=max(last.bound, lower))
        found[budget] = last
    pool = {answer.choice: answer.totals for answer in found.values() if answer.choice is not None}
    for budget, answer in found.items():
        found[budget] = _best(problem, pool, answer, objective, {**(bounds or {}), budget_of: budget}, gap)
    return tuple(found[budget] for budget in budgets)


def _best(
    problem: Problem,
    pool: Mapping[Choice, Mapping[str, float]],
    answer: Answer,
    objective: str,
    limits: Mapping[str, float],
    gap: float,
) -> Answer:
    fitting = [choice for choice, totals in pool.items() if problem.fits(totals, limits)]
    if not fitting:
        return answer
    choice = min(fitting, key=lambda one: (pool[one][objective], pool[one][LOSS], one))
    return answer.taking(choice, pool[choice], objective, gap)


def price(answers: Sequence[Answer], number: int, *, budget_of: str = LOSS) -> float | None:
    """Return how much objective one unit of the budget buys around an answer: the slope between its neighbours.

    The neighbours are the nearest answers with another choice, ordered by what they use of the budget; None where there
    is none to compare with. It stands in for the dual price of the budget, which a mixed-integer problem does not have.
    """
    points = [(each.totals[budget_of], each.objective) for each in answers if each.objective is not None]
    mine = answers[number]
    if mine.objective is None:
        return None
    ordered = sorted(set(points))
    at = ordered.index((mine.totals[budget_of], mine.objective))
    (used_low, high), (used_high, low) = ordered[max(0, at - 1)], ordered[min(len(ordered) - 1, at + 1)]
    return (high - low) / (used_high - used_low) if used_high > used_low else None
