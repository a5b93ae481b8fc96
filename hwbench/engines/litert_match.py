"""Which tensor of a LiteRT file is which tensor of the hub, and which operator does which layer's work.

The converter fuses, splits and moves the channel axis, and the names that it leaves may be a neighbour's. So tensors
are told by what they hold: the float file and the network are run on the same inputs, and two tensors are the same when
their values are, in whatever order. What a file's tensor stands for then bounds what each operator did: everything
between the tensors that it reads and the one that it writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hwbench.engines.litert_graph import Array, FileGraph, Op

Values = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

CLOSE = 5e-5  # of the largest magnitude: far above what float32 loses in a network, far below what tells tensors apart


@dataclass(frozen=True)
class Print:
    """What is kept of a tensor's values: how many, and six figures that do not depend on their order."""

    size: int
    figures: Values  # in the tensor's unit: min, max, mean, mean of |x|, root mean square, and a measure of skew

    def equals(self, other: Print) -> bool:
        """Say whether both are of the same values, within :data:`CLOSE`."""
        magnitude = max(np.abs(self.figures[:2]).max(), np.abs(other.figures[:2]).max())
        return self.size == other.size and bool(np.all(np.abs(self.figures - other.figures) <= CLOSE * magnitude))


def print_of(array: Array) -> Print | None:
    """Return the print of a tensor, or None of one that is empty or holds infinity or NaN."""
    values = array.astype(np.float64).ravel()
    if not values.size or not np.isfinite(values).all():
        return None
    low, high = values.min(), values.max()
    largest = max(abs(low), abs(high)) or 1.0
    skew = np.mean((values / largest) ** 3) * largest
    figures = (low, high, values.mean(), np.abs(values).mean(), np.sqrt(np.mean(values**2)), skew)
    return Print(values.size, np.array(figures))


def same_values(file: Mapping[int, Print], hub: Mapping[str, Print]) -> dict[int, tuple[str, ...]]:
    """Return, for each tensor of a file, the hub's tensors that hold the same values, in the order of the hub.

    A tensor, its reshaped and its transposed form are one such group, and so is what an activation changed nothing of.
    """
    groups: dict[int, list[tuple[Print, list[str]]]] = defaultdict(list)
    for name, figures in hub.items():
        for known, names in groups[figures.size]:
            if known.equals(figures):
                names.append(name)
                break
        else:
            groups[figures.size].append((figures, [name]))
    found: dict[int, tuple[str, ...]] = {}
    for tensor, figures in file.items():
        for known, names in groups[figures.size]:
            if known.equals(figures):
                found[tensor] = tuple(names)
                break
    return found


def members(graph: FileGraph, hub: ir.Graph, same: Mapping[int, tuple[str, ...]]) -> dict[int, tuple[str, ...]]:
    """Return, for each operator of a file by its index, the hub layers whose work it does, in the order of the hub.

    Operators with tensors that the hub has none of (inside a decomposed LayerNorm) get what the next one that has one
    stands for: together they do that.
    """
    known = {name for names in same.values() for name in names}
    nodes = {output.name: node for node in hub for output in node.outputs}
    order = {node.name: place for place, node in enumerate(hub)}
    claimed: set[str] = set()
    work: dict[int, tuple[str, ...]] = {}
    for op, names in _written(graph, same):
        layers = {layer for name in names for layer in _between(nodes, name, known)} - claimed
        claimed |= layers
        listed = tuple(sorted(layers, key=lambda layer: order.get(layer, 0)))
        for inner in _region(graph, op, same):
            work.setdefault(inner.index, listed)
    return work


def _written(graph: FileGraph, same: Mapping[int, tuple[str, ...]]) -> Iterable[tuple[Op, Sequence[str]]]:
    """Give each hub tensor to the operator that writes it: of equal ones in order, the rest to the last."""
    writers: dict[tuple[str, ...], list[Op | None]] = defaultdict(list)
    for tensor in graph.inputs:
        if tensor in same:
            writers[same[tensor]].append(None)
    for op in graph.ops:
        if op.output in same:
            writers[same[op.output]].append(op)
    shares: dict[int, Sequence[str]] = {}
    for names, ops in writers.items():
        for place, writer in enumerate(ops):
            if writer is not None:
                shares[writer.index] = names[place:] if place == len(ops) - 1 else names[place : place + 1]
    return [(op, shares[op.index]) for op in graph.ops if op.index in shares]


def _between(nodes: Mapping[str | None, ir.Node], name: str, known: set[str]) -> set[str]:
    """Return the layers that compute a hub tensor from tensors that the file has too."""
    found: set[str] = set()
    todo = [name]
    while todo:
        node = nodes.get(todo.pop())
        if node is None or node.name in found or not node.inputs:  # a Constant is no layer's work
            continue
        found.add(node.name or "")
        todo += [value.name or "" for value in node.inputs if value is not None and value.name not in known]
    return found


def _region(graph: FileGraph, last: Op, same: Mapping[int, tuple[str, ...]]) -> list[Op]:
    """Return an operator and those before it whose outputs the hub has none of."""
    writers = {tensor: op for op in graph.ops for tensor in op.outputs}
    found: dict[int, Op] = {last.index: last}
    todo: list[Op] = [last]
    while todo:
        for tensor in todo.pop().inputs:
            writer = writers.get(tensor)
            if writer is not None and tensor not in same and writer.index not in found:
                found[writer.index] = writer
                todo.append(writer)
    return list(found.values())
