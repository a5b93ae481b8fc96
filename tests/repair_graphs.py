"""Small networks for the repairs of weights, and what the tests of repairs ask of any network."""

from __future__ import annotations

import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
from onnx import ModelProto, helper

from hwbench.graph.linear import Linear, linear_layers
from hwbench.graph.onnx_file import infer_shapes
from hwbench.quantize.statistics import ChannelStatistics

IMAGE = [2, 4, 9, 9]


def hub(made: ModelProto) -> ir.Model:
    return infer_shapes(ir.from_proto(made))


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    """The first output, computed by onnxruntime; ONNX's own reference cannot do transposed convolutions of groups."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime computes the networks")
    session = runtime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def images(seed: int = 0) -> np.ndarray:
    return graphs.random_array(*IMAGE, seed=seed)


def uneven(*shape: int, seed: int, axis: int = 0) -> np.ndarray:
    """Weights whose channels on ``axis`` differ in size by factors of up to a thousand."""
    sizes = 10 ** np.random.default_rng(seed).uniform(-1.5, 1.5, shape[axis])
    return graphs.random_array(*shape, seed=seed) * sizes.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def chain(*between: tuple[str, dict[str, object]], bias: bool = True, end: str = "Conv") -> ModelProto:
    """A convolution, the operators named, a second layer: ``first`` and ``second``, 8 channels between."""
    nodes = [helper.make_node("Conv", ["x", "w1", *(["b1"] if bias else [])], ["t0"], name="first", pads=[1, 1, 1, 1])]
    for index, (op, attributes) in enumerate(between):
        constants = attributes.get("_inputs", [])
        kept = {name: value for name, value in attributes.items() if name != "_inputs"}
        nodes.append(helper.make_node(op, [f"t{index}", *constants], [f"t{index + 1}"], name=op.lower(), **kept))
    last = f"t{len(between)}"
    if end == "Conv":
        nodes.append(helper.make_node("Conv", [last, "w2", "b2"], ["y"], name="second"))
        second, out = uneven(5, 8, 3, 3, seed=3, axis=1), [2, 5, None, None]
    else:
        nodes.append(helper.make_node("Gemm", [last, "w2", "b2"], ["y"], name="second"))
        second, out = uneven(8, 5, seed=3), [2, 5]
    weights = [
        graphs.weight("w1", uneven(8, 4, 3, 3, seed=1).astype(np.float32)),
        graphs.weight("w2", second.astype(np.float32)),
        graphs.weight("b2", graphs.random_array(5, seed=4)),
        graphs.weight("zero", np.float32(0)),
        graphs.weight("six", np.float32(6)),
        graphs.weight("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)),
    ]
    if bias:
        weights.append(graphs.weight("b1", graphs.random_array(8, seed=2)))
    used = {name for node in nodes for name in node.input}
    return graphs.model(
        nodes, [graphs.tensor("x", IMAGE)], [graphs.tensor("y", out)], [w for w in weights if w.name in used]
    )


def layer(model: ir.Model, name: str) -> Linear:
    found = {item.name: item for item in linear_layers(model) if isinstance(item, Linear)}
    return found[name]


def measured(x: np.ndarray, axis: int) -> ChannelStatistics:
    rest = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    return ChannelStatistics(
        mean=x.astype(np.float64).mean(rest), absmax=np.abs(x).max(rest).astype(np.float64), axis=axis
    )


def fake_quantised(weight: np.ndarray, axis: int, bits: int = 8, *, per_tensor: bool = False) -> np.ndarray:
    """Symmetric rounding to nearest with one scale for each index of ``axis``, written without the package's help."""
    top = 2 ** (bits - 1) - 1
    result = np.empty_like(weight)
    for index in range(weight.shape[axis]):
        here = [slice(None)] * weight.ndim
        here[axis] = index
        part = weight[tuple(here)]
        largest = np.abs(weight if per_tensor else part).max()
        scale = largest / top if largest else 1.0
        result[tuple(here)] = np.round(part / scale) * scale
    return result
