"""Which layers of the model a node of a ``.tflite`` file stands for, and the file's nodes as executed units."""

from __future__ import annotations

from dataclasses import dataclass

from hwbench.engines.litert_costs import precision_of
from hwbench.engines.litert_file import TfliteFile, source_names
from hwbench.engines.litert_partitions import Split
from hwbench.graph.members import assign_members
from hwbench.records.measurement import BuiltLayer
from hwbench.records.model import Model, ModelFiles


@dataclass(frozen=True, kw_only=True)
class Members:
    """For each node of the file the layers it stands for, and the node that stands for its layers where it has none.

    ``home`` is the node itself, but where a layer became several nodes: then they have the first of them for a home.
    """

    layers: tuple[tuple[str, ...], ...]
    home: tuple[int, ...]


def members_of(file: TfliteFile, model: Model, files: ModelFiles) -> Members:
    """Return which layers of the model the file's nodes stand for.

    A file that came as it is has its own nodes as layers. One that was built from a network has the network's, and
    tells them by the names of its tensors.
    """
    known = {layer.name for layer in model.layers}
    if all(node.name in known for node in file.nodes):
        nodes = range(len(file.nodes))
        return Members(layers=tuple((node.name,) for node in file.nodes), home=tuple(nodes))
    names = [
        [name for tensor in node.outputs for name in source_names(file.tensors[tensor].name)] for node in file.nodes
    ]
    layers = assign_members(model.layers, files.merged, names)
    owner = {name: index for index, found in enumerate(layers) for name in found}
    home = [
        index if found else next((owner[name] for name in own if name in owner), index)
        for index, (found, own) in enumerate(zip(layers, names, strict=True))
    ]
    return Members(layers=tuple(layers), home=tuple(home))


def built_layers(file: TfliteFile, members: Members, split: Split, delegate: str) -> tuple[BuiltLayer, ...]:
    """Return the file's nodes; ``kernel`` says whose kernels run them."""
    taken = split.delegated
    return tuple(
        BuiltLayer(
            name=node.name,
            op=node.op,
            members=members.layers[node.index],
            kernel=delegate if node.index in taken else "LiteRT builtin",
            precision=precision_of(node, file.tensors),
        )
        for node in file.nodes
    )
