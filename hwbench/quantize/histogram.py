"""A histogram that grows: values come in a stream, and nobody knows beforehand how large they will be.

The bins lie evenly on [-2^k, 2^k). A larger value doubles the range as often as is needed, and neighbouring bins become
one. Every edge of the wider bins is an edge of the narrower ones, so what comes out is, count for count, the histogram
that the whole stream would have given at once, in any order: there is no need for a first pass over the data to find
the range, which would double the time.

Exact zeros are counted apart. Every quantiser here represents zero exactly, so they add no error, and after a ReLU they
would drown everything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BINS = 8192  # over both signs: at least 2048 on the side that reaches further
_HALF = BINS // 2
_SMALLEST = -100  # 2^-100: the inverse of the width of a bin must fit float32

Floats = np.ndarray[Any, np.dtype[Any]]


@dataclass(kw_only=True)
class Histogram:
    """Counts of the values of one tensor.

    ``counts`` has :data:`BINS` numbers, from ``-bound`` to ``bound``; ``bound`` is a power of two, 0 while nothing but
    zeros has come. ``low`` and ``high`` are the extremes of all values, also of those given to :meth:`saw` alone.
    """

    bound: float = 0.0
    zeros: int = 0
    low: float = math.inf
    high: float = -math.inf
    counts: Floats = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))

    def saw(self, low: float, high: float) -> None:
        """Widen the extremes, by values that are not all counted.

        Raises:
            ValueError: they are not finite, or ``low`` lies above ``high``.
        """
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(f"extremes must be finite and in order, got {low} and {high}")
        self.low, self.high = min(self.low, low), max(self.high, high)

    def add(self, values: Floats) -> None:
        """Count values.

        Raises:
            ValueError: one of them is NaN or infinite.
        """
        flat = values.reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        self.saw(low, high)
        self._reach(max(abs(low), abs(high)))
        if self.bound == 0.0:
            self.zeros += flat.size
            return
        index = np.floor(flat * flat.dtype.type(_HALF / self.bound)).astype(np.int32)
        index += _HALF
        counts = np.bincount(index, minlength=BINS)
        zeros = flat.size - int(np.count_nonzero(flat))
        counts[_HALF] -= zeros
        self.zeros += zeros
        self.counts += counts

    def _reach(self, largest: float) -> None:
        """Double the range until ``largest`` lies inside."""
        if largest < self.bound or largest == 0.0:
            return
        wanted = math.ldexp(1.0, max(math.frexp(largest)[1], _SMALLEST))
        if self.bound == 0.0 or wanted <= self.bound:
            self.bound = wanted
            return
        merged = min(round(wanted / self.bound), _HALF)
        inner = self.counts.reshape(-1, merged).sum(axis=1)
        start = (BINS - len(inner)) // 2
        self.counts = np.zeros(BINS, dtype=np.int64)
        self.counts[start : start + len(inner)] = inner
        self.bound = wanted

    @property
    def total(self) -> int:
        """How many values have been counted, zeros among them."""
        return self.zeros + int(self.counts.sum())

    @property
    def width(self) -> float:
        """The width of a bin, in the unit of the values."""
        return self.bound / _HALF

    def side(self, sign: int) -> Floats:
        """Return the counts of the values of one sign, from zero outwards, as far as the extreme of that sign."""
        reach = self.high if sign > 0 else -self.low
        used = 0 if self.bound == 0.0 or reach <= 0 else min(_HALF, math.floor(reach / self.width) + 1)
        outwards: Floats = self.counts[_HALF:] if sign > 0 else self.counts[:_HALF][::-1]
        return outwards[:used]

    def magnitudes(self) -> Floats:
        """Return the counts of the magnitudes, from zero outwards, as far as the largest."""
        one, other = self.side(1), self.side(-1)
        longest, shortest = (one, other) if len(one) >= len(other) else (other, one)
        both: Floats = longest.copy()
        both[: len(shortest)] += shortest
        return both
