"""Variance components on made-up builds whose components are known."""

import random
import statistics

import pytest

from hwbench.measure.builds import build_variance, components, over_builds, stretches
from hwbench.records.base import Missing


def builds(count, between_s, within_s, seed, *, parts=10, each=25):
    """Return samples: a build's own offset, and one for every stretch of it that all its samples share."""
    chance, found = random.Random(seed), []
    for _ in range(count):
        level = 0.010 + chance.gauss(0, between_s)
        found.append(
            [round(stretch * 1e9) for _ in range(parts) for stretch in [level + chance.gauss(0, within_s)] * each]
        )
    return found


def test_components_by_hand():
    """Groups (1, 3) and (5, 7): MS_within 2, variance of the means 8; between 8 - 2 / 2 = 7."""
    assert components([[1, 3], [5, 7]]) == (7.0, 2.0)


def test_less_between_than_chance_is_zero():
    assert components([[1, 5], [2, 4]]) == (0.0, 5.0)


def test_known_components_are_found():
    runs = [build_variance(builds(30, 2e-4, 1e-4, seed)) for seed in range(20)]
    assert statistics.fmean(run.between_s for run in runs) == pytest.approx(2e-4, rel=0.1)
    assert statistics.fmean(run.within_s for run in runs) == pytest.approx(1e-4, rel=0.05)
    assert statistics.fmean(run.icc for run in runs) == pytest.approx(0.8, abs=0.05)


def test_no_difference_between_builds():
    found = build_variance(builds(10, 0.0, 1e-4, 3))
    assert found.icc < 0.3
    assert found.between_s < 5e-5


def test_the_interval_covers_the_mean_over_builds():
    covered = 0
    for seed in range(200):
        found = build_variance(builds(5, 2e-4, 1e-4, 1000 + seed))
        covered += found.low_s <= 0.010 <= found.high_s
    assert 180 <= covered <= 199  # 95 % of 200, within three standard deviations


def test_the_headline_holds_the_part_between_builds():
    runs = builds(5, 5e-4, 1e-5, 7)
    found = build_variance(runs)
    alone, latency = over_builds(runs[:1], Missing(code="one_build", why="")), over_builds(runs, found)
    assert latency.n == 5 * 250
    assert latency.median_high_s - latency.median_low_s >= found.high_s - found.low_s - 1e-9
    assert latency.median_high_s - latency.median_low_s > 5 * (alone.median_high_s - alone.median_low_s)


def test_stretches_are_medians_in_order():
    assert stretches([1, 2, 300, 4, 5, 6, 7], 2) == pytest.approx([2e-9, 5e-9])


def test_too_little_to_tell():
    assert build_variance([[1, 2, 3]]).code == "one_build"
    assert build_variance([[1, 2, 3], [1]]).code == "too_few_samples"
    assert isinstance(build_variance([[5] * 20, [5] * 20]).icc, Missing)


def test_a_build_that_ran_longer_counts_once_all_the_same():
    runs = [[10_000_000] * 100, [12_000_000] * 1000]
    latency = over_builds(runs, build_variance(runs))
    assert latency.median_s == pytest.approx(0.011)
    assert latency.median_low_s <= 0.010
    assert latency.median_high_s >= 0.012
