"""Several loaded networks timed in turn, in short blocks.

A disturbance that lasts longer than a turn strikes all of them alike, and one that is shorter strikes few of the blocks.
So a network is known by its ratio to the reference, the first one, in each turn, and by the median over turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from hwbench.measure.loop import Call, sample, undisturbed
from hwbench.measure.stop import Duration
from hwbench.units import Clock

TURNS = 7
_BLOCK_S = 0.03  # of a turn, for each network
_FEWEST = 3  # inferences of a block
_SETTLE_S = 0.004  # untimed, before each block: caches hold another's data
_SETTLE_FEWEST = 2


@dataclass(frozen=True, kw_only=True)
class Timed:
    """The times of one network, and what the reference took, as :class:`CostSample` has them."""

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
            before = statistics.median(_block(reference, clock))
            for index in order if turn % 2 == 0 else reversed(order):
                blocks[index].append(_block(calls[index], clock))
            beside.append((before + statistics.median(_block(reference, clock))) / 2)
    return [_timed(mine, beside) for mine in blocks]


def _block(call: Call, clock: Clock) -> list[int]:
    sample(call, clock, Duration(seconds=_SETTLE_S, min_count=_SETTLE_FEWEST), _silent)
    return list(sample(call, clock, Duration(seconds=_BLOCK_S, min_count=_FEWEST), _silent, longest_chunk_ns=5_000_000))


def _timed(blocks: Sequence[Sequence[int]], beside: Sequence[float]) -> Timed:
    samples = [value for block in blocks for value in block]
    ratio = statistics.median(statistics.median(block) / base for block, base in zip(blocks, beside, strict=True))
    median_s = statistics.median(samples) / 1e9
    return Timed(samples_ns=tuple(samples), median_s=median_s, reference_s=median_s / ratio)


def _silent(fraction: float) -> None:
    """Nobody watches."""
