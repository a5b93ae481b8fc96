"""Goals in the user's words, held against what was chosen."""

from __future__ import annotations

import pytest

from hwbench.errors import UsageError
from hwbench.optimization_pipeline.aims import as_it_came, missed_by, settled_drop, values_of
from hwbench.optimization_pipeline.ending import missed
from hwbench.plan.goals import ANYTHING, OTHERWISE, outcomes, parse_goal, stated_drop
from hwbench.records.base import Missing
from hwbench.records.optimization import Candidate
from hwbench.records.planning import Design
from hwbench.records.verification import Score

AWAY = Missing(code="not_built", why="it was not built")


def goals(*texts):
    return tuple(parse_goal(text) for text in texts)


def score(value):
    return Score(name="accuracy", value=value, low=0.0, high=1.0, n=100, higher_is_better=True, method="exact")


def candidate(name, precision):
    return Candidate(
        name=name, engine="it", precision=precision, round=0, design=Design(), predicted=AWAY, decisions=(), made=AWAY,
        selected=AWAY, counts=True, why="",
    )  # fmt: skip


def test_the_tightest_goal_of_accuracy_is_what_may_be_lost():
    assert stated_drop(goals("latency threshold 5ms"), None, OTHERWISE) == 0.01
    two = goals("accuracy max-degradation 2pp", "accuracy max-degradation 5pp")
    assert stated_drop(two, None, OTHERWISE) == pytest.approx(0.02)
    assert stated_drop(two, 0.005, OTHERWISE) == pytest.approx(0.005)


def test_goals_of_the_accuracy_itself_are_held_against_the_original():
    asked = goals("accuracy threshold 87%", "accuracy percent-max-degradation 10")
    assert settled_drop(asked, stated_drop(asked, None, OTHERWISE), [score(0.9)]) == pytest.approx(0.03)
    assert settled_drop(asked[1:], 1.0, [score(0.9)]) == pytest.approx(0.09)
    assert settled_drop(asked, 0.01, [score(0.9)]) == pytest.approx(0.01)
    assert settled_drop(asked, 0.01, [score(0.8)]) == 0.0
    with pytest.raises(UsageError, match="no labels"):
        settled_drop(asked, 0.01, [])


def test_where_nothing_holds_the_metric_back_it_may_fall_by_anything_in_its_own_unit():
    """A perplexity may rise by 40, which is more than the whole of a share."""
    free = stated_drop(goals("latency<5ms"), None, ANYTHING)
    own = Score(name="perplexity", value=12.0, low=11.0, high=13.0, n=9, higher_is_better=False, method="bootstrap")
    assert settled_drop(goals("latency<5ms"), free, [own]) > 1e6
    assert settled_drop(goals("latency<5ms"), 40.0, [own]) == 40.0, "what was said stays"
    assert settled_drop(goals("latency<5ms"), free, [score(0.9)]) == 1.0
    assert settled_drop(goals("latency<5ms"), free, []) == 1.0, "of decisions that stay"


def test_goals_beyond_accuracy_order_candidates_by_priority():
    asked = goals("latency threshold 5ms", "size threshold 1MB priority 2", "accuracy threshold 99%")
    slow, large, both = (
        missed_by(asked, {}, {"latency": latency, "size": size}, "latency")
        for latency, size in ((9e-3, 1e6), (4e-3, 2e6), (8e-3, 3e6))
    )
    assert large == pytest.approx((0.0, 1.0))
    assert slow == (1.0, 0.0)
    assert both == pytest.approx((1.0, 2.0)), "how slow is for the guard to say"


def test_what_was_not_built_is_not_the_network_as_it_came():
    assert as_it_came([candidate("it fp32", "fp32")], "fp32", {}) is None


def test_throughput_follows_from_latency_and_what_was_not_measured_is_missing():
    found = values_of(candidate("it", "int8"), {"latency": 0.004, "memory": 5e7}, [score(0.9)], 8)
    assert found["latency"] == 0.004
    assert found["throughput"] == 2000
    assert found["accuracy"] == 0.9
    assert found["memory"] == 5e7
    assert isinstance(found["energy"], Missing)
    assert isinstance(found["size"], Missing)


def test_missed_goals_are_named_by_priority_with_what_would_be_in_reach():
    asked = goals("latency threshold 1ms priority 2", "accuracy threshold 95% priority 1", "latency threshold 9ms")
    held = outcomes(asked, {}, {"latency": 0.004, "accuracy": 0.9})
    found = missed(held)
    assert [each.constraint for each in found] == [asked[1].text, asked[0].text]
    assert found[1].relax == "latency threshold 4.00 ms"
