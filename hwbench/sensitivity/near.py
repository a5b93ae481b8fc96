"""Which sites lie so near to each other that what they lose together is no sum: in one block, or next to each other."""

from __future__ import annotations

from itertools import combinations

from hwbench.records.planning import Cluster, Space


def near_pairs(space: Space) -> set[frozenset[str]]:
    """Return the pairs of sites, by name, that touch one cluster, neighbouring clusters, or clusters of one block."""
    touching = {cluster.name: _sites(cluster) for cluster in space.clusters}
    together: list[set[str]] = []
    by_block: dict[str, set[str]] = {}
    for cluster in space.clusters:
        own = touching[cluster.name]
        together += [own | touching.get(reader, set()) for reader in cluster.readers]
        together.append(own)
        for block in cluster.blocks:
            by_block.setdefault(block, set()).update(own)
    names = {site.name for site in space.sites}
    found = {frozenset(pair) for group in (*together, *by_block.values()) for pair in combinations(sorted(group), 2)}
    return {pair for pair in found if pair <= names}


def _sites(cluster: Cluster) -> set[str]:
    single = {site for site in (cluster.precision, cluster.rank, cluster.replace) if site is not None}
    return {*cluster.widths_in, *cluster.widths_out, *single, *cluster.blocks}
