"""Pair terms that can be believed together: whatever is chosen, it loses no less than the worst of its parts alone.

Pairs are run two at a time, on few samples, and what several of them take off one option adds up: four changes that all
break the same thing would lose less than nothing. So each negative term is charged to that one of its two options that
loses less, and no option is charged more than it loses itself. Changes that all hide each other then lose together what
one of them loses. (CLADO, arXiv:2307.05657, projects the matrix of pairs on the positive semidefinite ones instead,
which gives a term to every pair and may still leave a sum at nothing.)
"""

from __future__ import annotations

import msgspec

from hwbench.records.planning import PairLoss, Sensitivity

_Option = tuple[str, str]


def bounded(found: Sensitivity) -> Sensitivity:
    """Return the losses with negative pair terms no larger than the options that they are charged to can bear."""
    alone = {(each.site, each.option): each.divergence for each in found.losses}
    charged: dict[_Option, dict[str, float]] = {}
    for pair in found.pairs:
        if pair.extra < 0:
            payer, other = _ordered(pair, alone)
            mine = charged.setdefault(payer, {})
            mine[other] = max(mine.get(other, 0.0), -pair.extra)  # of the options of one site only one is taken
    share = {payer: min(1.0, alone[payer] / sum(mine.values())) for payer, mine in charged.items()}
    pairs = tuple(
        msgspec.structs.replace(pair, extra=pair.extra * share[_ordered(pair, alone)[0]]) if pair.extra < 0 else pair
        for pair in found.pairs
    )
    return msgspec.structs.replace(found, pairs=pairs)


def _ordered(pair: PairLoss, alone: dict[_Option, float]) -> tuple[_Option, str]:
    """Return the option that loses less, and the site of the other one."""
    both = sorted(
        ((pair.site, pair.option), (pair.other_site, pair.other_option)), key=lambda option: (alone[option], option)
    )
    return both[0], both[1][0]
