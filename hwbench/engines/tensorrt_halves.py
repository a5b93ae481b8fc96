"""A float graph written in half precision: fp16 or bf16 for weights and activations, fp32 for the nodes that need it.

Inputs and outputs of the graph keep their types: casts stand there, and around every node that stays in fp32. What
carries indices and shapes is not touched.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np
import onnx_ir as ir

from hwbench.engines.tensorrt_graph import Array, Editor, constant_of, is_float32

HALVES: Final = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
LARGEST: Final = {"fp16": 65504.0, "bf16": 3.3895313892515355e38}  # what the format holds
SMALLEST: Final = {"fp16": 2.0**-14, "bf16": 2.0**-126}  # its smallest normal number
_ANY: Final = frozenset({"Cast", "Shape", "Size"})  # read every type alike
_FP32_INPUTS: Final = {"Resize": (1, 2), "Upsample": (1,)}  # of these the standard wants fp32


def rounded(array: Array, kind: str) -> Array:
    """Return float64 or float32 numbers as ``kind`` holds them, in that type; what is too large becomes the largest."""
    edge = LARGEST[kind]
    clipped = np.where(np.isfinite(array), np.clip(array, -edge, edge), array)
    return clipped.astype(np.float32).astype(HALVES[kind].numpy())


def to_half(model: ir.Model, kind: str, wide: Collection[ir.Node]) -> None:
    """Change the graph to ``kind`` in place, but for the nodes in ``wide``."""
    _Typist(model.graph, kind, set(wide)).write()


class _Typist:
    def __init__(self, graph: ir.Graph, kind: str, wide: set[ir.Node]) -> None:
        self._graph = graph
        self._kind = kind
        self._half = HALVES[kind]
        self._wide = wide
        self._own = set(graph)  # the other nodes are in bodies of these, and stay as they are
        self._halved = {
            value for node in graph if node not in wide for value in node.outputs if value.dtype == ir.DataType.FLOAT
        }
        self._edit = Editor(graph)
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def write(self) -> None:
        wanted = [
            (node, index, value, self._wanted(node, index))
            for node in self._graph.all_nodes()
            for index, value in enumerate(node.inputs)
            if value is not None and is_float32(value) and self._is_outer(value)
        ]
        outputs = [value for value in self._graph.outputs if value in self._halved]
        for node, index, value, want in wanted:
            if want is not None and want != self._type(value):
                node.replace_input_with(index, self._as(value, want))
        for node in self._own - self._wide:
            self._retype(node)
        for value in outputs:
            self._give_back(value)
        for value in self._halved:
            value.dtype = self._half

    def _is_outer(self, value: ir.Value) -> bool:
        maker = value.producer()
        return value.graph is self._graph if maker is None else maker in self._own

    def _wanted(self, node: ir.Node, index: int) -> ir.DataType | None:
        if node.op_type in _ANY and not node.domain:
            return None
        if node not in self._own or node in self._wide or index in _FP32_INPUTS.get(node.op_type, ()):
            return ir.DataType.FLOAT
        return self._half

    def _type(self, value: ir.Value) -> ir.DataType:
        return self._half if value in self._halved else ir.DataType.FLOAT

    def _as(self, value: ir.Value, want: ir.DataType) -> ir.Value:
        """Return a value in another type: a constant rounded, or a cast that all its readers share."""
        if (value, want) not in self._made:
            name = f"{value.name}/as_{'fp32' if want == ir.DataType.FLOAT else self._kind}"
            array = constant_of(value)
            self._made[value, want] = (
                self._edit.node("Cast", name, [value], want, to=want.value)
                if array is None
                else self._edit.constant(name, rounded(array, self._kind))
            )
        return self._made[value, want]

    def _retype(self, node: ir.Node) -> None:
        """Let a node that names its output's type give the half."""
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT and not node.domain:
            node.attributes["to"] = ir.AttrInt64("to", self._half.value)
        elif node.op_type == "ConstantOfShape" and node.outputs[0] in self._halved:
            given = node.attributes.get("value")
            array = np.zeros(1, np.float32) if given is None else given.as_tensor().numpy()
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(rounded(array, self._kind)))

    def _give_back(self, value: ir.Value) -> None:
        """Make an output of the graph fp32 again, under its name."""
        name = value.name
        value.name = f"{name}/{self._kind}"
        output = self._edit.node("Cast", f"{name}/as_fp32", [value], ir.DataType.FLOAT, to=ir.DataType.FLOAT.value)
        output.name = name
        for index, other in enumerate(self._graph.outputs):
            if other is value:
                self._graph.outputs[index] = output
