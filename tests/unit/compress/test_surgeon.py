from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.compress.patterns import Blocks, NofM, Unstructured, parse_pattern
from hwbench.compress.surgeon import damped, greedy, inverse, lost, refit, sweep


def problem(seed, rows, d, samples=None):
    """Weights, the rows X they meet, and their Gram matrix."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples or 3 * d, d)) @ rng.normal(size=(d, d))
    return rng.normal(size=(rows, d)), x, x.T @ x / len(x)


def test_damping_is_a_fraction_of_the_mean_diagonal():
    gram = np.diag([1.0, 2.0, 3.0]).astype(np.float32)
    np.testing.assert_allclose(damped(gram, 0.5), np.diag([2.0, 3.0, 4.0]))
    np.testing.assert_array_equal(damped(np.zeros((2, 2)), 0.01), np.eye(2))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), d=st.integers(1, 12), rows=st.integers(1, 4))
def test_refit_is_constrained_least_squares(seed, d, rows):
    weights, x, gram = problem(seed, rows, d)
    mask = np.random.default_rng(seed).random(weights.shape) < 0.5
    found = refit(weights, mask, gram)
    for row in range(rows):
        left = np.flatnonzero(~mask[row])
        expected = np.zeros(d)
        expected[left] = np.linalg.lstsq(x[:, left], x @ weights[row], rcond=None)[0]
        np.testing.assert_allclose(found[row], expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(lost(weights, found, gram), np.square(x @ (found - weights).T).sum() / len(x))


def brute_greedy(row, gram, count):
    """Take the column whose loss is least when all others are fitted anew, count times."""
    gone = []
    for _ in range(count):
        costs = {}
        for column in set(range(len(row))) - set(gone):
            mask = np.isin(np.arange(len(row)), [*gone, column])
            costs[column] = lost(row[None], refit(row[None], mask[None], gram), gram)
        gone.append(min(costs, key=costs.get))
    return set(gone)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), d=st.integers(2, 6))
def test_greedy_takes_what_brute_force_finds_cheapest(seed, d):
    weights, _, gram = problem(seed, 1, d)
    for count in range(d + 1):
        found = greedy(weights, gram, Unstructured(), count / d, 1)
        assert set(np.flatnonzero(found[0] == 0)) == brute_greedy(weights[0], gram, count)


def test_greedy_spends_more_on_rows_that_mind_less():
    weights, _, gram = problem(1, 4, 6)
    weights[0] *= 100
    found = greedy(weights, gram, Unstructured(), 0.5, 1)
    zeros = (found == 0).sum(axis=1)
    assert zeros.sum() == 12
    assert zeros[0] < zeros[1:].min()
    uniform = np.vstack([greedy(row[None], gram, Unstructured(), 0.5, 1) for row in weights])
    assert lost(weights, found, gram) < lost(weights, uniform, gram)


def test_greedy_is_near_the_best_of_all_masks():
    losses = []
    for seed in range(10):
        weights, _, gram = problem(seed, 1, 6)
        masks = [np.isin(np.arange(6), gone)[None] for gone in combinations(range(6), 3)]
        best = min(lost(weights, refit(weights, mask, gram), gram) for mask in masks)
        losses.append(lost(weights, greedy(weights, gram, Unstructured(), 0.5, 1), gram) / best)
    assert min(losses) == pytest.approx(1)
    assert all(loss >= 1 - 1e-9 for loss in losses)
    assert np.median(losses) < 1.5


def one_column_after_the_other(weights, gram, mask):
    """OBS on each column in turn, only what lies behind it moving: the inverse of the rest of H, anew each time."""
    found = weights.copy()
    for column in range(weights.shape[1]):
        rest = np.linalg.inv(gram[column:, column:])
        step = np.where(mask[:, column], found[:, column], 0) / rest[0, 0]
        found[:, column:] -= np.outer(step, rest[0])
        found[mask[:, column], column] = 0
    return found


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 99),
    d=st.sampled_from([3, 20, 140]),
    text=st.sampled_from(["unstructured", "2:4", "1:3", "2x8", "1x5"]),
)
def test_a_sweep_is_obs_column_by_column_for_its_mask(seed, d, text):
    weights, _, gram = problem(seed, 4, d)
    gram = damped(gram, 0.01)
    found = sweep(weights, gram, parse_pattern(text), 0.5, 1)
    np.testing.assert_allclose(
        found, one_column_after_the_other(weights, gram, found == 0), rtol=1e-6, atol=1e-7 * np.abs(weights).max()
    )


@pytest.mark.parametrize("method", [sweep, greedy])
@pytest.mark.parametrize(("inputs", "kernel"), [(8, 1), (8, 3), (7, 2)])
def test_n_of_m_holds_for_each_kernel_position(method, inputs, kernel):
    weights, _, gram = problem(0, 5, inputs * kernel)
    found = method(weights, damped(gram, 0.01), NofM(2, 4), 0, kernel).reshape(5, inputs, kernel)
    for start in range(0, inputs, 4):
        part = found[:, start : start + 4]
        assert ((part != 0).sum(axis=1) == min(2, part.shape[1])).all()


@pytest.mark.parametrize("amount", [0, 0.3, 0.77, 1])
@pytest.mark.parametrize("method", [sweep, greedy])
def test_the_amount_is_met_exactly(method, amount):
    weights, _, gram = problem(0, 7, 30)
    found = method(weights, damped(gram, 0.01), Unstructured(), amount, 1)
    assert (found == 0).sum() == round(amount * weights.size)
    if amount == 0:
        np.testing.assert_array_equal(found, weights)


def test_blocks_go_whole():
    weights, _, gram = problem(0, 6, 300)
    found = sweep(weights, damped(gram, 0.01), Blocks(2, 16), 0.5, 1) == 0
    for row in range(0, 6, 2):
        for column in range(0, 300, 16):
            part = found[row : row + 2, column : column + 16]
            assert part.all() or not part.any()
    assert 0.4 < found.mean() <= 0.5


@pytest.mark.parametrize("text", ["unstructured", "2:4"])
@pytest.mark.parametrize("method", [sweep, greedy])
def test_zeros_that_are_there_stay_and_count(method, text):
    weights, _, gram = problem(0, 6, 24)
    before = np.random.default_rng(1).random(weights.shape) < 0.4
    weights[before] = 0
    found = method(weights, damped(gram, 0.01), parse_pattern(text), 0.5, 1) == 0
    assert found[before].all()
    if text == "unstructured":
        assert found.sum() == 72
    else:
        assert (found.reshape(6, 6, 4).sum(axis=2) >= 2).all()


def test_moving_the_others_pays():
    weights, _, gram = problem(2, 16, 64)
    gram = damped(gram, 0.01)
    swept = sweep(weights, gram, Unstructured(), 0.5, 1)
    exact = greedy(weights, gram, Unstructured(), 0.5, 1)
    saliency = np.square(weights) / np.diag(inverse(gram))
    masked = np.where(saliency <= np.median(saliency), 0, weights)
    assert lost(weights, exact, gram) < lost(weights, swept, gram) < lost(weights, masked, gram)
