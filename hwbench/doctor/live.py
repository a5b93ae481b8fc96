"""The machine at work: what the clock can tell, and how evenly a second of plain work runs."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable

from hwbench.doctor.answers import cannot_tell, ok, warning
from hwbench.records.base import Missing
from hwbench.records.health import HealthCheck
from hwbench.units import Clock, format_seconds

_READINGS = 20_000
_SLOW_CLOCK_S = 1e-6
_PIECES = 100
_PIECE_S = 0.01
_UNEVEN = 0.02  # median absolute deviation over the median
_STALL_S = 0.003  # a scheduler's time slice is about this; a piece that lost one was stopped
_LONGEST_S = 2.0  # give up after that, however few pieces were timed
_FEWEST_PIECES = 20

Spin = Callable[[int], object]


def timer(clock: Clock) -> HealthCheck:
    """Measure the step and the cost of the clock, read back to back."""
    readings = [clock.now_ns() for _ in range(_READINGS)]
    steps = [after - before for before, after in itertools.pairwise(readings)]
    moved = [step for step in steps if step > 0]
    if not moved:
        return cannot_tell("timer", Missing(code="clock_stands", why=f"the clock did not move in {_READINGS} readings"))
    # A clock coarser than a reading stands still most of the time; then the mean is the cost, else the median is.
    typical = statistics.median(steps) or (readings[-1] - readings[0]) / len(steps)
    cost_s, step_s = typical * 1e-9, min(moved) * 1e-9
    text = f"reading the clock costs {format_seconds(cost_s)}; smallest step {format_seconds(step_s)}"
    figures = {"cost_s": cost_s, "step_s": step_s}
    if max(cost_s, step_s) <= _SLOW_CLOCK_S:
        return ok("timer", text, **figures)
    return warning(
        "timer",
        text,
        "each sample is wrong by about that much: too much for inferences of some microseconds",
        "see the check of the clock source; a virtual machine may need another one from its host",
        **figures,
    )


def spin(rounds: int) -> int:
    """Work that needs the CPU alone."""
    total = 0
    for number in range(rounds):
        total += number & 7
    return total


def noise(clock: Clock, work: Spin = spin) -> HealthCheck:
    """Time a second of equal pieces of work, 10 ms each, and tell how unequally they ran.

    The spread is the median absolute deviation from the median; a stall is how much longer than the median the longest
    piece took. The work is one thread of plain Python, wherever the system puts it.
    """
    rounds = _rounds(clock, work)
    pieces: list[float] = []
    start = clock.now_ns()
    while len(pieces) < _PIECES and (len(pieces) < _FEWEST_PIECES or (clock.now_ns() - start) * 1e-9 < _LONGEST_S):
        before = clock.now_ns()
        work(rounds)
        pieces.append((clock.now_ns() - before) * 1e-9)
    middle = statistics.median(pieces)
    spread = statistics.median(abs(piece - middle) for piece in pieces) / middle
    stall = max(pieces) - middle
    text = (
        f"{len(pieces)} equal pieces of work of {format_seconds(middle)}: spread {spread:.2%} (median absolute "
        f"deviation), longest stall {format_seconds(stall)}"
    )
    figures = {"pieces": float(len(pieces)), "piece_s": middle, "spread": spread, "stall_s": stall}
    if spread <= _UNEVEN and stall <= _STALL_S:
        return ok("noise", text, **figures)
    what = "the clock changes or others share the core" if spread > _UNEVEN else "something stopped it now and then"
    return warning(
        "noise",
        text,
        f"equal work does not take equal time: {what}",
        "go through the other warnings, then try again; if it stays, run longer (--duration) and trust only "
        "differences well beyond this spread",
        **figures,
    )


def _rounds(clock: Clock, work: Spin) -> int:
    """Return how many rounds take about one piece; the fastest of three, so that a stall does not mislead."""
    rounds = 1000
    while True:
        times = []
        for _ in range(3):
            before = clock.now_ns()
            work(rounds)
            times.append((clock.now_ns() - before) * 1e-9)
        fastest = min(times)
        if fastest >= _PIECE_S / 4:
            return max(1, round(rounds * _PIECE_S / fastest))
        rounds *= 4
