"""Timing in turn, on a clock that tests move."""

from __future__ import annotations

import pytest

from hwbench.tables import turns


class Clock:
    """Goes on only when a network runs."""

    def __init__(self):
        self.ns = 0

    def now_ns(self):
        return self.ns

    def sleep(self, seconds):
        self.ns += int(seconds * 1e9)


def network(clock, each_ns, slower=lambda now: 1.0):
    def run():
        clock.ns += int(each_ns * slower(clock.ns))

    return run


def test_a_machine_that_turns_slow_is_seen_through():
    clock = Clock()

    def slower(now):
        return 1.0 if now < 400_000_000 else 2.0

    calls = [network(clock, each, slower) for each in (1_000_000, 500_000, 3_000_000)]
    timed = turns.in_turn(calls[0], calls[1:], clock)
    for one, expected in zip(timed, (0.5, 3.0), strict=True):
        assert one.median_s / one.reference_s == pytest.approx(expected, rel=0.02)


def test_inferences_that_are_held_up_do_not_count():
    clock, count = Clock(), [0]

    def stalls(_):
        count[0] += 1
        return 8.0 if count[0] % 3 == 0 else 1.0

    (one,) = turns.in_turn(network(clock, 1_000_000), [network(clock, 1_000_000, stalls)], clock)
    assert one.median_s == pytest.approx(1e-3)
    assert one.reference_s == pytest.approx(1e-3)


def test_inferences_during_which_a_cpu_was_taken_away_are_left_out(monkeypatch):
    clock, taken = Clock(), [0]

    def run():
        taken[0] += taken[0] % 5 != 0 or clock.ns % 2_000_000 == 0  # most of the time
        clock.ns += 1_000_000 if clock.ns % 3_000_000 else 700_000

    def counted():
        return taken[0]

    monkeypatch.setattr(turns, "switched", counted)
    kept = turns._until(run, clock, 0.03, 3)
    assert any(held for _, held in kept)
    free = [time for time, held in kept if not held]
    block = turns._block(run, clock)
    assert len(block) >= min(3, len(free))


def test_a_slow_network_gets_a_few_inferences_all_the_same():
    clock = Clock()
    (one,) = turns.in_turn(network(clock, 1_000_000), [network(clock, 200_000_000)], clock, turns=3)
    assert len(one.samples_ns) == 3 * 2  # the faster half of three
    assert one.median_s == pytest.approx(0.2)
