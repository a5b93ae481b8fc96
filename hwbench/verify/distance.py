"""How far an output is from the reference's."""

from __future__ import annotations

import math

import numpy as np

from hwbench.records.base import Missing
from hwbench.verify.metrics import cosine
from hwbench.verify.stores import Array

_SILENT = Missing(code="no_signal", why="the reference puts out nothing but zeros")


def rows(array: Array) -> Array:
    """Return an output in float64, a row a sample."""
    wide: Array = array.astype(np.float64).reshape(len(array) if array.ndim else 1, -1)
    return wide


def sqnr_db(mine: Array, theirs: Array) -> float | Missing:
    """Return 10 log10 of the reference's power over the error's, of rows; Missing where one of the two is nothing."""
    signal, noise = float(np.sum(theirs * theirs)), float(np.sum((mine - theirs) ** 2))
    if noise == 0:
        return Missing(code="no_error", why="equal to the last bit")
    return 10 * math.log10(signal / noise) if signal else _SILENT


def smallest_cosine(mine: Array, theirs: Array) -> float | Missing:
    """Return the smallest cosine of a row with the reference's."""
    return float(cosine(mine, theirs).min()) if theirs.any() else _SILENT
