"""Small ONNX models for the tests, each one function; ``save`` writes one and returns its path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
IR_VERSION = 10

Axes = Sequence["int | str | None"]


def tensor(name: str, axes: Axes | None, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """A graph input or output; a string is a named dynamic axis, None an unnamed one."""
    return helper.make_tensor_value_info(name, dtype, axes)


def weight(name: str, array: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    opsets: dict[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "net", list(inputs), list(outputs), list(weights))
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": OPSET}).items()]
    made = helper.make_model(graph, opset_imports=imports, functions=list(functions), producer_name="tests")
    made.ir_version = IR_VERSION
    return made


def save(made: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    path = folder / name
    path.write_bytes(made.SerializeToString())
    return path


def random_array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def unary(
    op: str = "Relu", axes: Axes | None = (1, 4), dtype: int = TensorProto.FLOAT, **attributes: object
) -> onnx.ModelProto:
    """``y = op(x)``."""
    node = helper.make_node(op, ["x"], ["y"], name="only", **attributes)
    out = attributes["to"] if op == "Cast" else dtype
    return model([node], [tensor("x", axes, dtype)], [tensor("y", axes, out)])


def two_inputs(first: Axes, second: Axes) -> onnx.ModelProto:
    """``c = a + reduced b``: any two shapes fit."""
    nodes = [
        helper.make_node("ReduceSum", ["b"], ["s"], name="sum", keepdims=0),
        helper.make_node("Add", ["a", "s"], ["c"], name="add"),
    ]
    return model(nodes, [tensor("a", first), tensor("b", second)], [tensor("c", first)])


def mlp(batch: int | str | None = 1) -> onnx.ModelProto:
    """Two Gemms with a Relu between."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="fc1", transB=1),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w2"], ["y"], name="fc2"),
    ]
    weights = [
        weight("w1", random_array(8, 4)),
        weight("b1", random_array(8, seed=1)),
        weight("w2", random_array(8, 3, seed=2)),
    ]
    return model(nodes, [tensor("x", [batch, 4])], [tensor("y", [batch, 3])], weights)


def statistics(name: str, channels: int, seed: int = 7) -> list[onnx.TensorProto]:
    """Scale, bias, mean and variance of a BatchNorm, named ``<name>.scale`` and so on."""
    generator = np.random.default_rng(seed)
    arrays = {
        "scale": generator.uniform(0.5, 2, channels),
        "bias": generator.standard_normal(channels),
        "mean": generator.standard_normal(channels),
        "var": generator.uniform(0.1, 3, channels),
    }
    return [weight(f"{name}.{part}", array.astype(np.float32)) for part, array in arrays.items()]


def batch_norm(name: str, source: str, result: str, **attributes: object) -> onnx.NodeProto:
    parts = [f"{name}.{part}" for part in ("scale", "bias", "mean", "var")]
    return helper.make_node("BatchNormalization", [source, *parts], [result], name=name, **attributes)


def convnet(*, bias: bool = False, group: int = 1, batch: int | str | None = 1) -> onnx.ModelProto:
    """Conv, BatchNorm, Relu."""
    taken = ["x", "w", "b"] if bias else ["x", "w"]
    nodes = [
        helper.make_node("Conv", taken, ["c"], name="conv", pads=[1, 1, 1, 1], group=group),
        batch_norm("bn", "c", "n"),
        helper.make_node("Relu", ["n"], ["y"], name="relu"),
    ]
    weights = [weight("w", random_array(6, 4 // group, 3, 3)), *statistics("bn", 6)]
    if bias:
        weights.append(weight("b", random_array(6, seed=3)))
    return model(nodes, [tensor("x", [batch, 4, 5, 5])], [tensor("y", [batch, 6, 5, 5])], weights)


def embedding(rows: int = 11, *, through: Sequence[str] = (), dtype: int = TensorProto.INT64) -> onnx.ModelProto:
    """Token ids, through the named operators, into a table of ``rows`` rows; and a mask."""
    nodes, source = [], "input_ids"
    axes = weight("axes", np.array([0], dtype=np.int64))
    for step, op in enumerate(through):
        result = f"t{step}"
        if op == "Cast":
            nodes.append(helper.make_node("Cast", [source], [result], name=result, to=TensorProto.INT64))
        elif op == "Unsqueeze":
            nodes.append(helper.make_node("Unsqueeze", [source, "axes"], [result], name=result))
        else:
            nodes.append(helper.make_node(op, [source], [result], name=result))
        source = result
    nodes += [
        helper.make_node("Gather", ["table", source], ["rows"], name="lookup"),
        helper.make_node("Cast", ["attention_mask"], ["m"], name="float_mask", to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["m"], ["s"], name="count", keepdims=0),
        helper.make_node("Mul", ["rows", "s"], ["y"], name="scale"),
    ]
    inputs = [tensor("input_ids", [1, 64], dtype), tensor("attention_mask", [1, 64], TensorProto.INT64)]
    return model(nodes, inputs, [tensor("y", None)], [axes, weight("table", random_array(rows, 3))])


def branches() -> onnx.ModelProto:
    """An If whose branches use a weight of the outer graph."""
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["t"], name="inner")], "then", [], [tensor("t", [1, 4])]
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"], name="keep")], "else", [], [tensor("e", [1, 4])]
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], name="sum", keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"], name="positive"),
        helper.make_node("If", ["c"], ["y"], name="if", then_branch=then, else_branch=other),
    ]
    weights = [weight("w", random_array(4, 4)), weight("zero", np.float32(0))]
    return model(nodes, [tensor("x", [1, 4])], [tensor("y", [1, 4])], weights)


def loop(steps: int = 3) -> onnx.ModelProto:
    """Adds a constant ``steps`` times."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "one"], ["next"], name="step"),
            helper.make_node("Identity", ["go"], ["goes"], name="on"),
        ],
        "body",
        [tensor("i", [], TensorProto.INT64), tensor("go", [], TensorProto.BOOL), tensor("state", [1, 4])],
        [tensor("goes", [], TensorProto.BOOL), tensor("next", [1, 4])],
    )
    nodes = [helper.make_node("Loop", ["n", "yes", "x"], ["y"], name="loop", body=body)]
    weights = [weight("n", np.int64(steps)), weight("yes", np.bool_(True)), weight("one", np.float32(1))]
    return model(nodes, [tensor("x", [1, 4])], [tensor("y", [1, 4])], weights)


def local_function() -> onnx.ModelProto:
    """Calls a function that the file itself defines, in a domain of its own."""
    function = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"], name="add")],
        [helper.make_opsetid("", OPSET)],
    )
    nodes = [
        helper.make_node("Twice", ["x"], ["t"], name="twice", domain="local"),
        helper.make_node("Relu", ["t"], ["y"], name="relu"),
    ]
    return model(
        nodes,
        [tensor("x", [1, 4])],
        [tensor("y", [1, 4])],
        opsets={"": OPSET, "local": 1},
        functions=[function],
    )


def quantized() -> onnx.ModelProto:
    """A convolution between QuantizeLinear and DequantizeLinear, its weights in int8."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"], name="q"),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"], name="dq"),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], name="dqw", axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["y"], name="conv"),
    ]
    weights = [
        weight("xs", np.float32(0.02)),
        weight("xz", np.uint8(128)),
        weight("wq", np.random.default_rng(0).integers(-127, 128, (4, 2, 3, 3)).astype(np.int8)),
        weight("ws", np.full(4, 0.01, np.float32)),
        weight("wz", np.zeros(4, np.int8)),
    ]
    return model(nodes, [tensor("x", [1, 2, 6, 6])], [tensor("y", [1, 4, 4, 4])], weights)


def external(folder: Path, *, location: str, array: np.ndarray | None, length: int | None = None) -> Path:
    """A model whose weight lies in the file ``location``; ``array`` is what is written there, if anything."""
    shape = (64, 64)
    reference = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    values = {"location": location, "offset": 0, "length": length if length is not None else 64 * 64 * 4}
    for key, value in values.items():
        reference.external_data.add(key=key, value=str(value))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")]
    made = model(nodes, [tensor("x", [1, 64])], [tensor("y", [1, 64])], [reference])
    if array is not None:
        (folder / location).write_bytes(array.tobytes())
    return save(made, folder)
