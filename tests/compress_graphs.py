"""Small graphs for tests of repairs: one layer, or a chain of them, with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from hwbench.graph.onnx_file import infer_shapes

Array = np.ndarray[Any, np.dtype[Any]]


def graph(
    nodes: list[Any], weights: dict[str, Array], shape: tuple[int, ...], output: str, opset: int = 21
) -> ir.Model:
    """Return a model with input 'x' in float32 and one output; shapes are inferred."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info(output)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return infer_shapes(ir.from_proto(model))


def one_layer(op: str, weight: Array, shape: tuple[int, ...], **attributes: Any) -> ir.Model:
    """Return a model of one layer 'layer' without bias that maps 'x' to 'y'."""
    node = helper.make_node(op, ["x", "w"], ["y"], name="layer", **attributes)
    return graph([node], {"w": weight.astype(np.float32)}, shape, "y")


def norms(rng: np.random.Generator, name: str, channels: int) -> dict[str, Array]:
    """Return the four constants of a BatchNormalization whose statistics are those of nothing in particular."""
    parts = {
        "scale": rng.uniform(0.5, 1.5, channels),
        "shift": rng.normal(size=channels),
        "mean": rng.normal(size=channels),
        "var": rng.uniform(0.5, 2, channels),
    }
    return {f"{name}.{part}": array.astype(np.float32) for part, array in parts.items()}


def small_cnn(seed: int = 0, *, batch: int = 4, channels: int = 6, norm: bool = True) -> ir.Model:
    """Return conv1-(bn1)-relu-conv2-(bn2)-relu-pool-fc; 'a1', 'a2' are outputs of the convolutions, 'y' of fc."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.normal(size=(channels, 3, 3, 3)) / 5,
        "w2": rng.normal(size=(channels, channels, 3, 3)) / 7,
        "w3": rng.normal(size=(5, channels)),
        "b3": rng.normal(size=5),
    }
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    nodes, last = [], "x"
    for index in ("1", "2"):
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"a{index}"], name=f"conv{index}", pads=[1] * 4))
        last = f"a{index}"
        if norm:
            parts = norms(rng, f"bn{index}", channels)
            weights |= parts
            nodes.append(helper.make_node("BatchNormalization", [last, *parts], [f"n{index}"], name=f"bn{index}"))
            last = f"n{index}"
        nodes.append(helper.make_node("Relu", [last], [f"r{index}"], name=f"relu{index}"))
        last = f"r{index}"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], name="fc", transB=1),
    ]
    return graph(nodes, weights, (batch, 3, 8, 8), "y")
