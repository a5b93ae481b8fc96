"""Non-negative least squares that a few wild measurements cannot bend."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwbench.errors import UsageError

Array = np.ndarray[Any, np.dtype[np.float64]]

_ROUNDS = 6
_BEND = 1.345  # of standard deviations: Huber's constant, 95 % as efficient as least squares on normal errors


def robust_nnls(features: Array, values: Array, weights: Array) -> Array:
    """Return x >= 0 with the least sum of Huber's loss of ``weights * (features @ x - values)``.

    Iteratively reweighted, with the scale from the median absolute residual (Huber 1981). Columns are scaled to one
    length, so that units do not matter.

    Args:
        features: [rows, columns].
        values: [rows].
        weights: [rows]; ``1 / values`` makes errors relative.
    """
    nnls = _nnls()
    matrix, wanted = features * weights[:, None], values * weights
    lengths = np.linalg.norm(matrix, axis=0)
    usable = lengths > 0
    matrix = matrix / np.where(usable, lengths, 1.0)
    trust = np.ones(len(values))
    solution = np.zeros(matrix.shape[1])
    for _ in range(_ROUNDS):
        root = np.sqrt(trust)
        solution, _ = nnls(matrix * root[:, None], wanted * root)
        residual = np.abs(matrix @ solution - wanted)
        scale = 1.4826 * float(np.median(residual))
        if scale <= 1e-12:
            break
        trust = np.minimum(1.0, _BEND * scale / np.maximum(residual, 1e-300))
    found: Array = np.where(usable, solution / np.where(usable, lengths, 1.0), 0.0)
    return found


def _nnls() -> Any:
    try:
        from scipy.optimize import nnls
    except ImportError as error:
        raise UsageError("fitting costs needs scipy", hint="pip install 'hwbench-nn[plan]'") from error
    return nnls
