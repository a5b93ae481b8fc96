"""Why each option was chosen: what came second, and what that would cost, everything else the same.

The numbers are exact: the totals of the plan with one option changed (variables that must be equal change together).
The *price* says what one unit of the budget is worth elsewhere in the plan; it comes from the plans of the
neighbouring budgets (:func:`hwbench.plan.front.price`). With it the runner-up is the option with the least
objective + price * budget used: the one that a slightly other budget would take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwbench.plan.milp import Shortfall
from hwbench.plan.moves import Moves, Totals
from hwbench.plan.problem import LOSS, Choice, Problem
from hwbench.records.base import Missing
from hwbench.records.planning import Decision
from hwbench.units import format_bytes, format_seconds, format_si

_NO_OTHER = Missing(code="only_option", why="there is no other option")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a plan was asked for. ``price``: of one unit of ``budget_of``, in units of the objective; None: unknown."""

    objective: str
    bounds: Mapping[str, float]
    budget_of: str = LOSS
    price: float | None = None


def explain(problem: Problem, choice: Choice, terms: Terms) -> tuple[Decision, ...]:
    """Return one decision a variable, in their order."""
    moves = Moves(problem)
    sums = moves.sums(choice)
    here = problem.of_sums(sums)
    found: dict[int, Decision] = {}
    for number, group in enumerate(moves.groups):
        options = {
            k: {name: totals[name] - here[name] for name in totals}
            for k, (_, totals) in enumerate(moves.of(number, choice, sums))
            if k != choice[group[0]]
        }
        for v in group:
            found[v] = _decision(problem, v, choice[v], options, here, terms, len(group))
    return tuple(found[v] for v in range(len(problem.variables)))


def _decision(
    problem: Problem,
    v: int,
    mine: int,
    options: Mapping[int, Totals],
    here: Totals,
    terms: Terms,
    together: int,
) -> Decision:
    variable = problem.variables[v]
    if not options:
        return Decision(
            site=variable.name,
            option=variable.options[mine],
            runner_up=_NO_OTHER,
            latency_s=_NO_OTHER,
            loss=_NO_OTHER,
            why=_NO_OTHER.why,
        )
    second = min(options, key=lambda k: (*_rank(problem, options[k], here, terms), k))
    extra = options[second]
    name = variable.options[second]
    why = _why(name, extra, _broken(problem, extra, here, terms), terms)
    return Decision(
        site=variable.name,
        option=variable.options[mine],
        runner_up=name,
        latency_s=extra.get("latency", Missing(code="no_latency", why="no latency was given")),
        loss=extra[LOSS],
        why=why + (f" ({together} such choices are one)" if together > 1 else ""),
    )


def _rank(problem: Problem, extra: Totals, here: Totals, terms: Terms) -> tuple[int, float]:
    broken = _broken(problem, extra, here, terms)
    if terms.price is None:
        return len(broken), extra[terms.objective]
    return len(set(broken) - {terms.budget_of}), extra[terms.objective] + terms.price * extra[terms.budget_of]


def _broken(problem: Problem, extra: Totals, here: Totals, terms: Terms) -> list[str]:
    """Return the bounds that the change would break."""
    new = {name: here[name] + extra[name] for name in here}
    return [name for name, limit in terms.bounds.items() if not problem.fits(new, {name: limit})]


def _why(name: str, extra: Totals, broken: list[str], terms: Terms) -> str:
    if not any(extra.values()):
        return f"{name} would make no difference: nothing that depends on it is left"
    gain, used = -extra[terms.objective], extra[terms.budget_of]
    same = terms.objective == terms.budget_of
    said = [_effect(terms.objective, -gain)] + ([] if same else [_effect(terms.budget_of, used)])
    text = f"{name} would {' and '.join(said)}"
    if broken:
        text += f", which breaks the bound of {' and of '.join(broken)}"
    if same or terms.price is None or gain * used <= 0:
        return text
    worth = terms.price * abs(used)
    amount = format_amount(terms.objective, worth)
    if gain > 0 and worth > gain:
        return f"{text}; elsewhere that much {terms.budget_of} saves {amount}"
    if gain < 0 and worth < -gain:
        return f"{text}; elsewhere that much {terms.budget_of} saves only {amount}"
    return f"{text}; by its price ({amount}) it would pay, and no change elsewhere makes room for it"


def _effect(name: str, extra: float) -> str:
    if extra == 0:
        return f"leave {name} as it is"
    amount = format_amount(name, abs(extra))
    if name == LOSS:
        return f"lose {amount} {'more' if extra > 0 else 'less'}"
    if name == "latency":
        return f"take {amount} longer" if extra > 0 else f"save {amount}"
    return f"add {amount} of {name}" if extra > 0 else f"save {amount} of {name}"


def format_amount(name: str, value: float) -> str:
    """Return a quantity as text: seconds of latency, joules of energy, nats of loss, bytes of the others."""
    if name == "latency":
        return format_seconds(value)
    if name == "energy":
        return format_si(value, "J")
    return f"{value:.3g}" if name == LOSS else format_bytes(value)


def explain_infeasible(shortfalls: Sequence[Shortfall]) -> tuple[str, ...]:
    """Return one sentence a bound of an infeasible problem: what the least is, and what would relax it."""
    return tuple(_shortfall(short) for short in shortfalls)


def _shortfall(short: Shortfall) -> str:
    name = short.quantity
    asked = f"{name} of at most {format_amount(name, short.limit)}"
    if short.alone is None:
        return f"{asked}: no choice was found in time"
    least = format_amount(name, short.alone)
    if short.alone > short.limit:
        return f"{asked} cannot be met whatever else is given up: the least is {least}"
    if short.beside is None:
        return f"{asked} can be met alone (the least is {least}), and relaxing it does not help: the others conflict"
    return f"{asked} can be met alone; with the others kept, {format_amount(name, short.beside)} is the least"
