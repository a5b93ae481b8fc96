"""Least squares with no negative coefficient, by the active-set method of Lawson and Hanson.

*Solving Least Squares Problems* (1974), chapter 23, algorithm NNLS. Written here because the problems are small (some
tens of layers) and nothing else in hwbench needs a solver.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
_ROUNDING = 1e-10


def nnls(design: Floats, seen: Floats) -> Floats:
    """Return the ``x >= 0`` that makes ``|design @ x - seen|`` least.

    Args:
        design: m x n.
        seen: m.

    Raises:
        RuntimeError: no convergence in ``3 n`` changes of the active set (numbers that are not finite).
    """
    columns = design.shape[1]
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1.0
    scaled = design / scale
    x = np.zeros(columns)
    passive = np.zeros(columns, dtype=bool)
    tolerance = _ROUNDING * float(np.linalg.norm(seen)) + np.finfo(float).tiny
    for _ in range(3 * columns + 1):
        gradient = scaled.T @ (seen - scaled @ x)
        candidates = np.where(passive, -np.inf, gradient)
        if passive.all() or candidates.max() <= tolerance:
            return np.asarray(x / scale)
        passive[int(candidates.argmax())] = True
        x = _feasible(scaled, seen, x, passive)
    msg = "the non-negative fit did not converge"
    raise RuntimeError(msg)


def _feasible(design: Floats, seen: Floats, x: Floats, passive: npt.NDArray[np.bool_]) -> Floats:
    """Solve over the passive set; while any coefficient is negative, step back to where one is zero and drop that."""
    while True:
        trial = np.zeros_like(x)
        trial[passive] = np.linalg.lstsq(design[:, passive], seen, rcond=None)[0]
        negative = passive & (trial <= 0)
        if not negative.any():
            return trial
        fall = x[negative] - trial[negative]
        step = float(np.min(np.where(fall > 0, x[negative] / np.where(fall > 0, fall, 1.0), 0.0)))
        x = x + step * (trial - x)
        passive &= x > _ROUNDING * max(1e-300, float(np.abs(x).max(initial=0.0)))
        x = np.where(passive, x, 0.0)
