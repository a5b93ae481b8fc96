"""Estimates that a few bad values do not move: levels of processes from their rounds, and a location with its error.

Interference from outside (another tenant of the host, a daemon) makes some blocks slower by a tenth, for as long as a
block or for several rounds, never faster. A mean follows it; a median of contrasts in which three blocks stand is hit
three times as often as one of single blocks, and is off by itself, because the noise is lopsided and the contrast
weighs its processes unequally. So processes are first told apart, all treated alike, and only then subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_SWEEPS = 6
_NORMAL = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
_CLIP = 1.5  # standard deviations: Huber's choice, 96 % efficient where nothing is wrong
_FEWEST_INSIDE = 0.5
_STEPS = 50


def levels(table: Array) -> Array:
    """Return the level of each row of ``table`` (processes by rounds), free of what all rows of a column share.

    Median polish (Tukey, *Exploratory Data Analysis*, 1977, chapter 11), rows first, so that adding a constant to a row
    adds it to that level and does nothing else.
    """
    found = np.median(table, axis=1)
    rest = table - found[:, None]
    for _ in range(_SWEEPS):
        rest = rest - np.median(rest, axis=0)
        step = np.median(rest, axis=1)
        found, rest = found + step, rest - step[:, None]
    return found


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where values lie; ``pool`` holds deviations whose mean square is the variance of one of ``n`` values.

    ``df``: degrees of freedom of that variance.
    """

    centre: float
    pool: Array
    df: int


def locate(values: Array, other: Array) -> Location:
    """Return Huber's estimate of location, and what its error is to be drawn from.

    Args:
        values: what to locate, at least one.
        other: values around zero that scatter as ``values`` do around their centre; may be empty.

    The deviations are influence values (Huber & Ronchetti, *Robust Statistics*, 2009, chapter 6): clipped at 1.5 scales
    and divided by the share that is not clipped. Those of both kinds together have more degrees of freedom. Where those
    of ``values`` alone tell of a larger variance they are used alone: what is located may scatter more than ``other``.
    For the same reason the scale is the larger of the two.
    """
    n = len(values)
    centre = float(np.median(values))
    distances = np.concatenate([np.abs(values - centre), np.abs(other)])
    known = n - 1 + len(other)
    if known == 0 or not distances.any():
        return Location(centre=centre, pool=np.zeros(1), df=known)
    scale = max(_scale(distances, known), _scale(distances[:n], n - 1)) or float(distances.mean())
    for _ in range(_STEPS):
        weights = np.minimum(1.0, _CLIP * scale / np.maximum(np.abs(values - centre), 1e-300))
        moved = float(weights @ values / weights.sum())
        if abs(moved - centre) < 1e-9 * scale:
            break
        centre = moved
    both = _influences(np.concatenate([values - centre, other]), scale, known)
    if n == 1:
        return Location(centre=centre, pool=both, df=known)
    own = _influences(values - centre, scale, n - 1)
    if np.mean(own**2) > np.mean(both**2):
        return Location(centre=centre, pool=own, df=n - 1)
    return Location(centre=centre, pool=both, df=known)


def _scale(distances: Array, df: int) -> float:
    return _NORMAL * float(np.median(distances)) * len(distances) / df if df else 0.0


def _influences(deviations: Array, scale: float, df: int) -> Array:
    """Return influence values, enlarged for the degrees of freedom spent and for small samples (Huber's factor)."""
    n = len(deviations)
    inside = max(_FEWEST_INSIDE, float(np.mean(np.abs(deviations) < _CLIP * scale)))
    clipped = np.clip(deviations, -_CLIP * scale, _CLIP * scale) / inside
    enlarged: Array = clipped * (np.sqrt(n / df) * (1 + (1 - inside) / inside / n))
    return enlarged
