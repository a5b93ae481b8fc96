"""Nodes whose result is known before the network runs.

The batch is fixed in the hub, and must be changeable later: what may hang on it is not computed. So of a shape only
entries are taken that stay the same at another batch, and a constant is not repeated (Expand, Tile), since it may be
repeated once for each item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from hwbench.errors import ModelError
from hwbench.graph.initializers import add_initializer
from hwbench.graph.onnx_file import infer_shapes
from hwbench.records.base import Missing
from hwbench.structure.rewrites.base import (
    BOUNDARY,
    HELD,
    Array,
    Bench,
    Place,
    bypass,
    constant,
    integers,
    place,
    refused,
    sizes,
)
from hwbench.structure.rewrites.common import RANDOM

_Axes = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
_STORED_SMALL = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Expand", "Tile"})
_GROWS = 1024  # elements that a result may have beyond those of its inputs
_SHARED = Missing(code="shared_weight", why="others read the constant too, and computing it would store it twice")
_BATCH = Missing(code="may_depend_on_batch", why="it reads a size that may change with the batch")
_UNKNOWN = Missing(code="no_reference", why="ONNX's reference implementation does not compute it")


def constants(bench: Bench) -> Iterator[Place]:
    """Yield nodes that follow from constants, and sizes that follow from shapes."""
    yield from _sizes(bench)
    for node in bench.nodes():
        if not _follows(node):
            continue
        if any(value.is_graph_output() for value in node.outputs):
            yield refused(BOUNDARY, node)
        elif bench.holds(*node.inputs):
            yield refused(HELD, node)
        else:
            yield _computed(bench, node)


def _follows(node: ir.Node) -> bool:
    if node.op_type in RANDOM | _STORED_SMALL or len(node.outputs) != 1:
        return False
    if any(
        attribute.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS} for attribute in node.attributes.values()
    ):
        return False
    if node.op_type == "Constant":
        return True
    given = [value for value in node.inputs if value is not None]
    return bool(given) and all(constant(value) is not None for value in given)


def _computed(bench: Bench, node: ir.Node) -> Place:
    arrays = {value.name or "": constant(value) for value in node.inputs if value is not None}
    known = {name: array for name, array in arrays.items() if array is not None}
    if any(array.size > _GROWS and _read_elsewhere(node, name) for name, array in known.items()):
        return refused(_SHARED, node)
    shape = sizes(node.outputs[0])
    if shape is not None and np.prod(shape) > _GROWS + sum(array.size for array in known.values()):
        return refused(Missing(code="grows", why=f"its result has {int(np.prod(shape))} elements"), node)
    result = _evaluate(node, known, bench.opset)
    if result is None:
        return refused(_UNKNOWN, node)
    if result.size > _GROWS + sum(array.size for array in known.values()) and node.op_type != "Constant":
        return refused(Missing(code="grows", why=f"its result has {result.size} elements"), node)
    what = (
        "Constant turned into an initialiser" if node.op_type == "Constant" else f"{node.op_type} of constants computed"
    )
    return place(what, _put(bench, node, result), node)


def _read_elsewhere(node: ir.Node, name: str) -> bool:
    return any(user is not node for value in node.inputs if value is not None and value.name == name
               for user, _ in value.uses())  # fmt: skip


def _put(bench: Bench, node: ir.Node, result: Array) -> Callable[[], None]:
    def make() -> None:
        out = node.outputs[0]
        name = out.name or f"{node.name}.value"
        out.name = f"{name}.unused"
        bypass(node, add_initializer(bench.graph, name, result))

    return make


def _evaluate(node: ir.Node, known: dict[str, Array], opset: int) -> Array | None:
    if node.op_type == "Constant":
        tensor = ir.convenience.get_const_tensor(node.outputs[0])
        return None if tensor is None else tensor.numpy()
    proto = ir.to_proto(node)
    proto.output[0] = "result"
    given = [onnx.numpy_helper.from_array(array, name) for name, array in known.items() if array.dtype.kind in "fiub"]
    if len(given) < len(known):
        return None  # an element type that numpy has none of
    out = onnx.helper.make_empty_tensor_value_info("result")
    graph = onnx.helper.make_graph([proto], "constants", [], [out], given)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            (result,) = ReferenceEvaluator(model).run(None, {})
    except Exception:  # noqa: BLE001 - the reference implementation raises what numpy raises
        return None
    kind = node.outputs[0].dtype
    if not isinstance(result, np.ndarray | np.generic) or (kind is not None and result.dtype != kind.numpy()):
        return None
    return np.asarray(result)


def _sizes(bench: Bench) -> Iterator[Place]:
    free: dict[str, set[int]] | None = None
    for node, of, picked in _picks(bench):
        wanted = {int(axis) for axis in picked.flat}
        if free is None and 0 not in wanted:
            free = _free_of_batch(bench)  # dear, so only where it can tell
        known = sizes(of)
        if known is None or 0 in wanted or not wanted <= (free or {}).get(of.name or "", set()):
            yield refused(_BATCH, node)
        elif node.outputs[0].is_graph_output():
            yield refused(BOUNDARY, node)
        else:
            numbers = np.array([known[axis] for axis in picked.flat], np.int64).reshape(picked.shape)
            yield place("size of a fixed axis written down", _put(bench, node, numbers), node)


def _picks(bench: Bench) -> Iterator[tuple[ir.Node, ir.Value, _Axes]]:
    """Yield nodes that put out sizes of a value, the value, and of which of its axes."""
    for node in bench.nodes("Shape"):
        value = node.inputs[0]
        if value is None or sizes(value) is None:
            continue
        axes = _axes_told(node, len(sizes(value) or ()))
        readers = [reader for reader, index in node.outputs[0].uses() if index == 0 and reader.graph is bench.graph]
        picked = [(reader, _picked(reader, axes)) for reader in readers]
        if any(found is None for _, found in picked):
            yield node, value, np.array(axes)
        yield from ((reader, value, found) for reader, found in picked if found is not None)


def _axes_told(node: ir.Node, rank: int) -> list[int]:
    """Return the axes whose sizes a Shape node puts out."""
    numbers = [node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end")]
    return list(range(rank))[slice(*numbers)]


def _picked(reader: ir.Node, axes: list[int]) -> _Axes | None:
    """Return the axes whose sizes a Gather or Slice takes out of a shape."""
    if reader.op_type == "Gather":
        indices = constant(reader.inputs[1])
        return None if indices is None else np.array(axes)[indices.astype(np.int64)]
    if reader.op_type != "Slice":
        return None
    starts, ends = integers(reader, 1, "starts"), integers(reader, 2, "ends")
    steps = integers(reader, 4, "steps")
    if not starts or not ends or steps is None:
        return None
    return np.array(axes)[slice(starts[0], ends[0], (steps or [1])[0])]


def _free_of_batch(bench: Bench) -> dict[str, set[int]]:
    """Return the axes of values that keep their size at another batch: never axis 0 of what is computed."""
    other = bench.model.clone()
    for value in other.graph.inputs:
        known = sizes(value)
        if not value.is_initializer() and known is not None and known[:1] == (bench.batch,):
            value.shape = ir.Shape((bench.batch + 1, *known[1:]))
    before = {value.name or "": sizes(value) for node in bench.graph for value in node.outputs}
    before |= {value.name or "": sizes(value) for value in bench.graph.inputs}
    for node in other.graph:
        for value in node.outputs:
            value.shape = None
    try:
        inferred = infer_shapes(other)
    except ModelError:
        return {}  # the batch stands in its constants
    after = [value for node in inferred.graph for value in node.outputs] + list(inferred.graph.inputs)
    return {
        value.name or "": {
            axis for axis, (mine, others) in enumerate(zip(known, found, strict=False)) if axis > 0 and mine == others
        }
        for value in after
        if (known := before.get(value.name or "")) is not None and (found := sizes(value)) is not None
    }
