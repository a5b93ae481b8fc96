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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwbench import stats
from hwbench.errors import UsageError
from hwbench.plan.designs import sizes_of
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
from hwbench.tables.border_costs import BorderCosts
from hwbench.tables.borders import crossings
from hwbench.tables.curve import Curve, Points, Spread, points_of
from hwbench.tables.least_squares import Array, robust_nnls
from hwbench.tables.pace import at_one_pace, known_times
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
        residuals: logarithms of measured / predicted, of networks that were not in the fit. Where a network alone has a
            kind of cluster in some scheme, it is predicted by the curve of the kind in another one; infinite where
            there is none.
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
        profiled, inserted = self._parts.cluster(cluster, sizes, scheme), self._parts.layout(cluster, sizes, scheme)
        return self.whole.clusters * profiled + self.whole.borders * inserted + self.whole.each_cluster_s

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
        method = "measured parts, affine correction, split-conformal on cross-validated log residuals"
        return around(self.sum(space, design), self.residuals, method)

    def interval(self, coverage: float = COVERAGE) -> float:
        """Return the half-width of the interval, as a logarithm.

        Raises:
            UsageError: there are too few networks for the coverage.
        """
        return half_width(self.residuals, coverage)

    def _sums(self, space: Space, designs: Sequence[Design]) -> Array:
        return self._parts.columns(space, designs) @ _coefficients(self.whole)


def fit(
    samples: Sequence[CostSample], space: Space, *, known: Sequence[CostSample] = (), folds: int = _FOLDS
) -> CostModel:
    """Return the costs that samples of one platform and one network tell.

    Args:
        samples: networks that were built and timed; :data:`FEWEST` dense ones at least. Those with zeros are left out:
            what zeros save is :mod:`hwbench.tables.zeros`' affair.
        space: what could be chosen for the network.
        known: samples of other networks on the same platform, whose clusters help where this one has few of a kind.
        folds: of the cross-validation that the interval rests on.

    Raises:
        UsageError: samples are too few, or of several platforms or networks; or scipy is not installed.
    """
    dense = [sample for sample in samples if not sample.design.zeros]
    _check(dense, space)
    scaled = at_one_pace(dense)
    foreign = known_times(
        [sample for sample in known if not sample.design.zeros], {each.kind for each in space.clusters}
    )
    model = _fitted(scaled, space, foreign, None)
    spreads = {key: curve.spread for key, curve in model._parts.curves.items()}
    order = np.random.default_rng(0).permutation(len(scaled))
    residuals: dict[int, float] = {}
    for fold in range(min(folds, len(scaled))):
        held = set(order[fold::folds].tolist())
        rest = [sample for index, sample in enumerate(scaled) if index not in held]
        partial = _fitted(rest, space, foreign, spreads, stand_in=True)
        for index in held:
            residuals[index] = _residual(partial, space, scaled[index])
    model.residuals = tuple(residuals[index] for index in sorted(residuals))
    model.designs = tuple(scaled[index].design for index in sorted(residuals))
    return model


def _residual(model: CostModel, space: Space, sample: CostSample) -> float:
    try:
        return math.log(sample.median_s / model.sum(space, sample.design))
    except UsageError:  # it has a kind of cluster of which nothing else was measured: no error is too large for it
        return math.inf


def around(value: float, residuals: Sequence[float], method: str) -> Interval:
    """Return the interval around what was predicted that held nine of ten networks not in the fit.

    Raises:
        UsageError: as :func:`half_width`.
    """
    width = half_width(residuals, COVERAGE)
    return Interval(
        value=value,
        low=value * math.exp(-width),
        high=value * math.exp(width),
        coverage=COVERAGE,
        tier="A",
        n=len(residuals),
        method=method,
    )


def half_width(residuals: Sequence[float], coverage: float) -> float:
    """Return the ceil((n + 1) coverage)-th smallest absolute residual.

    Raises:
        UsageError: n is too small: no residual stands for that share; or the one that does is infinite.
    """
    found = stats.conformal(residuals, coverage)
    if found is None:
        raise UsageError(f"{len(residuals)} networks hold no interval of {coverage:.0%}", hint="measure more")
    if math.isinf(found):
        odd = sum(math.isinf(each) for each in residuals)
        raise UsageError(
            f"{odd} of {len(residuals)} networks have layers of which no other tells anything", hint="measure more"
        )
    return found


def _check(samples: Sequence[CostSample], space: Space) -> None:
    if len(samples) < FEWEST:
        raise UsageError(f"{len(samples)} networks were measured, and costs need {FEWEST}", hint="measure more")
    if len({sample.platform for sample in samples}) > 1:
        raise UsageError("the samples are of several platforms, whose costs are apart")
    if {sample.hub_sha256 for sample in samples} != {space.hub_sha256}:
        raise UsageError("the samples are of another network than the space")


def _fitted(
    samples: Sequence[CostSample],
    space: Space,
    foreign: Sequence[ClusterTime],
    spreads: Mapping[_Key, Spread] | None,
    *,
    stand_in: bool = False,
) -> CostModel:
    parts = _Parts(samples, space, foreign, spreads, stand_in=stand_in)
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
        *,
        stand_in: bool,
    ) -> None:
        self._stand_in = stand_in
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
        self._borders = BorderCosts(samples, space)

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

    def layout(self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme) -> Array:
        """Return what a runtime inserts around a cluster, whatever its neighbours are."""
        return self._borders.around(sizes, self.built(cluster, scheme))

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
        layer, half as much again for the second one. Where nothing was measured of the kind in the scheme, and such a
        network is to be predicted all the same, by the curve of the kind in another one.
        """
        got = self.built(cluster, scheme)
        points = points_of(sizes, self._owner.get(cluster.name, -1))
        for key, factor in (((cluster.kind, got, ranked), 1.0), ((cluster.kind, got, False), 1.5)):
            if key in self.curves:
                return self.curves[key], points, factor
        others = [key for key in self.curves if key[0] == cluster.kind] if self._stand_in else []
        if others:
            return self.curves[others[0]], points, 1.0
        raise UsageError(
            f"no network was measured in which a cluster '{cluster.kind}' is {got}",
            hint="measure one in which every layer is so",
        )

    def border(self, kind: str, elements: int) -> float:
        """Return what one tensor that crosses takes; a kind of border that never was takes nothing."""
        return self._borders.crossing(kind, elements)

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
                rows[indices, 2] += self.layout(cluster, mine, scheme)
                rows[indices, 3] += 1
        for index, design in enumerate(designs):
            rows[index, 2] += sum(self.border(each.kind, each.elements) for each in crossings(space, design))
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
