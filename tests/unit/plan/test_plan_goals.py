"""Goals in users' words: read, held against measured values, ordered, and turned into bounds."""

import pytest

from hwbench.errors import UsageError
from hwbench.plan.goals import bounds_of, drop_of, limit_of, misses, outcome, outcomes, parse_goal, tightest
from hwbench.records.base import Missing
from hwbench.units import parse_quantity

NO = Missing(code="no", why="nobody measured it")


@pytest.mark.parametrize(
    ("text", "value", "baseline", "limit"),
    [
        ("latency threshold 5ms", 0.005, 1.0, 0.005),
        ("latency threshold 5 ms", 0.005, NO, 0.005),
        ("latency min-improvement 200µs", 2e-4, 1e-3, 8e-4),
        ("latency percent-min-improvement 30", 0.3, 1e-3, 7e-4),
        ("latency percent-max-degradation 5%", 0.05, 1e-3, 1.05e-3),
        ("accuracy max-degradation 1pp", 0.01, 0.76, 0.75),
        ("accuracy percent-max-degradation 1", 0.01, 0.76, 0.7524),
        ("accuracy min-improvement 0.5 pp", 0.005, 0.76, 0.765),
        ("accuracy threshold 75%", 0.75, 0.76, 0.75),
        ("throughput percent-min-improvement 100", 1.0, 50.0, 100.0),
        ("throughput max-degradation 10/s", 10.0, 50.0, 40.0),
        ("size max-degradation 2MiB", 2 * 2**20, 2.0**20, 3 * 2.0**20),
        ("memory threshold 50MB", 5e7, 1e9, 5e7),
        ("energy threshold 3 mJ", 3e-3, 1.0, 3e-3),
    ],
)
def test_what_is_wanted(text, value, baseline, limit):
    goal = parse_goal(text)
    assert goal.value == pytest.approx(value)
    assert goal.priority == 1
    assert limit_of(goal, baseline) == pytest.approx(limit)


def test_priority():
    goal = parse_goal("latency threshold 5ms priority 2")
    assert (goal.priority, goal.text) == (2, "latency threshold 5ms priority 2")
    assert parse_goal("energy<20mJ priority 3").priority == 3


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("latency<5ms", "latency threshold 5ms"),
        ("latency <= 5 ms", "latency threshold 5ms"),
        ("energy<20mJ", "energy threshold 20mJ"),
        ("memory<100MB", "memory threshold 100MB"),
        ("accuracy>76%", "accuracy threshold 76%"),
        ("throughput>=100/s", "throughput threshold 100"),
        ("accuracy drop<1pp", "accuracy max-degradation 1pp"),
    ],
)
def test_signs_are_thresholds(text, same):
    one, other = parse_goal(text), parse_goal(same)
    assert (one.metric, one.kind, one.value) == (other.metric, other.kind, other.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("latency", "not METRIC KIND VALUE"),
        ("latency threshold priority 2", "not METRIC KIND VALUE"),
        ("speed threshold 5ms", "no metric is called 'speed'"),
        ("latency below 5ms", "no kind is called 'below'"),
        ("latency>5ms", "latency is to be small"),
        ("accuracy<76%", "accuracy is to be large"),
        ("speed<5ms", "no metric is called 'speed'"),
        ("latency<5MB", "'MB' is no unit of it"),
        ("latency threshold 5MB", "'MB' is no unit of it"),
        ("latency threshold fast", "'fast' is no number"),
        ("latency threshold -5ms", "must not be negative"),
        ("latency percent-min-improvement 30ms", "no number of percent"),
        ("latency percent-min-improvement nan", "must not be negative"),
        ("latency percent-min-improvement 100", "cannot fall by 100%"),
        ("accuracy threshold 76", "accuracy is a share"),
        ("accuracy max-degradation 1", "'' is no unit"),
        ("accuracy max-degradation 1%", "'%' is no unit"),
        ("latency threshold 5ms priority 0", "a priority is at least 1"),
        ("latency threshold 5ms priority high", "'high' is no priority"),
    ],
)
def test_what_is_not_a_goal(text, words):
    with pytest.raises(UsageError, match=words):
        parse_goal(text)


def test_met_and_missed():
    goal = parse_goal("latency percent-min-improvement 20")
    met = outcome(goal, 1e-3, 8e-4)
    assert met.met
    assert met.why == "latency is 800 µs, wanted at most 800 µs: met"
    missed = outcome(goal, 1e-3, 9e-4)
    assert not missed.met
    assert missed.miss == pytest.approx(0.125)
    assert missed.why == "latency is 900 µs, wanted at most 800 µs: missed by 12.50%"
    drop = outcome(parse_goal("accuracy max-degradation 1pp"), 0.76, 0.74)
    assert drop.miss == pytest.approx(0.01 / 0.75)
    assert drop.why.startswith("accuracy is 74.00%, wanted at least 75.00%")


def test_what_is_not_known_is_not_met():
    goal = parse_goal("energy percent-min-improvement 20")
    assert outcome(goal, NO, 1.0).why == "energy of the original is not known: nobody measured it"
    assert outcome(goal, 1.0, NO).miss == NO
    (absent,) = outcomes([goal], {"latency": 1.0}, {"latency": 1.0})
    assert not absent.met


def test_the_best_of_those_that_miss():
    goals = [
        parse_goal("accuracy max-degradation 1pp"),
        parse_goal("latency threshold 1ms priority 2"),
        parse_goal("size threshold 1MB priority 2"),
    ]
    original = {"accuracy": 0.8, "latency": 3e-3, "size": 4e6}
    candidates = {
        "all": {"accuracy": 0.79, "latency": 1e-3, "size": 1e6},
        "fast": {"accuracy": 0.785, "latency": 0.5e-3, "size": 1e6},
        "close": {"accuracy": 0.795, "latency": 1.1e-3, "size": 1.1e6},
        "far": {"accuracy": 0.8, "latency": 1.5e-3, "size": 1e6},
        "unknown": {"accuracy": 0.8, "latency": NO, "size": 1e6},
    }
    ranked = sorted(candidates, key=lambda name: misses(outcomes(goals, original, candidates[name])))
    assert ranked == ["all", "close", "far", "unknown", "fast"]


def test_bounds_for_the_solver():
    goals = [
        parse_goal(text)
        for text in (
            "accuracy max-degradation 1pp",
            "accuracy threshold 79.5%",
            "latency threshold 5ms",
            "throughput threshold 1000",
            "size percent-min-improvement 75",
        )
    ]
    original = {"accuracy": 0.8, "size": 4e6}
    bounds = bounds_of(goals, original, batch_size=4)
    assert tightest(bounds) == pytest.approx({"latency": 0.004, "size": 1e6})
    assert [each.goal for each in bounds] == goals[2:], "accuracy is bounded by what whole designs lose"
    with pytest.raises(UsageError, match="needs the size of the original"):
        bounds_of(goals[-1:], {}, batch_size=1)


def test_the_most_important_bound_comes_first():
    goals = [parse_goal(text) for text in ("energy<2mJ priority 2", "latency<5ms", "latency<4ms priority 3")]
    bounds = bounds_of(goals, {}, batch_size=1)
    assert [each.name for each in bounds] == ["latency", "energy", "latency"]
    assert tightest(bounds) == {"latency": 0.004, "energy": 0.002}


def test_what_may_be_lost_so_that_all_goals_of_accuracy_hold():
    goals = [parse_goal(text) for text in ("accuracy max-degradation 1pp", "accuracy>79.5%")]
    assert drop_of(goals, 0.01, 0.8) == pytest.approx(0.005)
    assert drop_of(goals[:1], 0.01, NO) == 0.01
    with pytest.raises(UsageError, match="needs an accuracy"):
        drop_of(goals, 0.01, NO)


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("20 GiB", "B", 20 * 2**30),
        ("1.5e3", "s", 1500),
        ("2k/s", "1/s", 2e3),
        ("7nJ", "J", 7e-9),
        ("2min", "s", 120),
        ("3pp", "change", 0.03),
        ("3", "change", 3),
    ],
)
def test_quantities(text, unit, value):
    assert parse_quantity(text, unit) == pytest.approx(value)
