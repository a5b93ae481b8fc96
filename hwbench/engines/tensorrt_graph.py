"""The float graph that TensorRT's lowering changes: read, brought to an opset, written; names, constants, ranges.

Constants become initialisers, so that every weight is found in one place, and what the exporter wrote about where a
node comes from is dropped. Names of nodes stay: TensorRT calls its layers by them, and so its inspector is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, LiftConstantsToInitializersPass

from hwbench.errors import ModelError, Unsupported
from hwbench.graph.onnx_file import infer_shapes
from hwbench.graph.parts import write_graph
from hwbench.records.quantization import TensorRange

Array = np.ndarray[Any, np.dtype[Any]]

FILE = "model.onnx"
VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_SAME_RANGE = VIEWS | {"DepthToSpace", "Expand", "MaxPool", "Slice", "SpaceToDepth", "Tile"}  # or one that lies inside


def read(path: Path, *, opset: int) -> ir.Model:
    """Return the graph, in ``opset`` or a newer one that it has, with the types of its tensors known.

    Raises:
        ModelError: the file cannot be read, or brought to the opset.
    """
    try:
        proto = onnx.load(path)
        if _opset(proto) < opset:
            proto = _converted(proto, opset)
    except Exception as error:
        raise ModelError(f"the graph cannot be brought to opset {opset}: {_line(error)}") from error
    model = ir.from_proto(proto)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    model = infer_shapes(model)
    ClearMetadataAndDocStringPass()(model)
    return model


def save(model: ir.Model, folder: Path) -> tuple[str, ...]:
    """Write the graph, its weights beside it where it is too large for one file; return the names of the files."""
    model.graph.sort()
    _drop_unread(model.graph)
    return tuple(path.name for path in write_graph(model, folder / FILE))


class Editor:
    """Makes nodes and constants with names that the graph does not have yet; the same name twice gets a number."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
        self._taken = {value.name for value in values} | {node.name for node in graph}

    def constant(self, name: str, array: Array) -> ir.Value:
        """Return a new initialiser."""
        tensor = ir.tensor(array, name=self._fresh(name))
        value = ir.Value(
            name=tensor.name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype)
        )
        self.graph.register_initializer(value)
        return value

    def node(self, op: str, name: str, inputs: Iterable[ir.Value], dtype: ir.DataType, **attributes: int) -> ir.Value:
        """Append a node with one output, of the shape of its first input, and return the output."""
        given = list(inputs)
        output = ir.Value(name=self._fresh(f"{name}/out"), type=ir.TensorType(dtype), shape=given[0].shape)
        made = ir.node(op, given, attributes, outputs=[output], name=self._fresh(name))
        self.graph.append(made)
        return output

    def _fresh(self, name: str) -> str:
        found, count = name, 1
        while found in self._taken:
            count += 1
            found = f"{name}_{count}"
        self._taken.add(found)
        return found


def constant_of(value: ir.Value | None) -> Array | None:
    """Return what an initialiser holds, or None where a value is none."""
    tensor = None if value is None or not value.is_initializer() else value.const_value
    return None if tensor is None else tensor.numpy()


def is_float32(value: ir.Value | None) -> bool:
    """Say whether a value is known to be of 32-bit floats."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def range_of(value: ir.Value, ranges: Mapping[str, TensorRange]) -> TensorRange | None:
    """Return the range of a tensor: its own, or that of what it is a view or a part of."""
    seen: ir.Value | None = value
    while seen is not None:
        found = ranges.get(seen.name or "")
        if found is not None:
            return found
        node = seen.producer()
        seen = node.inputs[0] if node is not None and node.op_type in _SAME_RANGE and not node.domain else None
    return None


def check_zero_points(graph: ir.Graph) -> None:
    """Refuse a model that was quantised around another point than zero.

    Raises:
        Unsupported: it was.
    """
    for node in graph:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"} or len(node.inputs) < 3:
            continue
        zeros = constant_of(node.inputs[2])
        if zeros is not None and zeros.astype(np.float32).any():
            raise Unsupported(
                f"TensorRT takes no zero points, and '{node.name}' has one",
                hint="quantise the float model with hwbench",
            )


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads a tensor, where no other does and it is no output of the graph."""
    readers = [node for node, _ in value.uses()]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def _opset(proto: onnx.ModelProto) -> int:
    return next((each.version for each in proto.opset_import if each.domain in {"", "ai.onnx"}), 1)


def _converted(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    import onnx.version_converter

    converted: onnx.ModelProto = onnx.version_converter.convert_version(proto, opset)
    return converted


def _drop_unread(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300]
