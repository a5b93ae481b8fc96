"""The time of one executed unit, shared out over the clusters whose products ran in it.

A runtime's compiler may make one unit of dozens of layers (Myelin, the graph compiler in TensorRT, of a whole
transformer). What the unit took is measured, and how it divides is told by nobody. Booked on the first cluster, all of
it would go into the curve of that one's kind, and the others would seem to be free: the sum of the network they were
measured in comes out right, and that of every other one wrong. So it is shared out by work, which is the same whatever
the precision: the longer of what a cluster multiplies and what it moves. The division is an assumption, the sum over
the clusters is measured, and :attr:`ClusterTime.shared <hwbench.records.planning.ClusterTime.shared>` says where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwbench.records.base import Missing
from hwbench.records.model import Layer

_BALANCE = 50.0
"""Multiply-adds that take as long as moving a byte of fp32, where half of it is moved as fp16.

Dense fp16 of the data sheets, over twice the bandwidth: H100 SXM 495e12/s over 3.35e12 B/s is 74, RTX 4090 83e12 over
1.01e12 is 41, Jetson AGX Orin 21e12 over 205e9 is 52. It decides only how a unit's time divides.
"""


def shares(
    members: Sequence[str],
    owner: Mapping[str, str],
    products: Mapping[str, str],
    layers: Mapping[str, Layer],
    place: Mapping[str, int],
) -> dict[str, float]:
    """Return by cluster what share of a unit's time it has; empty where the unit stands for layers of no cluster.

    A unit with the product of one cluster is that cluster's, whatever follows or precedes it; one without a product is
    the first one's in graph order.

    Args:
        members: the source layers that the unit stands for.
        owner: the cluster of each layer.
        products: of the layers that multiply, the cluster of each.
        layers: by name.
        place: of each layer in graph order.
    """
    inside = [name for name in members if name in owner]
    heads = list(dict.fromkeys(products[name] for name in inside if name in products))
    if not inside:
        return {}
    if len(heads) < 2:
        return {heads[0] if heads else owner[min(inside, key=lambda name: place.get(name, 0))]: 1.0}
    works = {head: sum(_work(layers[name]) for name in inside if owner[name] == head) for head in heads}
    whole = sum(works.values())
    return {head: work / whole if whole else 1 / len(heads) for head, work in works.items()}


def _work(layer: Layer) -> float:
    """Return the work of a layer, in bytes of fp32 that could be moved meanwhile."""
    macs, moved = (0 if isinstance(each, Missing) else each for each in (layer.macs, layer.moved_bytes))
    return max(macs / _BALANCE, float(moved))
