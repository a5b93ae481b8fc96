"""Bounded pair terms against every choice of random problems."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hwbench.plan.overlap import bounded
from hwbench.records.planning import Loss, PairLoss, Sensitivity


def sensitivity(alone, pairs):
    losses = tuple(
        Loss(site=site, option=option, divergence=value, n=8, how="forward") for (site, option), value in alone.items()
    )
    made = tuple(
        PairLoss(site=a[0], option=a[1], other_site=b[0], other_option=b[1], extra=extra)
        for (a, b), extra in pairs.items()
    )
    return Sensitivity(hub_sha256="it", measure="kl", n=8, losses=losses, pairs=made, took_s=0)


def lost(found, chosen):
    return sum(each.divergence for each in found.losses if (each.site, each.option) in chosen) + sum(
        each.extra for each in found.pairs if {(each.site, each.option), (each.other_site, each.other_option)} <= chosen
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_choice_loses_less_than_its_worst_option(seed):
    rng = np.random.default_rng(seed)
    alone = {(site, option): float(rng.exponential() ** 3) for site in "abcde" for option in "xy"}
    pairs = {
        (one, other): float(2 * rng.standard_normal() * np.sqrt(alone[one] * alone[other]))
        for one, other in itertools.combinations(alone, 2)
        if one[0] != other[0]
    }
    raw = sensitivity(alone, pairs)
    found = bounded(raw)
    below = 0
    for options in itertools.product("-xy", repeat=5):
        chosen = {(site, option) for site, option in zip("abcde", options, strict=True) if option != "-"}
        worst = max((alone[each] for each in chosen), default=0.0)
        assert lost(found, chosen) >= worst * (1 - 1e-9)
        below += lost(raw, chosen) < worst
    assert below > 20, "without the bound there are many"
    assert [each.extra for each in found.pairs if each.extra > 0] == [each for each in pairs.values() if each > 0]


def test_changes_that_all_hide_each_other_lose_together_what_one_loses():
    alone = {(site, "x"): 0.01 for site in "abcd"}
    found = bounded(sensitivity(alone, dict.fromkeys(itertools.combinations(alone, 2), -0.01)))
    assert lost(found, set(alone)) == pytest.approx(0.01)


def test_what_the_options_can_bear_stays():
    alone = {("a", "x"): 0.02, ("b", "x"): 0.01, ("c", "x"): 0.02}
    pairs = {(("a", "x"), ("b", "x")): -0.004, (("b", "x"), ("c", "x")): -0.006, (("a", "x"), ("c", "x")): 0.5}
    raw = sensitivity(alone, pairs)
    assert bounded(raw) == raw
