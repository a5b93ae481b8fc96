"""Which weights are kept or removed as a whole, such as a channel with all that makes it. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Where the units of a group lie in one initialiser: ``units[i]`` is the unit of index ``i`` of ``axis``, or -1."""

    tensor: str
    axis: int
    units: Array


@dataclass(frozen=True, kw_only=True)
class UnitGroup:
    """``size`` units. ``weights`` make them; ``rest`` belongs to them too (biases, norms) and goes when they go."""

    name: str
    size: int
    weights: Sequence[Slice]
    rest: Sequence[Slice] = ()
