"""Early stopping against numbers that are published or can be had by hand."""

import math

import pytest

from hwbench.measure.early_stopping import believed, chance, estimate, queries_needed
from hwbench.records.base import Missing


def test_the_published_least_counts():
    """MLCommons' rules: p90 needs 64 queries and p99 662 before the slowest one may be left out."""
    assert queries_needed(1, 0.90) == 64
    assert queries_needed(1, 0.99) == 662


def test_none_slow_by_hand():
    """Without a slow one the chance is p^n: 0.9^44 = 0.0097 is the first below 0.01; for 0.99 it is 459."""
    assert (queries_needed(0, 0.90), queries_needed(0, 0.99)) == (44, 459)
    assert chance(0, 44, 0.9) == pytest.approx(0.9**44)


@pytest.mark.parametrize(("t", "n", "p"), [(0, 10, 0.9), (2, 30, 0.9), (5, 400, 0.99), (40, 50, 0.5)])
def test_chance_is_the_binomial_sum(t, n, p):
    exact = sum(math.comb(n, k) * (1 - p) ** k * p ** (n - k) for k in range(t + 1))
    assert chance(t, n, p) == pytest.approx(exact, rel=1e-9)


def test_the_rank_grows_with_the_queries():
    samples = list(range(1, 100_001))
    ranks = {n: estimate(samples[:n], 0.90).rank for n in (64, 100, 1000, 24_576)}
    assert ranks[64] == 1
    for n, rank in ranks.items():
        assert believed(rank, n, 0.90)
        assert not believed(rank + 1, n, 0.90)
    assert ranks[24_576] / 24_576 == pytest.approx(0.0955, abs=0.0005)  # 10 % less 2.33 sigma


def test_the_estimate_is_the_sample_at_that_rank():
    found = estimate([1_000_000 * n for n in range(64, 0, -1)], 0.90)
    assert (found.rank, found.estimate_s) == (1, pytest.approx(0.064))
    found = estimate([1_000_000] * 900 + [9_000_000] * 100, 0.99)
    assert found.estimate_s == pytest.approx(0.009)


def test_it_is_above_the_plain_percentile_with_the_stated_confidence():
    """Of uniform samples the estimate of p90 is below the true 0.9 in at most 1 % of runs."""
    import random

    chance_of = random.Random(4)
    below = sum(
        estimate([chance_of.randrange(1_000_000_000) for _ in range(200)], 0.90).estimate_s < 0.9 for _ in range(1000)
    )
    assert below <= 20


def test_too_few():
    found = estimate([1_000_000] * 63, 0.90)
    assert isinstance(found, Missing)
    assert "64" in found.why
