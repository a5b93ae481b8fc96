"""What is known of a network's sites, clusters and losses, put together as the question for the solver.

Each cluster is a factor over the widths at its two ends, its precision, its rank and the blocks that it lies in; each
tensor between two clusters is one over their precisions and its width. A cluster that reads many groups (a long
concatenation) is taken apart into one factor a group, as if what they save added up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from hwbench.errors import UsageError
from hwbench.plan.designs import sizes
from hwbench.plan.overlap import bounded
from hwbench.plan.problem import Array, Factor, Pair, Peak, Problem, Variable
from hwbench.records.planning import Cluster, Sensitivity, Site, Sizes, Space
from hwbench.records.quantization import Floating, Scheme

LATENCY, ENERGY, SIZE, MEMORY = "latency", "energy", "size", "memory"
_LARGEST = 4000  # entries of a factor; above, it is taken apart
_BYTES: dict[str, float] = {"int8": 1, "int8-dynamic": 1, "int8-weights": 1, "int4-weights": 0.5}
_FLOATING: dict[Floating, float] = {"auto": 4, "fp32": 4, "fp16": 2, "bf16": 2}


class Costs(Protocol):
    """What parts of a network cost on one device and runtime."""

    def cluster(self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme) -> Array:
        """Return the seconds that a cluster takes at each of some sizes."""
        ...

    def border(self, of: Scheme, to: Scheme, elements: int) -> float:
        """Return the seconds that handing a tensor from one scheme to another takes."""
        ...


Joules = Callable[[Sizes, Scheme], float]
"""What a cluster of given sizes takes, without what the device takes anyway."""


def assemble(
    space: Space, costs: Costs, found: Sensitivity, *, floating: Floating = "auto", joules: Joules | None = None
) -> Problem:
    """Return the problem: ``latency`` (s), ``size`` (bytes of weights), and ``energy`` (J) where ``joules`` is given.

    ``memory`` (bytes) is the peak of weights and of the activations that are alive together.

    Raises:
        UsageError: nothing can be chosen, or an option has no loss.
    """
    if not space.sites:
        raise UsageError(
            "nothing can be chosen in this network", hint="`hwbench plan` lists what was left alone, and why"
        )
    table = _Tables(space)
    quantities = {
        LATENCY: (
            *(factor for each in space.clusters for factor in table.cluster(each, costs.cluster)),
            *table.borders(costs),
        ),
        SIZE: tuple(factor for each in space.clusters for factor in table.cluster(each, _weight_bytes(floating))),
    }
    if joules is not None:
        quantities[ENERGY] = tuple(factor for each in space.clusters for factor in table.cluster(each, _energy(joules)))
    return Problem(
        variables=tuple(
            Variable(name=site.name, options=tuple(option.name for option in site.options)) for site in space.sites
        ),
        quantities=quantities,
        losses=_losses(space, found),
        pairs=_pairs(space, found),
        peaks={MEMORY: Peak(cuts=tuple(table.cuts(floating)), beside=(SIZE,))},
    )


Cost = Callable[[Cluster, Sequence[Sizes], Scheme], Array]


class _Tables:
    """Factors of one space."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.at = {site.name: number for number, site in enumerate(space.sites)}
        self.sites = {site.name: site for site in space.sites}
        self.full = {site.name: site.options[0].units or 0 for site in space.sites if site.kind == "width"}

    def cluster(self, cluster: Cluster, cost: Cost) -> list[Factor]:
        """Return the factors of a cluster."""
        inside = [name for name in cluster.widths_in if name in self.at]
        ends = [name for name in cluster.widths_out if name in self.at]
        widths = list(dict.fromkeys([*inside, *ends]))
        others = [name for name in (cluster.precision, cluster.rank) if name is not None and name in self.at]
        if math.prod(len(self.sites[name].options) for name in (*widths, *others)) <= _LARGEST:
            return [self._factor(cluster, [*widths, *others], cost)]
        alone = [name for name in inside if name not in ends]
        base = self._factor(cluster, [*ends, *others], cost)
        return [base, *(self._saved(cluster, name, ends, others, cost, base) for name in alone)]

    def _factor(self, cluster: Cluster, names: Sequence[str], cost: Cost) -> Factor:
        """Return a table over sites, and blocks in which the cluster lies: zero where one of them is dropped."""
        blocks = [name for name in cluster.blocks if name in self.at]
        table = self._table(cluster, names, cost)
        for name in blocks:
            kept = [0.0 if option.dropped else 1.0 for option in self.sites[name].options]
            table = np.multiply.outer(table, np.array(kept))
        return Factor(tuple(self.at[name] for name in (*names, *blocks)), table)

    def _saved(
        self, cluster: Cluster, name: str, ends: Sequence[str], others: Sequence[str], cost: Cost, base: Factor
    ) -> Factor:
        """Return what one group that is read adds to the cluster with all others whole: nothing, or less."""
        made = self._factor(cluster, [name, *ends, *others], cost)
        return Factor(made.variables, made.table - base.table[None])

    def _table(self, cluster: Cluster, names: Sequence[str], cost: Cost) -> Array:
        chosen = [self.sites[name] for name in names]
        every = list(itertools.product(*(range(len(site.options)) for site in chosen)))
        asked: dict[Scheme, list[Sizes]] = {}
        where: dict[Scheme, list[int]] = {}
        for place, options in enumerate(every):
            scheme, size = self._at(cluster, chosen, options)
            asked.setdefault(scheme, []).append(size)
            where.setdefault(scheme, []).append(place)
        flat = np.zeros(len(every))
        for scheme, some in asked.items():
            flat[where[scheme]] = cost(cluster, some, scheme)
        return flat.reshape([len(site.options) for site in chosen])

    def _at(self, cluster: Cluster, chosen: Sequence[Site], options: Sequence[int]) -> tuple[Scheme, Sizes]:
        scheme: Scheme = "float"
        kept, rank = dict(self.full), 0
        for site, place in zip(chosen, options, strict=True):
            option = site.options[place]
            scheme = option.scheme or scheme
            rank = option.rank or rank
            if option.units is not None:
                kept[site.name] = option.units
        return scheme, sizes(cluster, self.full, kept, rank)

    def borders(self, costs: Costs) -> list[Factor]:
        """Return what it costs that clusters hand tensors to others of another precision."""
        by_name = {cluster.name: cluster for cluster in self.space.clusters}
        found = []
        for cluster in self.space.clusters:
            for reader, elements in cluster.readers.items():
                one, other = cluster.precision, by_name[reader].precision
                if one is not None and other is not None and {one, other} <= self.at.keys():
                    found.append(self._border(cluster, one, other, elements, costs))
        return [factor for factor in found if factor.table.any()]

    def _border(self, cluster: Cluster, one: str, other: str, elements: int, costs: Costs) -> Factor:
        ends = [self.sites[name] for name in cluster.widths_out if name in self.at]
        shape = [len(site.options) for site in (self.sites[one], self.sites[other], *ends)]
        table = np.zeros(shape)
        for place in np.ndindex(*shape):
            of, to = _scheme(self.sites[one], place[0]), _scheme(self.sites[other], place[1])
            if of != to:
                kept = {site.name: site.options[at].units or 0 for site, at in zip(ends, place[2:], strict=True)}
                left = sizes(cluster, self.full, self.full | kept).channels_out / cluster.channels_out
                table[place] = costs.border(of, to, round(elements * left))
        return Factor((self.at[one], self.at[other], *(self.at[site.name] for site in ends)), table)

    def cuts(self, floating: Floating) -> list[tuple[Factor, ...]]:
        """Return for each cluster the activations that are alive while it runs: read, written, or read later."""
        place = {cluster.name: number for number, cluster in enumerate(self.space.clusters)}
        last = {cluster.name: max((place[name] for name in cluster.readers), default=place[cluster.name])
                for cluster in self.space.clusters}  # fmt: skip
        results = {cluster.name: self.cluster(cluster, _result_bytes(floating)) for cluster in self.space.clusters}
        first = self.space.clusters[0]
        reads = self.cluster(first, _source_bytes(floating))
        found = []
        for cluster in self.space.clusters:
            at = place[cluster.name]
            alive = [factor for name, to in last.items() if place[name] <= at <= to for factor in results[name]]
            found.append((*alive, *(reads if cluster is first else ())))
        return found


def _scheme(site: Site, option: int) -> Scheme:
    return site.options[option].scheme or "float"


def _weight_bytes(floating: Floating) -> Cost:
    def cost(cluster: Cluster, some: Sequence[Sizes], scheme: Scheme) -> Array:  # noqa: ARG001 - as Cost has it
        return np.array([each.weights for each in some]) * _BYTES.get(scheme, _FLOATING[floating])

    return cost


def _result_bytes(floating: Floating) -> Cost:
    def cost(cluster: Cluster, some: Sequence[Sizes], scheme: Scheme) -> Array:  # noqa: ARG001 - as Cost has it
        return np.array([each.elements_out for each in some]) * (1 if scheme == "int8" else _FLOATING[floating])

    return cost


def _source_bytes(floating: Floating) -> Cost:
    def cost(cluster: Cluster, some: Sequence[Sizes], scheme: Scheme) -> Array:  # noqa: ARG001 - as Cost has it
        return np.array([each.elements_in for each in some]) * _FLOATING[floating]

    return cost


def _energy(joules: Joules) -> Cost:
    def cost(cluster: Cluster, some: Sequence[Sizes], scheme: Scheme) -> Array:  # noqa: ARG001 - as Cost has it
        return np.array([joules(each, scheme) for each in some])

    return cost


def _losses(space: Space, found: Sensitivity) -> tuple[Array, ...]:
    known = {(loss.site, loss.option): loss.divergence for loss in found.losses}
    tables = []
    for site in space.sites:
        options = [option.name for option in site.options]
        lacking = [name for name in options[1:] if (site.name, name) not in known]
        if lacking:
            raise UsageError(f"nobody has measured what '{lacking[0]}' of {site.name} loses")
        tables.append(np.array([0.0, *(known[site.name, name] for name in options[1:])]))
    return tuple(tables)


def _pairs(space: Space, found: Sensitivity) -> tuple[Pair, ...]:
    at: Mapping[str, int] = {site.name: number for number, site in enumerate(space.sites)}
    options = {site.name: {option.name: place for place, option in enumerate(site.options)} for site in space.sites}
    return tuple(
        Pair(
            variable=at[each.site],
            option=options[each.site][each.option],
            other=at[each.other_site],
            other_option=options[each.other_site][each.other_option],
            extra=each.extra,
        )
        for each in bounded(found).pairs
        if each.site in at and each.other_site in at
    )
