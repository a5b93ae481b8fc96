"""From what was seen of a tensor to where a quantiser is to clip it: pure functions.

``minmax`` clips nothing. ``ema`` averages the extremes of batches. ``percentile`` leaves out a share of the values.
``mse`` takes the clip with the least expected squared error. ``entropy`` takes the one that loses the least information
(Kullback and Leibler). The last three read a :class:`~hwbench.quantize.histogram.Histogram`; all are written for eight
bits. An asymmetric quantiser gets ``low`` and ``high``, a symmetric one ``magnitude``, each the best for its own grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwbench.quantize.histogram import Histogram
from hwbench.records.quantization import CalibrationSettings, TensorRange

Array = np.ndarray[Any, np.dtype[Any]]

ASYMMETRIC_STEPS = 255  # eight bits from low to high
SYMMETRIC_STEPS = 254  # -127 to 127
_ENTROPY_BINS = 2048
_ENTROPY_LEVELS = 128
_COARSE = 64  # candidates on each side, in the first of two rounds


@dataclass(kw_only=True)
class MovingExtremes:
    """The moving average of the extremes of batches; the first batch is where it starts.

    ``momentum`` is the weight of the past. It depends on the order of the batches, as moving averages do.
    """

    momentum: float
    low: float | None = None
    high: float | None = None

    def saw(self, low: float, high: float) -> None:
        """Take in the extremes of one batch."""
        self.low = low if self.low is None else self.momentum * self.low + (1 - self.momentum) * low
        self.high = high if self.high is None else self.momentum * self.high + (1 - self.momentum) * high


def needs_counts(settings: CalibrationSettings) -> bool:
    """Say whether the estimator reads a histogram, or extremes alone."""
    return settings.estimator not in {"minmax", "ema"}


def estimate(histogram: Histogram, moving: MovingExtremes, settings: CalibrationSettings) -> TensorRange:
    """Return the range of a tensor by the estimator of the settings.

    The clips lie inside the extremes. Where the estimator needs counts and there are none but zeros, the extremes are
    the range.
    """
    if settings.estimator == "ema":
        assert moving.low is not None
        assert moving.high is not None
        found = (moving.low, moving.high, max(abs(moving.low), abs(moving.high)))
    elif settings.estimator == "minmax" or not histogram.counts.any():
        found = (histogram.low, histogram.high, _largest(histogram))
    elif settings.estimator == "percentile":
        found = percentile(histogram, settings.percentile)
    elif settings.estimator == "mse":
        found = (*least_squares(histogram), least_squares_magnitude(histogram))
    else:
        clip = entropy(histogram)
        found = (-clip, clip, clip)
    low, high, magnitude = found
    return TensorRange(
        low=min(max(low, histogram.low), histogram.high),
        high=max(min(high, histogram.high), histogram.low),
        magnitude=min(magnitude, _largest(histogram)),
        seen_low=histogram.low,
        seen_high=histogram.high,
    )


def _largest(histogram: Histogram) -> float:
    return max(abs(histogram.low), abs(histogram.high))


def percentile(histogram: Histogram, percent: float) -> tuple[float, float, float]:
    """Return low and high with ``percent`` of the values between them, and the magnitude that as many stay below.

    What is left out lies half below and half above. Exact zeros are values like others here. Within a bin, values are
    taken to lie evenly.
    """
    if percent == 100:
        return histogram.low, histogram.high, _largest(histogram)
    inside = percent / 100
    below, above = histogram.side(-1), histogram.side(1)
    counts = np.concatenate((below[::-1], [histogram.zeros], above))
    width = histogram.width
    edges = np.concatenate((np.arange(-len(below), 1), np.arange(len(above) + 1))) * width
    outside = (1 - inside) / 2
    magnitudes = histogram.magnitudes()
    at = np.concatenate(([0], np.arange(len(magnitudes) + 1))) * width
    return (
        _quantile(counts, edges, outside),
        _quantile(counts, edges, 1 - outside),
        _quantile(np.concatenate(([histogram.zeros], magnitudes)), at, inside),
    )


def _quantile(counts: Array, edges: Array, share: float) -> float:
    """Return the value below which ``share`` of the counts lie; bin i reaches from edge i to edge i + 1."""
    reached = np.cumsum(counts)
    rank = share * reached[-1]
    index = int(np.searchsorted(reached, rank, side="left"))
    index = min(index, len(counts) - 1)
    before = reached[index] - counts[index]
    part = (rank - before) / counts[index] if counts[index] else 0.0
    return float(edges[index] + part * (edges[index + 1] - edges[index]))


def _kept_and_cut(counts: Array) -> tuple[Array, Array]:
    """Return, for a clip at each edge 0 to n, how many values are kept, and the squared error of those cut off.

    In units of the bin's width. Values lie evenly in their bin: the square of one is that of the middle, and 1/12.
    """
    kept = np.concatenate(([0.0], np.cumsum(counts, dtype=np.float64)))
    middles = np.arange(len(counts)) + 0.5
    edges = np.arange(len(counts) + 1, dtype=np.float64)
    moments = [_from_here(counts * power) for power in (np.ones_like(middles), middles, middles**2 + 1 / 12)]
    return kept, moments[2] - 2 * edges * moments[1] + edges**2 * moments[0]


def _from_here(values: Array) -> Array:
    """Return the sums of the values from each place to the end, with 0 after the last."""
    return np.concatenate((np.cumsum(values[::-1], dtype=np.float64)[::-1], [0.0]))


def least_squares_magnitude(histogram: Histogram, steps: int = SYMMETRIC_STEPS) -> float:
    """Return the clip with the least expected squared error on a symmetric grid of ``steps`` steps.

    A value inside is off by Delta^2 / 12 on average, one outside by its distance to the clip (Banner et al. 2019,
    arXiv:1810.05723, section 3), here for the histogram that was seen, not for a distribution. All clips at edges of
    bins are tried, in one computation.
    """
    kept, cut = _kept_and_cut(histogram.magnitudes())
    delta = 2 * np.arange(len(kept)) / steps
    return float(np.argmin(delta**2 / 12 * kept + cut)) * histogram.width


def least_squares(histogram: Histogram, steps: int = ASYMMETRIC_STEPS) -> tuple[float, float]:
    """Return low and high with the least expected squared error on a grid of ``steps`` steps that holds zero.

    As :func:`least_squares_magnitude`, over pairs of edges: first over all pairs of a coarse grid, then over all pairs
    around the best.
    """
    below, above = _kept_and_cut(histogram.side(-1)), _kept_and_cut(histogram.side(1))
    strides = [max(1, (len(side[0]) - 1) // _COARSE) for side in (below, above)]
    choices = [_edges(0, len(side[0]) - 1, stride) for side, stride in zip((below, above), strides, strict=True)]
    low, high = _best_pair(below, above, choices[0], choices[1], steps)
    near = [
        _edges(max(0, centre - stride), min(len(side[0]) - 1, centre + stride), 1)
        for centre, stride, side in zip((low, high), strides, (below, above), strict=True)
    ]
    low, high = _best_pair(below, above, near[0], near[1], steps)
    return -low * histogram.width, high * histogram.width


def _edges(first: int, last: int, stride: int) -> Array:
    return np.union1d(np.arange(first, last + 1, stride), [last])


def _best_pair(
    below: tuple[Array, Array], above: tuple[Array, Array], lows: Array, highs: Array, steps: int
) -> tuple[int, int]:
    kept = below[0][lows][:, None] + above[0][highs][None, :]
    cut = below[1][lows][:, None] + above[1][highs][None, :]
    delta = (lows[:, None] + highs[None, :]) / steps
    row, column = np.unravel_index(np.argmin(delta**2 / 12 * kept + cut), cut.shape)
    return int(lows[row]), int(highs[column])


def entropy(histogram: Histogram) -> float:
    """Return the clip of magnitudes that loses the least information (Migacz, 8-bit inference with TensorRT, GTC 2017).

    See :func:`divergences`. Exact zeros take no part.
    """
    counts, width = histogram.magnitudes(), histogram.width
    while len(counts) > _ENTROPY_BINS:
        counts = np.append(counts, np.zeros(len(counts) % 2, dtype=counts.dtype)).reshape(-1, 2).sum(axis=1)
        width *= 2
    if len(counts) <= _ENTROPY_LEVELS:
        return _largest(histogram)
    found = divergences(counts, _ENTROPY_LEVELS)
    return float(_ENTROPY_LEVELS + int(np.argmin(found))) * width


def divergences(counts: Array, levels: int) -> Array:
    """Return KL(P || Q) of a histogram of magnitudes for a clip after each number of bins from ``levels`` to all.

    For a clip after i bins, P is the first i bins with everything beyond added to the last of them. Q is the first i
    bins in ``levels`` groups of as equal a width as there is (group l begins at bin ceil(l i / levels)), the counts of
    a group spread evenly over those of its bins that P has. Where the last group is empty, and P
    has the far values there, Q has half a count: else no clip below a lone outlier could be taken. A clip that keeps
    nothing is infinitely far.

    With c_l the sum of group l and n_l its bins, sum P log Q is sum c_l log(c_l / n_l), but for the last bin: so every
    clip needs differences of cumulative sums alone, and all of them are one computation.
    """
    clips = np.arange(levels, len(counts) + 1)
    starts = -(-np.arange(levels + 1)[None, :] * clips[:, None] // levels)
    sums = np.concatenate(([0.0], np.cumsum(counts, dtype=np.float64)))
    filled = np.concatenate(([0], np.cumsum(counts > 0)))
    last = counts[clips - 1].astype(np.float64)
    beyond = sums[-1] - sums[clips]
    grouped = np.diff(sums[starts], axis=1)
    bins = np.diff(filled[starts], axis=1).astype(np.float64)
    bins[:, -1] += (last == 0) & (beyond > 0)
    bare = (grouped[:, -1] == 0) & (beyond > 0)
    per_bin = np.log(np.where(grouped > 0, grouped, 0.5) / np.maximum(bins, 1.0))
    own = np.concatenate(([0.0], np.cumsum(_times_log(counts.astype(np.float64)))))
    p_log_p = own[clips - 1] + _times_log(last + beyond)
    p_log_q = (grouped * per_bin).sum(axis=1) + beyond * per_bin[:, -1]
    in_q = np.log(np.maximum(sums[clips], 1.0) + 0.5 * bare)
    return np.where(sums[clips] > 0, (p_log_p - p_log_q) / sums[-1] - np.log(sums[-1]) + in_q, np.inf)


def _times_log(values: Array) -> Array:
    return np.where(values > 0, values * np.log(np.where(values > 0, values, 1.0)), 0.0)
