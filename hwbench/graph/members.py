"""Which source layers an executed unit stands for.

A runtime fuses, renames and inserts. What it leaves are names: a unit bears the name of a source node or tensor,
sometimes with a suffix. From these anchors the rest is inferred along the source graph: a layer that no unit names
ran inside the unit that all its consumers belong to, or else inside the one that its inputs come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwbench.records.model import Layer


def assign_members(
    layers: Sequence[Layer], merged: Mapping[str, str], anchors: Sequence[Sequence[str]]
) -> list[tuple[str, ...]]:
    """Return, for each unit, the names of the source layers it stands for, in graph order.

    Args:
        layers: the source layers.
        merged: layers that were folded into another before the runtime saw the graph.
        anchors: for each unit the names it goes by; names of source nodes or tensors among them count.

    A unit that the runtime inserted (a reorder, a cast) gets none. A layer computed from constants alone, which
    runtimes fold away, and a layer that nothing ties to one unit, is in none.
    """
    by_key = {key: layer.name for layer in layers for key in (*layer.outputs, layer.name)}
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
    """Give unowned layers to the unit around them, until nothing changes."""
    producer = {tensor: layer.name for layer in layers for tensor in layer.outputs}
    consumers: dict[str, set[str]] = {}
    inputs: dict[str, set[str]] = {}
    for layer in layers:
        inputs[layer.name] = {producer[tensor] for tensor in layer.inputs if tensor in producer}
        for source in inputs[layer.name]:
            consumers.setdefault(source, set()).add(layer.name)
    moving = _data_dependent(layers)
    changed = True
    while changed:
        changed = False
        for layer in layers:
            if layer.name in owner or layer.name not in moving:
                continue
            around = _common_owner(consumers.get(layer.name, set()), owner)
            if around is None:
                around = _common_owner(inputs[layer.name] & moving, owner)
            if around is not None:
                owner[layer.name] = around
                changed = True


def _common_owner(neighbours: set[str], owner: Mapping[str, int]) -> int | None:
    owners = {owner.get(name) for name in neighbours}
    return owners.pop() if len(owners) == 1 else None


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
