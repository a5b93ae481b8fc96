"""In what precision a graph asks for its multiply-adds, whatever its inputs and outputs are."""

from __future__ import annotations

import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from hwbench.graph.importer import import_model
from hwbench.graph.layers import layers_of
from hwbench.graph.onnx_file import infer_shapes
from hwbench.graph.precision import arithmetic_of
from hwbench.records.model import ImportJob


def arithmetic(made):
    model = infer_shapes(ir.serde.deserialize_model(made))
    return arithmetic_of(model, layers_of(model))


def half_inside():
    """An fp32 input and output around a product in fp16."""
    nodes = [
        helper.make_node("Cast", ["x"], ["xh"], name="down", to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["xh", "w"], ["yh"], name="product"),
        helper.make_node("Cast", ["yh"], ["y"], name="up", to=TensorProto.FLOAT),
    ]
    weights = [graphs.weight("w", np.eye(4, dtype=np.float16))]
    return graphs.model(nodes, [graphs.tensor("x", [1, 4])], [graphs.tensor("y", [1, 4])], weights)


def tokens():
    """Integers in, integers out, an fp32 product between."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], name="embed"),
        helper.make_node("MatMul", ["e", "w"], ["logits"], name="head"),
        helper.make_node("ArgMax", ["logits"], ["y"], name="best", axis=-1, keepdims=0),
    ]
    weights = [graphs.weight("table", graphs.random_array(7, 4)), graphs.weight("w", graphs.random_array(4, 7))]
    ids, best = (graphs.tensor(name, [1, 3], TensorProto.INT64) for name in ("ids", "y"))
    return graphs.model(nodes, [ids], [best], weights)


def dequantised(*, data: bool, heavy: int = 1):
    """A product of dequantised, transposed weights; its data dequantised too, or not. Then one in fp32."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="dq"),
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"], name="dqw"),
        helper.make_node("Transpose", ["wd"], ["wt"], name="turn"),
        helper.make_node("MatMul", ["xd" if data else "x", "wt"], ["h"], name="quantised"),
        helper.make_node("MatMul", ["h", "v"], ["y"], name="plain"),
    ]
    weights = [
        graphs.weight("s", np.float32(0.1)),
        graphs.weight("z", np.int8(0)),
        graphs.weight("wq", np.ones((8, 4), np.int8)),
        graphs.weight("v", graphs.random_array(8, heavy)),
    ]
    return graphs.model(nodes, [graphs.tensor("x", [1, 4])], [graphs.tensor("y", [1, heavy])], weights)


def integer_product():
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"], name="product")]
    weights = [graphs.weight("w", np.ones((4, 2), np.int8))]
    ins, outs = graphs.tensor("x", [1, 4], TensorProto.INT8), graphs.tensor("y", [1, 2], TensorProto.INT32)
    return graphs.model(nodes, [ins], [outs], weights)


CASES = {
    "fp32": (graphs.mlp, "fp32"),
    "QDQ": (graphs.quantized, "int8"),
    "QDQ with transposed weights": (lambda: dequantised(data=True), "int8"),
    "QDQ for the smaller part": (lambda: dequantised(data=True, heavy=64), "fp32"),
    "quantised weights alone": (lambda: dequantised(data=False), "fp32"),
    "integer operator": (integer_product, "int8"),
    "fp16 between casts": (half_inside, "fp16"),
    "tokens": (tokens, "fp32"),
    "products in a loop, not counted": (graphs.loop, "fp32"),
    "no products, fp16": (lambda: graphs.unary("Abs", dtype=TensorProto.FLOAT16), "fp16"),
    "no products, fp64": (lambda: graphs.unary("Abs", dtype=TensorProto.DOUBLE), "fp64"),
    "no floats": (lambda: graphs.unary("Neg", dtype=TensorProto.INT64), "fp32"),
}


@pytest.mark.parametrize("case", CASES)
def test_arithmetic(case):
    make, expected = CASES[case]
    assert arithmetic(make()) == expected


@pytest.mark.parametrize(("make", "expected"), [(tokens, "fp32"), (graphs.quantized, "int8"), (half_inside, "fp16")])
def test_the_importer_tells_it(tmp_path, make, expected):
    path = graphs.save(make(), tmp_path)
    job = ImportJob(model=str(path), batch_size=None, shapes={}, input_data=None, seed=0)
    assert import_model(job, tmp_path / "out").model.arithmetic == expected
