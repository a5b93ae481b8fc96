"""What of a network hangs on the size of its batch.

An import fixes the batch, and exporters write it into constants: targets of Reshape and Expand, a parameter repeated
for every item. Which numbers those are is told by a second import at another size: they are the ones that differ. They
are remembered by the node that reads them, not by name, so that they are found again after compression has cut or
copied constants. Nodes that compression has made anew are in neither import; they must not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hwbench.errors import ModelError
from hwbench.records.base import Missing

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
PerItem = Mapping[int, int]
"""By axis of a shape, or by flat index into a constant: how much of it belongs to one item of the batch."""


@dataclass(frozen=True, kw_only=True)
class BatchDependence:
    """Every number of a network that is proportional to its batch.

    ``repeated``: constants that hold one item's numbers once for each item, by reader, and the axis.
    """

    shapes: Mapping[str, PerItem]
    """By name of a value, inputs and outputs of the graph included."""
    constants: Mapping[tuple[str, int], PerItem]
    """By the name of the node that reads an integer constant, and as which of its inputs."""
    attributes: Mapping[tuple[str, str], PerItem]
    """By node and attribute, integers."""
    repeated: Mapping[tuple[str, int], int]
    known: frozenset[str]
    """The names of all values of the imports."""

    def batch_of(self, model: ir.Model) -> int:
        """Return the size that the batch of ``model`` is fixed to.

        Raises:
            ModelError: the model has none of the inputs that this was found on, or its batch is open.
        """
        for value in model.graph.inputs:
            for axis, per_item in self.shapes.get(value.name or "", {}).items():
                size = value.shape[axis] if value.shape is not None else None
                if isinstance(size, int):
                    return size // per_item
        raise ModelError("the network has no input with a fixed batch axis")


def batch_dependence(one: ir.Model, other: ir.Model) -> BatchDependence | Missing:
    """Compare one network, imported at two batch sizes.

    Returns:
        What depends on the batch; ``Missing`` (``batch_baked``) where something does in another way than in proportion.

    Raises:
        ModelError: the graphs differ in more than numbers, or their batch sizes are the same.
    """
    _same_topology(one.graph, other.graph)
    finder = _Finder(*_batches(one, other))
    finder.values(one.graph, other.graph)
    for mine, others in zip(one.graph, other.graph, strict=True):
        finder.node(mine, others)
    if finder.reasons:
        listed = "; ".join(finder.reasons[:3]) + (" ..." if len(finder.reasons) > 3 else "")
        return Missing(
            code="batch_baked",
            why=f"the network is made for one batch size: {listed}",
            cure="export it so that nothing but shapes depends on the batch, with the batch axis dynamic",
        )
    return BatchDependence(
        shapes=finder.shapes,
        constants=finder.constants,
        attributes=finder.attributes,
        repeated=finder.repeated,
        known=frozenset(value.name or "" for value in values_of(one.graph)),
    )


class _Finder:
    """Collects what differs, and what differs in a way that no rule covers (``reasons``)."""

    def __init__(self, batch: int, other_batch: int) -> None:
        self.batch, self.other_batch = batch, other_batch
        self.shapes: dict[str, dict[int, int]] = {}
        self.constants: dict[tuple[str, int], dict[int, int]] = {}
        self.attributes: dict[tuple[str, str], dict[int, int]] = {}
        self.repeated: dict[tuple[str, int], int] = {}
        self.reasons: list[str] = []
        self.equal: set[tuple[int, int]] = set()  # pairs of constants that have been seen to be the same

    def values(self, mine: ir.Graph, others: ir.Graph) -> None:
        for value, other in zip(values_of(mine), values_of(others), strict=True):
            if value.shape is None or other.shape is None:
                continue
            if len(value.shape) != len(other.shape):
                self.reasons.append(f"'{value.name}' has {len(value.shape)} axes or {len(other.shape)}")
                continue
            pairs = zip(value.shape, other.shape, strict=True)
            fixed = {i: (a, b) for i, (a, b) in enumerate(pairs) if isinstance(a, int) and isinstance(b, int)}
            found = self._proportions(fixed, f"the shape of '{value.name}'")
            if found:
                self.shapes[value.name or ""] = found
        for value, other in zip(mine.outputs, others.outputs, strict=True):
            self._must_equal(value, other, f"output '{value.name}'")

    def node(self, mine: ir.Node, other: ir.Node) -> None:
        name = mine.name or ""
        for index, (value, others) in enumerate(zip(mine.inputs, other.inputs, strict=True)):
            self._constant(name, index, value, others)
        for key, attribute in mine.attributes.items():
            if mine.op_type != "Constant":  # its readers have been asked
                self._attribute(name, key, attribute, other.attributes[key])

    def _constant(self, name: str, index: int, value: ir.Value | None, other: ir.Value | None) -> None:
        pair = self._differing(value, other)
        if pair is None:
            return
        mine, others = pair
        what = f"constant '{value.name if value is not None else ''}' of '{name}'"
        if mine.shape == others.shape and mine.dtype.kind in "iu":
            flat = {i: (int(a), int(b)) for i, (a, b) in enumerate(zip(mine.flat, others.flat, strict=True))}
            found = self._proportions(flat, what)
            if found:
                self.constants[name, index] = found
            return
        axis = self._repeated_axis(mine, others)
        if axis is None:
            self.reasons.append(f"{what} holds other numbers for another batch")
            return
        self.repeated[name, index] = axis
        self.constants[expand_name(name, index), 1] = {axis: 1}

    def _repeated_axis(self, mine: Array, others: Array) -> int | None:
        """Return the axis along which both constants repeat the same numbers for every item."""
        if mine.ndim != others.ndim:
            return None
        axes = [axis for axis in range(mine.ndim) if mine.shape[axis] != others.shape[axis]]
        if len(axes) != 1 or (mine.shape[axes[0]], others.shape[axes[0]]) != (self.batch, self.other_batch):
            return None
        first = mine.take([0], axes[0])
        same = all(np.array_equal(array, np.broadcast_to(first, array.shape)) for array in (mine, others))
        return axes[0] if same else None

    def _attribute(self, name: str, key: str, mine: ir.Attr, other: ir.Attr) -> None:
        what = f"attribute '{key}' of '{name}'"
        if mine.type in {ir.AttributeType.INT, ir.AttributeType.INTS}:
            ours, others = np.atleast_1d(mine.value), np.atleast_1d(other.value)
            if len(ours) != len(others):
                self.reasons.append(f"{what} has {len(ours)} or {len(others)} entries")
                return
            pairs = {i: (int(a), int(b)) for i, (a, b) in enumerate(zip(ours, others, strict=True))}
            found = self._proportions(pairs, what)
            if found:
                self.attributes[name, key] = found
        elif mine.type == ir.AttributeType.GRAPH:
            for value, others_value in zip(
                _constants_in(mine.as_graph()), _constants_in(other.as_graph()), strict=True
            ):
                self._must_equal(value, others_value, f"constant '{value.name}' inside '{name}'")
        elif not _same_attribute(mine, other):
            self.reasons.append(f"{what} differs")

    def _proportions(self, pairs: Mapping[int, tuple[int, int]], what: str) -> dict[int, int]:
        found: dict[int, int] = {}
        for index, (mine, other) in pairs.items():
            if mine == other:
                continue
            per_item, rest = divmod(mine, self.batch)
            if rest or per_item * self.other_batch != other or per_item < 1:
                self.reasons.append(
                    f"{what} holds {mine} at batch {self.batch} and {other} at batch {self.other_batch}"
                )
            else:
                found[index] = per_item
        return found

    def _must_equal(self, value: ir.Value, other: ir.Value, what: str) -> None:
        if self._differing(value, other) is not None:
            self.reasons.append(f"{what} holds other numbers for another batch")

    def _differing(self, value: ir.Value | None, other: ir.Value | None) -> tuple[Array, Array] | None:
        """Return two constants that are not the same; None where they are, or where there are no constants."""
        if value is None or other is None or (id(value), id(other)) in self.equal:
            return None
        tensors = [ir.convenience.get_const_tensor(one) for one in (value, other)]
        if tensors[0] is None or tensors[1] is None:
            return None
        mine, others = tensors[0].numpy(), tensors[1].numpy()
        same = mine.shape == others.shape and mine.tobytes() == others.tobytes()  # NaN is NaN
        if not same:
            return mine, others
        self.equal.add((id(value), id(other)))
        return None


def expand_name(name: str, index: int) -> str:
    """Return the name of the Expand that stands for what input ``index`` of a node repeats over the batch."""
    return f"{name}.expand{index}"


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    """Go through what is given to a graph and what its nodes make."""
    yield from (value for value in graph.inputs if not value.is_initializer())
    for node in graph:
        yield from node.outputs


def _same_topology(mine: ir.Graph, other: ir.Graph) -> None:
    if _outline(mine) != _outline(other):
        pairs = zip(_outline(mine), _outline(other), strict=False)
        first = next((f": {a} or {b}" for a, b in pairs if a != b), "")
        raise ModelError(
            f"the network has another graph at another batch size{first}",
            hint="export it with the batch axis dynamic",
        )


def _outline(graph: ir.Graph) -> list[tuple[object, ...]]:
    """Return who reads what, graphs inside nodes included; no numbers."""
    found: list[tuple[object, ...]] = [
        ("inputs", *(value.name for value in graph.inputs if not value.is_initializer()))
    ]
    for node in graph.all_nodes():
        names = [None if value is None else value.name for value in node.inputs]
        kinds = sorted((key, attribute.type) for key, attribute in node.attributes.items())
        found.append((node.name, node.domain, node.op_type, *names, *(value.name for value in node.outputs), *kinds))
    found.append(("outputs", *(value.name for value in graph.outputs)))
    return found


def _batches(one: ir.Model, other: ir.Model) -> tuple[int, int]:
    found: list[tuple[int, int]] = []
    for mine, others in zip(one.graph.inputs, other.graph.inputs, strict=False):
        if mine.is_initializer() or mine.shape is None or others.shape is None or len(mine.shape) != len(others.shape):
            continue
        sizes = zip(mine.shape, others.shape, strict=True)
        found += [(a, b) for a, b in sizes if isinstance(a, int) and isinstance(b, int) and a != b]
    if not found:
        raise ModelError("the two imports have the same batch size, so they tell nothing about it")
    return min(found)


def _constants_in(graph: ir.Graph) -> list[ir.Value]:
    """Return the constants of a graph inside a node, and of graphs inside it, in an order of names and nodes."""
    found = [graph.initializers[name] for name in sorted(graph.initializers)]
    for node in graph:
        found += node.outputs[:1] if node.op_type == "Constant" else []
        for attribute in node.attributes.values():
            found += _constants_in(attribute.as_graph()) if attribute.type == ir.AttributeType.GRAPH else []
    return found


def _same_attribute(mine: ir.Attr, other: ir.Attr) -> bool:
    if mine.type == ir.AttributeType.TENSOR:
        return mine.as_tensor().tobytes() == other.as_tensor().tobytes()
    return bool(mine.value == other.value)
