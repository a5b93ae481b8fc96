"""A contest of many, with talks that answer at once and a clock that moves when they work."""

import math

import numpy as np
import pytest
from fake_contests import FakeClock, Machine, contest, entrants, plan

from hwbench.compare import resample, robust
from hwbench.compare.blocks import MIN_ROUNDS
from hwbench.compare.contest import MIN_RESTARTS, hold
from hwbench.compare.guard import choose
from hwbench.compare.resample import Restart
from hwbench.compare.standings import Levels, floor_of, ratio_of, spending
from hwbench.records.base import Missing
from hwbench.records.contest import Heat

FOUR = {"fp32": 2e-3, "int8": 1e-3, "plan 1": 0.8e-3, "plan 2": 0.802e-3}


def held(latency_s=FOUR, uniform=("fp32", "int8"), refused=(), machine=None, **changes):
    machine = machine or Machine(latency_s, between=0.002)
    planned = [name for name in latency_s if name not in uniform]
    found, seats = contest(machine, entrants(uniform, planned, refused), **changes)
    return found, seats, machine


def test_the_reference_is_the_best_uniform_one_and_runs_twice_in_every_heat():
    found, seats, machine = held()
    assert found.reference == found.best_uniform == "int8"
    for restart in range(1, found.restarts + 1):
        mine = [seat for seat in seats if seat.restart == restart and seat.entrant == "int8"]
        assert sorted(seat.control for seat in mine) == [False, True]
    assert {seat.control for seat in seats if seat.restart == 0} == {False}
    assert not machine.open


def test_ratios_are_those_of_the_machine_and_the_best_is_first():
    found, _, _ = held()
    assert found.standings[0].entrant in {"plan 1", "plan 2"}
    for standing in found.standings:
        assert standing.value == pytest.approx(FOUR[standing.entrant], rel=0.02)
        if standing.entrant == "int8":
            assert standing.ratio.code == "is_best_uniform"
            continue
        truth = FOUR[standing.entrant] / FOUR["int8"]
        assert standing.joint.low <= truth <= standing.joint.high
        assert standing.joint.low <= standing.ratio.low
    assert found.control.low <= 1 <= found.control.high
    assert found.floor == pytest.approx(max(found.control.high, 1 / found.control.low) - 1)


def test_what_is_far_off_is_dropped_early_and_the_time_goes_to_the_close_ones():
    found, seats, _ = held()
    slow, close = found.standing("fp32"), found.standing("plan 2")
    assert slow.dropped.restart <= 3
    assert "of plan 1" in slow.dropped.why
    assert close.restarts > slow.restarts
    rounds = [max(len(seat.blocks) for seat in seats if seat.restart == restart) for restart in (1, found.restarts)]
    assert rounds[1] > rounds[0]


def test_what_does_not_count_is_timed_once_and_never_the_reference():
    found, _, _ = held({"fp32": 2e-3, "int8": 1e-3, "plan 1": 1.9e-3}, refused=("int8",))
    assert found.reference == "fp32"
    standing = found.standing("int8")
    assert standing.dropped.why == "it does not meet the goals"
    assert isinstance(standing.ratio, Missing)
    assert standing.value == pytest.approx(1e-3, rel=0.02)


def test_each_round_asks_each_process_once_in_changing_order():
    _, seats, machine = held(dict.fromkeys(("fp32", "int8", "plan 1"), 1e-3))
    asked = [name for restart, _, name, _ in machine.asked if restart == 1]
    rounds = [tuple(asked[at : at + 4]) for at in range(0, len(asked), 4)]
    assert len(rounds) >= MIN_ROUNDS
    assert len(set(rounds)) > 1
    reference = next(seat.entrant for seat in seats if seat.control)
    for each in rounds:
        assert sorted(each) == sorted(["fp32", "int8", "plan 1", reference])


def test_no_more_processes_live_than_memory_has_room_for():
    latency_s = {f"plan {number}": 1e-3 for number in range(6)} | {"int8": 1e-3}
    machine = Machine(latency_s, between=0.002, size=1000)
    found, seats, _ = held(latency_s, uniform=("int8",), machine=machine, memory_limit_bytes=4500)
    assert machine.most_open == found.most_alive == 4
    first = [seat for seat in seats if seat.restart == 1]
    assert {seat.heat for seat in first} == {0, 1, 2}
    assert sum(seat.entrant == "int8" for seat in first) == 6
    assert {seat.entrant for seat in first} == set(latency_s)
    tight, _, machine = held(latency_s, uniform=("int8",), machine=Machine(latency_s, size=9999), memory_limit_bytes=1)
    assert machine.most_open == 3
    assert "fewer cannot be timed beside each other" in tight.notes[0]


def test_it_keeps_to_the_budget_where_that_is_enough():
    _, _, machine = held(dict.fromkeys(FOUR, 1e-3), budget_s=40.0)
    assert 30 < machine.clock.now_ns() / 1e9 < 42
    found, _, _ = held(dict.fromkeys(FOUR, 1e-3), budget_s=1.0)
    assert found.restarts == MIN_RESTARTS


def test_it_ends_when_nobody_is_left_to_tell_apart():
    found, _, machine = held({"fp32": 4e-3, "int8": 1e-3, "plan 1": 0.5e-3}, budget_s=600.0, restarts=20)
    assert found.restarts < 20
    assert machine.clock.now_ns() / 1e9 < 600


def test_one_alone_is_timed_against_itself():
    found, seats, _ = held({"int8": 1e-3}, uniform=("int8",))
    assert [each.entrant for each in found.standings] == [found.best_uniform] == ["int8"]
    assert (found.restarts, len(seats)) == (2, 5)
    assert found.control.low <= 1 <= found.control.high


def test_an_objective_without_values_says_so():
    machine = Machine({"int8": 1e-3, "plan": 1e-3})
    found = hold(
        machine.start, entrants(("int8",), ("plan",)), plan(objective="energy"), clock=machine.clock,
        watch=lambda label, fraction: None,
    )  # fmt: skip
    assert isinstance(found, Missing)
    assert found.code == "not_asked"


def test_memory_is_the_peak_of_a_process():
    found, seats, machine = held({"int8": 1e-3, "plan": 1e-3}, uniform=("int8",), objective="memory")
    memory = machine.run.memory
    assert found.unit == "B"
    assert found.standings[0].value == max(memory.peak_load_rss_bytes, memory.peak_run_rss_bytes)
    assert {len(seat.blocks) for seat in seats if seat.restart} == {1}


def test_the_level_is_shared_by_all_looks():
    for restarts in range(2, 30):
        spent = spending(restarts, 0.05)
        assert len(spent) == restarts
        assert spent[0] == 0
        assert sum(spent) == pytest.approx(0.05)
        assert spent[-1] == max(spent)


def levels_of(seed, restarts=6):
    """Levels of processes, and the same as the restarts that ``compare`` is given."""
    chance = np.random.default_rng(seed)
    heats, pairs = [], []
    for number in range(1, restarts + 1):
        a, again, b = chance.normal([0.0, 0.0, 0.1], 0.01)
        heats.append(Heat(restart=number, levels={"int8": a, "plan": b}, control=again))
        pairs.append(Restart(a=np.array([a]), again=np.array([again]), b=np.array([b])))
    return Levels("int8", heats), pairs


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_is_that_of_compare(seed):
    levels, pairs = levels_of(seed)
    mine, theirs = levels.against("plan", "int8"), resample.effect(pairs, seed=0)
    assert mine.log_ratio == pytest.approx(theirs.log_ratio)
    assert mine.error == pytest.approx(theirs.error, rel=0.06)  # theirs is drawn 2000 times
    assert mine.df == theirs.df
    control, other = levels.control(), resample.control(pairs, seed=0)
    assert (control.log_ratio, control.df) == (pytest.approx(other.log_ratio), other.df)


def test_two_entrants_are_held_against_each_other_over_the_restarts_that_both_saw():
    heats = [
        Heat(restart=1, levels={"int8": 0.0, "a": 0.1, "b": 0.2}, control=0.02),
        Heat(restart=2, levels={"int8": 0.0, "a": 0.1}, control=0.0),
        Heat(restart=2, levels={"int8": 1.0, "b": 1.3}, control=1.0),
        Heat(restart=3, levels={"int8": 0.0, "a": 0.3}, control=0.0),
    ]
    levels = Levels("int8", heats)
    assert levels.restarts_of("a") == 3
    assert levels.restarts_of("nobody") == 0
    own = np.array([0.1 - 0.2, 0.1 - 0.3])
    noise = np.array([0.02, 0.0, 0.0, 0.0]) * math.sqrt(1.5)
    expected = robust.locate(own, noise)
    found = levels.against("a", "b")
    assert found.log_ratio == pytest.approx(expected.centre)
    assert found.error == pytest.approx(math.sqrt(np.mean(expected.pool**2) / 2))
    assert levels.against("a", "b").log_ratio == pytest.approx(-levels.against("b", "a").log_ratio)


def test_one_heat_tells_no_floor():
    levels = Levels("int8", [Heat(restart=1, levels={"int8": 0.0}, control=0.1)])
    assert isinstance(floor_of(ratio_of(levels.control())), Missing)


class TestGuard:
    def chosen(self, latency_s, meets=None, **changes):
        found, _, _ = held(latency_s, **changes)
        return choose(
            found, meets=lambda name: meets is None or name in meets, distance=lambda name: FOUR.get(name, 1.0)
        )

    def test_takes_what_is_better_for_sure(self):
        choice = self.chosen(FOUR)
        assert choice.entrant in {"plan 1", "plan 2"}
        assert (choice.word, choice.best_uniform) == ("FASTER", "int8")
        assert float(choice.why.split()[0]) == pytest.approx(0.8, rel=0.01)

    def test_gives_a_tie_to_the_uniform_one(self):
        choice = self.chosen({"fp32": 2e-3, "int8": 1e-3, "plan 1": 1e-3})
        assert (choice.entrant, choice.word) == ("int8", "UNIFORM")
        assert "not better than int8 for sure" in choice.refused["plan 1"]

    def test_refuses_what_is_worse(self):
        choice = self.chosen({"fp32": 2e-3, "int8": 1e-3, "plan 1": 1.1e-3})
        assert choice.entrant == "int8"
        assert "beyond the A/A floor" in choice.refused["plan 1"]

    def test_holds_a_plan_against_the_best_uniform_one_that_meets_the_goals(self):
        choice = self.chosen({"fp32": 2e-3, "int8": 1e-3, "plan 1": 1.5e-3}, meets={"fp32", "plan 1"})
        assert (choice.entrant, choice.word, choice.best_uniform) == ("plan 1", "FASTER", "fp32")

    def test_says_when_no_uniform_one_meets_the_goals_and_when_nothing_does(self):
        assert self.chosen(FOUR, meets={"plan 1", "plan 2"}).word == "ALONE"
        choice = self.chosen(FOUR, meets=set())
        assert choice.word == "NONE"
        assert choice.entrant == "plan 1"  # the smallest distance that was given


def test_the_clock_of_these_tests_moves():
    clock = FakeClock()
    clock.sleep(1.5)
    assert clock.now_ns() == 1_500_000_000
