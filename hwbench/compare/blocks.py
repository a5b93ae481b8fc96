"""A, A again and B, each in a process of its own, asked for blocks of inferences in random order.

One restart: three new processes, started one after another in random order, kept alive beside each other, pinned to the
same CPUs; only one runs at a time, the others wait on a pipe. A round asks each for one block of about the same time.
Blocks go on until the restart's share of the budget is spent, and for five rounds at least.
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
PROCESSES: tuple[Process, ...] = ("a", "control", "b")


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


Start = Callable[[int, Process], contextlib.AbstractContextManager[Talk]]
Settled = Callable[[list[BlockProcess], int], bool]
Watch = Callable[[str, float], None]


def interleave(
    start: Start, plan: Plan, settled: Settled, *, seed: int, clock: Clock, watch: Watch
) -> tuple[tuple[BlockProcess, ...], int]:
    """Measure until it is settled or the restarts are used up.

    Args:
        start: starts the process of a restart (from 0) and a role.
        plan: budget, restarts and looks.
        settled: asked after the restarts in ``plan.looks`` with all there is so far and the number of the look.
        seed: of every random order.
        clock: for the budget.
        watch: told what is done and the share of the budget that is spent.

    Returns:
        All processes with their blocks, and how many looks were taken.
    """
    chance = random.Random(seed)
    begun = clock.now_ns()
    found: list[BlockProcess] = []
    looked = 0
    for number in range(plan.restarts):
        deadline_s = plan.budget_s * (number + 1) / plan.restarts

        def spent(label: str) -> float:
            elapsed_s = (clock.now_ns() - begun) / 1e9
            watch(label, min(1.0, elapsed_s / plan.budget_s))
            return elapsed_s

        found += _restart(start, number, plan, deadline_s, spent, chance)
        if number + 1 == plan.looks[looked]:
            looked += 1
            if settled(found, looked - 1):
                break
    return tuple(found), looked


def _restart(
    start: Start,
    number: int,
    plan: Plan,
    deadline_s: float,
    spent: Callable[[str], float],
    chance: random.Random,
) -> list[BlockProcess]:
    with contextlib.ExitStack() as stack:
        talks: dict[Process, Talk] = {}
        latency_s: dict[Process, float] = {}
        for process in _shuffled(chance):
            spent(f"restart {number + 1} of {plan.restarts}: starting {process}")
            talks[process] = stack.enter_context(start(number, process))
            latency_s[process] = talks[process].hear(Ready).latency_s
        of_a = _count(min(latency_s["a"], latency_s["control"]), plan.block_s)
        counts: dict[Process, int] = {"a": of_a, "control": of_a, "b": _count(latency_s["b"], plan.block_s)}
        blocks: dict[Process, list[Block]] = {process: [] for process in PROCESSES}
        label = f"restart {number + 1} of {plan.restarts}: measuring"
        rounds_begun_s = spent(label)
        for done in range(1, 1_000_000):
            for process in _shuffled(chance):
                blocks[process].append(talks[process].ask(BlockQuestion(count=counts[process]), Block))
            elapsed_s = spent(label)
            one_more_s = (elapsed_s - rounds_begun_s) / done
            if done >= MIN_ROUNDS and elapsed_s + one_more_s > deadline_s:
                break
        return [
            BlockProcess(
                restart=number, process=process, run=talks[process].finish(ProcessRun), blocks=tuple(blocks[process])
            )
            for process in PROCESSES
        ]


def _shuffled(chance: random.Random) -> list[Process]:
    return chance.sample(PROCESSES, len(PROCESSES))


def _count(latency_s: float, block_s: float) -> int:
    return max(MIN_INFERENCES, math.ceil(block_s / max(latency_s, 1e-9)))
