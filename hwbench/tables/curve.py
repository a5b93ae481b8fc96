"""What clusters of one kind in one scheme take, as a function of their sizes.

    time = trend(sizes) * exp(residual)

The trend is a non-negative combination of one start, multiply-adds (as they are, with channels rounded up to what the
machine computes at once, and more where they do not fit that), elements read and written, and weights, fitted with
relative errors. The residual is a Gaussian process over the logarithms of channels and of positions (kriging of a
regression's residuals), with a part that only measurements of the same cluster share: near a measured point the
measurement prevails, several of them are averaged, and far from any the trend does. Measurements in another kernel of
the runtime have no say.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwbench.records.planning import Sizes
from hwbench.tables.least_squares import robust_nnls
from hwbench.tables.quantum import padded

Array = np.ndarray[Any, np.dtype[np.float64]]

_APART = 0.5  # how far sizes on the two sides of fitting a step are apart, as if in logarithms of channels
TINY_S = 5e-7  # below this, relative errors mean nothing: runtimes count whole microseconds
_SCALES = (0.15, 0.3, 0.6)  # standard deviations of the residual that sizes share ...
_OWN = (0.05, 0.15)  # ... that a cluster has of its own ...
_NOISES = (0.02, 0.05, 0.12)  # ... and of a measurement, all of logarithms
_JUDGED = 200  # points that the settings are judged by
_LENGTHS = (0.25, 0.6)  # in natural logarithms of channels


@dataclass(frozen=True, kw_only=True)
class Points:
    """Measurements, or questions: ``owner`` numbers the clusters, ``kernel`` the kernels (-1: not told)."""

    sizes: tuple[Sizes, ...]
    owner: np.ndarray[Any, np.dtype[np.int64]]
    kernel: np.ndarray[Any, np.dtype[np.int64]]

    def places(self, step: int) -> Array:
        """Return where the points lie, [points, 6]: logarithms of sizes, and whether channels fit the step."""
        rows = [
            (each.channels_in, each.channels_out, max(1.0, each.elements_out / each.channels_out), max(1, each.rank))
            for each in self.sizes
        ]
        logarithms: Array = np.log(np.array(rows, np.float64).reshape(-1, 4))
        return np.hstack([logarithms, _APART * odd(self.sizes, step)])

    def features(self, step: int) -> Array:
        """Return what the trend is made of, [points, 11]; ``step``: channels that are computed at once."""
        rows = [
            (1.0, each.macs, *_padded_macs(each, step), each.elements_in, each.elements_out, each.weights)
            for each in self.sizes
        ]
        plain: Array = np.array(rows, np.float64).reshape(-1, 7)
        unfit = odd(self.sizes, step)
        return np.hstack([plain, plain[:, 1:2] * unfit, plain[:, 4:6] * unfit])


def odd(sizes: Sequence[Sizes], step: int) -> Array:
    """Return 1 where channels do not fit the step, else 0, for input and output channels, [sizes, 2].

    Runtimes have other kernels and layouts there (ONNX Runtime's blocks of 16 channels), so that what is a channel
    more may be another curve.
    """
    rows = [(each.channels_in % step > 0, each.channels_out % step > 0) for each in sizes]
    return np.array(rows, np.float64).reshape(-1, 2)


def _padded_macs(sizes: Sizes, step: int) -> tuple[float, float]:
    """Return the multiply-adds with output channels rounded up, and with input channels rounded up too."""
    out = sizes.macs * padded(sizes.channels_out, step) / sizes.channels_out
    return out, out * padded(sizes.channels_in, step) / sizes.channels_in


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The settings of the residual: standard deviations, and the length over which sizes are alike."""

    shared: float
    own: float
    noise: float
    length: float


class Curve:
    """A fitted curve.

    Attributes:
        trend: coefficients of :meth:`Points.features`.
        spread: the settings of the residual.
    """

    def __init__(self, points: Points, times_s: Array, step: int, spread: Spread | None = None) -> None:
        """Fit.

        Args:
            points: where was measured.
            times_s: what, [points].
            step: channels that are computed at once.
            spread: the settings, where they are known; else those of the largest likelihood are taken.
        """
        points, times_s, counts = _averaged(points, times_s)
        self._points, self._step = points, step
        self.trend = robust_nnls(points.features(step), times_s, 1 / (times_s + TINY_S))
        self._places = points.places(step)
        residual = np.log((times_s + TINY_S) / (self._trend(points) + TINY_S))
        self.spread = spread or _likeliest(points, self._distances(points), residual, counts)
        inner = _covariance(self._distances(points), _same(points, points), self.spread) * _same_kernel(points)
        inner[np.diag_indices(len(inner))] += self.spread.noise**2 / counts
        self._inverse = np.linalg.inv(inner)
        self._weights = self._inverse @ residual

    def at(self, points: Points) -> Array:
        """Return the times at ``points``, in seconds."""
        covariance = self._covariance_to(points)
        times: Array = (self._trend(points) + TINY_S) * np.exp(covariance @ self._weights) - TINY_S
        found: Array = np.maximum(times, 0.0)
        return found

    def deviation(self, points: Points) -> Array:
        """Return the standard deviation of the logarithm of the times at ``points``, by the residual's own lights."""
        covariance = self._covariance_to(points)
        known = np.einsum("ij,jk,ik->i", covariance, self._inverse, covariance)
        found: Array = np.sqrt(np.maximum(self.spread.shared**2 + self.spread.own**2 - known, 0.0))
        return found

    def _trend(self, points: Points) -> Array:
        found: Array = points.features(self._step) @ self.trend
        return found

    def _distances(self, points: Points) -> Array:
        difference = points.places(self._step)[:, None, :] - self._places[None, :, :]
        found: Array = np.sum(difference**2, axis=2)
        return found

    def _covariance_to(self, points: Points) -> Array:
        distances = self._distances(points)
        nearest = self._points.kernel[np.argmin(distances + 1e-3 * ~_same(points, self._points), axis=1)]
        asked = Points(sizes=points.sizes, owner=points.owner, kernel=nearest)
        alike = _covariance(distances, _same(asked, self._points), self.spread)
        found: Array = alike * (nearest[:, None] == self._points.kernel[None, :])
        return found


def _same(one: Points, other: Points) -> np.ndarray[Any, np.dtype[np.bool_]]:
    same: np.ndarray[Any, np.dtype[np.bool_]] = (one.owner[:, None] == other.owner[None, :]) & (one.owner[:, None] >= 0)
    return same


def _same_kernel(points: Points) -> np.ndarray[Any, np.dtype[np.bool_]]:
    same: np.ndarray[Any, np.dtype[np.bool_]] = points.kernel[:, None] == points.kernel[None, :]
    return same


def _covariance(distances: Array, same: np.ndarray[Any, np.dtype[np.bool_]], spread: Spread) -> Array:
    alike = np.exp(-0.5 * distances / spread.length**2)
    found: Array = alike * (spread.shared**2 + spread.own**2 * same)
    return found


def _likeliest(points: Points, distances: Array, residual: Array, counts: Array) -> Spread:
    """Return the settings of the largest marginal likelihood (Rasmussen and Williams 2006, eq. 5.8)."""
    some = np.linspace(0, len(residual) - 1, min(len(residual), _JUDGED)).astype(int)
    distances, residual, counts = distances[np.ix_(some, some)], residual[some], counts[some]
    same, kernel = (found[np.ix_(some, some)] for found in (_same(points, points), _same_kernel(points)))

    def unlikely(spread: Spread) -> float:
        inner = _covariance(distances, same, spread) * kernel
        inner[np.diag_indices(len(inner))] += spread.noise**2 / counts
        lower = np.linalg.cholesky(inner)
        solved = np.linalg.solve(lower, residual)
        return float(0.5 * solved @ solved + np.log(np.diag(lower)).sum())

    grid = itertools.product(_SCALES, _OWN, _NOISES, _LENGTHS)
    return min((Spread(shared=a, own=b, noise=c, length=d) for a, b, c, d in grid), key=unlikely)


def _averaged(points: Points, times_s: Array) -> tuple[Points, Array, Array]:
    """Return one point for each place that was measured, the mean of what was measured there, and how often it was."""
    at: dict[tuple[Sizes, int, int], list[int]] = {}
    for index, key in enumerate(zip(points.sizes, points.owner.tolist(), points.kernel.tolist(), strict=True)):
        at.setdefault(key, []).append(index)
    first = [indices[0] for indices in at.values()]
    merged = Points(
        sizes=tuple(points.sizes[index] for index in first), owner=points.owner[first], kernel=points.kernel[first]
    )
    means = np.array([np.median(times_s[indices]) for indices in at.values()])
    return merged, means, np.array([float(len(indices)) for indices in at.values()])


def points_of(sizes: Sequence[Sizes], owner: int, kernel: int = -1) -> Points:
    """Return points of one cluster."""
    return Points(sizes=tuple(sizes), owner=np.full(len(sizes), owner), kernel=np.full(len(sizes), kernel))
