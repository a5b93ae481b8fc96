"""Random tensors that are the same bits on every machine and with every version of numpy and torch.

``torch.rand`` and ``numpy.random.Generator`` may differ between versions or CPUs. The raw words of PCG64 may not
(numpy's NEP 19 fixes bit streams), and everything here is made of those words by exactly rounded arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch


class BitStream:
    """A stream of random words; each call takes the next ones."""

    def __init__(self, seed: int) -> None:
        self._words = np.random.PCG64(seed)

    def uniform(self, shape: Sequence[int], low: float, high: float) -> torch.Tensor:
        """Return float32 values in [low, high), from the upper 24 bits of one word each."""
        words = self._words.random_raw(math.prod(shape))
        unit = (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
        return torch.from_numpy(unit * np.float32(high - low) + np.float32(low)).reshape(tuple(shape))

    def integers(self, shape: Sequence[int], low: int, high: int) -> torch.Tensor:
        """Return int64 values in [low, high); the bias of the remainder is below (high - low) / 2**64."""
        words = self._words.random_raw(math.prod(shape))
        return torch.from_numpy((words % np.uint64(high - low)).astype(np.int64) + low).reshape(tuple(shape))
