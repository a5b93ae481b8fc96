"""The solver against trying everything, against dynamic programming on chains, and against itself at other budgets."""

from __future__ import annotations

import made_problems
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy.optimize", reason="the solver needs scipy")

import itertools

from hwbench.plan.explain import Terms, explain
from hwbench.plan.front import front
from hwbench.plan.milp import solve
from hwbench.plan.problem import Factor, Problem
from hwbench.plan.reduction import reduce

SEEDS = st.integers(0, 2**32 - 1)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
FEW = settings(QUICK, max_examples=25)
NAMES = ("latency", "energy", "size", "memory", "loss")


def question(rng, found):
    """What to minimise, and one or two bounds: values that choices have exactly, and some that none keeps."""
    objective = str(rng.choice(NAMES))
    others = [name for name in NAMES if name != objective]
    bounds = {}
    for name in rng.choice(others, int(rng.integers(1, 3)), replace=False):
        values = sorted(totals[name] for _, totals in found)
        place = int(rng.integers(-1, len(values)))
        bounds[str(name)] = values[place] if place >= 0 else values[0] - 0.1 * abs(values[0]) - 1e-9
    return objective, bounds


def keeps(totals, bounds):
    return all(totals[name] <= limit + 1e-9 * abs(limit) for name, limit in bounds.items())


@QUICK
@given(seed=SEEDS)
def test_the_solver_finds_what_trying_everything_finds(seed):
    rng = np.random.default_rng(seed)
    problem = made_problems.drawn(rng)
    found = made_problems.everything(problem)
    objective, bounds = question(rng, found)
    answer = solve(problem, objective=objective, bounds=bounds, gap=0.0)
    best = min((totals[objective] for _, totals in found if keeps(totals, bounds)), default=None)
    if best is None:
        assert answer.status == "infeasible"
        assert answer.choice is None
        for short in answer.shortfalls:
            least = min(totals[short.quantity] for _, totals in found)
            assert short.alone == pytest.approx(least, rel=2e-3, abs=1e-12)
    else:
        assert answer.status == "optimal"
        assert answer.objective == pytest.approx(best, rel=1e-9, abs=1e-15)
        assert answer.totals == pytest.approx(dict(found)[answer.choice], rel=1e-9, abs=1e-15)
        assert keeps(answer.totals, bounds)


@QUICK
@given(seed=SEEDS)
def test_what_is_dominated_is_never_missed(seed):
    rng = np.random.default_rng(seed)
    problem = made_problems.drawn(rng)
    found = made_problems.everything(problem)
    objective, bounds = question(rng, found)
    reduced = reduce(problem, (objective, *bounds))
    left = {reduced.original(choice) for choice in np.ndindex(reduced.sizes)}
    assert left <= {choice for choice, _ in found}
    fitting = [(totals[objective], choice in left) for choice, totals in found if keeps(totals, bounds)]
    if fitting:
        best = min(value for value, _ in fitting)
        assert any(here and value <= best + 1e-12 * abs(best) for value, here in fitting)


@FEW
@given(seed=SEEDS)
def test_chains_as_dynamic_programming_has_them(seed):
    rng = np.random.default_rng(seed)
    sizes = [int(n) for n in rng.integers(2, 7, 12)]
    tables = [rng.integers(1, 1000, (a, b)) * 1e-6 for a, b in itertools.pairwise(sizes)]
    losses = [np.concatenate([[0], rng.integers(1, 20, size - 1)]).astype(float) for size in sizes]
    budget = int(rng.integers(0, 100))
    problem = Problem(
        variables=made_problems.variables(sizes),
        quantities={"latency": tuple(Factor((v, v + 1), table) for v, table in enumerate(tables))},
        losses=tuple(losses),
    )
    answer = solve(problem, objective="latency", bounds={"loss": float(budget)}, gap=0.0)
    assert answer.objective == pytest.approx(least_of_a_chain(tables, losses, budget), rel=1e-9)


def least_of_a_chain(tables, losses, budget):
    """Dynamic programming over (option, loss used); exact, since losses are whole numbers."""
    best = {(option, int(loss)): 0.0 for option, loss in enumerate(losses[0]) if loss <= budget}
    for table, loss in zip(tables, losses[1:], strict=True):
        longer = {}
        for (option, used), time in best.items():
            for other, more in enumerate(loss):
                key = (other, used + int(more))
                if key[1] <= budget:
                    longer[key] = min(longer.get(key, np.inf), time + table[option, other])
        best = longer
    return min(best.values())


@FEW
@given(seed=SEEDS, hurried=st.booleans())
def test_a_larger_budget_is_never_slower(seed, hurried):
    rng = np.random.default_rng(seed)
    problem = made_problems.drawn(rng, count=6)
    losses = sorted(totals["loss"] for _, totals in made_problems.everything(problem))
    budgets = [losses[int(place)] for place in rng.integers(0, len(losses), 8)]
    limit = {"time_limit_s": 0.002, "gap": 0.3} if hurried else {}
    answers = front(problem, budgets, **limit)
    best = np.inf
    for budget, answer in sorted(zip(budgets, answers, strict=True), key=lambda both: both[0]):
        if answer.choice is None:
            assert hurried
            assert np.isinf(best), "what was found for a smaller budget holds here too"
            continue
        assert keeps(problem.totals(answer.choice), {"loss": budget})
        assert answer.objective <= best
        assert answer.bound <= answer.objective
        best = answer.objective


@FEW
@given(seed=SEEDS)
def test_what_is_explained_is_so(seed):
    rng = np.random.default_rng(seed)
    problem = made_problems.drawn(rng)
    found = dict(made_problems.everything(problem))
    choice = list(found)[int(rng.integers(len(found)))]
    price = float(rng.lognormal(-11, 1)) if rng.random() < 0.5 else None
    terms = Terms(objective="latency", bounds={"loss": found[choice]["loss"]}, price=price)
    decisions = explain(problem, choice, terms)
    assert [decision.site for decision in decisions] == [variable.name for variable in problem.variables]
    tied = dict([*problem.equal, *((b, a) for a, b in problem.equal)])
    for v, decision in enumerate(decisions):
        options = problem.variables[v].options
        assert decision.option == options[choice[v]]
        if len(options) == 1:
            assert decision.runner_up.code == "only_option"
            continue
        other = list(choice)
        for each in {v, tied.get(v, v)}:
            other[each] = options.index(decision.runner_up)
        assert decision.runner_up != decision.option
        change = found[tuple(other)]
        assert decision.latency_s == pytest.approx(change["latency"] - found[choice]["latency"], rel=1e-6, abs=1e-15)
        assert decision.loss == pytest.approx(change["loss"] - found[choice]["loss"], rel=1e-6, abs=1e-9)


@FEW
@given(seed=SEEDS)
def test_fronts_under_bounds_are_those_of_trying_everything(seed):
    """Of any budget, with the energy or the latency bounded besides: exact, and never worse with more of the budget."""
    rng = np.random.default_rng(seed)
    problem = made_problems.drawn(rng, count=5)
    found = made_problems.everything(problem)
    objective, bounded, budget_of = (str(name) for name in rng.permutation(["energy", "latency", "loss"]))
    values = sorted(totals[bounded] for _, totals in found)
    limit = {bounded: values[int(rng.integers(len(values)))]}
    budgets = sorted(totals[budget_of] for _, totals in found)[:: max(1, len(found) // 5)]
    answers = front(problem, budgets, objective=objective, budget_of=budget_of, bounds=limit, gap=0.0)
    for budget, answer in zip(budgets, answers, strict=True):
        kept = [t[objective] for _, t in found if keeps(t, {**limit, budget_of: budget})]
        if answer.choice is None:
            assert not kept
            assert answer.status == "infeasible"
        else:
            assert answer.objective == pytest.approx(min(kept), rel=1e-9, abs=1e-15)
    reached = [answer.objective for answer in answers if answer.choice is not None]
    assert reached == sorted(reached, reverse=True)


@FEW
@given(seed=SEEDS)
def test_what_is_taken_whatever_is_chosen_moves_bounds_and_no_choice(seed):
    rng = np.random.default_rng(seed)
    problem = made_problems.drawn(rng)
    found = made_problems.everything(problem)
    more = float(rng.lognormal(-11, 1))
    shifted = problem.plus({"energy": more})
    limit = float(np.median([totals["energy"] for _, totals in found]))
    best = min(totals["latency"] for _, totals in found if totals["energy"] <= limit + 1e-9 * abs(limit))
    answer = solve(shifted, objective="latency", bounds={"energy": limit + more + 1e-9 * abs(limit)}, gap=0.0)
    assert answer.objective == pytest.approx(best, rel=1e-6, abs=1e-15)
    assert answer.totals["energy"] == pytest.approx(dict(found)[answer.choice]["energy"] + more, rel=1e-9, abs=1e-15)
