"""Pair terms of the options that no pair was run of, from the pair of their sites that was.

To second order, two changes d_i and d_j lose d_i^T H d_j beyond the sum of what each loses, which is d^T H d / 2. Where
the options of a site change the network in much the same direction, only more or less, the term between two of them
goes with the product of the lengths: with the square root of the product of their losses.
"""

from __future__ import annotations

import math

import msgspec

from hwbench.records.planning import PairLoss, Sensitivity


def spread_pairs(found: Sensitivity) -> Sensitivity:
    """Return the losses with a pair term for every pair of options of two sites of which one pair was run."""
    losses: dict[str, dict[str, float]] = {}
    for one in found.losses:
        losses.setdefault(one.site, {})[one.option] = one.divergence
    pairs = tuple(each for pair in found.pairs for each in _spread(pair, losses))
    return msgspec.structs.replace(found, pairs=pairs)


def _spread(pair: PairLoss, losses: dict[str, dict[str, float]]) -> list[PairLoss]:
    here, there = losses[pair.site], losses[pair.other_site]
    size = here[pair.option] * there[pair.other_option]
    if size <= 0:
        return [pair]
    return [
        msgspec.structs.replace(
            pair, option=option, other_option=other, extra=pair.extra * math.sqrt(loss * other_loss / size)
        )
        for option, loss in here.items()
        for other, other_loss in there.items()
    ]
