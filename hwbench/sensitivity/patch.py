"""What is replaced in a torch view, and nothing about how it was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwbench.fake_quant.grids import FloatGrid, Grid

Array = np.ndarray[Any, np.dtype[Any]]
Place = tuple[str, int]  # a node by its name, and which of its inputs


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A tensor on a grid; ``readers``: only these read it so; ``clipped``: cut off at the grid's ends, not rounded."""

    grid: Grid | FloatGrid
    readers: frozenset[str] | None = None
    clipped: bool = False


@dataclass(frozen=True, kw_only=True)
class Patch:
    """What is replaced. ``weights``: constants as single nodes read them, float32. ``cut``: inputs that are zero.

    ``rounded``: by tensor; on several grids where its readers have different ones. ``stands``: by layer that stands
    for a block, the node that passes on what it puts out, and the Add whose result that is to be.
    """

    weights: Mapping[Place, Array] = field(default_factory=dict)
    rounded: Mapping[str, tuple[Rounded, ...]] = field(default_factory=dict)
    cut: frozenset[Place] = frozenset()
    stands: Mapping[str, tuple[str, str]] = field(default_factory=dict)
