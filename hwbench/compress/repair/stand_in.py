"""The layer that stands for a block: weights by least squares on what the block put out.

The targets are those of the original network; what the layer reads is what it reads there, or what it reads now in a
network that has been changed before it, so that what went before is made up for. It starts from weights that pass on
what they read, and damping pulls towards those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hwbench.compress.base import Array, Subject
from hwbench.compress.repair.match import Match, source_of
from hwbench.records.base import Missing
from hwbench.structure.replace import Replaceable, delta

if TYPE_CHECKING:
    from hwbench.compress.statistics.pairs import Pair

DAMPING = 1e-4
LEAST_ROWS = 16_384  # nothing of what a block did is left to hold on to, so more are drawn than for repairs


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """Weights as :meth:`hwbench.graph.linear.Linear.blocks` has them, a bias, and what they leave of the variance."""

    blocks: Array
    bias: Array
    error: float


def matched(subject: Subject, one: Replaceable) -> Match | Missing:
    """Find what the block put out in the original, and what its first layer read there."""
    source = source_of(subject, one.target, 1)
    if isinstance(source, Missing):
        return source
    return Match(layer=one.first, source=source, reads=source_of(subject, one.first.input, 1), norm=None)


def stand_in(one: Replaceable, pair: Pair, damping: float = DAMPING) -> StandIn:
    """Return what the first layer of a block is to be.

    Args:
        one: the block.
        pair: what its first layer reads, and what the block put out in the original.
        damping: of least squares, in units of the mean square of what is read.
    """
    import torch

    from hwbench.compress.repair.least_squares import Problem

    begin = delta(one.first)
    groups, outputs, _, _ = begin.shape
    problem = Problem.of(pair, shifts=True)
    found = problem.solve(torch.from_numpy(begin.reshape(groups, outputs, -1)), damping, None)
    weights = found.numpy()
    bias = pair.mean - np.einsum("god,gd->go", weights, pair.gram.mean).reshape(-1)
    error = problem.error(found) / (float(problem.spread.sum()) or 1.0)
    return StandIn(blocks=weights.reshape(begin.shape), bias=bias, error=max(0.0, error))
