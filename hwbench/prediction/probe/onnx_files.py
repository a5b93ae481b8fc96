"""Anchors as ONNX files: float, half, and int8 with QuantizeLinear and DequantizeLinear around every layer.

Weights are random by seed: their values do not change what a dense kernel takes, but zeros or denormals could.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwbench.prediction.probe.anchors import ACTIVATION_STEP, Anchor, Step, in_int8, weights

_OPSET = 17


@dataclass
class _Graph:
    precision: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def constant(self, values: np.ndarray[Any, Any]) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def weight_and_bias(self, shape: tuple[int, ...], outputs: int) -> list[str]:
        """Return the names of random weights and of a bias of zeros."""
        values = weights(self.chance, shape)
        if self.precision != "int8":
            kind = np.float16 if self.precision == "fp16" else np.float32
            return [self.constant(values.astype(kind)), self.constant(np.zeros(outputs, kind))]
        stored, step = in_int8(values)
        return [
            self.add("DequantizeLinear", [self.constant(stored), *self._grid(step, np.int8(0))]),
            self.add(
                "DequantizeLinear",
                [self.constant(np.zeros(outputs, np.int32)), *self._grid(ACTIVATION_STEP * step, np.int32(0))],
            ),
        ]

    def quantised(self, value: str, *, positive: bool) -> str:
        """Return the tensor on its grid; as it is where nothing is quantised."""
        if self.precision != "int8":
            return value
        grid = self._grid(ACTIVATION_STEP, np.uint8(0 if positive else 128))
        return self.add("DequantizeLinear", [self.add("QuantizeLinear", [value, *grid]), *grid])

    def _grid(self, step: float, zero: Any) -> list[str]:
        return [self.constant(np.array(step, np.float32)), self.constant(np.array(zero))]


def onnx_model(anchor: Anchor, precision: str) -> onnx.ModelProto:
    """Return an anchor as an ONNX model of fixed shapes, inferred."""
    graph = _Graph(precision)
    shape = [1, anchor.channels, anchor.size, anchor.size] if anchor.size else [anchor.rows, anchor.channels]
    kind = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
    channels, past = anchor.channels, [graph.quantised("x", positive=False)]
    for step in anchor.steps:
        made, channels = _layer(graph, step, past, channels)
        if step.relu:
            made = graph.add("Relu", [made])
        past.append(made if step.op == "mean" else graph.quantised(made, positive=step.relu))
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            anchor.name,
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info(past[-1], kind, None)],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=8,
    )
    return onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)


def _layer(graph: _Graph, step: Step, past: list[str], channels: int) -> tuple[str, int]:
    source = past[-1]
    if step.op in {"conv", "depthwise"}:
        groups = channels if step.op == "depthwise" else 1
        out = channels if step.op == "depthwise" else step.channels
        inputs = graph.weight_and_bias((out, channels // groups, step.kernel, step.kernel), out)
        made = graph.add(
            "Conv", [source, *inputs], group=groups, strides=[step.stride] * 2,
            kernel_shape=[step.kernel] * 2, pads=[step.kernel // 2] * 4,
        )  # fmt: skip
        return made, out
    if step.op == "dense":
        inputs = graph.weight_and_bias((channels, step.channels), step.channels)
        return graph.add("Gemm", [source, *inputs]), step.channels
    if step.op == "add":
        return graph.add("Add", [source, past[-step.back]]), channels
    if step.op == "mean":
        pooled = graph.quantised(graph.add("GlobalAveragePool", [source]), positive=False)
        return graph.add("Flatten", [pooled]), channels
    if step.op == "swish":
        return graph.add("Mul", [source, graph.add("Sigmoid", [source])]), channels
    return graph.add("Softmax", [source], axis=-1), channels


def write_onnx(anchor: Anchor, precision: str, path: Path) -> None:
    """Write an anchor as an ONNX file."""
    path.write_bytes(onnx_model(anchor, precision).SerializeToString())
