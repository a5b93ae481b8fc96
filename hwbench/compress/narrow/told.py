"""What a cut is entered as: the subject's books, and a change for each layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Subject
from hwbench.graph.linear import Linear
from hwbench.records.compression import Change
from hwbench.structure.cut import CutMade
from hwbench.structure.groups import Group

Array = np.ndarray[Any, np.dtype[Any]]
Shapes = dict[str, tuple[int, ...]]


def constants_of(model: ir.Model) -> Shapes:
    """Return the shapes of all constants, by name."""
    values = [
        *model.graph.initializers.values(),
        *(node.outputs[0] for node in model.graph if node.op_type == "Constant"),
    ]
    return {value.name or "": tuple(value.shape.numpy()) for value in values if value.shape is not None}


def enter(subject: Subject, made: CutMade) -> list[str]:
    """Note what is left of every tensor; a part of a shared constant inherits what was known of the whole.

    How a constant could be stored is forgotten with its cut, since zeros in a pattern and their part of the whole are
    others then. Return what is to be told of that.
    """
    for name, source in made.copies.items():
        if source in subject.kept:
            subject.kept[name] = dict(subject.kept[source])
        if source in subject.held_zeros:
            subject.held_zeros.add(name)
        if source in subject.bits:
            subject.bits[name] = subject.bits[source]
    for (tensor, axis), indices in made.kept.items():
        subject.keep(tensor, axis, indices)
    lost = sorted(name for name in {tensor for tensor, _ in made.kept} if subject.bits.pop(name, None) is not None)
    if not lost:
        return []
    return [
        f"zeros of {', '.join(lost)} are counted as a bit mask from now on: a pattern of zeros, such as 2:4, is lost "
        "with a cut"
    ]


def changes(
    subject: Subject, made: CutMade, cuts: Iterable[tuple[Group, Array]], before: Shapes, after: Mapping[str, Linear]
) -> list[Change]:
    """Return a change for each node whose constants were sliced; a bias in an Add belongs to its layer."""
    owner = {layer.add: layer.name for layer in after.values() if layer.add is not None}
    gone: dict[str, dict[str, tuple[int, ...]]] = {}
    for (tensor, axis), kept in made.kept.items():
        name = made.copies.get(tensor, tensor)
        if name not in before:
            continue
        removed = np.setdiff1d(np.arange(before[name][axis]), kept)
        for node in _readers(subject.model, tensor):
            layer = owner.get(node, node.name or "")
            gone.setdefault(layer, {})[f"{name}/{axis}"] = tuple(int(index) for index in removed)
    words = _words(cuts)
    order = {node.name or "": place for place, node in enumerate(subject.model.graph)}
    return [
        _change(layer, gone[layer], words.get(layer, []), before, made, after)
        for layer in sorted(gone, key=lambda layer: order.get(layer, 0))
    ]


def _change(
    layer: str,
    removed: dict[str, tuple[int, ...]],
    words: list[str],
    before: Shapes,
    made: CutMade,
    after: Mapping[str, Linear],
) -> Change:
    found = after.get(layer)
    weight = None if found is None else found.node.inputs[1]
    source = None if weight is None else made.copies.get(weight.name or "", weight.name or "")
    gone, whole = max((len(indices), _size(before, place)) for place, indices in removed.items())
    return Change(
        layer=layer,
        kind="cut",
        what="; ".join(words) or f"{whole - gone} of {whole} channels left",
        removed=removed,
        shape_before=before.get(source or ""),
        shape_after=None if found is None else tuple(found.weight.shape),
    )


def _size(before: Shapes, place: str) -> int:
    name, axis = place.rsplit("/", 1)
    return before[name][int(axis)]


def _words(cuts: Iterable[tuple[Group, Array]]) -> dict[str, list[str]]:
    """Say of each layer how many of its output and input channels are left of each group."""
    words: dict[str, list[str]] = {}
    for group, keep in cuts:
        kind = f" ({len(keep)} of {group.size} {group.kind})" if group.kind != "channels" else ""
        for what, sides in (("output", group.producers), ("input", group.consumers)):
            for layer, indices in sides.items():
                each = indices.shape[1]
                words.setdefault(layer, []).append(
                    f"{each * len(keep)} of {each * group.size} {what} channels left{kind}"
                )
    return words


def _readers(model: ir.Model, tensor: str) -> list[ir.Node]:
    """Return who reads a constant, through Transpose and Identity."""
    value = model.graph.initializers.get(tensor)
    todo = [] if value is None else [value]
    found = []
    for one in todo:
        for node, _ in one.uses():
            if node.op_type in {"Transpose", "Identity"}:
                todo += node.outputs
            elif node.op_type not in {"Shape", "Size"}:
                found.append(node)
    return found
