"""Costs of clusters, of borders and of whole networks on one platform, fitted on networks that were built and timed.

    latency(design) = start + sum over clusters + sum over borders

Each cluster's part is its curve (:mod:`hwbench.tables.curve`), times what the whole networks say that the profiler's
times are worth, plus what they say that any cluster takes beside its kernels; each border's part likewise. So the sum
of the parts is the prediction of the whole, and a solver that adds them up solves for what is predicted.

The interval is split-conformal (Papadopoulos et al. 2002; Lei et al. 2018, arXiv:1604.04173): the quantile of the
absolute logarithms of measured / predicted, each of a network that the model which predicted it had not seen.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from hwbench.errors import UsageError
from hwbench.plan.designs import sizes_of
from hwbench.records.base import Missing
from hwbench.records.planning import (
    Cluster,
    ClusterTime,
    CostSample,
    Design,
    Interval,
    Platform,
    Sizes,
    Space,
)
from hwbench.records.quantization import Scheme
from hwbench.tables.borders import Crossing, crossings
from hwbench.tables.curve import Curve, Points, Spread, points_of
from hwbench.tables.least_squares import Array, robust_nnls
from hwbench.tables.quantum import quantum

FEWEST = 10  # networks: fewer have no 90 % interval
COVERAGE = 0.9
_FOLDS = 10

_Key = tuple[str, Scheme, bool]  # kind, scheme as built, whether it is two factors


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What whole networks say of the parts, in seconds and as factors of profiled times."""

    start_s: float
    clusters: float
    borders: float
    each_cluster_s: float


class CostModel:
    """Costs on one platform. Make it with :func:`fit`.

    Attributes:
        platform: what the costs are of.
        whole: the correction that makes parts add up to the whole.
        residuals: logarithms of measured / predicted, of networks that were not in the fit.
        designs: of those, in the same order.
    """

    def __init__(self, platform: Platform, parts: _Parts, whole: Whole) -> None:
        self.platform = platform
        self.whole = whole
        self.residuals: tuple[float, ...] = ()
        self.designs: tuple[Design, ...] = ()
        self._parts = parts

    @property
    def start_s(self) -> float:
        """What a network takes beyond its clusters and borders."""
        return self.whole.start_s

    def built(self, cluster: Cluster, scheme: Scheme) -> Scheme:
        """Return in what the runtime builds a cluster when asked for ``scheme``; it may refuse, and stay in float."""
        return self._parts.built(cluster, scheme)

    def knows(self, cluster: Cluster, scheme: Scheme) -> bool:
        """Say whether any network was measured in which a cluster of this kind was of this scheme."""
        return (cluster.kind, self.built(cluster, scheme), False) in self._parts.curves

    def cluster(self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme) -> Array:
        """Return the part of a cluster at each of several sizes, in seconds, [sizes].

        Raises:
            UsageError: no network was measured in which a cluster of this kind was of this scheme.
        """
        profiled = self._parts.cluster(cluster, sizes, scheme)
        return self.whole.clusters * profiled + self.whole.each_cluster_s

    def uncertainty(self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme) -> Array:
        """Return the standard deviation of the logarithm of a cluster's part, [sizes]; raises like :meth:`cluster`."""
        return self._parts.deviation(cluster, sizes, scheme)

    def border(self, scheme_from: Scheme, scheme_to: Scheme, elements: int) -> float:
        """Return the part of a tensor of ``elements`` that is made in one scheme and read in another, in seconds."""
        if scheme_from == scheme_to:
            return 0.0
        return self.whole.borders * self._parts.border(f"{scheme_from}>{scheme_to}", elements)

    def sum(self, space: Space, design: Design) -> float:
        """Return the sum of the parts and the start, in seconds."""
        return float(self._sums(space, [design])[0])

    def predict(self, space: Space, design: Design) -> Interval:
        """Return the latency of a design, with the interval that held it in nine of ten networks not in the fit."""
        value = self.sum(space, design)
        width = self.interval()
        return Interval(
            value=value,
            low=value * math.exp(-width),
            high=value * math.exp(width),
            coverage=COVERAGE,
            tier="A",
            n=len(self.residuals),
            method="measured parts, affine correction, split-conformal on cross-validated log residuals",
        )

    def interval(self, coverage: float = COVERAGE) -> float:
        """Return the half-width of the interval, as a logarithm.

        Raises:
            UsageError: there are too few networks for the coverage.
        """
        return conformal(self.residuals, coverage)

    def _sums(self, space: Space, designs: Sequence[Design]) -> Array:
        return self._parts.columns(space, designs) @ _coefficients(self.whole)


def fit(
    samples: Sequence[CostSample], space: Space, *, known: Sequence[ClusterTime] = (), folds: int = _FOLDS
) -> CostModel:
    """Return the costs that samples of one platform and one network tell.

    Args:
        samples: networks that were built and timed; :data:`FEWEST` at least.
        space: what could be chosen for the network.
        known: times of clusters of other networks on the same platform, which help where this one has few.
        folds: of the cross-validation that the interval rests on.

    Raises:
        UsageError: samples are too few, or of several platforms or networks; or scipy is not installed.
    """
    _check(samples, space)
    scaled = [normalised(sample, level) for level in [reference_level(samples)] for sample in samples]
    names = {each.name for each in space.clusters}
    foreign = [time for time in known if time.cluster not in names]
    model = _fitted(scaled, space, foreign, None)
    spreads = {key: curve.spread for key, curve in model._parts.curves.items()}
    order = np.random.default_rng(0).permutation(len(scaled))
    residuals: dict[int, float] = {}
    for fold in range(min(folds, len(scaled))):
        held = set(order[fold::folds].tolist())
        rest = [sample for index, sample in enumerate(scaled) if index not in held]
        partial = _fitted(rest, space, foreign, spreads)
        for index in held:
            try:
                predicted = partial.sum(space, scaled[index].design)
            except UsageError:  # a kind in a scheme that this network alone has
                continue
            residuals[index] = math.log(scaled[index].median_s / predicted)
    model.residuals = tuple(residuals[index] for index in sorted(residuals))
    model.designs = tuple(scaled[index].design for index in sorted(residuals))
    return model


def conformal(residuals: Sequence[float], coverage: float) -> float:
    """Return the ceil((n + 1) coverage)-th smallest absolute residual.

    Raises:
        UsageError: n is too small: no residual stands for that share.
    """
    place = math.ceil((len(residuals) + 1) * coverage - 1e-9)
    if place > len(residuals):
        raise UsageError(f"{len(residuals)} networks hold no interval of {coverage:.0%}", hint="measure more")
    return sorted(abs(each) for each in residuals)[place - 1]


def reference_level(samples: Sequence[CostSample]) -> float | None:
    """Return what the unchanged network takes when the machine is as it mostly was, or None where it was not timed."""
    found = [sample.reference_s for sample in samples if not isinstance(sample.reference_s, Missing)]
    return statistics.median(found) if found else None


def normalised(sample: CostSample, level: float | None) -> CostSample:
    """Return a sample as it would be had the machine been as it mostly was: all times by the reference's."""
    if level is None or isinstance(sample.reference_s, Missing):
        return sample
    scale = level / sample.reference_s
    clusters = tuple(msgspec.structs.replace(each, time_s=each.time_s * scale) for each in sample.clusters)
    border = msgspec.structs.replace(sample.border, time_s=sample.border.time_s * scale)
    return msgspec.structs.replace(
        sample, clusters=clusters, border=border, median_s=sample.median_s * scale, reference_s=level
    )


def _check(samples: Sequence[CostSample], space: Space) -> None:
    if len(samples) < FEWEST:
        raise UsageError(f"{len(samples)} networks were measured, and costs need {FEWEST}", hint="measure more")
    if len({sample.platform for sample in samples}) > 1:
        raise UsageError("the samples are of several platforms, whose costs are apart")
    if {sample.hub_sha256 for sample in samples} != {space.hub_sha256}:
        raise UsageError("the samples are of another network than the space")


def _fitted(
    samples: Sequence[CostSample], space: Space, foreign: Sequence[ClusterTime], spreads: Mapping[_Key, Spread] | None
) -> CostModel:
    parts = _Parts(samples, space, foreign, spreads)
    columns = parts.columns(space, [sample.design for sample in samples])
    measured = np.array([sample.median_s for sample in samples])
    start, clusters, borders, each = robust_nnls(columns, measured, 1 / measured)
    whole = Whole(start_s=float(start), clusters=float(clusters), borders=float(borders), each_cluster_s=float(each))
    return CostModel(samples[0].platform, parts, whole)


def _coefficients(whole: Whole) -> Array:
    return np.array([whole.start_s, whole.clusters, whole.borders, whole.each_cluster_s])


class _Parts:
    """Curves of clusters and costs of borders, in the profiler's seconds."""

    def __init__(
        self,
        samples: Sequence[CostSample],
        space: Space,
        foreign: Sequence[ClusterTime],
        spreads: Mapping[_Key, Spread] | None,
    ) -> None:
        self._owner = {each.name: at for at, each in enumerate(space.clusters)}
        self._asked = _refusals(samples)
        platform = samples[0].platform
        times: dict[_Key, list[ClusterTime]] = {}
        for time in (*(time for sample in samples for time in sample.clusters), *foreign):
            times.setdefault((time.kind, time.scheme, time.sizes.rank > 0), []).append(time)
        self._kernels = {
            name: at for at, name in enumerate(sorted({t.kernel for ts in times.values() for t in ts if t.kernel}))
        }
        self.curves = {
            key: Curve(
                self._points(mine),
                np.array([time.time_s for time in mine]),
                quantum(platform, key[1]),
                None if spreads is None else spreads.get(key),
            )
            for key, mine in times.items()
        }
        self._borders = _border_costs(samples, space)

    def _points(self, times: Sequence[ClusterTime]) -> Points:
        return Points(
            sizes=tuple(time.sizes for time in times),
            owner=np.array([self._owner.get(time.cluster, -1) for time in times]),
            kernel=np.array([self._kernels.get(time.kernel or "", -1) for time in times]),
        )

    def built(self, cluster: Cluster, scheme: Scheme) -> Scheme:
        own = self._asked.get((cluster.name, scheme))
        return (own or self._asked.get((cluster.kind, scheme)) or Counter({scheme: 1})).most_common(1)[0][0]

    def cluster(self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme) -> Array:
        found = np.zeros(len(sizes))
        for ranked in (False, True):
            at = [index for index, each in enumerate(sizes) if (each.rank > 0) == ranked]
            if at:
                curve, points, factor = self._curve(cluster, [sizes[index] for index in at], scheme, ranked=ranked)
                found[at] = curve.at(points) * factor
        return found

    def deviation(self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme) -> Array:
        found = np.zeros(len(sizes))
        for ranked in (False, True):
            at = [index for index, each in enumerate(sizes) if (each.rank > 0) == ranked]
            if at:
                curve, points, _ = self._curve(cluster, [sizes[index] for index in at], scheme, ranked=ranked)
                found[at] = curve.deviation(points)
        return found

    def _curve(
        self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme, *, ranked: bool
    ) -> tuple[Curve, Points, float]:
        """Return the curve for sizes, as points on it, and a factor.

        Where no network was measured in which a layer of this kind was two factors, they cost by the curve of one
        layer, half as much again for the second one.
        """
        got = self.built(cluster, scheme)
        points = points_of(sizes, self._owner.get(cluster.name, -1))
        for key, factor in (((cluster.kind, got, ranked), 1.0), ((cluster.kind, got, False), 1.5)):
            if key in self.curves:
                return self.curves[key], points, factor
        raise UsageError(
            f"no network was measured in which a cluster '{cluster.kind}' is {got}",
            hint="measure one in which every layer is so",
        )

    def border(self, kind: str, elements: int) -> float:
        """Return what one tensor that crosses takes; a kind of border that never was takes nothing."""
        each, per_element = self._borders.get(kind, (0.0, 0.0))
        return each + per_element * elements

    def columns(self, space: Space, designs: Sequence[Design]) -> Array:
        """Return by design 1, the clusters' sum, the borders' sum and the number of clusters, [designs, 4]."""
        rows = np.zeros((len(designs), 4))
        rows[:, 0] = 1.0
        for cluster in space.clusters:
            at: dict[Scheme, tuple[list[int], list[Sizes]]] = {}
            for index, design in enumerate(designs):
                sizes = sizes_of(cluster, space, design)
                if sizes is not None:
                    indices, mine = at.setdefault(design.of(cluster.name), ([], []))
                    indices.append(index)
                    mine.append(sizes)
            for scheme, (indices, mine) in at.items():
                rows[indices, 1] += self.cluster(cluster, mine, scheme)
                rows[indices, 3] += 1
        for index, design in enumerate(designs):
            rows[index, 2] = sum(self.border(each.kind, each.elements) for each in crossings(space, design))
        return rows


def _refusals(samples: Sequence[CostSample]) -> dict[tuple[str, Scheme], Counter[Scheme]]:
    """Return by cluster, and by kind, and by what was asked for, what was built and how often."""
    found: dict[tuple[str, Scheme], Counter[Scheme]] = {}
    for sample in samples:
        for time in sample.clusters:
            asked = sample.design.of(time.cluster)
            for name in (time.cluster, time.kind):
                found.setdefault((name, asked), Counter())[time.scheme] += 1
    return found


def _border_costs(samples: Sequence[CostSample], space: Space) -> dict[str, tuple[float, float]]:
    """Return by kind of border what a tensor takes, and each of its elements, in seconds."""
    found: list[tuple[Crossing, ...]] = [crossings(space, sample.design) for sample in samples]
    kinds = sorted({each.kind for one in found for each in one})
    rows = np.ones((len(samples), 1 + 2 * len(kinds)))
    for row, borders in zip(rows, found, strict=True):
        for at, kind in enumerate(kinds):
            mine = [each.elements for each in borders if each.kind == kind]
            row[1 + 2 * at : 3 + 2 * at] = len(mine), sum(mine)
    times = np.array([sample.border.time_s for sample in samples])
    weights = 1 / np.array([sample.median_s for sample in samples])
    solution = robust_nnls(rows, times, weights)
    return {kind: (float(solution[1 + 2 * at]), float(solution[2 + 2 * at])) for at, kind in enumerate(kinds)}
