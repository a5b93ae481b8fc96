"""Which source layers an executed unit stands for.

A runtime fuses, renames and inserts. What it leaves are names: a unit bears the name of a source node or tensor,
sometimes with a suffix. From these anchors the rest is inferred along the source graph. A convolution or a product that
no unit names ran inside the unit that everything after it leads to; what follows one (an addition, an activation) ran
inside the last unit that feeds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwbench.records.base import Missing
from hwbench.records.model import Layer


def assign_members(
    layers: Sequence[Layer], merged: Mapping[str, str], anchors: Sequence[Sequence[str]]
) -> list[tuple[str, ...]]:
    """Return, for each unit, the names of the source layers it stands for, in graph order.

    Args:
        layers: the source layers.
        merged: layers that were folded into another before the runtime saw the graph.
        anchors: for each unit, in the order they run, the names it goes by; those of source nodes or tensors count.

    A unit that the runtime inserted (a reorder, a cast) gets none. A layer computed from constants alone, which
    runtimes fold away, and a layer that nothing ties to one unit, is in none.
    """
    by_key = {tensor: layer.name for layer in layers for tensor in layer.outputs}
    by_key.update({layer.name: layer.name for layer in layers})  # where a node is called like another's tensor
    owner: dict[str, int] = {}
    for unit, names in enumerate(anchors):
        for name in names:
            if name in by_key:
                owner.setdefault(by_key[name], unit)
    for layer_name, into in merged.items():
        if into in owner:
            owner.setdefault(layer_name, owner[into])
    _absorb(layers, owner)
    found: list[list[str]] = [[] for _ in anchors]
    for layer in layers:
        if layer.name in owner:
            found[owner[layer.name]].append(layer.name)
    return [tuple(names) for names in found]


def _absorb(layers: Sequence[Layer], owner: dict[str, int]) -> None:
    """Give each unowned layer to the unit it ran in."""
    producer = {tensor: layer.name for layer in layers for tensor in layer.outputs}
    inputs = {layer.name: {producer[tensor] for tensor in layer.inputs if tensor in producer} for layer in layers}
    consumers: dict[str, set[str]] = {layer.name: set() for layer in layers}
    for name, sources in inputs.items():
        for source in sources:
            consumers[source].add(name)
    moving = [layer for layer in layers if layer.name in _data_dependent(layers)]
    _into_consumers(moving, owner, inputs, consumers)
    for layer in moving:  # epilogues: added, activated, normalised by the last unit that feeds them
        feeding = [owner[name] for name in inputs[layer.name] if name in owner]
        if layer.name not in owner and feeding:
            owner[layer.name] = max(feeding)
    for layer in reversed(moving):  # what nothing feeds but the input itself: a prologue
        ahead = {owner.get(name) for name in consumers[layer.name]}
        if layer.name not in owner and len(ahead) == 1 and (only := ahead.pop()) is not None:
            owner[layer.name] = only


def _into_consumers(
    moving: Sequence[Layer], owner: dict[str, int], inputs: Mapping[str, set[str]], consumers: Mapping[str, set[str]]
) -> None:
    """Follow each unowned convolution or product forward to the unit that bears its successor's name.

    A unit is often named after the last thing fused into it; the product at its heart, and what lies between, are
    told by every path from there ending in that one unit.
    """
    ahead: dict[str, int | None] = dict(owner)
    for layer in reversed(moving):
        if layer.name not in ahead:
            units = {ahead.get(name) for name in consumers[layer.name]}
            ahead[layer.name] = units.pop() if len(units) == 1 else None
    behind: set[str] = set()
    for layer in moving:
        is_product = not isinstance(layer.macs, Missing) and layer.macs > 0
        if layer.name in owner or not (is_product or inputs[layer.name] & behind):
            continue
        unit = ahead[layer.name]
        if unit is not None:
            owner[layer.name] = unit
            behind.add(layer.name)


def _data_dependent(layers: Sequence[Layer]) -> set[str]:
    """Return the layers that depend on an input of the graph: the others are constants that runtimes fold."""
    produced = {tensor for layer in layers for tensor in layer.outputs}
    live: set[str] = set()
    moving: set[str] = set()
    for layer in layers:
        activations = [tensor for tensor in layer.inputs if tensor and (tensor not in produced or tensor in live)]
        if activations:
            moving.add(layer.name)
            live.update(layer.outputs)
    return moving
