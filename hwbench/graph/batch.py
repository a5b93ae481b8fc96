"""A network at another batch size, or at any.

:func:`batch_dependence` finds what hangs on the batch; :func:`rebatch` fixes it to another size; :func:`open_batch`
leaves it open. Both take the network as it has become since, compressed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from hwbench.errors import ModelError, UsageError
from hwbench.graph.batch_dependence import Array, BatchDependence, PerItem, batch_dependence, expand_name, values_of
from hwbench.graph.initializers import add_initializer
from hwbench.graph.linear import integer, set_constant
from hwbench.graph.onnx_file import infer_shapes
from hwbench.records.base import Missing

__all__ = ["BatchDependence", "batch_dependence", "open_batch", "rebatch"]

_BATCH = "batch"  # the name of the open axis, and of the node that tells it


def rebatch(model: ir.Model, dependence: BatchDependence, to: int) -> ir.Model:
    """Return ``model``, which may have been compressed since the imports, with its batch fixed to ``to``.

    A constant that repeats one item's numbers becomes one copy and an Expand (``NODE.expand0``), so that training
    learns one tensor and not a batch of them.

    Raises:
        UsageError: ``to`` is below 1.
        ModelError: copies of one constant have become different, or an edited constant no longer fits.
    """
    if to < 1:
        raise UsageError(f"a batch of {to} was asked for", hint="give a batch of at least 1")
    edited, now = model.clone(), dependence.batch_of(model)
    _share_repeated(edited.graph, dependence, now)
    nodes = _nodes(edited)
    for (name, index), entries in dependence.constants.items():
        array = _integers(nodes.get(name), index, entries)
        if array is not None:
            for entry in entries:
                array.flat[entry] = _scaled(int(array.flat[entry]), now, to)
            _set_integers(nodes[name], index, array)
    for (name, key), entries in dependence.attributes.items():
        if name in nodes and key in nodes[name].attributes:
            _scale_attribute(nodes[name], key, entries, now, to)
    _set_shapes(edited.graph, dependence, lambda size, _: _scaled(size, now, to))
    return infer_shapes(edited)


def open_batch(model: ir.Model, dependence: BatchDependence) -> ir.Model | Missing:
    """Return ``model`` for any batch: the axis is called ``batch``; ``Missing`` (``batch_baked``) where it cannot be.

    A target of Reshape takes the batch from its input (0) or from what is left (-1); where neither is unambiguous, and
    in other constants, it is computed from the shape of an input.

    Raises:
        ModelError: as :func:`rebatch`.
    """
    edited = model.clone()
    nodes = _nodes(edited)
    reason = _closed(edited, dependence, nodes)
    if reason is not None:
        return Missing(
            code="batch_baked",
            why=f"the batch axis cannot be left open: {reason}",
            cure="keep it fixed to the size that the network will run with",
        )
    _share_repeated(edited.graph, dependence, dependence.batch_of(model))
    opener = _Opener(edited, dependence)
    nodes = _nodes(edited)
    for (name, index), entries in dependence.constants.items():
        array = _integers(nodes.get(name), index, entries)
        if array is not None:
            opener.open(nodes[name], index, array, entries)
    _set_shapes(edited.graph, dependence, lambda _, per_item: _BATCH if per_item == 1 else None)
    return ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(edited).model


def _nodes(model: ir.Model) -> dict[str, ir.Node]:
    return {node.name or "": node for node in model.graph}


def _scaled(size: int, now: int, to: int) -> int:
    """Scale a size; 0 (as the input has it) and -1 (what is left) of a Reshape are no sizes."""
    if size <= 0:
        return size
    per_item, rest = divmod(size, now)
    if rest:
        raise ModelError(f"a size of {size}, which was proportional to the batch of {now}, no longer is")
    return per_item * to


def _set_shapes(graph: ir.Graph, dependence: BatchDependence, change: Callable[[int, int], int | str | None]) -> None:
    """Change the batch in the shapes of values; what is in neither import is forgotten, to be inferred again."""
    made = {id(value) for node in graph for value in node.outputs}
    for value in values_of(graph):
        known = dependence.shapes.get(value.name or "")
        if value.shape is None or (known is not None and max(known) >= len(value.shape)):
            value.shape = None
        elif known is not None:
            sizes: list[int | str | ir.SymbolicDim | None] = list(value.shape)
            for axis, per_item in known.items():
                size = sizes[axis]
                sizes[axis] = change(size, per_item) if isinstance(size, int) else size
            value.shape = ir.Shape(sizes)
        elif value.name not in dependence.known and id(value) in made:
            value.shape = None


def _share_repeated(graph: ir.Graph, dependence: BatchDependence, batch: int) -> None:
    """Make one copy and an Expand of each constant that repeats one item's numbers."""
    nodes = {node.name or "": node for node in graph}
    for (name, index), axis in dependence.repeated.items():
        value = nodes[name].inputs[index] if name in nodes and index < len(nodes[name].inputs) else None
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        if value is None or tensor is None:
            continue  # done before, or compressed away
        array = tensor.numpy()
        one = array.take([0], axis)
        if array.shape[axis] != batch or not np.array_equal(array, np.broadcast_to(one, array.shape)):
            raise ModelError(
                f"'{value.name}' held the same numbers for each of the {batch} items of the batch, and no longer does",
                hint="change the batch before anything is trained",
            )
        _expand(graph, value, one, axis, batch, expand_name(name, index))


def _expand(graph: ir.Graph, value: ir.Value, one: Array, axis: int, batch: int, name: str) -> None:
    sizes = np.ones(one.ndim, np.int64)
    sizes[axis] = batch
    # Where a Constant node made it, an initialiser takes its place.
    single = value if value.is_initializer() else add_initializer(graph, f"{name}.one", one)
    node = ir.node("Expand", [single, add_initializer(graph, f"{name}.shape", sizes)], name=name)
    out = node.outputs[0]
    out.name, out.type = f"{name}.out", value.type
    value.replace_all_uses_with(out)
    node.replace_input_with(0, single)
    single.const_value = ir.tensor(one, name=single.name)
    single.shape = ir.Shape(one.shape)
    graph.insert_before(graph[0], node)
    _drop_unread(value)


def _integers(node: ir.Node | None, index: int, entries: PerItem) -> Array | None:
    """Return a copy of the constant that a node reads; None where there is no such node, or it is computed by now."""
    value = node.inputs[index] if node is not None and index < len(node.inputs) else None
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if value is None or tensor is None:
        return None
    array: Array = tensor.numpy().copy()
    if max(entries) >= array.size:
        raise ModelError(
            f"'{value.name}' has {array.size} entries now, and entry {max(entries)} hung on the batch",
            hint="a method that makes other constants must make a node of another name",
        )
    return array


def _set_integers(node: ir.Node, index: int, array: Array) -> None:
    old = node.inputs[index]
    set_constant(node, index, array)  # type: ignore[arg-type]  # written in the type that it had
    _drop_unread(old)


def _drop_unread(value: ir.Value | None) -> None:
    """Take away a constant that nothing reads any more."""
    if value is None or value.uses() or value.is_graph_output() or value.is_graph_input():
        return
    producer = value.producer()
    if producer is not None and isinstance(producer.graph, ir.Graph):
        producer.graph.remove(producer, safe=True)
    elif producer is None and isinstance(value.graph, ir.Graph):
        value.graph.initializers.pop(value.name or "", None)


def _scale_attribute(node: ir.Node, key: str, entries: PerItem, now: int, to: int) -> None:
    attribute = node.attributes[key]
    if attribute.type == ir.AttributeType.INT:
        node.attributes[key] = ir.AttrInt64(key, _scaled(attribute.as_int(), now, to))
        return
    sizes = list(attribute.as_ints())
    for entry in entries:
        sizes[entry] = _scaled(sizes[entry], now, to)
    node.attributes[key] = ir.AttrInt64s(key, sizes)


def _closed(model: ir.Model, dependence: BatchDependence, nodes: dict[str, ir.Node]) -> str | None:
    """Say why the batch cannot be left open, where that is so."""
    for value in model.graph.inputs:
        if any(per_item != 1 for per_item in dependence.shapes.get(value.name or "", {}).values()):
            return f"an axis of input '{value.name}' is a multiple of it"
    for name, key in dependence.attributes:
        if name in nodes and key in nodes[name].attributes:
            return f"attribute '{key}' of '{name}' ({nodes[name].op_type}) holds it"
    for (name, index), entries in dependence.constants.items():
        array = _integers(nodes.get(name), index, entries)
        if array is not None and array.ndim > 1:
            return f"it stands in a constant of {array.ndim} axes that '{name}' reads"
    return None


class _Opener:
    """Frees constants of the batch."""

    def __init__(self, model: ir.Model, dependence: BatchDependence) -> None:
        self.graph, self.dependence = model.graph, dependence
        self.first = model.graph[0]
        self.batch: ir.Value | None = None  # [1], int64, once it is needed

    def open(self, node: ir.Node, index: int, array: Array, entries: PerItem) -> None:
        flat, rest = array.reshape(-1), {entry: k for entry, k in entries.items() if array.flat[entry] > 0}
        if node.op_type == "Reshape" and index == 1:
            rest = self._of_reshape(node, flat, rest)
        elif node.op_type == "Expand" and index == 1:
            rest = self._of_expand(node, flat, rest)
        _set_integers(node, index, array)
        if rest:
            self._computed(node, index, array, rest)

    def _of_reshape(self, node: ir.Node, flat: Array, entries: dict[int, int]) -> dict[int, int]:
        """Write 0 where the batch stands where it stands in the input, then one -1; return what is left."""
        there = self._axes(node.inputs[0])
        copied = [entry for entry, k in entries.items() if k == 1 and entry in there]
        if not copied or (integer(node, "allowzero", 0) and 0 in flat):
            copied = []
        else:
            node.attributes.pop("allowzero", None)  # no entry is 0 as yet, so that it said nothing
        flat[copied] = 0
        rest = {entry: k for entry, k in entries.items() if entry not in copied}
        if len(rest) == 1 and -1 not in flat:
            flat[rest.popitem()[0]] = -1
        return rest

    def _of_expand(self, node: ir.Node, flat: Array, entries: dict[int, int]) -> dict[int, int]:
        """Write 1 where the input has the batch itself; return what is left."""
        data = node.inputs[0]
        if data is None or data.shape is None:
            return entries
        added = len(flat) - len(data.shape)
        there = {axis + added for axis in self._axes(data)}
        for entry in there & set(entries):
            flat[entry] = 1
        return {entry: k for entry, k in entries.items() if entry not in there}

    def _axes(self, value: ir.Value | None) -> set[int]:
        """Return the axes of a value that are the batch, as far as the imports tell."""
        known = self.dependence.shapes.get((value.name if value is not None else None) or "", {})
        return {axis for axis, per_item in known.items() if per_item == 1}

    def _computed(self, node: ir.Node, index: int, array: Array, entries: dict[int, int]) -> None:
        base = f"{node.name}.{_BATCH}{index}"
        pieces = [
            self._times(entries[i], f"{base}.{i}")
            if i in entries
            else add_initializer(self.graph, f"{base}.{i}", entry)
            for i, entry in enumerate(array.reshape(-1, 1).astype(np.int64))
        ]
        joined: ir.Value = pieces[0] if len(pieces) == 1 else self._add("Concat", pieces, base, {"axis": 0})
        if array.ndim == 0:
            joined = self._add(
                "Reshape", [joined, add_initializer(self.graph, f"{base}.scalar", np.zeros(0, np.int64))], base
            )
        if array.dtype != np.int64:
            to = ir.DataType.from_numpy(array.dtype)
            joined = self._add("Cast", [joined], f"{base}.cast", {"to": to.value})
        old = node.inputs[index]
        node.replace_input_with(index, joined)
        _drop_unread(old)

    def _times(self, per_item: int, name: str) -> ir.Value:
        batch = self._size()
        if per_item == 1:
            return batch
        factor = add_initializer(self.graph, f"{name}.per_item", np.array([per_item]))
        return self._add("Mul", [batch, factor], name)

    def _size(self) -> ir.Value:
        """Return the batch, read off an input."""
        if self.batch is None:
            given = next(value for value in self.graph.inputs if self._axes(value))
            shape = self._add("Shape", [given], f"{_BATCH}.shape")
            axis = add_initializer(self.graph, f"{_BATCH}.axis", np.array([min(self._axes(given))]))
            self.batch = self._add("Gather", [shape, axis], _BATCH, {"axis": 0})
        return self.batch

    def _add(self, op: str, inputs: list[ir.Value], name: str, attributes: dict[str, int] | None = None) -> ir.Value:
        node = ir.node(op, inputs, attributes or {}, name=name)
        out = node.outputs[0]
        out.name = f"{name}.out"
        self.graph.insert_before(self.first, node)
        return out
