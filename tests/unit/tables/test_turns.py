"""Timing in turn, on a clock that tests move."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwbench.tables import turns
from hwbench.tables.held import Held


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


def test_inferences_that_waited_for_a_cpu_are_left_out(monkeypatch):
    """Two of three are held up, so that no quantile of all of them would tell what a free one takes."""
    clock, waited, count = Clock(), [0], [0]

    def run():
        count[0] += 1
        held = count[0] % 3 > 0
        waited[0] += held * 1_000_000
        clock.ns += 2_000_000 if held else 1_000_000

    monkeypatch.setattr(Held, "waited_ns", lambda self: waited[0])
    (one,) = turns.in_turn(network(clock, 1_000_000), [run], clock)
    assert one.median_s == pytest.approx(1e-3)
    assert set(one.samples_ns) == {1_000_000}


def test_a_slow_network_gets_a_few_inferences_all_the_same():
    clock = Clock()
    (one,) = turns.in_turn(network(clock, 1_000_000), [network(clock, 200_000_000)], clock, turns=3)
    assert len(one.samples_ns) == 3 * 2  # the faster half of three
    assert one.median_s == pytest.approx(0.2)


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not tell")
def test_threads_that_want_one_cpu_wait_for_it():
    was = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(was)})
    try:
        code = "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"
        rival = subprocess.Popen([sys.executable, "-c", code])
        try:
            with Held() as held:
                before, end = held.waited_ns(), time.perf_counter() + 0.6
                while time.perf_counter() < end:
                    pass
                assert 50e6 < held.waited_ns() - before < 600e6
        finally:
            rival.kill()
            rival.wait()
    finally:
        os.sched_setaffinity(0, was)
