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
    """Two of three are held up, so that no quantile of all of them would tell what a free one takes."""
    clock, switches, count = Clock(), [0], [0]

    def run():
        count[0] += 1
        held = count[0] % 3 > 0
        switches[0] += held
        clock.ns += 2_000_000 if held else 1_000_000

    monkeypatch.setattr(turns, "switched", lambda: switches[0])
    (one,) = turns.in_turn(network(clock, 1_000_000), [run], clock)
    assert one.median_s == pytest.approx(1e-3)
    assert set(one.samples_ns) == {1_000_000}


def test_a_slow_network_gets_a_few_inferences_all_the_same():
    clock = Clock()
    (one,) = turns.in_turn(network(clock, 1_000_000), [network(clock, 200_000_000)], clock, turns=3)
    assert len(one.samples_ns) == 3 * 2  # the faster half of three
    assert one.median_s == pytest.approx(0.2)
