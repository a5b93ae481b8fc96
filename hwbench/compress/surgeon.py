"""Optimal brain surgery on one group of a layer: weights taken away, and the others moved so that least is lost.

What is lost is ||(W' - W) X||^2 over the rows X that the layer meets, a quadratic with the Gram matrix H = E[x x^T]:
one problem a row of W, all with the same H. Taking away weight p costs w_p^2 / [H^-1]_pp and moves the row by
-w_p / [H^-1]_pp * H^-1[:, p] (Hassibi & Stork 1992). :func:`sweep` goes through the columns once for all rows together
(SparseGPT, arXiv:2301.00774), :func:`greedy` takes the cheapest weight each time (OBC, arXiv:2208.11580).

Everything is float64. Columns are inputs x kernel positions, kernel fastest, as :meth:`Linear.blocks` has them.
"""

from __future__ import annotations

import heapq
from math import ceil
from typing import Any

import numpy as np

from hwbench.compress.format_pattern import OfFormat
from hwbench.compress.patterns import Blocks, NofM, Pattern, lowest, unit_scores

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 128  # columns whose effect on those behind them is applied at once


def damped(gram: Array, damping: float) -> Array:
    """Return a Gram matrix [d, d] with ``damping`` times the mean of its diagonal added to the diagonal.

    An input that is never anything but zero then costs next to nothing. If all are, the result is the identity.
    """
    matrix: Array = gram.astype(np.float64)
    level = float(np.trace(matrix)) / len(matrix)
    matrix += (damping * level if level > 0 else 1.0) * np.eye(len(matrix))
    return matrix


def inverse(matrix: Array) -> Array:
    """Return the inverse of a symmetric positive definite matrix, symmetric to the last bit."""
    found = np.linalg.inv(matrix)
    both: Array = (found + found.T) / 2
    return both


def refit(weights: Array, mask: Array, matrix: Array) -> Array:
    """Return the weights [rows, d] that are zero where ``mask`` says and otherwise lose least: exact, row by row."""
    result = np.where(mask, 0.0, weights)
    for row, (old, gone) in enumerate(zip(weights, mask, strict=True)):
        left = np.flatnonzero(~gone)
        if len(left) and old[gone].any():
            result[row, left] = np.linalg.solve(matrix[np.ix_(left, left)], matrix[left] @ old)
    return result


def lost(old: Array, new: Array, gram: Array) -> float:
    """Return E||(W' - W) x||^2, summed over the rows of W."""
    change = new - old
    return float(np.einsum("ij,jk,ik->", change, gram, change, optimize=True))


def sweep(weights: Array, matrix: Array, pattern: Pattern, amount: float, kernel: int) -> Array:
    """Return pruned weights [rows, d], each column's loss made up for by the columns behind it.

    The mask is chosen for a part of the columns when the sweep arrives there: of N:M for each group, otherwise for
    about :data:`BLOCK` columns at a time, all rows competing. What a sparse format keeps depends on all columns, so it
    is chosen before the sweep, by w_p^2 / [H^-1]_pp. Zeros of ``weights`` stay zeros and count.

    Args:
        weights: of one group.
        matrix: the damped Gram matrix [d, d].
        pattern: where zeros may lie.
        amount: the fraction that is zero afterwards; N:M says that itself.
        kernel: how many kernel positions there are.
    """
    order = _order(pattern, weights.shape[1], kernel)
    back = inverse(matrix[np.ix_(order, order)])
    upper = np.linalg.cholesky(back).T  # H^-1 = U^T U
    rest = weights[:, order].copy()
    zero = rest == 0
    before = _of_format(pattern, np.square(rest) / np.diag(back), amount) if isinstance(pattern, OfFormat) else None
    budget = _Budget(amount, len(rest))
    for parts in _together(_parts(pattern, rest.shape[1], kernel)):
        start, stop = parts[0][0], parts[-1][1]
        errors = np.zeros((len(rest), stop - start))
        for first, last in parts:
            if before is not None:
                gone = before[:, first:last] | zero[:, first:last]
            else:
                scores = np.square(rest[:, first:last] / np.diag(upper)[first:last])
                gone = _chosen(scores, zero[:, first:last], pattern, budget)
            for column in range(first, last):
                error = np.where(gone[:, column - first], rest[:, column], 0.0) / upper[column, column]
                rest[:, column + 1 : stop] -= np.outer(error, upper[column, column + 1 : stop])
                rest[gone[:, column - first], column] = 0
                errors[:, column - start] = error
        rest[:, stop:] -= errors @ upper[start:stop, stop:]
    result: Array = np.empty_like(rest)
    result[:, order] = rest
    return result


def greedy(weights: Array, matrix: Array, pattern: Pattern, amount: float, kernel: int) -> Array:
    """Return pruned weights [rows, d]: the cheapest weight of all rows is taken each time, until enough are gone.

    Unstructured or N:M. Needs rows * d^3 operations. Zeros of ``weights`` stay zeros and count.
    """
    back = inverse(matrix)
    group = _groups_of(pattern, weights.shape[1], kernel)
    spare = pattern.keep if isinstance(pattern, NofM) else 0
    traces = [_trace(row, back, group, spare) for row in weights]
    if isinstance(pattern, NofM):
        taken = [len(order) for order, _ in traces]
    else:
        taken = _cheapest([costs for _, costs in traces], round(amount * weights.size))
    mask = weights == 0
    for row, ((order, _), count) in enumerate(zip(traces, taken, strict=True)):
        mask[row, order[:count]] = True
    return refit(weights, mask, matrix)


def _trace(row: Array, back: Array, group: Array, spare: int) -> tuple[list[int], list[float]]:
    """Return the columns in the order in which a row gives them up, and what each costs; zeros come first, at none.

    Of the columns of one number in ``group``, ``spare`` are kept.
    """
    row, back = row.copy(), back.copy()
    left = np.ones(len(row), bool)
    counts = np.bincount(group)
    order: list[int] = []
    costs: list[float] = []
    while True:
        open_ = np.flatnonzero(left & (counts[group] > spare))
        if not len(open_):
            return order, costs
        saliency = np.square(row[open_]) / back[open_, open_]
        at = int(open_[np.argmin(saliency)])
        order.append(at)
        costs.append(float(saliency.min()))
        left[at] = False
        counts[group[at]] -= 1
        column = back[:, at] / back[at, at]
        row -= row[at] * column
        back -= np.outer(column, back[at])
        row[at] = 0


def _cheapest(costs: list[list[float]], count: int) -> list[int]:
    """Return how many each row gives up when the row whose next weight is cheapest gives it up, ``count`` times."""
    taken = [0] * len(costs)
    heap = [(row[0], index) for index, row in enumerate(costs) if row]
    heapq.heapify(heap)
    for _ in range(count):
        _, index = heapq.heappop(heap)
        taken[index] += 1
        if taken[index] < len(costs[index]):
            heapq.heappush(heap, (costs[index][taken[index]], index))
    return taken


class _Budget:
    """How many weights may go, so that after each part of the columns the fraction is met."""

    def __init__(self, amount: float, rows: int) -> None:
        self.amount, self.rows = amount, rows
        self.columns = self.taken = 0

    def of(self, columns: int) -> int:
        """Return how many may go in the next ``columns``."""
        self.columns += columns
        return max(0, round(self.amount * self.rows * self.columns) - self.taken)


def _chosen(scores: Array, zero: Array, pattern: Pattern, budget: _Budget) -> Array:
    """Return what goes of a part of the columns."""
    if isinstance(pattern, NofM):
        order = np.argsort(np.where(zero, -1.0, scores), axis=1, kind="stable")
        gone: Array = zero.copy()
        np.put_along_axis(gone, order[:, : max(0, scores.shape[1] - pattern.keep)], True, axis=1)
        return gone
    assert not isinstance(pattern, OfFormat)
    units = pattern.units((1, *scores.shape, 1)).reshape(scores.shape)
    means, sizes = unit_scores(scores, units, zero)
    gone = lowest(means, sizes, budget.of(scores.shape[1]))[units] | zero
    budget.taken += int(gone.sum())
    return gone


def _of_format(pattern: OfFormat, scores: Array, amount: float) -> Array:
    """Return what goes of one matrix [rows, d]."""
    return ~pattern.kept(scores[None, :, :, None], amount)[0, :, :, 0]


def _order(pattern: Pattern, columns: int, kernel: int) -> Array:
    """Return the columns in the order of the sweep: of N:M with inputs fastest, so that groups lie side by side."""
    index = np.arange(columns)
    return index.reshape(-1, kernel).T.ravel() if isinstance(pattern, NofM) else index


def _parts(pattern: Pattern, columns: int, kernel: int) -> list[tuple[int, int]]:
    """Return where the parts of the columns begin and end for which a mask is chosen at once, in the sweep's order."""
    if isinstance(pattern, NofM):
        inputs, step = columns // kernel, pattern.of
        starts = [position * inputs + start for position in range(kernel) for start in range(0, inputs, step)]
    else:
        step = pattern.columns * ceil(BLOCK / pattern.columns) if isinstance(pattern, Blocks) else BLOCK
        starts = list(range(0, columns, step))
    return list(zip(starts, [*starts[1:], columns], strict=True))


def _together(parts: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Join parts that follow each other to at least :data:`BLOCK` columns."""
    joined: list[list[tuple[int, int]]] = [[]]
    for part in parts:
        if joined[-1] and part[0] - joined[-1][0][0] >= BLOCK:
            joined.append([])
        joined[-1].append(part)
    return joined


def _groups_of(pattern: Pattern, columns: int, kernel: int) -> Array:
    """Return for each column the number of the group in which the pattern counts what is left."""
    if not isinstance(pattern, NofM):
        return np.zeros(columns, np.int64)
    inputs = columns // kernel
    each = ceil(inputs / pattern.of)
    index = np.arange(columns)
    return (index % kernel) * each + index // kernel // pattern.of
