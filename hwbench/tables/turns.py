"""Several loaded networks timed in turn, in short blocks.

A disturbance that lasts longer than a turn strikes all of them alike, and one that is shorter strikes few of the
blocks. So a network is known by its ratio to the reference in each turn, and by the median over turns. What is sought
is what an inference takes that nobody holds up: those during which a thread waited for a CPU are left out, and of the
others in a block the faster half counts, of all networks alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from hwbench.measure.loop import Call, undisturbed
from hwbench.tables.held import Held
from hwbench.units import Clock

TURNS = 7
_BLOCK_S = 0.03  # of a turn, for each network
_FEWEST = 3  # inferences of a block
_WAITED = 0.01  # of an inference: threads that waited for a CPU longer have held it up
_SETTLE_S = 0.004  # untimed, before each block: caches hold another's data
_SETTLE_FEWEST = 2


@dataclass(frozen=True, kw_only=True)
class Timed:
    """The times of one network, and what the reference took, as :class:`CostSample` has them.

    ``samples_ns``: the faster half of each block.
    """

    samples_ns: tuple[int, ...]
    median_s: float
    reference_s: float


def in_turn(reference: Call, calls: Sequence[Call], clock: Clock, *, turns: int = TURNS) -> list[Timed]:
    """Time every call in turn with the reference, which comes before and after the others of each turn."""
    blocks: list[list[list[int]]] = [[] for _ in calls]
    beside: list[float] = []
    with undisturbed():
        for turn in range(turns):
            order = list(range(len(calls)))
            before = statistics.median(_faster_half(_block(reference, clock)))
            for index in order if turn % 2 == 0 else reversed(order):
                blocks[index].append(_faster_half(_block(calls[index], clock)))
            beside.append((before + statistics.median(_faster_half(_block(reference, clock)))) / 2)
    return [_timed(mine, beside) for mine in blocks]


def _block(call: Call, clock: Clock) -> list[int]:
    """Return the times of a block, of the inferences that were not held up if there are enough of those."""
    _until(call, clock, _SETTLE_S, _SETTLE_FEWEST)
    found = _until(call, clock, _BLOCK_S, _FEWEST)
    free = [time for time, held in found if not held]
    return free if len(free) >= _FEWEST else [time for time, _ in found]


def _until(call: Call, clock: Clock, seconds: float, fewest: int) -> list[tuple[int, bool]]:
    """Call for a while and return what each call took, and whether it was held up."""
    found: list[tuple[int, bool]] = []
    end = clock.now_ns() + int(seconds * 1e9)
    with Held() as held:
        while len(found) < fewest or clock.now_ns() < end:
            waited = held.waited_ns()
            started = clock.now_ns()
            call()
            took = clock.now_ns() - started
            found.append((took, held.waited_ns() - waited > _WAITED * took))
    return found


def _faster_half(block: Sequence[int]) -> list[int]:
    return sorted(block)[: (len(block) + 1) // 2]


def _timed(blocks: Sequence[Sequence[int]], beside: Sequence[float]) -> Timed:
    samples = [value for block in blocks for value in block]
    ratio = statistics.median(statistics.median(block) / base for block, base in zip(blocks, beside, strict=True))
    median_s = statistics.median(samples) / 1e9
    return Timed(samples_ns=tuple(samples), median_s=median_s, reference_s=median_s / ratio)
