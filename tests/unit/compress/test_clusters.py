"""k-means on a line: against every possible clustering, against scikit-learn, and from every start."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.compress.sharing.cluster import centres, exact, line_of, lloyd, nearest


def lost(values, weights, found):
    return float((weights * (values - found[nearest(values, found)]) ** 2).sum())


def best_of_all(values, weights, count):
    """Every way to cut the sorted values into ``count`` intervals."""
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    best = np.inf
    for cuts in itertools.combinations(range(1, len(values)), count - 1):
        bounds = [0, *cuts, len(values)]
        found = [np.average(values[a:b], weights=weights[a:b]) for a, b in itertools.pairwise(bounds)]
        best = min(best, lost(values, weights, np.array(found)))
    return best


numbers = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=12)


@given(values=numbers, count=st.integers(1, 5), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_exact_is_the_best_of_all_clusterings(values, count, seed):
    values = np.array(values)
    weights = np.random.default_rng(seed).uniform(0.1, 3, len(values))
    found = centres(values, count, weights=weights, init="exact", rng=np.random.default_rng(0))
    distinct = len(np.unique(values))
    assert len(found) <= min(count, distinct)
    assert (np.diff(found) > 0).all()
    expected = 0.0 if distinct <= count else best_of_all(values, weights, count)
    assert lost(values, weights, found) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@given(
    values=numbers, count=st.integers(1, 6), init=st.sampled_from(["auto", "exact", "linear", "density", "kmeans++"])
)
@settings(max_examples=80, deadline=None)
def test_no_more_distinct_values_than_centres_costs_nothing(values, count, init):
    values = np.array(values, np.float32)
    found = centres(values, count, init=init, rng=np.random.default_rng(0))
    if len(np.unique(values)) <= count:
        assert np.array_equal(found, np.unique(values).astype(np.float64))
    else:
        assert len(found) <= count


@pytest.mark.parametrize("count", [2, 4, 8, 16])
@pytest.mark.parametrize("init", ["linear", "density", "kmeans++"])
def test_lloyd_ends_where_nothing_changes_and_never_below_the_best(count, init):
    rng = np.random.default_rng(count)
    values = rng.standard_t(3, 800)
    line = line_of(values)
    found = lloyd(line, count, init, np.random.default_rng(0))
    owners = nearest(values, found)
    assert len(set(owners)) == count, "no centre is without values"
    means = np.array([values[owners == index].mean() for index in range(count)])
    np.testing.assert_allclose(found, means, atol=1e-5)
    ones = np.ones(len(values))
    best = lost(values, ones, exact(line, count))
    assert best <= lost(values, ones, found) * (1 + 1e-9)


def test_exact_is_not_worse_than_many_runs_of_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster", reason="scikit-learn is the oracle here")
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="scikit-learn brings it")
    values = np.random.default_rng(1).standard_normal(600)
    for count in (3, 9):
        with threadpoolctl.threadpool_limits(1):
            theirs = cluster.KMeans(count, n_init=10, random_state=0).fit(values[:, None])
        mine = lost(values, np.ones(600), exact(line_of(values), count))
        assert mine <= theirs.inertia_ * (1 + 1e-9)
        assert mine == pytest.approx(theirs.inertia_, rel=0.02)


def test_weights_pull_centres_and_numbers_without_weight_still_go_somewhere():
    values = np.array([0.0, 1.0, 10.0, 11.0])
    found = centres(values, 2, weights=np.array([1.0, 3.0, 0.0, 0.0]), init="exact", rng=np.random.default_rng(0))
    np.testing.assert_allclose(found, [0, 1.00002], atol=1e-3)
    even = centres(values, 2, init="exact", rng=np.random.default_rng(0))
    np.testing.assert_allclose(even, [0.5, 10.5])
    nothing = centres(values, 2, weights=np.zeros(4), init="exact", rng=np.random.default_rng(0))
    np.testing.assert_allclose(nothing, [0.5, 10.5])


def test_values_far_from_zero_keep_their_digits():
    values = 1e6 + np.array([0.0, 0.1, 5.0, 5.1])
    found = centres(values, 2, init="exact", rng=np.random.default_rng(0))
    np.testing.assert_allclose(found - 1e6, [0.05, 5.05], atol=1e-6)
