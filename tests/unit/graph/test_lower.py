"""BatchNorm folding: which ones, exactly, and nothing else touched. ONNX Runtime without optimisations is the judge."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphs as graphs
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from hwbench.graph.lower import fold_batch_norms
from hwbench.graph.onnx_file import graph_inputs, infer_shapes

X = graphs.tensor("x", [2, 4, 5, 5])


def outputs_of(proto):
    """Run it in ONNX Runtime as it is, on fixed random inputs."""
    onnx.checker.check_model(proto)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {value.name: graphs.random_array(*value.shape, seed=9) for value in session.get_inputs()}
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds), strict=True))


def folded(made):
    """Fold, check that the numbers and the outputs' names stay, and return what was merged and the new graph."""
    model = infer_shapes(ir.from_proto(made))
    merged = fold_batch_norms(model)
    after = ir.to_proto(model)
    expected, found = outputs_of(made), outputs_of(after)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-5, atol=2e-5)
    return merged, after


def ops(proto):
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("group", [1, 2])
def test_convolutions_take_their_batch_norm(bias, group):
    merged, after = folded(graphs.convnet(bias=bias, group=group, batch=2))

    assert merged == {"bn": "conv"}
    assert ops(after) == ["Conv", "Relu"]
    assert {item.name for item in after.graph.initializer} == {"conv.folded_weight", "conv.folded_bias"}


def linear_net(*, trans_b=1, bias=True, **attributes):
    width = (6, 4) if trans_b else (4, 6)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"][: 3 if bias else 2], ["h"], name="fc", transB=trans_b, **attributes),
        graphs.batch_norm("bn", "h", "y", epsilon=0.01),
    ]
    weights = [graphs.weight("w", graphs.random_array(*width)), *graphs.statistics("bn", 6)]
    if bias:
        weights.append(graphs.weight("b", graphs.random_array(6, seed=3)))
    rows = [4, 3] if attributes.get("transA") else [3, 4]
    return graphs.model(nodes, [graphs.tensor("x", rows)], [graphs.tensor("y", [3, 6])], weights)


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_layers_take_their_batch_norm(trans_b, bias):
    merged, after = folded(linear_net(trans_b=trans_b, bias=bias))

    assert merged == {"bn": "fc"}
    assert ops(after) == ["Gemm"]


@pytest.mark.parametrize("shape", [(), (1,), (3, 1), (1, 6), (3, 6)])
def test_a_bias_of_any_shape_that_broadcasts(shape):
    made = linear_net()
    made.graph.initializer[-1].CopyFrom(graphs.weight("b", graphs.random_array(*shape, seed=3)))

    assert folded(made)[0] == {"bn": "fc"}


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}])
def test_a_scaled_or_transposed_product_keeps_its_batch_norm(attributes):
    assert folded(linear_net(**attributes))[0] == {}


def test_two_batch_norms_in_a_row_both_fold():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        graphs.batch_norm("bn1", "c", "n"),
        graphs.batch_norm("bn2", "n", "y"),
    ]
    weights = [
        graphs.weight("w", graphs.random_array(6, 4, 3, 3)),
        *graphs.statistics("bn1", 6),
        *graphs.statistics("bn2", 6, seed=8),
    ]

    merged, after = folded(graphs.model(nodes, [X], [graphs.tensor("y", [2, 6, 3, 3])], weights))

    assert merged == {"bn1": "conv", "bn2": "conv"}
    assert ops(after) == ["Conv"]


def test_a_weight_called_like_a_folded_one_is_left_alone():
    made = graphs.convnet(batch=2)
    made.graph.node[0].input[1] = made.graph.initializer[0].name = "conv.folded_weight"

    assert folded(made)[0] == {"bn": "conv"}


def shared_weight():
    """Two convolutions with one weight and a BatchNorm each; the second BatchNorm also shares the first's mean."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv1"),
        helper.make_node("Conv", ["x", "w"], ["b"], name="conv2"),
        graphs.batch_norm("bn1", "a", "m"),
        graphs.batch_norm("bn2", "b", "n"),
        helper.make_node("Add", ["m", "n"], ["y"], name="add"),
    ]
    nodes[3].input[3] = "bn1.mean"
    weights = [
        graphs.weight("w", graphs.random_array(6, 4, 3, 3)),
        *graphs.statistics("bn1", 6),
        *graphs.statistics("bn2", 6, seed=8),
    ]
    del weights[7]  # bn2.mean
    return graphs.model(nodes, [X], [graphs.tensor("y", [2, 6, 3, 3])], weights)


def test_a_weight_shared_by_two_convolutions_with_different_batch_norms():
    merged, after = folded(shared_weight())

    assert merged == {"bn1": "conv1", "bn2": "conv2"}
    assert ops(after) == ["Conv", "Conv", "Add"]
    assert "w" not in {item.name for item in after.graph.initializer}


def test_a_shared_weight_stays_for_the_layer_without_a_batch_norm():
    made = shared_weight()
    made.graph.node[4].input[1] = "b"
    del made.graph.node[3]

    merged, after = folded(made)

    assert merged == {"bn1": "conv1"}
    assert "w" in {item.name for item in after.graph.initializer}


def test_weights_listed_among_the_inputs_do_not_become_inputs():
    made = graphs.convnet(batch=2)
    made.graph.input.extend(graphs.tensor(item.name, item.dims) for item in made.graph.initializer)

    merged, after = folded(made)

    assert merged == {"bn": "conv"}
    assert [value.name for value in graph_inputs(ir.from_proto(after))] == ["x"]
    assert len(after.graph.input) == 1


def test_float16_weights_stay_float16():
    made = graphs.convnet(bias=True, batch=2)
    for item in made.graph.initializer:
        array = onnx.numpy_helper.to_array(item).astype(np.float16)
        item.CopyFrom(graphs.weight(item.name, array))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    model = infer_shapes(ir.from_proto(made))

    assert fold_batch_norms(model) == {"bn": "conv"}
    assert {value.const_value.dtype for value in model.graph.initializers.values()} == {ir.DataType.FLOAT16}


# Not folded


def test_not_when_something_else_reads_the_convolution():
    made = graphs.convnet(batch=2)
    made.graph.node[2].CopyFrom(helper.make_node("Add", ["n", "c"], ["y"], name="add"))

    merged, after = folded(made)

    assert (merged, ops(after)) == ({}, ["Conv", "BatchNormalization", "Add"])


def test_not_when_the_convolution_is_an_output():
    made = graphs.convnet(batch=2)
    made.graph.output.append(graphs.tensor("c", [2, 6, 5, 5]))

    assert folded(made)[0] == {}


def test_not_when_a_branch_reads_the_convolution():
    made = graphs.convnet(batch=2)
    outs = [graphs.tensor("t", [2, 6, 5, 5])]
    then = helper.make_graph([helper.make_node("Abs", ["c"], ["t"], name="abs")], "then", [], outs)
    other = helper.make_graph([helper.make_node("Neg", ["n"], ["t"], name="neg")], "else", [], outs)
    made.graph.initializer.append(graphs.weight("yes", np.bool_(True)))
    made.graph.node[2].CopyFrom(helper.make_node("If", ["yes"], ["y"], name="if", then_branch=then, else_branch=other))

    assert folded(made)[0] == {}


def test_the_batch_norm_may_be_the_output_itself():
    made = graphs.convnet(batch=2)
    del made.graph.node[2]
    made.graph.node[1].output[0] = "y"

    merged, after = folded(made)

    assert (merged, ops(after)) == ({"bn": "conv"}, ["Conv"])


def test_the_batch_norm_may_have_two_consumers_and_be_an_output():
    made = graphs.convnet(batch=2)
    made.graph.node[2].CopyFrom(helper.make_node("Mul", ["n", "n"], ["y"], name="square"))
    made.graph.output.append(graphs.tensor("n", [2, 6, 5, 5]))

    assert folded(made)[0] == {"bn": "conv"}


def test_not_in_training_mode():
    made = graphs.convnet(batch=2)
    made.graph.node[1].attribute.append(helper.make_attribute("training_mode", 1))
    made.graph.node[1].output.extend(["running_mean", "running_var"])
    model = ir.from_proto(made)

    assert fold_batch_norms(model) == {}


def test_not_when_an_old_batch_norm_gives_its_statistics():
    made = graphs.convnet(batch=2)
    made.opset_import[0].version = 9
    made.graph.node[1].output.extend(["mean", "var", "saved_mean", "saved_var"])

    assert fold_batch_norms(ir.from_proto(made)) == {}


def test_not_when_an_old_batch_norm_works_per_element():
    made = graphs.convnet(batch=2)
    made.opset_import[0].version = 7
    made.graph.node[1].attribute.append(helper.make_attribute("spatial", 0))

    assert fold_batch_norms(ir.from_proto(made)) == {}


@pytest.mark.parametrize("computed", ["w", "bn.scale", "bn.var"])
def test_not_when_a_weight_is_computed(computed):
    made = graphs.convnet(batch=2)
    for node in made.graph.node:
        for index, name in enumerate(node.input):
            if name == computed:
                node.input[index] = "computed"
    made.graph.node.insert(0, helper.make_node("Abs", [computed], ["computed"], name="abs"))

    assert folded(made)[0] == {}


def test_not_when_a_weight_is_an_input():
    made = graphs.convnet(batch=2)
    item = made.graph.initializer[0]
    made.graph.input.append(graphs.tensor(item.name, item.dims))
    del made.graph.initializer[0]

    assert folded(made)[0] == {}


@pytest.mark.parametrize("op", ["Relu", "ConvTranspose"])
def test_not_after_other_layers(op):
    made = graphs.convnet(batch=2)
    node = helper.make_node(op, ["x"] if op == "Relu" else ["x", "w"], ["c"], name="first")
    made.graph.node[0].CopyFrom(node)
    if op == "Relu":
        size = [2, 4, 5, 5]
        statistics = graphs.statistics("bn", 4)
    else:
        size = [2, 3, 7, 7]
        statistics = graphs.statistics("bn", 3)
        statistics.append(graphs.weight("w", graphs.random_array(4, 3, 3, 3)))
    del made.graph.initializer[:]
    made.graph.initializer.extend(statistics)
    made.graph.output[0].CopyFrom(graphs.tensor("y", size))

    assert folded(made)[0] == {}


def test_not_an_operator_of_another_domain_that_is_called_the_same():
    made = graphs.convnet(batch=2)
    made.graph.node[0].domain = "acme"

    assert fold_batch_norms(ir.from_proto(made)) == {}


def test_a_batch_norm_at_the_start_stays():
    node = graphs.batch_norm("bn", "x", "y")
    made = graphs.model([node], [X], [graphs.tensor("y", [2, 4, 5, 5])], graphs.statistics("bn", 4))

    assert folded(made)[0] == {}


@pytest.mark.parametrize("shape", [(2, 3), (3,), (12,)])
def test_not_when_the_statistics_do_not_fit_the_channels(shape):
    made = graphs.convnet(batch=2)
    made.graph.initializer[1].CopyFrom(graphs.weight("bn.scale", graphs.random_array(*shape)))

    assert fold_batch_norms(ir.from_proto(made)) == {}


def test_not_when_the_bias_does_not_fit_the_channels():
    made = graphs.convnet(bias=True, batch=2)
    made.graph.node[0].input[2] = "w"

    assert fold_batch_norms(ir.from_proto(made)) == {}


def test_an_omitted_bias_is_none():
    made = graphs.convnet(batch=2)
    made.graph.node[0].input.append("")

    assert folded(made)[0] == {"bn": "conv"}
