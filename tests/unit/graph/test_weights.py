"""Weights that are no numbers, and masks that are infinite by design."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from hwbench.graph.onnx_file import read_onnx
from hwbench.graph.weights import non_finite_weights


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_weights_that_are_not_finite_are_found(bad, dtype):
    array = np.zeros(8, dtype=dtype)
    array[5] = bad
    model = ir.from_proto(graphs.mlp())
    value = model.graph.initializers["b1"]
    value.const_value = ir.tensor(array, name="b1")

    assert non_finite_weights(model) == ["b1"]


def test_a_large_float64_and_integers_are_finite():
    model = ir.from_proto(graphs.mlp())
    model.graph.initializers["b1"].const_value = ir.tensor(np.array([1e300, -1e300]), name="b1")
    model.graph.initializers["w2"].const_value = ir.tensor(np.array([2**62]), name="w2")

    assert non_finite_weights(model) == []


def test_a_bad_weight_inside_a_branch_is_found():
    made = graphs.branches()
    inner = made.graph.node[2].attribute[0].g
    inner.initializer.append(graphs.weight("k", np.array([np.nan], np.float32)))

    assert non_finite_weights(ir.from_proto(made)) == ["k"]


def test_quantised_models_have_no_warnings(tmp_path):
    made = graphs.quantized()
    assert TensorProto.INT8 in {item.data_type for item in made.graph.initializer}
    assert non_finite_weights(read_onnx(graphs.save(made, tmp_path))) == []


def attention(mask):
    """Scores of two computed tensors, and ``mask`` added."""
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["scores"], name="scores"),
        helper.make_node("Add", ["scores", "mask"], ["masked"], name="masked"),
        helper.make_node("Softmax", ["masked"], ["y"], name="softmax"),
    ]
    inputs = [graphs.tensor("q", [2, 4]), graphs.tensor("k", [4, 4])]
    return graphs.model(nodes, inputs, [graphs.tensor("y", [2, 4])], [graphs.weight("mask", mask)])


@pytest.mark.parametrize("shape", [(4,), (2, 4), (1, 1, 4)])
def test_an_infinite_attention_mask_is_legitimate(shape):
    mask = np.full(shape, -np.inf, np.float32)
    mask[..., 0] = 0

    assert non_finite_weights(ir.from_proto(attention(mask))) == []


def test_nan_in_a_mask_is_found():
    assert non_finite_weights(ir.from_proto(attention(np.array([0, np.nan, 0, 0], np.float32)))) == ["mask"]


def linear(through=()):
    """A linear layer as exporters write it: a MatMul with the weight, perhaps through ``through``, and an Add."""
    nodes, weight = [], "w"
    for number, op in enumerate(through):
        attributes = {"to": TensorProto.FLOAT} if op == "Cast" else {}
        nodes.append(helper.make_node(op, [weight], [f"w{number}"], name=f"{op}{number}", **attributes))
        weight = f"w{number}"
    nodes += [
        helper.make_node("MatMul", ["x", weight], ["h"], name="matmul"),
        helper.make_node("Add", ["b", "h"], ["y"], name="bias"),
    ]
    weights = [graphs.weight("w", graphs.random_array(4, 4)), graphs.weight("b", graphs.random_array(4))]
    return ir.from_proto(graphs.model(nodes, [graphs.tensor("x", [2, 4])], [graphs.tensor("y", [2, 4])], weights))


@pytest.mark.parametrize("through", [(), ("Transpose",), ("Identity", "Transpose"), ("Cast",)])
@pytest.mark.parametrize("name", ["w", "b"])
def test_infinity_in_a_linear_layer_is_found(name, through):
    model = linear(through)
    array = model.graph.initializers[name].const_value.numpy().copy()
    array.flat[2] = -np.inf
    model.graph.initializers[name].const_value = ir.tensor(array, name=name)

    assert non_finite_weights(model) == [name]


def test_an_infinite_constant_that_no_layer_multiplies_by_is_legitimate():
    nodes = [helper.make_node("Clip", ["x", "low", "high"], ["y"], name="clip")]
    limits = [graphs.weight("low", np.float32(0)), graphs.weight("high", np.float32(np.inf))]
    made = graphs.model(nodes, [graphs.tensor("x", [2, 4])], [graphs.tensor("y", [2, 4])], limits)

    assert non_finite_weights(ir.from_proto(made)) == []


def test_an_infinite_scale_of_quantised_weights_is_found():
    model = ir.from_proto(graphs.quantized())
    scale = model.graph.initializers["ws"].const_value.numpy()
    model.graph.initializers["ws"].const_value = ir.tensor(np.full_like(scale, np.inf), name="ws")

    assert non_finite_weights(model) == ["ws"]
