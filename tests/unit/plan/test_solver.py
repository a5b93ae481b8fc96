"""Small problems whose answers are plain, and what the solver says when there is none."""

import ctypes

import made_problems
import numpy as np
import pytest

pytest.importorskip("scipy.optimize", reason="the solver needs scipy")

from hwbench.errors import EngineError, UsageError
from hwbench.plan.explain import Terms, explain, explain_infeasible
from hwbench.plan.front import front, price
from hwbench.plan.milp import solve
from hwbench.plan.problem import Account, Factor, Pair, Peak, Problem, Variable
from hwbench.plan.program import programme
from hwbench.plan.reduction import reduce

KEEP, HALF = 0, 1


def two_layers(**given):
    """Two layers in float or int8, 10 µs or 6 and 7 µs, a border of 3 µs; int8 loses 1 and 2."""
    border = np.array([[0, 3e-6], [3e-6, 0]])
    first, second = Factor((0,), np.array([10e-6, 6e-6])), Factor((1,), np.array([10e-6, 7e-6]))
    fields = {
        "variables": tuple(Variable(name=name, options=("float", "int8")) for name in ("a", "b")),
        "quantities": {"latency": (first, second, Factor((0, 1), border))},
        "losses": (np.array([0, 1.0]), np.array([0, 2.0])),
    } | given
    return Problem(**fields)


@pytest.mark.parametrize(
    ("budget", "choice", "latency_s"),
    [(0, (0, 0), 20e-6), (1, (1, 0), 19e-6), (2.9, (1, 0), 19e-6), (3, (1, 1), 13e-6)],
)
def test_a_border_is_worth_what_it_costs(budget, choice, latency_s):
    answer = solve(two_layers(), objective="latency", bounds={"loss": budget})
    assert answer.choice == choice
    assert answer.objective == pytest.approx(latency_s)
    assert answer.totals["loss"] <= budget
    assert answer.status == "optimal"


def test_layers_that_must_be_alike_are():
    answer = solve(two_layers(equal=((0, 1),)), objective="latency", bounds={"loss": 2.9})
    assert answer.choice == (0, 0)


@pytest.mark.parametrize(("extra", "choice"), [(0.5, (1, 0)), (-0.5, (1, 1))])
def test_pairs_count(extra, choice):
    both = Pair(variable=1, option=1, other=0, other_option=1, extra=extra)
    answer = solve(two_layers(pairs=(both,)), objective="latency", bounds={"loss": 2.75})
    assert answer.choice == choice


def test_the_least_loss_for_a_latency():
    answer = solve(two_layers(), objective="loss", bounds={"latency": 19e-6})
    assert answer.choice == (1, 0)


def test_a_peak_is_the_largest_cut_and_what_is_beside():
    size = (Factor((0,), np.array([100.0, 25.0])), Factor((1,), np.array([100.0, 25.0])))
    cuts = ((Factor((0,), np.array([40.0, 10.0])),), (Factor((1,), np.array([30.0, 8.0])),))
    problem = two_layers()
    problem = two_layers(
        quantities={**problem.quantities, "size": size},
        peaks={"memory": Peak(cuts=cuts, beside=("size",)), "arena": Peak(cuts=cuts)},
    )
    assert problem.totals((0, 1)) == pytest.approx(
        {"latency": 20e-6, "size": 125, "memory": 165, "arena": 40, "loss": 2}
    )
    assert solve(problem, objective="loss", bounds={"arena": 30}).choice == (1, 0)
    assert solve(problem, objective="loss", bounds={"memory": 160}).choice == (1, 0)
    least = solve(problem, objective="memory", bounds={"loss": 2})
    assert (least.choice, least.objective) == ((1, 0), pytest.approx(155))


def test_what_cannot_be_says_what_would_relax_it():
    answer = solve(two_layers(), objective="loss", bounds={"latency": 15e-6, "loss": 2.0})
    assert answer.status == "infeasible"
    assert answer.choice is None
    latency, loss = answer.shortfalls
    assert (latency.alone, latency.beside) == (pytest.approx(13e-6), pytest.approx(19e-6))
    assert (loss.alone, loss.beside) == (0, pytest.approx(3))
    assert explain_infeasible(answer.shortfalls) == (
        "latency of at most 15.0 µs can be met alone; with the others kept, 19.0 µs is the least",
        "loss of at most 2 can be met alone; with the others kept, 3 is the least",
    )


def test_what_cannot_be_even_alone():
    answer = solve(two_layers(), objective="loss", bounds={"latency": 5e-6, "loss": 2.0})
    said = explain_infeasible(answer.shortfalls)
    assert said[0] == "latency of at most 5.00 µs cannot be met whatever else is given up: the least is 13.0 µs"
    assert said[1].endswith("relaxing it does not help: the others conflict")


def test_a_dropped_block_costs_no_columns():
    """The table with the block as an axis has no more columns than the one without."""
    table = np.arange(1.0, 17.0).reshape(4, 4)
    here = Problem(
        variables=made_problems.variables([4, 4, 2]),
        quantities={"latency": (Factor((0, 1, 2), np.stack([table, 0 * table], axis=-1)),)},
        losses=(np.arange(4.0)[::-1], np.arange(4.0)[::-1], np.arange(2.0)),
    )
    made = programme(reduce(here, ("latency", "loss")))
    assert made.columns == 4 + 4 + 2 + 16
    assert len(made.rows.low) == 3 + 4 + 4 + 1 + 1


def test_tables_are_joined_and_flat_axes_dropped():
    flat = np.broadcast_to(np.arange(4.0)[:, None], (4, 3))
    problem = Problem(
        variables=made_problems.variables([4, 3, 2]),
        quantities={
            "latency": (Factor((1, 0), flat.T), Factor((0, 2), np.arange(8.0).reshape(4, 2) ** 2)),
            "size": (Factor((2, 0), np.arange(8.0).reshape(2, 4) ** 0.5),),
        },
        losses=tuple(-np.arange(n).astype(float) for n in (4, 3, 2)),
    )
    made = programme(reduce(problem, problem.names))
    assert [joint.scope for joint in made.joints] == [(0, 2)]
    assert set(made.costs) == {Account("latency"), Account("size"), Account("loss")}


def test_options_that_cannot_win_are_left_out():
    problem = two_layers(
        variables=(Variable(name="a", options=("float", "int8")), Variable(name="b", options=("x", "y", "z"))),
        quantities={"latency": (Factor((0, 1), np.array([[1, 2, 1.5], [3, 4, 2.0]])),)},
        losses=(np.array([0, 1.0]), np.array([0, 1.0, 0.5])),
    )
    assert [list(kept) for kept in reduce(problem, ("latency", "loss")).kept] == [[0], [0]]
    helps = (Pair(variable=0, option=1, other=1, other_option=1, extra=-3.0),)
    kept = reduce(two_layers(**{**vars(problem), "pairs": helps}), ("latency", "loss")).kept
    assert [list(options) for options in kept] == [[0, 1], [0, 1, 2]]


def test_a_front_solves_only_what_it_must():
    answers = front(two_layers(), [3.0, 0.5, 2.0, 1.0, 100.0])
    assert [answer.choice for answer in answers] == [(1, 1), (0, 0), (1, 0), (1, 0), (1, 1)]
    assert [answer.took_s > 0 for answer in answers] == [False, True, True, False, True]
    assert price(answers, 2) == pytest.approx(7e-6 / 3)
    assert price(answers, 0) == pytest.approx(6e-6 / 2)
    assert price(answers[:1], 0) is None


def test_why_a_layer_is_what_it_is():
    problem = two_layers()
    here, there = explain(problem, (1, 0), Terms(objective="latency", bounds={"loss": 2.0}, price=7e-6 / 3))
    assert (here.option, here.runner_up, here.loss) == ("int8", "float", -1)
    assert here.latency_s == pytest.approx(1e-6)
    assert here.why == (
        "float would take 1.00 µs longer and lose 1 less; by its price (2.33 µs) it would pay, and no change elsewhere "
        "makes room for it"
    )
    assert there.why == "int8 would save 6.00 µs and lose 2 more, which breaks the bound of loss" + (
        "; by its price (4.67 µs) it would pay, and no change elsewhere makes room for it"
    )
    _, cheap = explain(problem, (1, 0), Terms(objective="latency", bounds={"loss": 2.0}, price=8e-6))
    assert cheap.why.endswith("breaks the bound of loss; elsewhere that much loss saves 16.0 µs")
    both = explain(two_layers(equal=((0, 1),)), (0, 0), Terms(objective="latency", bounds={"loss": 2.0}))
    assert both[1].why == (
        "int8 would save 7.00 µs and lose 3 more, which breaks the bound of loss (2 such choices are one)"
    )


def test_where_a_block_is_gone_nothing_matters():
    problem = Problem(
        variables=(Variable(name="p", options=("float", "int8")), Variable(name="d", options=("kept", "dropped"))),
        quantities={"latency": (Factor((0, 1), np.array([[2.0, 0], [1.0, 0]])),)},
        losses=(np.array([0.0, 0.0]), np.array([0.0, 1.0])),
    )
    first, _ = explain(problem, (0, 1), Terms(objective="latency", bounds={"loss": 1.0}))
    assert first.why == "int8 would make no difference: nothing that depends on it is left"


def test_nothing_is_printed(capfd):
    """HiGHS prints a line when it repairs a solution; these make it do so."""
    for seed in (14, 31, 37):
        problem = made_problems.drawn(np.random.default_rng(seed))
        for _, totals in made_problems.everything(problem)[:12]:
            solve(problem, objective="memory", bounds={"loss": totals["loss"]}, gap=0.0)
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == ""


def test_what_the_presolve_of_highs_gets_wrong():
    """With its presolve HiGHS 1.12 calls (1, 1) optimal, at 16.66."""

    def factors(alone, both):
        return Factor((0,), np.array(alone)), Factor((0, 1), np.array(both))

    problem = Problem(
        variables=made_problems.variables([3, 2]),
        quantities={
            "energy": factors([2.34, 16.66, 10.05], [[0, 32.01], [0, 0], [4.27, 0]]),
            "size": factors([6.33, 1.38, 8.47], [[8.41, 40.44], [0, 0], [7.85, 25.61]]),
            "latency": factors([12.13, 9.58, 4.0], [[13.01, 24.11], [16.61, 1.17], [17.26, 2.04]]),
        },
        losses=(np.zeros(3), np.zeros(2)),
    )
    answer = solve(problem, objective="energy", bounds={"size": 16.731732, "latency": 24.773464})
    assert (answer.choice, answer.objective) == ((2, 0), pytest.approx(14.32))


def test_a_bound_holds_beyond_the_tolerance_of_highs():
    """1e-8 above the bound is 1e-11 of the row's largest coefficient: HiGHS cannot see it, and the tables can."""
    problem = Problem(
        variables=made_problems.variables([4]),
        quantities={"latency": (Factor((0,), np.array([3.0, 2.0, 1.0, 0.5])),)},
        losses=(np.array([0, 0.5, 1.0, 1000.0]),),
    )
    answer = solve(problem, objective="latency", bounds={"loss": 1.0 - 1e-8}, gap=0.0)
    assert answer.choice == (1,)
    assert answer.status == "optimal"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"losses": (np.zeros(2),)}, "1 losses for 2 variables"),
        ({"losses": (np.zeros(2), np.zeros(3))}, r"loss: the table of variables \(1,\) is \(3,\), not \(2,\)"),
        ({"quantities": {"latency": (Factor((0, 0), np.zeros((2, 2))),)}}, "a variable twice"),
        ({"quantities": {"latency": (Factor((5,), np.zeros(2)),)}}, "not there"),
        ({"quantities": {"latency": (Factor((0,), np.array([0, np.inf])),)}}, "not finite"),
        ({"quantities": {"loss": ()}}, "a name is taken twice"),
        ({"variables": ()}, "needs variables"),
        ({"peaks": {"arena": Peak(cuts=())}}, "no cuts"),
        ({"peaks": {"arena": Peak(cuts=((),), beside=("size",))}}, "stands beside"),
    ],
)
def test_a_problem_that_does_not_hold_together(change, words):
    with pytest.raises(ValueError, match=words):
        two_layers(**change)


def test_wrong_requests():
    with pytest.raises(UsageError, match="no cost is called 'power'"):
        solve(two_layers(), objective="power", bounds={})
    with pytest.raises(UsageError, match="the bound of loss is inf"):
        solve(two_layers(), objective="latency", bounds={"loss": np.inf})


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    with pytest.raises(EngineError, match="the solver needs scipy") as caught:
        solve(two_layers(), objective="latency", bounds={})
    assert "hwbench-nn[plan]" in caught.value.hint
