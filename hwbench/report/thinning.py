"""Samples made fewer, for drawing only: the record in the page keeps all of them."""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Sequence

from hwbench.stats import quantile

ECDF_POINTS = 2000
SERIES_POINTS = 4000
BLOCKS = 50


def thin_sorted(ordered: Sequence[float], limit: int) -> list[int]:
    """Return at most ``limit`` evenly spread indexes, the first and the last among them."""
    n = len(ordered)
    if n <= limit:
        return list(range(n))
    return [round(step * (n - 1) / (limit - 1)) for step in range(limit)]


def thin_series(values: Sequence[float], limit: int) -> list[int]:
    """Return at most ``limit`` indexes in order: the lowest and the highest of equal stretches, so spikes stay."""
    n = len(values)
    if n <= limit:
        return list(range(n))
    stretches = limit // 2
    kept: set[int] = set()
    for stretch in range(stretches):
        span = range(stretch * n // stretches, (stretch + 1) * n // stretches)
        kept.update((min(span, key=values.__getitem__), max(span, key=values.__getitem__)))
    return sorted(kept)


def block_medians(values: Sequence[float], blocks: int = BLOCKS) -> tuple[list[float], list[float]]:
    """Return the middle index and the median of each of ``blocks`` equal stretches (fewer for short series)."""
    n = len(values)
    blocks = max(1, min(blocks, n // 5))
    edges = [block * n // blocks for block in range(blocks + 1)]
    spans = list(itertools.pairwise(edges))
    return [(a + b - 1) / 2 for a, b in spans], [statistics.median(values[a:b]) for a, b in spans]


def histogram(ordered: Sequence[float]) -> tuple[list[float], list[int], int]:
    """Return bin edges, counts, and how many samples lie above the last edge.

    Bins after Freedman and Diaconis (1981), 10 to 80 of them, up to three interquartile ranges over the upper quartile.
    """
    low, high = ordered[0], ordered[-1]
    iqr = quantile(ordered, 0.75) - quantile(ordered, 0.25)
    if iqr > 0:
        high = min(high, quantile(ordered, 0.75) + 3 * iqr)
    if high <= low:
        return [low, low], [len(ordered)], 0
    width = 2 * iqr / len(ordered) ** (1 / 3)
    bins = max(10, min(80, math.ceil((high - low) / width))) if width > 0 else 10
    edges = [low + (high - low) * step / bins for step in range(bins + 1)]
    below = [bisect.bisect_left(ordered, edge) for edge in edges[:-1]] + [bisect.bisect_right(ordered, high)]
    return edges, [b - a for a, b in itertools.pairwise(below)], len(ordered) - below[-1]
