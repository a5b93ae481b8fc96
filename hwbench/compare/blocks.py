"""A, A again and B, each in a process of its own, asked for blocks of inferences in random order.

One restart: three new processes, started one after another in random order, kept alive beside each other, pinned to the
same CPUs; only one runs at a time, the others wait on a pipe. A round asks each for one block of about the same time.
Blocks go on until the restart's share of the budget is spent, and for five rounds at least.

More restarts say more than longer ones, as what differs from one process to the next does not average out within them.
So there are as many as fit when starting takes half of the time, three at least: what starting takes is seen in the
first restart, before anything is timed.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable
from typing import Protocol, TypeVar

from hwbench.records.base import Record
from hwbench.records.comparison import Block, BlockProcess, BlockQuestion, Plan, Process, ProcessRun, Ready
from hwbench.units import Clock

R = TypeVar("R", bound=Record)

MIN_ROUNDS = 5
MIN_INFERENCES = 5
MIN_RESTARTS = 3
MOST_RESTARTS = 1000
PROCESSES: tuple[Process, ...] = ("a", "control", "b")
_UNTIMED = 1.4  # a block begins with inferences that are not timed
_ENDING = 0.2  # ending a process takes about so much of what starting it took


class Talk(Protocol):
    """The part of :class:`hwbench.dialogue.Dialogue` that is needed here."""

    def hear(self, kind: type[R]) -> R:
        """Wait for the next answer."""
        ...

    def ask(self, question: Record, kind: type[R]) -> R:
        """Ask and wait for the answer."""
        ...

    def finish(self, kind: type[R]) -> R:
        """Let it end; return what it leaves."""
        ...


class Judge(Protocol):
    """Who decides how long to go on."""

    def plan(self, shortest_s: float) -> Plan:
        """Return the plan, once it is known how long the shortest sensible restart is."""
        ...

    def check(self, processes: list[BlockProcess]) -> None:
        """Raise when what was asked for will never be there; called after the first restart."""
        ...

    def settled(self, processes: list[BlockProcess], look: int) -> bool:
        """Say whether to stop; called after the restarts in ``plan.looks`` with all there is, looks from 0."""
        ...


Start = Callable[[int, Process], contextlib.AbstractContextManager[Talk]]
Watch = Callable[[str, float], None]


def restarts_in(budget_s: float, shortest_s: float) -> int:
    """Return how many restarts of ``shortest_s`` a budget has room for, three at least."""
    return min(MOST_RESTARTS, max(MIN_RESTARTS, int(budget_s / shortest_s)))


def interleave(
    start: Start, judge: Judge, *, budget_s: float, block_s: float, seed: int, clock: Clock, watch: Watch
) -> tuple[tuple[BlockProcess, ...], int]:
    """Measure until it is settled or the restarts are used up.

    Args:
        start: starts the process of a restart (from 0) and a role.
        judge: says how often to restart, and when it is enough.
        budget_s: for everything from the first start on.
        block_s: length of a block.
        seed: of every random order.
        clock: for the budget.
        watch: told what is done and the share of the budget that is spent.

    Returns:
        All processes with their blocks, and how many looks were taken.
    """
    work = _Interleaving(start, budget_s, block_s, seed, clock, watch)
    number, looked = 0, 0
    found: list[BlockProcess] = []
    plan: Plan | None = None
    while plan is None or number < plan.restarts:
        with contextlib.ExitStack() as stack:
            started = work.begin(number, plan, stack)
            plan = plan or judge.plan(work.shortest_s(started))
            found += work.measure(number, plan, started)
        number += 1
        if number == 1:
            judge.check(found)
        if number == plan.looks[looked]:
            looked += 1
            if judge.settled(found, looked - 1):
                break
    return tuple(found), looked


class _Started:
    """Three processes that have warmed up."""

    def __init__(self) -> None:
        self.talks: dict[Process, Talk] = {}
        self.latency_s: dict[Process, float] = {}
        self.start_s: dict[Process, float] = {}


class _Interleaving:
    """One run of :func:`interleave`."""

    def __init__(self, start: Start, budget_s: float, block_s: float, seed: int, clock: Clock, watch: Watch) -> None:
        self._start, self._budget_s, self._block_s = start, budget_s, block_s
        self._chance, self._clock, self._watch = random.Random(seed), clock, watch
        self._begun_ns = clock.now_ns()

    def _spent(self, label: str) -> float:
        elapsed_s = (self._clock.now_ns() - self._begun_ns) / 1e9
        self._watch(label, min(1.0, elapsed_s / self._budget_s))
        return elapsed_s

    def begin(self, number: int, plan: Plan | None, stack: contextlib.ExitStack) -> _Started:
        """Start the three. The very first is A: it alone finds nothing in the page cache, and A is started twice."""
        order = self._shuffled()
        if plan is None:
            order.sort(key=lambda process: process != "a")
        started = _Started()
        for process in order:
            before_s = self._spent(f"{_label(number, plan)}: starting {process}")
            started.talks[process] = stack.enter_context(self._start(number, process))
            started.latency_s[process] = started.talks[process].hear(Ready).latency_s
            started.start_s[process] = (self._clock.now_ns() - self._begun_ns) / 1e9 - before_s
        return started

    def shortest_s(self, started: _Started) -> float:
        """Return how long a restart is that measures for as long as it starts, and for five rounds at least."""
        start_s = 2 * min(started.start_s["a"], started.start_s["control"]) + started.start_s["b"]
        counts = self._counts(started)
        round_s = sum(counts[process] * started.latency_s[process] for process in PROCESSES)
        return (1 + _ENDING) * start_s + max(start_s, MIN_ROUNDS * _UNTIMED * round_s)

    def measure(self, number: int, plan: Plan, started: _Started) -> list[BlockProcess]:
        """Ask for blocks until this restart's share of the budget is spent."""
        deadline_s = self._budget_s * (number + 1) / plan.restarts
        counts = self._counts(started)
        blocks: dict[Process, list[Block]] = {process: [] for process in PROCESSES}
        label = f"{_label(number, plan)}: measuring"
        begun_s = self._spent(label)
        for done in range(1, 1_000_000):
            for process in self._shuffled():
                blocks[process].append(started.talks[process].ask(BlockQuestion(count=counts[process]), Block))
            elapsed_s = self._spent(label)
            if done >= MIN_ROUNDS and elapsed_s + (elapsed_s - begun_s) / done > deadline_s:
                break
        return [
            BlockProcess(
                restart=number,
                process=process,
                run=started.talks[process].finish(ProcessRun),
                blocks=tuple(blocks[process]),
            )
            for process in PROCESSES
        ]

    def _counts(self, started: _Started) -> dict[Process, int]:
        """Return the inferences of a block; A and its control get the same number."""
        of_a = min(started.latency_s["a"], started.latency_s["control"])
        latency_s: dict[Process, float] = {"a": of_a, "control": of_a, "b": started.latency_s["b"]}
        return {
            process: max(MIN_INFERENCES, math.ceil(self._block_s / max(value, 1e-9)))
            for process, value in latency_s.items()
        }

    def _shuffled(self) -> list[Process]:
        return self._chance.sample(PROCESSES, len(PROCESSES))


def _label(number: int, plan: Plan | None) -> str:
    return f"restart {number + 1}" if plan is None else f"restart {number + 1} of {plan.restarts}"
