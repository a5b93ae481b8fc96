"""What is known of a network's sites, clusters and losses, put together as the question for the solver.

Each cluster is a factor over the widths at its two ends, its precision, its rank and the blocks that it lies in; each
tensor is one over the precisions that it is made and read in, its width and the blocks around it. A cluster that reads
many groups (a long concatenation) is taken apart into one factor a group, as if what they save added up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from hwbench.errors import UsageError
from hwbench.plan.designs import sizes
from hwbench.plan.overlap import bounded
from hwbench.plan.problem import Array, Factor, Pair, Peak, Problem, Variable
from hwbench.plan.reach import FURTHEST, Reader, reached
from hwbench.records.planning import TWO_FOUR, Cluster, Option, Sensitivity, Site, Sizes, Space, Zeros
from hwbench.records.quantization import Floating, Scheme
from hwbench.sparse.formats import FORMATS

LATENCY, ENERGY, SIZE, MEMORY = "latency", "energy", "size", "memory"
_LARGEST = 10_000  # entries of a factor; above, it is taken apart
_LARGEST_BORDER = 256  # the same of a border: above, readers that blocks have to be dropped for are left out
_BYTES: dict[str, float] = {"int8": 1, "int8-dynamic": 1, "int8-weights": 1, "int4-weights": 0.5, "fp8": 1}
_FLOATING: dict[Floating, float] = {"auto": 4, "fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}


class Costs(Protocol):
    """What parts of a network cost on one device and runtime."""

    def cluster(self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme, zeros: Zeros | None = None) -> Array:
        """Return the seconds that a cluster takes at each of some sizes; with zeros where an option has them."""
        ...

    def border(self, of: Scheme, to: Scheme, elements: int) -> float:
        """Return the seconds that handing a tensor from one scheme to another takes."""
        ...


def assemble(
    space: Space, costs: Costs, found: Sensitivity, *, floating: Floating = "auto", joules: Costs | None = None
) -> Problem:
    """Return the problem: ``latency`` (s), ``size`` (bytes of weights), and ``energy`` (J) where ``joules`` is given.

    ``joules`` are costs of the same parts with joules for seconds.

    ``memory`` (bytes) is the peak of weights and of the activations that are alive together. ``floating`` is what those
    of both that are not quantised are held in; ``auto`` counts as fp32.

    Raises:
        UsageError: nothing can be chosen, or an option has no loss.
    """
    if not space.sites:
        raise UsageError(
            "nothing can be chosen in this network", hint="`hwbench plan` lists what was left alone, and why"
        )
    table = _Tables(space)
    quantities = {
        LATENCY: table.whole(costs),
        SIZE: tuple(factor for each in space.clusters for factor in table.cluster(each, _weight_bytes(floating))),
    }
    if joules is not None:
        quantities[ENERGY] = table.whole(joules)
    return Problem(
        variables=tuple(
            Variable(name=site.name, options=tuple(option.name for option in site.options)) for site in space.sites
        ),
        quantities=quantities,
        losses=_losses(space, found),
        pairs=_pairs(space, found),
        peaks={MEMORY: Peak(cuts=tuple(table.cuts(floating)), beside=(SIZE,))},
    )


def with_losses(problem: Problem, space: Space, found: Sensitivity) -> Problem:
    """Return an assembled problem with other losses; its costs are not computed again."""
    return replace(problem, losses=_losses(space, found), pairs=_pairs(space, found))


Cost = Callable[[Cluster, Sequence[Sizes], Scheme, Zeros | None], Array]


class _Tables:
    """Factors of one space."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.at = {site.name: number for number, site in enumerate(space.sites)}
        self.sites = {site.name: site for site in space.sites}
        self.by_name = {cluster.name: cluster for cluster in space.clusters}
        depths = {site.name: self.at[site.name] for site in space.sites if site.kind in {"depth", "replace"}}
        self.reached = {cluster.name: reached(cluster, self.by_name, depths) for cluster in space.clusters}
        self.full = {site.name: site.options[0].units or 0 for site in space.sites if site.kind == "width"}

    def whole(self, costs: Costs) -> tuple[Factor, ...]:
        """Return what all clusters and all borders cost."""
        parts = (factor for each in self.space.clusters for factor in self.cluster(each, _taking(costs)))
        return (*parts, *self.borders(costs))

    def cluster(self, cluster: Cluster, cost: Cost) -> list[Factor]:
        """Return the factors of a cluster."""
        inside = [name for name in cluster.widths_in if name in self.at]
        ends = [name for name in cluster.widths_out if name in self.at]
        widths = list(dict.fromkeys([*inside, *ends]))
        own = (cluster.precision, cluster.rank, cluster.replace)
        others = [name for name in own if name is not None and name in self.at]
        if math.prod(len(self.sites[name].options) for name in (*widths, *others)) <= _LARGEST:
            return [self._factor(cluster, [*widths, *others], cost)]
        alone = [name for name in inside if name not in ends]
        base = self._factor(cluster, [*ends, *others], cost)
        return [base, *(self._saved(cluster, name, ends, others, cost, base) for name in alone)]

    def _factor(self, cluster: Cluster, names: Sequence[str], cost: Cost) -> Factor:
        """Return a table over sites, and blocks in which the cluster lies: zero where one of them goes."""
        blocks = [name for name in cluster.blocks if name in self.at]
        table = self._table(cluster, names, cost)
        for name in blocks:
            kept = [0.0 if option.takes_out else 1.0 for option in self.sites[name].options]
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
        asked: dict[tuple[Scheme, Zeros | None], list[Sizes]] = {}
        where: dict[tuple[Scheme, Zeros | None], list[int]] = {}
        for place, options in enumerate(every):
            way, size = self._at(cluster, chosen, options)
            asked.setdefault(way, []).append(size)
            where.setdefault(way, []).append(place)
        flat = np.zeros(len(every))
        for (scheme, zeros), some in asked.items():
            flat[where[scheme, zeros]] = cost(cluster, some, scheme, zeros)
        return flat.reshape([len(site.options) for site in chosen])

    def _at(
        self, cluster: Cluster, chosen: Sequence[Site], options: Sequence[int]
    ) -> tuple[tuple[Scheme, Zeros | None], Sizes]:
        scheme: Scheme = "float"
        zeros: Zeros | None = None
        kept, rank, alone = dict(self.full), 0, False
        for site, place in zip(chosen, options, strict=True):
            option = site.options[place]
            scheme, zeros = option.scheme or scheme, option.zeros or zeros
            rank = option.rank or rank
            alone = alone or option.replaced
            if option.units is not None:
                kept[site.name] = option.units
        return (scheme, zeros), sizes(cluster, self.full, kept, rank, alone=alone)

    def borders(self, costs: Costs) -> list[Factor]:
        """Return what it costs that tensors are read in another precision than they are made in.

        As :func:`hwbench.tables.borders.crossings` counts them: what the network takes and gives is in float, and a
        tensor counts once for each scheme that it is read in.
        """
        read = {reader for cluster in self.space.clusters for reader in cluster.readers}
        found: list[Factor] = []
        for cluster in self.space.clusters:
            if cluster.name not in read:
                found += self.cluster(cluster, _taken(costs))
            found += self._handed(cluster, costs) if cluster.readers else self.cluster(cluster, _given(costs))
        return [factor for factor in found if factor.table.any()]

    def _handed(self, cluster: Cluster, costs: Costs) -> list[Factor]:
        """Return what a tensor costs; where the table of all its readers is too large, only of those that are near.

        Where even that of those that read it as it is would be too large, each of them counts alone.
        """
        readers = self.reached[cluster.name]
        near: list[Reader] = []
        for further in range(FURTHEST, -1, -1):
            near = [reader for reader in readers if len(reader.through) <= further]
            names = self._around(cluster, near)
            if math.prod(len(self.sites[name].options) for name in names) <= (_LARGEST_BORDER if further else _LARGEST):
                return [self._border(cluster, near, names, costs)]
        return [self._border(cluster, [one], self._around(cluster, [one]), costs) for one in near]

    def _around(self, cluster: Cluster, readers: Sequence[Reader]) -> list[str]:
        """Return the sites that decide in what a tensor is made and read, and how large it is."""
        names = [cluster.precision, cluster.replace, *cluster.blocks]
        for reader in readers:
            names += [self.by_name[reader.name].precision, *self.by_name[reader.name].blocks, *sorted(reader.through)]
        return [
            name
            for name in dict.fromkeys([*names, *cluster.widths_out, *cluster.widths_alone])
            if name is not None and name in self.at
        ]

    def _border(self, cluster: Cluster, readers: Sequence[Reader], names: Sequence[str], costs: Costs) -> Factor:
        table = np.zeros([len(self.sites[name].options) for name in names])
        for place in np.ndindex(*table.shape):
            taken = {name: self.sites[name].options[at] for name, at in zip(names, place, strict=True)}
            gone = {name for name, option in taken.items() if option.takes_out}
            if gone & set(cluster.blocks):
                continue
            of = _scheme(cluster, taken)
            there = [self.by_name[each.name] for each in readers if each.through <= gone]
            others = {_scheme(each, taken) for each in there if not gone & set(each.blocks)} - {of}
            if others:
                kept = {name: option.units for name, option in taken.items() if option.units is not None}
                alone = cluster.replace in gone
                left = sizes(cluster, self.full, self.full | kept, alone=alone).channels_out / cluster.channels_out
                elements = round(max(cluster.readers.values()) * left)
                table[place] = sum(costs.border(of, to, elements) for to in sorted(others))
        return Factor(tuple(self.at[name] for name in names), table)

    def cuts(self, floating: Floating) -> list[tuple[Factor, ...]]:
        """Return for each cluster the activations that are alive while it runs: read, written, or read later.

        Where blocks are gone, a tensor lives until those have read it that then do.
        """
        place = {cluster.name: number for number, cluster in enumerate(self.space.clusters)}
        results = {cluster.name: self.cluster(cluster, _result_bytes(floating)) for cluster in self.space.clusters}
        first = self.space.clusters[0]
        reads = self.cluster(first, _source_bytes(floating))
        found = []
        for cluster in self.space.clusters:
            at = place[cluster.name]
            alive = list(reads if cluster is first else ())
            for name in (name for name, made in place.items() if made <= at):
                through = [each.through for each in self.reached[name] if place[each.name] >= at]
                if name == cluster.name or frozenset() in through:
                    alive += results[name]
                elif through:
                    alive += [self._where_gone(factor, through) for factor in results[name]]
            found.append(tuple(alive))
        return found

    def _where_gone(self, factor: Factor, through: Sequence[frozenset[str]]) -> Factor:
        """Return a factor that counts only where all blocks of one of some sets are gone."""
        least = [one for one in set(through) if not any(other < one for other in through)]
        names = sorted(set().union(*least))
        counts = np.zeros([len(self.sites[name].options) for name in names])
        for place in np.ndindex(*counts.shape):
            gone = {name for name, at in zip(names, place, strict=True) if self.sites[name].options[at].takes_out}
            counts[place] = any(one <= gone for one in least)
        variables = list(dict.fromkeys([*factor.variables, *(self.at[name] for name in names)]))
        axes = [variables.index(self.at[name]) for name in names]
        rest = (1,) * (len(variables) - len(names))
        wide = np.moveaxis(counts.reshape(counts.shape + rest), range(len(names)), axes)
        table = factor.table.reshape(factor.table.shape + (1,) * (len(variables) - factor.table.ndim))
        return Factor(tuple(variables), table * wide)


def _taking(costs: Costs) -> Cost:
    def cost(cluster: Cluster, some: Sequence[Sizes], scheme: Scheme, zeros: Zeros | None) -> Array:
        return costs.cluster(cluster, some, scheme) if zeros is None else costs.cluster(cluster, some, scheme, zeros)

    return cost


def _taken(costs: Costs) -> Cost:
    def cost(cluster: Cluster, some: Sequence[Sizes], scheme: Scheme, zeros: Zeros | None) -> Array:  # noqa: ARG001
        return np.array(
            [costs.border("float", scheme, each.elements_in) if scheme != "float" else 0.0 for each in some]
        )

    return cost


def _given(costs: Costs) -> Cost:
    def cost(cluster: Cluster, some: Sequence[Sizes], scheme: Scheme, zeros: Zeros | None) -> Array:  # noqa: ARG001
        return np.array(
            [costs.border(scheme, "float", each.elements_out) if scheme != "float" else 0.0 for each in some]
        )

    return cost


def _scheme(cluster: Cluster, taken: Mapping[str, Option]) -> Scheme:
    """Return the scheme of a cluster among some options that are taken, by name of their sites."""
    option = None if cluster.precision is None else taken.get(cluster.precision)
    return (option and option.scheme) or "float"


def _weight_bytes(floating: Floating) -> Cost:
    def cost(cluster: Cluster, some: Sequence[Sizes], scheme: Scheme, zeros: Zeros | None) -> Array:  # noqa: ARG001
        dense = _BYTES.get(scheme, _FLOATING[floating])
        return np.array([_packed_bytes(each, zeros) or dense * each.weights for each in some])

    return cost


def _packed_bytes(size: Sizes, zeros: Zeros | None) -> float | None:
    """Return what weights take in the format of a kernel; None where they stay dense.

    What a runtime stores of weights for its own sparse kernels is not known, so these count as dense.
    """
    if zeros is None or zeros.format == TWO_FOUR or size.rank:
        return None
    m, k = size.channels_out, size.weights // size.channels_out
    format_ = FORMATS[zeros.format]
    return None if format_.refuses(m, k) else format_.bytes_of(m, k, zeros.sparsity)


def _result_bytes(floating: Floating) -> Cost:
    def cost(cluster: Cluster, some: Sequence[Sizes], scheme: Scheme, zeros: Zeros | None) -> Array:  # noqa: ARG001
        return np.array([each.elements_out for each in some]) * (
            1 if scheme in {"int8", "fp8"} else _FLOATING[floating]
        )

    return cost


def _source_bytes(floating: Floating) -> Cost:
    def cost(cluster: Cluster, some: Sequence[Sizes], scheme: Scheme, zeros: Zeros | None) -> Array:  # noqa: ARG001
        return np.array([each.elements_in for each in some]) * _FLOATING[floating]

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
        if each.option in options.get(each.site, {}) and each.other_option in options.get(each.other_site, {})
    )
