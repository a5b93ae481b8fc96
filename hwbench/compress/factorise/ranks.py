"""Which ranks to take: as given, for a share of the multiply-adds, or for a share of the energy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwbench.compress.factorise.forms import Form, Ranks
from hwbench.compress.factorise.site import Site
from hwbench.graph.linear import Array
from hwbench.records.base import Missing


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for; one of the first three. ``multiple_of``: what ranks are rounded to."""

    rank: int | None
    amount: float | None
    energy: float | None
    multiple_of: int


def chosen(form: Form, site: Site, wanted: Wanted, gram: Array | None) -> Ranks | Missing:
    """Return the ranks of a layer, or why there are none that make it smaller.

    ``rank`` and ``amount`` are rounded down to a multiple, where there is one, ``energy`` up. A rank above the full one
    is the full one.
    """
    full = form.full(site)
    if wanted.energy is not None:
        found = form.energies(site, gram)
        assert found is not None
        ranks = tuple(_of_energy(values, wanted.energy) for values in found)
        ranks = tuple(-(-rank // wanted.multiple_of) * wanted.multiple_of for rank in ranks)
    elif wanted.rank is not None:
        ranks = tuple(_rounded(min(wanted.rank, most), wanted.multiple_of) for most in full)
    else:
        assert wanted.amount is not None
        ranks = _of_amount(form, site, wanted.amount, wanted.multiple_of)
    ranks = tuple(min(rank, most) for rank, most in zip(ranks, full, strict=True))
    return _no_gain(form, site, ranks, wanted.amount) or ranks


def scaled(full: Ranks, step: int) -> Ranks:
    """Return ranks in the proportion of the full ones, the largest of which becomes ``step``; none is below 1."""
    return tuple(max(1, round(step * most / max(full))) for most in full)


def _of_energy(values: Array, share: float) -> int:
    total = float(values.sum())
    if total == 0:
        return 1
    kept = np.cumsum(values) / total
    return int(np.argmax(kept >= min(share, kept[-1]))) + 1


def _of_amount(form: Form, site: Site, amount: float, multiple_of: int) -> Ranks:
    """Return the largest ranks that leave at most ``1 - amount`` of the multiply-adds; the smallest if none do."""
    full, budget = form.full(site), (1 - amount) * site.cost((site.whole(),)).macs
    low, high = 1, max(full)
    while low < high:
        middle = (low + high + 1) // 2
        fits = site.cost(form.pieces(site, scaled(full, middle))).macs <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    return tuple(_rounded(rank, multiple_of) for rank in scaled(full, low))


def _rounded(rank: int, multiple_of: int) -> int:
    return rank // multiple_of * multiple_of or rank


def _no_gain(form: Form, site: Site, ranks: Ranks, amount: float | None) -> Missing | None:
    before, after = site.cost((site.whole(),)), site.cost(form.pieces(site, ranks))
    numbers = (
        f"at rank {' and '.join(map(str, ranks))} it has {after.macs} multiply-adds a batch and {after.parameters} "
        f"weights, now {before.macs} and {before.parameters}"
    )
    if after.macs >= before.macs or after.parameters >= before.parameters:
        return Missing(code="no_gain", why=f"factorised it would not be smaller: {numbers}", cure="take a lower rank")
    if amount is not None and after.macs > (1 - amount) * before.macs:
        return Missing(code="no_such_rank", why=f"no rank is low enough for {amount:g}: {numbers}")
    return None
