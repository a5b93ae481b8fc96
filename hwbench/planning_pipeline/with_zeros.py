"""Costs of designs with zeros, over costs that know of dense layers alone, measured or predicted; seconds and joules.

    a cluster with zeros = the cluster dense in the same arithmetic x what the kernel makes of its product

at the size that the cluster has in the design. Where the kernel does not take that product the layer stays dense, and
costs what it costs dense. A layer that became two factors is dense as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, get_args

import msgspec
import numpy as np

from hwbench.crossover.expected import MARGIN
from hwbench.plan.designs import sizes_of
from hwbench.plan.problem import Array
from hwbench.planning_pipeline.ratios import Ratios
from hwbench.prediction.costs import PredictedCosts
from hwbench.prediction.joules import PredictedJoules
from hwbench.prediction.ordering import ratio
from hwbench.records.base import Missing
from hwbench.records.planning import TWO_FOUR, Cluster, Design, Interval, Sizes, Space, SparseCost, Zeros
from hwbench.records.prediction import Ordering, Prediction
from hwbench.records.quantization import Scheme
from hwbench.sparse.onnx_kernels import LayerProduct
from hwbench.sparse.select import Dense
from hwbench.tables.model import CostModel
from hwbench.tables.power import MeasuredJoules

FEW_BITS: Final[dict[Scheme, Dense]] = {"int8": "int8", "fp8": "int8", "int4-weights": "int4"}  # as the model has them
End = Literal[-1, 0, 1]
"""The low end of an interval, its value, and its high end."""


class Parts(Protocol):
    """What designs without zeros take, in seconds or in joules."""

    def cluster(self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme) -> Array:
        """Return what a cluster takes at each of some sizes."""
        ...

    def border(self, of: Scheme, to: Scheme, elements: int, /) -> float:
        """Return what handing a tensor from one scheme to another takes."""
        ...

    def predict(self, space: Space, design: Design) -> Interval:
        """Return what a whole design takes."""
        ...


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """What zeros make of the time of a cluster.

    ``products``: what layers multiply. ``timed``: what zeros made of a cluster in this network, by its name
    and scheme, which goes before a table.
    """

    products: Mapping[str, LayerProduct] = field(default_factory=dict)
    ratios: Ratios | None = None
    timed: Mapping[tuple[str, Scheme, Zeros], SparseCost] = field(default_factory=dict)

    def factors(self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme, zeros: Zeros, end: End = 0) -> Array:
        """Return what zeros make of a cluster's time at each of some sizes: 1 where it stays dense, [sizes].

        ``end``: of what a timed ratio may be off by, or else a model.
        """
        known = self.timed.get((cluster.name, scheme, zeros))
        there = np.array([each.rank == 0 for each in sizes])
        if known is not None:
            return np.where(there, max(known.ratio + end * known.error, 0.0), 1.0)
        ratios, asked = self._products(cluster, sizes)
        if ratios is None or zeros.format == TWO_FOUR:
            return np.ones(len(sizes))
        off, found = self._off(end), ratios.of(asked, zeros)
        return np.where(there, [1.0 if isinstance(each, Missing) else off * each.ratio for each in found], 1.0)

    def few_bits(self, cluster: Cluster, sizes: Sequence[Sizes], values: Dense, end: End = 0) -> Array:
        """Return what a product of weights of few bits takes over one of fp16; infinite where no model says so."""
        ratios, asked = self._products(cluster, sizes)
        if ratios is None:
            return np.full(len(sizes), np.inf)
        found = [np.inf if size.rank else ratios.dense(each, values) for size, each in zip(sizes, asked, strict=True)]
        return self._off(end) * np.array(found)

    @property
    def by_model(self) -> bool:
        """Whether what was not timed in this network is known by a model alone."""
        return self.ratios is not None and self.ratios.basis == "model"

    def _off(self, end: End) -> float:
        return {-1: MARGIN[0], 0: 1.0, 1: MARGIN[1]}[end] if self.by_model else 1.0

    def _products(self, cluster: Cluster, sizes: Sequence[Sizes]) -> tuple[Ratios | None, list[LayerProduct]]:
        product = self.products.get(cluster.name)
        if product is None or self.ratios is None:
            return None, []
        return self.ratios, [product.of(each.channels_in, each.channels_out) for each in sizes]


class _Adjusted:
    """What a design takes, in seconds or in joules: dense parts times what kernels and few bits make of them."""

    dense: Parts

    def factors(
        self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme, zeros: Zeros | None, end: End = 0
    ) -> Array:
        """Return what is made of a dense cluster at each of some sizes, or an end of its interval, [sizes]."""
        raise NotImplementedError

    def cluster(self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme, zeros: Zeros | None = None) -> Array:
        """Return what a cluster takes at each of some sizes, [sizes]."""
        return self.dense.cluster(cluster, sizes, scheme) * self.factors(cluster, sizes, scheme, zeros)

    def border(self, of: Scheme, to: Scheme, elements: int) -> float:
        """Return what handing a tensor from one scheme to another takes."""
        return self.dense.border(of, to, elements)

    def predict(self, space: Space, design: Design) -> Interval:
        """Return what a design takes: as the dense one, less what is saved in its parts.

        What the model of products leaves open (:data:`hwbench.crossover.expected.MARGIN`), or the noise of what was
        timed, widens the interval, as if it were off to one side in all layers at once.
        """
        dense, ends = self.dense.predict(space, without_zeros(design)), get_args(End)
        saved = [self._saved(space, design, end) for end in ends]
        if not any(saved):  # nor is there anything to save from where all layers are dropped, which may cost nothing
            return dense
        kept = [1 - each / dense.value for each in saved]
        low, value, high = dense.low * kept[0], dense.value * kept[1], dense.high * kept[2]
        return msgspec.structs.replace(
            dense, value=value, low=min(low, value), high=max(high, value),
            method=f"{dense.method}; zeros and few bits by ratios of products",
        )  # fmt: skip

    def _saved(self, space: Space, design: Design, end: End) -> float:
        saved = 0.0
        for cluster, sizes in _there(space, design):
            scheme, zeros = design.of(cluster.name), design.zeros.get(cluster.name)
            if zeros is not None or scheme != "float":
                whole = float(self.dense.cluster(cluster, [sizes], scheme)[0])
                saved += (1 - float(self.factors(cluster, [sizes], scheme, zeros, end)[0])) * whole
        return saved


@dataclass(frozen=True, kw_only=True)
class WithZeros(_Adjusted):
    """Seconds of dense layers and of layers with zeros.

    Where costs are predicted, kernels gain over the model's dense products of few bits; so these, too, take no longer
    than that model says beside fp16. Otherwise zeros would win against an int8 or int4 that is too slow.
    """

    dense: CostModel | PredictedCosts
    shrunk: Shrunk = field(default_factory=Shrunk)

    def factors(
        self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme, zeros: Zeros | None, end: End = 0
    ) -> Array:
        """Return what is made of a dense cluster's time at each of some sizes, [sizes]."""
        if zeros is not None:
            return self.shrunk.factors(cluster, sizes, scheme, zeros, end)
        found = np.ones(len(sizes))
        if not isinstance(self.dense, PredictedCosts) or scheme not in FEW_BITS:
            return found
        few = self.shrunk.few_bits(cluster, sizes, FEW_BITS[scheme], end)
        return np.minimum(
            found, few * self.dense.cluster(cluster, sizes, "float") / self.dense.cluster(cluster, sizes, scheme)
        )

    @property
    def start_s(self) -> float:
        """What an inference takes beyond its parts, in seconds."""
        return self.dense.start_s

    def modelled(self, space: Space, design: Design) -> bool:
        """Say whether a model alone knows what a design gains by zeros or by few bits."""
        if not self.shrunk.by_model:
            return False
        if any((name, design.of(name), zeros) not in self.shrunk.timed for name, zeros in design.zeros.items()):
            return True
        there = [each for each in _there(space, design) if each[0].name not in design.zeros]
        return any(self.factors(cluster, [sizes], design.of(cluster.name), None)[0] < 1 for cluster, sizes in there)

    def compare(self, space: Space, a: Design, b: Design) -> Ordering:
        """Return how two designs are to each other on a device that is not attached."""
        assert isinstance(self.dense, PredictedCosts)
        return ratio(self._prediction(space, a, "a"), self._prediction(space, b, "b"), self.dense.predictor)

    def _prediction(self, space: Space, design: Design, name: str) -> Prediction:
        assert isinstance(self.dense, PredictedCosts)
        dense = self.dense.prediction(without_zeros(design), name)
        factors = {
            cluster.name: float(
                self.factors(cluster, [sizes], design.of(cluster.name), design.zeros.get(cluster.name))[0]
            )
            for cluster, sizes in _there(space, design)
        }
        units = tuple(
            msgspec.structs.replace(unit, time_s=unit.time_s * factors.get(unit.name, 1.0)) for unit in dense.units
        )
        return msgspec.structs.replace(dense, latency=self.predict(space, design), units=units)


@dataclass(frozen=True, kw_only=True)
class JoulesWithZeros(_Adjusted):
    """Joules of dense layers, and of layers with zeros in proportion to their time, as if their power were alike."""

    dense: MeasuredJoules | PredictedJoules
    costs: WithZeros

    def factors(
        self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme, zeros: Zeros | None, end: End = 0
    ) -> Array:
        """Return what is made of a dense cluster's energy at each of some sizes, [sizes]."""
        return self.costs.factors(cluster, sizes, scheme, zeros, end)

    @property
    def start_j(self) -> float:
        """What an inference takes beyond its parts, in joules."""
        return self.dense.start_j

    @property
    def basis(self) -> str:
        """Where the joules come from."""
        return f"{self.dense.basis}; of layers with zeros in proportion to their time"


def without_zeros(design: Design) -> Design:
    """Return a design whose layers are all dense."""
    return msgspec.structs.replace(design, zeros={})


def _there(space: Space, design: Design) -> list[tuple[Cluster, Sizes]]:
    there = [(each, sizes_of(each, space, design)) for each in space.clusters]
    return [(cluster, sizes) for cluster, sizes in there if sizes is not None]
