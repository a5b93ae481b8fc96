"""How far a ratio of two medians may be off, by resampling; everything on the log scale.

Interleaved rounds. A round asks A, A again (the control, a process of its own) and B once each, in random order. The
rounds of a restart give each of its three processes a level, free of what all three shared (:mod:`robust`), and these
the restart's contrasts ``b - (a + again) / 2`` and ``again - a``. The estimate is a robust mean of the former over
restarts.

What makes it uncertain is what differs from one set of processes to the next: where the memory of one landed, what
disturbed it that the others were spared. Few restarts say little about that by their own scatter, so the control's
contrasts, which hold nothing else, are put in the same pool on the same scale (a process's variance enters B's contrast
3/2 times and the control's twice): 2R - 1 degrees of freedom instead of R - 1. This takes B's processes to scatter like
A's; where B's contrasts scatter more, they stand alone. The standard error comes from drawing the influence values of
the restarts in that pool with replacement, signs too (a bootstrap of the linearised estimate: Davison & Hinkley,
*Bootstrap Methods and their Application*, 1997, 2.7); the interval is the estimate +- Student's t times it, as
percentiles of a few units would be far too narrow.

Saved runs. One process a side, so that only the noise within a run can be seen: blocks of consecutive samples, longer
than their autocorrelation and at least a fiftieth of the run, are drawn with replacement. How much one run differs from
the next of the same thing must be told from outside (``between``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwbench.compare import robust
from hwbench.compare.robust import Array
from hwbench.student import t_quantile

RESAMPLES = 2000
MIN_BLOCKS = 8
_MOST_BLOCKS = 50
_BINS = 2000


@dataclass(frozen=True, kw_only=True)
class Restart:
    """Log block medians of one set of processes, one a round, in order."""

    a: Array
    again: Array
    b: Array


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A log ratio, its standard error, and the degrees of freedom behind that."""

    log_ratio: float
    error: float
    df: int

    def half_width(self, confidence: float) -> float:
        """Return the half-width of the interval on the log scale; infinite without degrees of freedom."""
        return t_quantile(confidence, self.df) * self.error if self.df else math.inf


def effect(restarts: Sequence[Restart], *, seed: int) -> Estimate:
    """Return log(B / A) over interleaved restarts."""
    found = np.array([robust.levels(np.stack([item.a, item.again, item.b])) for item in restarts])
    own = found[:, 2] - (found[:, 0] + found[:, 1]) / 2
    return _drawn(robust.locate(own, (found[:, 1] - found[:, 0]) * math.sqrt(0.75)), len(own), seed)


def control(restarts: Sequence[Restart], *, seed: int) -> Estimate:
    """Return log(A' / A), which is 0 on a machine that can tell; of one restart nothing is known but that value."""
    found = np.array([robust.levels(np.stack([item.a, item.again, item.b])) for item in restarts])
    own = found[:, 1] - found[:, 0]
    return _drawn(robust.locate(own, np.empty(0)), len(own), seed)


def _drawn(location: robust.Location, units: int, seed: int) -> Estimate:
    """Return the location with the standard error of a mean over ``units`` draws; either could be called A: signs."""
    generator = np.random.default_rng(seed)
    signs = generator.choice(np.array([-1.0, 1.0]), size=(RESAMPLES, units))
    drawn = generator.choice(location.pool, size=(RESAMPLES, units)) * signs
    return Estimate(log_ratio=location.centre, error=float(np.std(drawn.mean(axis=1))), df=location.df)


def quantile_in_blocks(samples: Array, p: float, *, correlation: float, seed: int) -> tuple[float, Estimate] | None:
    """Return the ``p`` quantile of one run's samples, and its log with the error that resampled blocks give.

    ``correlation`` is how many samples are worth one independent one. None when that leaves fewer than eight blocks.
    The quantile of a resample is read from counts in 2000 equally filled bins, so that a run of any length takes the
    same time.
    """
    n = len(samples)
    length = max(math.ceil(2 * correlation), math.ceil(n / _MOST_BLOCKS), 1)
    blocks = n // length
    if blocks < MIN_BLOCKS:
        return None
    value = float(np.quantile(samples, p))
    edges = np.unique(np.quantile(samples, np.linspace(0, 1, min(n, _BINS) + 1)))
    if len(edges) < 2:
        return value, Estimate(log_ratio=math.log(value), error=0.0, df=blocks - 1)
    used = samples[: blocks * length].reshape(blocks, length)
    counts = np.stack([np.histogram(block, bins=edges)[0] for block in used]).astype(np.float64)
    weights = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), size=RESAMPLES)
    below = np.cumsum(weights @ counts, axis=1)
    index = np.argmax(below >= p * below[:, -1:], axis=1)
    middles = np.log((edges[:-1] + edges[1:]) / 2)
    error = float(np.std(middles[index]) * math.sqrt(blocks / (blocks - 1)))
    return value, Estimate(log_ratio=math.log(value), error=error, df=blocks - 1)


def mean_of(values: Array) -> Estimate:
    """Return the log of the mean of a few values and its standard error (of independent parts of a run)."""
    mean = float(values.mean())
    error = float(values.std(ddof=1) / math.sqrt(len(values)) / mean)
    return Estimate(log_ratio=math.log(mean), error=error, df=len(values) - 1)


def ratio_of(a: Estimate, b: Estimate, *, between: float) -> Estimate:
    """Return log(b / a) of two separate runs.

    ``between`` is the standard deviation of the log from one run to the next of the same thing.
    """
    error = math.sqrt(a.error**2 + b.error**2 + 2 * between**2)
    return Estimate(log_ratio=b.log_ratio - a.log_ratio, error=error, df=min(a.df, b.df))
