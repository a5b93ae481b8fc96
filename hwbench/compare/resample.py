"""How far a ratio of two medians may be off, by resampling; everything on the log scale.

Interleaved rounds. A round asks A, A again (the control, a process of its own) and B once each, in random order, and
gives the contrasts ``b - (a + again) / 2`` and ``again - a`` of log block medians: what drifts slowly cancels in both.
The median over the rounds of a restart is the restart's contrast; the estimate is their mean over restarts.

Two things make it uncertain, and each is resampled at its own level:

* processes: where the memory of one landed, how its threads were placed. Restarts are drawn with replacement. With
  three of them their own scatter says little, so the control's contrasts, which hold nothing but that lottery, are put
  in the same pool on the same scale (a process's variance enters B's contrast 3/2 times and the control's twice):
  2R - 1 degrees of freedom instead of R - 1. This takes B's processes to scatter like A's; where B's contrasts scatter
  more than three times as much, they stand alone;
* rounds: drawn with replacement within each restart.

Rounds resampled inside resampled restarts would count their noise twice (Davison & Hinkley, *Bootstrap Methods and
their Application*, 3.8), so the larger of the two standard errors is taken. The interval is the estimate +- Student's t
times that: percentiles of three units would be far too narrow.

Saved runs. One process a side, so that only the noise within a run can be seen: blocks of consecutive samples, longer
than their autocorrelation and at least a fiftieth of the run, are drawn with replacement. How much one run differs from
the next of the same thing must be told from outside (``between``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwbench.compare.student import t_quantile

Array = npt.NDArray[np.float64]

RESAMPLES = 2000
MIN_BLOCKS = 8
_MOST_BLOCKS = 50
_BINS = 2000
_SCATTER_ALONE = 9.0  # ratio of variances


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
    rounds = [item.b - (item.a + item.again) / 2 for item in restarts]
    control = np.array([np.median(item.again - item.a) for item in restarts])
    contrasts = np.array([np.median(item) for item in rounds])
    generator = np.random.default_rng(seed)
    pool, df = _pool(contrasts - contrasts.mean(), control * math.sqrt(0.75))
    error = max(_over_units(pool, len(contrasts), generator), _over_rounds(rounds, generator))
    return Estimate(log_ratio=float(contrasts.mean()), error=error, df=df)


def control(restarts: Sequence[Restart], *, seed: int) -> Estimate:
    """Return log(A' / A), which is 0 on a machine that can tell."""
    rounds = [item.again - item.a for item in restarts]
    contrasts = np.array([np.median(item) for item in rounds])
    generator = np.random.default_rng(seed)
    within = _over_rounds(rounds, generator)
    if len(contrasts) == 1:
        return Estimate(log_ratio=float(contrasts[0]), error=within, df=max(0, len(rounds[0]) - 1))
    n = len(contrasts)
    pool = (contrasts - contrasts.mean()) * math.sqrt(n / (n - 1))
    error = max(_over_units(pool, n, generator), within)
    return Estimate(log_ratio=float(contrasts.mean()), error=error, df=n - 1)


def _pool(own: Array, lottery: Array) -> tuple[Array, int]:
    """Return deviations whose mean square estimates a contrast's variance without bias, and their freedom."""
    n = len(own)
    if n > 1 and own @ own / (n - 1) > _SCATTER_ALONE * (lottery @ lottery) / n:
        return own * math.sqrt(n / (n - 1)), n - 1
    return np.concatenate([own, lottery]) * math.sqrt(2 * n / (2 * n - 1)), 2 * n - 1


def _over_units(pool: Array, units: int, generator: np.random.Generator) -> float:
    """Return the standard error of a mean over ``units`` draws; signs are drawn too, as either could be called A."""
    signs = generator.choice(np.array([-1.0, 1.0]), size=(RESAMPLES, units))
    return float(np.std((generator.choice(pool, size=(RESAMPLES, units)) * signs).mean(axis=1)))


def _over_rounds(rounds: Sequence[Array], generator: np.random.Generator) -> float:
    drawn = [np.median(item[generator.integers(0, len(item), size=(RESAMPLES, len(item)))], axis=1) for item in rounds]
    return float(np.std(np.mean(drawn, axis=0)))


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
