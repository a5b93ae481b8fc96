"""What units that a runtime inserted take: at crossings between schemes, and around clusters between layouts.

A conversion belongs to a crossing. But runtimes also insert reorders between layers of one scheme, where a layer's
channels do not fit the blocks of their favourite layout. Those are told by the sizes of the cluster alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hwbench.records.planning import CostSample, Sizes, Space
from hwbench.records.quantization import Scheme
from hwbench.tables.borders import Crossing, crossings
from hwbench.tables.curve import odd
from hwbench.tables.least_squares import Array, robust_nnls
from hwbench.tables.quantum import quantum

_AROUND = 4  # features of a cluster


class BorderCosts:
    """Fitted on the inserted units of whole networks, all of them at once."""

    def __init__(self, samples: Sequence[CostSample], space: Space) -> None:
        """Fit by non-negative least squares, with errors relative to the time of the network."""
        self._platform = samples[0].platform
        found: list[tuple[Crossing, ...]] = [crossings(space, sample.design) for sample in samples]
        self._kinds = sorted({each.kind for one in found for each in one})
        self._schemes = sorted({time.scheme for sample in samples for time in sample.clusters})
        rows = np.array(
            [
                [1.0, *self._of_crossings(borders), *self._of_clusters(sample)]
                for sample, borders in zip(samples, found, strict=True)
            ]
        )
        times = np.array([sample.border.time_s for sample in samples])
        solution = robust_nnls(rows, times, 1 / np.array([sample.median_s for sample in samples]))
        split = 1 + 2 * len(self._kinds)
        self._crossing = dict(zip(self._kinds, solution[1:split].reshape(-1, 2), strict=True))
        self._around = dict(zip(self._schemes, solution[split:].reshape(-1, _AROUND), strict=True))

    def crossing(self, kind: str, elements: int) -> float:
        """Return what one tensor that crosses takes, in seconds; a kind of border that never was takes nothing."""
        if kind not in self._crossing:
            return 0.0
        each, per_element = self._crossing[kind]
        return float(each + per_element * elements)

    def around(self, sizes: Sequence[Sizes], scheme: Scheme) -> Array:
        """Return what is inserted around a cluster at each of some sizes, in seconds, [sizes]."""
        if scheme not in self._around:
            return np.zeros(len(sizes))
        found: Array = self._features(sizes, scheme) @ self._around[scheme]
        return found

    def _of_crossings(self, borders: Sequence[Crossing]) -> Iterator[float]:
        for kind in self._kinds:
            mine = [each.elements for each in borders if each.kind == kind]
            yield len(mine)
            yield sum(mine)

    def _of_clusters(self, sample: CostSample) -> list[float]:
        found: list[float] = []
        for scheme in self._schemes:
            sizes = [time.sizes for time in sample.clusters if time.scheme == scheme]
            found += self._features(sizes, scheme).sum(axis=0).tolist()
        return found

    def _features(self, sizes: Sequence[Sizes], scheme: Scheme) -> Array:
        """Return elements in and out where channels do not fit, elements out, and 1 where any do not fit."""
        unfit = odd(sizes, quantum(self._platform, scheme))
        elements = np.array([(each.elements_in, each.elements_out) for each in sizes], np.float64).reshape(-1, 2)
        return np.hstack([elements * unfit, elements[:, 1:], unfit.max(axis=1, initial=0.0)[:, None]])
