"""Which goals are given up, and which design is the best of a row with bounds: held against trying every design."""

from __future__ import annotations

import io
import math

import msgspec
import pytest
from made_costs import PLATFORM
from rich.console import Console
from test_meeting import AWAY, EVERY, SPACE, asked, between, lost, sensitivity, values

from hwbench.plan.goals import parse_goal, within_reach
from hwbench.planning_pipeline.meeting import baseline_of, held, rank_of
from hwbench.records.plan import EnginePlan, Joint
from hwbench.report.plan import _engine
from hwbench.units import parse_quantity

FAINT = 1e-3
LEAST_S = min(each["latency"] for each in EVERY)


def faint(design, rough):
    loss = FAINT * lost(SPACE, design)
    return Joint(divergence=loss, agreement=math.exp(-loss / 3), accuracy=AWAY, before=AWAY, n=100)


def test_losses_smaller_than_latencies_are_not_taken_for_one():
    found = sensitivity(SPACE)
    small = [msgspec.structs.replace(each, divergence=FAINT * each.divergence) for each in found.losses]
    limit = between("energy", 0.3)
    mine = asked(
        f"energy<{limit!r}", max_drop=1.0, ask=faint, sensitivity=msgspec.structs.replace(found, losses=tuple(small))
    )
    best = min(each["latency"] for each in EVERY if each["energy"] <= limit)
    assert values(mine)["latency"] == pytest.approx(best, rel=0.02)
    assert rank_of(mine)[2] == pytest.approx(best, rel=0.02)
    assert all(answer.objective == answer.totals["latency"] for answer, _ in mine.row)


def test_a_goal_that_can_be_kept_is_not_given_up_for_a_more_important_one_that_cannot():
    limit = between("energy", 0.2)
    mine = asked(f"latency<{0.5 * LEAST_S!r}", f"energy<{limit!r} priority 2", max_drop=1.0)
    assert values(mine)["energy"] <= limit * (1 + 1e-6)
    best = min(each["latency"] for each in EVERY if each["energy"] <= limit)
    assert values(mine)["latency"] == pytest.approx(best, rel=0.03), "it is missed by as little as the other lets"
    (told,) = mine.told
    assert told.startswith(f"'latency<{0.5 * LEAST_S!r}' is given up")
    reached = told.rpartition("relax latency to ")[2]
    assert parse_quantity(reached, "s") >= values(mine)["latency"]


def test_a_goal_given_up_that_is_met_all_the_same_is_not_told_of():
    loose = 1.0001 * max(each["energy"] for each in EVERY)
    mine = asked(f"latency<{0.5 * LEAST_S!r} priority 2", "memory<1B", f"energy<{loose!r} priority 3", max_drop=1.0)
    assert [each.partition("'")[2].partition("<")[0] for each in mine.told] == ["memory", "latency"]


def test_a_drop_that_gives_way_to_other_goals_is_not_met():
    limit = min(each["latency"] for each in EVERY if each["drop"] <= 0.1) * 0.8
    goals = [parse_goal(f"latency<{limit!r}"), parse_goal("accuracy drop<90pp priority 2")]
    mine = asked(goals[0].text, accuracy=2)
    assert values(mine)["latency"] <= limit * (1 + 1e-6)
    plan = EnginePlan(
        platform=PLATFORM, samples=40, sampled_now=0, baselines={}, front=mine.planned(), chosen=mine.chosen(),
        drop_kept=mine.drop_kept, goals=held(mine, goals, baseline_of(mine.solving, 1), 1), notes=mine.notes,
    )  # fmt: skip
    assert all(each.met for each in plan.goals)
    assert not plan.met
    console = Console(width=200, record=True, file=io.StringIO())
    for part in _engine(plan):
        console.print(part)
    text = console.export_text()
    assert "is the best whose drop is allowed" not in text
    assert "* loses more than is allowed" in text
    assert asked(goals[0].text, accuracy=2, max_drop=1.0).drop_kept


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("latency", 0.0050049, "5.01 ms"),
        ("latency", 0.005, "5.00 ms"),
        ("memory", 102_775_000, "98.1 MiB"),
        ("energy", 1234.4, "1.24 kJ"),
        ("accuracy", 0.75126, "75.05%"),
        ("throughput", 1_236_000.0, "1.23 M/s"),
        ("throughput", 0.5, "0.5 /s"),
    ],
)
def test_what_is_in_reach_is_rounded_to_the_side_that_is_easier(metric, value, text):
    assert within_reach(metric, value) == text


@pytest.mark.parametrize("metric", ["latency", "energy", "memory", "size", "accuracy", "throughput"])
def test_what_is_in_reach_is_a_goal_that_is_met(metric):
    scale = 1.0 if metric == "accuracy" else 1e4
    for value in (0.0123456 * scale, 0.9996 * scale, 0.5678 * scale):
        goal = parse_goal(f"{metric} threshold {within_reach(metric, value)}")
        assert goal.value <= value if goal.more_is_better else goal.value >= value
        assert goal.value == pytest.approx(value, rel=0.02)
