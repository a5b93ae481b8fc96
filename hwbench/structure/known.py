"""Which values follow from constants and from fixed shapes alone, and what they are.

Exporters compute the amounts of a Pad or the sizes of a Reshape in the graph. Whoever cuts channels has to know these
numbers, and whether they would change by themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

Array = np.ndarray[Any, np.dtype[Any]]

_ANY_DOMAIN = {"", "ai.onnx"}
_SHAPES = {"Shape", "Size"}
_FOLDED = {
    "Abs", "Add", "Cast", "CastLike", "Ceil", "Clip", "Concat", "ConstantOfShape", "Cos", "Div", "Equal", "Exp",
    "Expand", "Flatten", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log",
    "Max", "Min", "Mod", "Mul", "Neg", "Not", "Pad", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMin",
    "ReduceProd", "ReduceSum", "Reshape", "Round", "Sin", "Slice", "Sqrt", "Squeeze", "Split", "Sub", "Tile",
    "Transpose", "Trilu", "Unsqueeze", "Where",
}  # fmt: skip


class Known:
    """The known values of a model as it is now; each is computed when it is first asked for."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
        self._computed: dict[ir.Value, Array] = {}
        self.values: set[ir.Value] = {
            value for value in model.graph.initializers.values() if not value.is_graph_input()
        }  # an initialiser that is an input may be given anew
        for node in model.graph:
            if self._follows(node):
                self.values.update(node.outputs)

    def __contains__(self, value: object) -> bool:
        return value in self.values

    def array(self, value: ir.Value | None) -> Array | None:
        """Return a known value, or None where it is none, or where the node that makes it cannot be computed."""
        if value is None or value not in self.values:
            return None
        constant = ir.convenience.get_const_tensor(value)
        if constant is not None:
            return constant.numpy()
        if value not in self._computed:
            node = value.producer()
            assert node is not None
            self._compute(node)
        return self._computed.get(value)

    def hanging(self, changed: set[ir.Value]) -> list[ir.Value]:
        """Return the values that are computed from shapes, or from constants that have changed, in graph order."""
        found = dict.fromkeys(changed)
        for node in self.model.graph:
            if all(value in self.values for value in node.outputs) and (
                node.op_type in _SHAPES or any(value in found for value in node.inputs)
            ):
                found.update(dict.fromkeys(node.outputs))
        return [value for value in found if value not in changed]

    def _follows(self, node: ir.Node) -> bool:
        if node.domain not in _ANY_DOMAIN or len(node.outputs) == 0:
            return False
        if node.op_type == "Constant":
            return ir.convenience.get_const_tensor(node.outputs[0]) is not None
        if node.op_type in _SHAPES:
            return node.inputs[0] is not None and is_static(node.inputs[0])
        return node.op_type in _FOLDED and all(value is None or value in self.values for value in node.inputs)

    def _compute(self, node: ir.Node) -> None:
        """Compute the outputs of a node; they stay unknown where ONNX's reference cannot."""
        if node.op_type in _SHAPES:
            self._computed[node.outputs[0]] = _shape(node)
            return
        given = {value.name or "": self.array(value) for value in node.inputs if value is not None}
        if any(array is None for array in given.values()):
            return
        try:
            results = ReferenceEvaluator(ir.to_proto(node), opsets={"": self.opset}).run(None, given)
        except Exception:  # noqa: BLE001 - the evaluator raises whatever a malformed node makes numpy raise
            return
        self._computed.update(zip(node.outputs, (np.asarray(result) for result in results), strict=False))


def is_static(value: ir.Value) -> bool:
    """Say whether every size of a tensor is a number."""
    return value.shape is not None and value.shape.is_static()


def sizes(value: ir.Value) -> tuple[int, ...]:
    """Return the fixed sizes of a tensor."""
    assert value.shape is not None
    return tuple(int(size) for size in value.shape.numpy())


def _shape(node: ir.Node) -> Array:
    value = node.inputs[0]
    assert value is not None
    shape = sizes(value)
    if node.op_type == "Size":
        return np.array(int(np.prod(shape)), np.int64)
    start, end = node.attributes.get("start"), node.attributes.get("end")
    return np.array(shape[start.as_int() if start else 0 : end.as_int() if end else None], np.int64)
