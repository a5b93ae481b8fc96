"""k-means of numbers on a line, weighted: exact, or by Lloyd's iteration.

On a line clusters are intervals of the sorted values, and sums over intervals are differences of running sums. So one
of Lloyd's iterations costs ``k log n``, and the best clustering of all can be found by dynamic programming: Wang and
Song (Ckmeans.1d.dp, 2011), here with the row minima found by dividing and conquering, ``k n log n``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Init = Literal["auto", "exact", "linear", "density", "kmeans++"]

_ROUNDS = 500
_CHEAP = 1e7  # less than a second
_OVERHEAD = 2000  # what a round of array operations costs, in elements


@dataclass(frozen=True)
class Line:
    """Sorted distinct values with positive weights, and running sums of weight, weight x value, weight x value^2.

    The values are taken from their mean, so that differences of the sums keep their digits.
    """

    values: Array
    weights: Array
    middle: float
    sums: tuple[Array, Array, Array]

    def lost(self, first: Array, last: Array) -> Array:
        """Return the weighted squared distance of the values ``first`` up to, not with, ``last`` from their mean."""
        weight, moment, square = (total[last] - total[first] for total in self.sums)
        lost: Array = np.maximum(square - moment**2 / np.maximum(weight, np.finfo(float).tiny), 0.0)
        return lost


def line_of(values: Array, weights: Array | None = None) -> Line:
    """Return numbers [n] sorted, equal ones joined; ``weights`` [n] are not negative, 1 where there are none.

    A number without weight keeps a millionth of the mean weight, so that it too goes somewhere near.
    """
    distinct, inverse = np.unique(values.astype(np.float64), return_inverse=True)
    weights = np.ones(len(values)) if weights is None else weights.astype(np.float64)
    mean = float(weights.mean())
    joined = np.bincount(inverse, weights + (1e-6 * mean if mean > 0 else 1.0))
    middle = float(np.average(distinct, weights=joined))
    from_middle = distinct - middle
    running = tuple(np.concatenate([[0.0], np.cumsum(joined * from_middle**power)]) for power in range(3))
    return Line(distinct, joined, middle, (running[0], running[1], running[2]))


def centres(
    values: Array, count: int, *, weights: Array | None = None, init: Init = "auto", rng: np.random.Generator,
    problems: int = 1,
) -> Array:  # fmt: skip
    """Return at most ``count`` sorted centres; the values themselves where there are no more distinct ones.

    ``auto`` is the exact solution where it is cheap, and Lloyd's iteration from evenly spaced centres otherwise, which
    keep the few large weights (arXiv:1510.00149). ``problems``: how many of this size there are to solve.
    """
    line = line_of(values, weights)
    if len(line.values) <= count:
        return line.values
    if init == "exact" or (init == "auto" and problems * exact_work(len(line.values), count) <= _CHEAP):
        return exact(line, count)
    return lloyd(line, count, init, rng)


def exact_work(values: int, count: int) -> float:
    """Return how many elements :func:`exact` goes over, about."""
    return count * math.log2(max(2, values)) * (values + _OVERHEAD)


def nearest(values: Array, found: Array) -> Array:
    """Return the index of the nearest of the sorted ``found`` for each value; of two as near, the lower."""
    return np.searchsorted((found[1:] + found[:-1]) / 2, values, side="left")


def exact(line: Line, count: int) -> Array:
    """Return the centres with the least weighted squared distance."""
    size = len(line.values)
    ends = np.arange(size + 1)
    best = np.concatenate([[0.0], line.lost(np.zeros(size, int), ends[1:])])
    best[0] = np.inf  # no cluster is empty
    cuts = np.zeros((count, size + 1), np.int32)
    for clusters in range(1, count):
        best, cuts[clusters] = _one_more(line, best, clusters)
    bounds = [size]
    for clusters in range(count - 1, -1, -1):
        bounds.append(int(cuts[clusters][bounds[-1]]))
    return _means(line, np.array(bounds[::-1]))


def _one_more(line: Line, best: Array, clusters: int) -> tuple[Array, Array]:
    """Return the least distance of each beginning with one cluster more, and where that cluster starts.

    Where it starts never moves back as the beginning grows, so of every other end only the starts between those of its
    neighbours need to be looked at: ends at half the distance, then at a quarter, and so on.
    """
    size = len(line.values)
    found, start = np.full(size + 1, np.inf), np.zeros(size + 1, np.int32)
    step = 1 << (size.bit_length() - 1)
    settled = np.zeros(size + 1, bool)
    while step:
        ends = np.arange(step, size + 1, 2 * step)
        ends = ends[(ends > clusters) & ~settled[ends]]
        if len(ends):
            low, high = _between(ends, step, start, settled, clusters, size)
            _settle(line, best, ends, low, high, found, start)
            settled[ends] = True
        step //= 2
    return found, start


def _between(ends: Array, step: int, start: Array, settled: Array, clusters: int, size: int) -> tuple[Array, Array]:
    """Return the first and last start to try for each end."""
    left, right = ends - step, np.minimum(ends + step, size)
    low = np.where(settled[left], start[left], clusters)
    high = np.where(settled[right] & (right > ends), start[right], ends - 1)
    return np.maximum(low, clusters), np.minimum(high, ends - 1)


def _settle(line: Line, best: Array, ends: Array, low: Array, high: Array, found: Array, start: Array) -> None:
    lengths = high - low + 1
    firsts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    tried = np.arange(int(lengths.sum())) - np.repeat(firsts - low, lengths)
    totals = best[tried] + line.lost(tried, np.repeat(ends, lengths))
    least = np.minimum.reduceat(totals, firsts)
    hits = np.flatnonzero(totals == np.repeat(least, lengths))
    owners = np.searchsorted(firsts, hits, side="right") - 1
    first_hits = hits[np.unique(owners, return_index=True)[1]]
    found[ends], start[ends] = least, tried[first_hits]


def lloyd(line: Line, count: int, init: Init, rng: np.random.Generator) -> Array:
    """Return centres from which one more assignment changes nothing (or the last of 500).

    A centre that no value is near moves to the value that is worst off.
    """
    found = np.sort(_started(line, count, init, rng))
    before = np.array([], int)
    for _ in range(_ROUNDS):
        found, bounds = _filled(line, found)
        if np.array_equal(bounds, before):
            break
        before, found = bounds, _means(line, bounds)
    return found


def _filled(line: Line, found: Array) -> tuple[Array, Array]:
    """Move centres without values to where the error is largest until there are none; return the clusters' bounds."""
    while True:
        inner = np.searchsorted(line.values, (found[1:] + found[:-1]) / 2, side="right")
        bounds = np.concatenate([[0], inner, [len(line.values)]])
        empty = np.flatnonzero(np.diff(bounds) == 0)
        if not len(empty):
            return found, bounds
        owners = np.repeat(np.arange(len(found)), np.diff(bounds))
        worst = np.argsort(line.weights * (line.values - found[owners]) ** 2)[-len(empty) :]
        found = np.sort(np.concatenate([np.delete(found, empty), line.values[worst]]))


def _started(line: Line, count: int, init: Init, rng: np.random.Generator) -> Array:
    if init in {"auto", "linear"}:
        return np.linspace(line.values[0], line.values[-1], count)
    if init == "density":
        total = np.cumsum(line.weights)
        at = np.searchsorted(total, (np.arange(count) + 0.5) / count * total[-1])
        quantiles: Array = line.values[at]
        return quantiles
    picked = [line.values[rng.choice(len(line.values), p=line.weights / line.weights.sum())]]
    distance = (line.values - picked[0]) ** 2
    for _ in range(count - 1):
        mass = line.weights * distance
        picked.append(line.values[rng.choice(len(line.values), p=mass / mass.sum())])
        distance = np.minimum(distance, (line.values - picked[-1]) ** 2)
    return np.array(picked)


def _means(line: Line, bounds: Array) -> Array:
    """Return the mean of the values between each bound and the next; empty intervals have none and are left out."""
    bounds = np.unique(bounds)
    weight, moment = (total[bounds[1:]] - total[bounds[:-1]] for total in line.sums[:2])
    means: Array = moment / weight + line.middle
    return means
