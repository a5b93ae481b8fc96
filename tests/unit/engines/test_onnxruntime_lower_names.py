"""ONNX Runtime lowering of graphs that are written in ways of their own: shared weights, old opsets, taken names."""

import lowered_onnxruntime as low
import numpy as np
import onnx
import onnx_graphs as graphs
import pytest
from onnx import helper

node = helper.make_node


def made(nodes, weights, *, opset=17, shape=(4, 16), outputs=("y",), result=(4, 16)):
    results = [graphs.tensor(name, result) for name in outputs]
    return graphs.model(nodes, [graphs.tensor("x", shape)], results, weights, opsets={"": opset})


def agrees(case, tmp_path, output="y", at_least=25):
    feeds = dict(np.load(tmp_path / "imported" / "inputs.npz"))
    return low.sqnr_db(case.float_outputs(feeds)[output], case.outputs(feeds)[output]) > at_least


def two_layers(op="MatMul"):
    nodes = [node(op, ["x", "W"], ["a"], name="g1"), node("Relu", ["a"], ["r"]), node(op, ["r", "W"], ["y"], name="g2")]
    return made(nodes, [graphs.weight("W", graphs.random_array(16, 16))])


@pytest.mark.parametrize("default", ["int8", "int8-dynamic", "int8-weights", "int4-weights"])
def test_what_one_layer_is_quantised_to_is_not_another_s_affair(tmp_path, default):
    case = low.lowered(two_layers(), tmp_path, default, layers={"g2": "float"})
    graph = case.model.graph
    last = next(item for item in graph.node if "y" in item.output)
    assert last.op_type == "MatMul"
    assert last.input[1] in {item.name for item in graph.initializer if item.data_type == onnx.TensorProto.FLOAT}
    assert agrees(case, tmp_path, at_least=15 if default == "int4-weights" else 25)


def test_shared_weights_in_two_widths(tmp_path):
    case = low.lowered(two_layers(), tmp_path, "int4-weights", layers={"g2": "int8-weights"})
    assert case.got == {"g1": "int4-weights", "g2": "int8-weights"}
    assert agrees(case, tmp_path, at_least=15)


@pytest.mark.parametrize("default", ["int8", "int8-dynamic", "int8-weights", "int4-weights"])
@pytest.mark.parametrize("turned", [0, 1])
def test_names_that_are_taken(tmp_path, default, turned):
    nodes = [node("Gemm", ["x", "fc_weight", "fc_bias"], ["y"], name="fc", transB=turned)]
    weights = [
        graphs.weight("fc_weight", graphs.random_array(16, 16)),
        graphs.weight("fc_bias", np.ones((1, 16), np.float32)),
    ]
    case = low.lowered(made(nodes, weights), tmp_path, default)
    assert agrees(case, tmp_path, at_least=15 if default == "int4-weights" else 25)


@pytest.mark.parametrize("opset", [9, 11, 12, 13])
def test_old_opsets(tmp_path, opset):
    nodes = [
        node("Conv", ["x", "W"], ["c"], name="conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["y"]),
    ]
    weights = [graphs.weight("W", graphs.random_array(3, 2, 3, 3))]
    case = low.lowered(made(nodes, weights, opset=opset, shape=(1, 2, 6, 6), result=(1, 3, 6, 6)), tmp_path)
    assert case.got == {"conv": "int8"}
    onnx.checker.check_model(case.model, full_check=True)
    assert agrees(case, tmp_path)


def test_an_output_that_feeds_an_activation_is_not_clipped(tmp_path):
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        node("Conv", ["x", "W"], ["a"], name="first", **pads),
        node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "V"], ["y"], name="second", **pads),
    ]
    weights = [graphs.weight(name, graphs.random_array(2, 2, 3, 3, seed=n)) for n, name in enumerate("WV")]
    shape = (1, 2, 6, 6)
    case = low.lowered(made(nodes, weights, shape=shape, outputs=("a", "y"), result=shape), tmp_path)
    assert agrees(case, tmp_path, "a")
    assert agrees(case, tmp_path, "y")


def test_a_tensor_that_a_body_reads_is_kept(tmp_path):
    then = helper.make_graph([node("Identity", ["m"], ["t"])], "then", [], [graphs.tensor("t", (4, 16))])
    other = helper.make_graph([node("Neg", ["m"], ["e"])], "other", [], [graphs.tensor("e", (4, 16))])
    nodes = [
        node("MatMul", ["x", "W"], ["m"], name="product"),
        node("Add", ["m", "b"], ["s"], name="bias"),
        node("If", ["yes"], ["i"], name="if", then_branch=then, else_branch=other),
        node("Add", ["s", "i"], ["y"], name="both"),
    ]
    weights = [
        graphs.weight("W", graphs.random_array(16, 16)),
        graphs.weight("b", graphs.random_array(16)),
        onnx.numpy_helper.from_array(np.array(True), "yes"),
    ]
    for default in ("int8", "int8-dynamic", "int4-weights"):
        folder = tmp_path / default
        folder.mkdir()
        assert agrees(low.lowered(made(nodes, weights), folder, default), folder, at_least=15)
