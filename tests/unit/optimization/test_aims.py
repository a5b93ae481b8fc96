"""Goals in the user's words, held against what was chosen."""

from __future__ import annotations

import pytest

from hwbench.optimization_pipeline.aims import allowed_drop, as_it_came, values_of
from hwbench.optimization_pipeline.ending import missed
from hwbench.plan.goals import outcomes, parse_goal
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
    assert allowed_drop(goals("latency threshold 5ms"), 0.01) == 0.01
    assert allowed_drop(goals("accuracy max-degradation 2pp", "accuracy max-degradation 0.5pp"), 0.01) == pytest.approx(
        0.005
    )


def test_what_was_not_built_is_not_the_network_as_it_came():
    assert as_it_came([candidate("it fp32", "fp32")], "fp32", {}) is None


def test_throughput_follows_from_latency_and_what_was_not_measured_is_missing():
    found = values_of(candidate("it", "int8"), "latency", 0.004, [score(0.9)], 8)
    assert found["latency"] == 0.004
    assert found["throughput"] == 2000
    assert found["accuracy"] == 0.9
    assert isinstance(found["energy"], Missing)
    assert isinstance(found["size"], Missing)


def test_missed_goals_are_named_by_priority_with_what_would_be_in_reach():
    asked = goals("latency threshold 1ms priority 2", "accuracy threshold 95% priority 1", "latency threshold 9ms")
    held = outcomes(asked, {}, {"latency": 0.004, "accuracy": 0.9})
    found = missed(held)
    assert [each.constraint for each in found] == [asked[1].text, asked[0].text]
    assert found[1].relax == "latency threshold 4.00 ms"
