"""Small networks for the tests of LiteRT's lowering, and ranges for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx_graphs import model, random_array, save, tensor, weight

from hwbench.graph.importer import import_model
from hwbench.records.model import DataFacts, ImportJob, ImportResult
from hwbench.records.quantization import Calibration, CalibrationSettings, TensorRange


def cnn() -> onnx.ModelProto:
    """Two convolutions, a depthwise one, a residual addition, a padded pool, a concatenation, a classifier."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "first", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "first_relu"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "depthwise", group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["c2", "zero", "six"], ["r2"], "clip"),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"], "pointwise"),
        helper.make_node("Add", ["c3", "r1"], ["a"], "residual"),
        helper.make_node("Relu", ["a"], ["ra"], "residual_relu"),
        helper.make_node("MaxPool", ["ra"], ["p"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["p", "w4", "b4"], ["c4"], "branch"),
        helper.make_node("Concat", ["p", "c4"], ["joined"], "join", axis=1),
        helper.make_node("Conv", ["joined", "w5", "b5"], ["c5"], "after"),
        helper.make_node("GlobalAveragePool", ["c5"], ["g"], "mean"),
        helper.make_node("Flatten", ["g"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w6", "b6"], ["logits"], "classifier", transB=1),
    ]
    shapes = {"w1": (8, 3, 3, 3), "w2": (8, 1, 3, 3), "w3": (8, 8, 1, 1), "w4": (4, 8, 1, 1), "w5": (12, 12, 1, 1)}
    shapes |= {"w6": (5, 12), "b1": (8,), "b2": (8,), "b3": (8,), "b4": (4,), "b5": (12,), "b6": (5,)}
    weights = [weight(name, random_array(*shape, seed=seed) * 0.5) for seed, (name, shape) in enumerate(shapes.items())]
    spread = np.geomspace(1e-3, 1.0, 8).astype(np.float32).reshape(8, 1, 1, 1)
    weights[1] = weight("w2", random_array(8, 1, 3, 3, seed=1) * spread)  # per tensor, most channels would vanish
    weights += [weight("zero", np.float32(0)), weight("six", np.float32(6))]
    return model(nodes, [tensor("x", [1, 3, 16, 16])], [tensor("logits", [1, 5])], weights)


def encoder() -> onnx.ModelProto:
    """A LayerNorm, one head of attention, a GELU as exporters spell it out; the second output is read on."""
    root = np.float32(np.sqrt(2.0))
    nodes = [
        helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"], "norm", axis=-1),
        helper.make_node("MatMul", ["n", "wq"], ["q"], "query"),
        helper.make_node("MatMul", ["n", "wk"], ["k"], "key"),
        helper.make_node("MatMul", ["n", "wv"], ["v"], "value"),
        helper.make_node("Transpose", ["k"], ["kt"], "turned", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["s"], "scores"),
        helper.make_node("Softmax", ["s"], ["p"], "softmax", axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["o"], "mixed"),
        helper.make_node("MatMul", ["o", "wo"], ["t"], "out"),
        helper.make_node("Add", ["t", "x"], ["hidden"], "residual"),
        helper.make_node("MatMul", ["hidden", "wu"], ["u"], "up"),
        helper.make_node("Div", ["u", "root"], ["d"], "div"),
        helper.make_node("Erf", ["d"], ["e"], "erf"),
        helper.make_node("Add", ["e", "one"], ["e1"], "plus"),
        helper.make_node("Mul", ["u", "e1"], ["ue"], "times"),
        helper.make_node("Mul", ["ue", "half"], ["gelu"], "halved"),
        helper.make_node("MatMul", ["gelu", "wd"], ["y"], "down"),
    ]
    squares = {
        name: weight(name, random_array(32, 32, seed=seed) / 6) for seed, name in enumerate(("wq", "wk", "wv", "wo"))
    }
    weights = [
        *squares.values(),
        weight("wu", random_array(32, 64, seed=8) / 6),
        weight("wd", random_array(64, 32, seed=9) / 8),
    ]
    weights += [weight("g", 1 + random_array(32, seed=5) * 0.3), weight("b", random_array(32, seed=6))]
    weights += [weight(name, np.float32(value)) for name, value in (("root", root), ("one", 1), ("half", 0.5))]
    ends = [tensor("hidden", [2, 8, 32]), tensor("y", [2, 8, 32])]
    return model(nodes, [tensor("x", [2, 8, 32])], ends, weights)


def tokens() -> onnx.ModelProto:
    """A table looked up by 64-bit numbers, and a product."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], "lookup"),
        helper.make_node("MatMul", ["rows", "w"], ["y"], "product"),
    ]
    weights = [weight("table", random_array(50, 32)), weight("w", random_array(32, 16, seed=1))]
    return model(nodes, [tensor("ids", [1, 6], TensorProto.INT64)], [tensor("y", [1, 6, 16])], weights)


def loud_bias() -> onnx.ModelProto:
    """A convolution one channel of which has tiny weights and a large bias."""
    weights = random_array(4, 3, 1, 1)
    weights[2] *= 1e-12
    bias = np.array([0.1, -0.2, 3.0, 0.0], np.float32)
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")]
    ends = [tensor("x", [1, 3, 4, 4])], [tensor("y", [1, 4, 4, 4])]
    return model(nodes, *ends, [weight("w", weights), weight("b", bias)])


def bring_in(made: onnx.ModelProto, folder: Path) -> ImportResult:
    path = save(made, folder)
    job = ImportJob(model=str(path), batch_size=None, shapes={}, input_data=None, seed=0)
    return import_model(job, folder / "imported")


def calibration(path: Path, feeds: dict[str, np.ndarray]) -> Calibration:
    """The extremes of every tensor on one sample, found by onnxruntime."""
    import onnxruntime

    net = onnx.shape_inference.infer_shapes(onnx.load(path))
    known = {value.name for value in net.graph.output}
    net.graph.output.extend(value for value in net.graph.value_info if value.name not in known)
    session = onnxruntime.InferenceSession(net.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    found = {**feeds, **dict(zip(names, session.run(None, feeds), strict=True))}
    floats = {name: array for name, array in found.items() if array.dtype == np.float32}
    tensors = {name: _range(float(array.min()), float(array.max())) for name, array in floats.items()}
    facts = DataFacts(source="one sample", sha256="0" * 64, samples=1, labels=False)
    settings = CalibrationSettings(estimator="minmax")
    return Calibration(schema_version=1, settings=settings, data=facts, graph_sha256="0" * 64, tensors=tensors)


def _range(low: float, high: float) -> TensorRange:
    return TensorRange(low=low, high=high, magnitude=max(abs(low), abs(high)), seen_low=low, seen_high=high)
