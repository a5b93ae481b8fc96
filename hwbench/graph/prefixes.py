"""Prefixes of a graph, as models of their own: everything up to a cut, with the tensors at the cut as outputs.

A cut goes through as few tensors as there are: every tensor there is written out, which the whole model does not do.
Where one tensor carries all that goes on (between the blocks of a residual network), that is where to cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from hwbench.errors import ModelError
from hwbench.records.base import Missing
from hwbench.records.model import Layer


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The first layers of a model: their names in order, and the tensors that go on from there."""

    layers: tuple[str, ...]
    outputs: tuple[str, ...]


def prefixes(layers: Sequence[Layer], outputs: Sequence[str], parts: int) -> tuple[Prefix, ...]:
    """Return prefixes that cut a model into ``parts`` of about the same cost, the whole model last.

    Args:
        layers: of the model, in an order in which each comes after what it reads.
        outputs: of the model.
        parts: how many pieces; fewer come back where there are not so many places for a cut.

    Cost is multiply-adds, and bytes moved for layers without any; cuts go through the fewest tensors.
    """
    cuts = _cuts(layers, outputs)
    costs = [_cost(layer) for layer in layers]
    whole = sum(costs)
    chosen: list[int] = []
    done, reached = 0.0, 0
    for index, cost in enumerate(costs[:-1]):
        done += cost
        if index in cuts and done >= whole * (reached + 1) / parts and len(chosen) < parts - 1:
            chosen.append(index)
            reached = int(done / whole * parts)
    names = [layer.name for layer in layers]
    return (
        *(Prefix(layers=tuple(names[: index + 1]), outputs=cuts[index]) for index in chosen),
        Prefix(layers=tuple(names), outputs=tuple(outputs)),
    )


def _cuts(layers: Sequence[Layer], outputs: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Return the places for a cut, after which layer, with the tensors that go through: those with the fewest."""
    last_use: dict[str, int] = dict.fromkeys(outputs, len(layers))
    for index, layer in enumerate(layers):
        for name in layer.inputs:
            last_use[name] = max(index, last_use.get(name, -1))
    made: list[str] = []
    found: dict[int, tuple[str, ...]] = {}
    for index, layer in enumerate(layers[:-1]):
        made = [name for name in (*made, *layer.outputs) if last_use.get(name, -1) > index]
        found[index] = tuple(made)
    fewest = min((len(through) for through in found.values()), default=0)
    return {index: through for index, through in found.items() if len(through) == fewest}


def _cost(layer: Layer) -> float:
    macs = 0 if isinstance(layer.macs, Missing) else layer.macs
    moved = 0 if isinstance(layer.moved_bytes, Missing) else layer.moved_bytes
    return float(macs or moved)


def write_prefix(model: Path, prefix: Prefix, inputs: Sequence[str], path: Path) -> Path:
    """Write a prefix of an ONNX file as a file of its own, and return its path.

    Raises:
        ModelError: the graph cannot be cut there.
    """
    try:
        onnx.utils.extract_model(str(model), str(path), list(inputs), list(prefix.outputs))
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        raise ModelError(f"{model} cannot be cut at {', '.join(prefix.outputs)}: {told}") from error
    return path
