import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
import repair_graphs as nets
from onnx import helper, numpy_helper

from hwbench.graph.linear import Skipped
from hwbench.quantize.equalize import equalize

RELU = ("Relu", {})
POOL = ("MaxPool", {"kernel_shape": [2, 2]})
PAD = ("Pad", {"_inputs": ["pads"]})
HOMOGENEOUS = [
    [],
    [RELU],
    [("LeakyRelu", {"alpha": 0.2})],
    [RELU, POOL],
    [PAD, RELU, ("AveragePool", {"kernel_shape": [3, 3]})],
    [("Clip", {"_inputs": ["zero"]})],
    [("Identity", {}), RELU],
]


def ratio(model, axis_out="first", axis_in="second"):
    """How far apart the two sides of the channels between two layers are: 1 where they are equal."""
    r1 = np.abs(nets.layer(model, axis_out).blocks()).max(axis=(2, 3)).reshape(-1)
    r2 = np.abs(nets.layer(model, axis_in).blocks()).max(axis=(1, 3)).reshape(-1)
    return np.maximum(r1 / r2, r2 / r1).max()


@pytest.mark.parametrize("between", HOMOGENEOUS)
def test_both_sides_of_a_channel_become_equal_and_the_function_stays(between):
    model = nets.hub(nets.chain(*between, bias=False))
    before, apart = nets.run(model, nets.images()), ratio(model)

    outcome = equalize(model)

    assert outcome.changed == ("first", "second")
    assert outcome.skipped == ()
    assert apart > 10
    assert ratio(model) < 1.01
    np.testing.assert_allclose(nets.run(model, nets.images()), before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


def test_the_bias_goes_with_its_channel():
    model = nets.hub(nets.chain(RELU))
    before = nets.run(model, nets.images())

    equalize(model)

    np.testing.assert_allclose(nets.run(model, nets.images()), before, atol=1e-5 * np.abs(before).max())


def test_a_dead_channel_does_not_blow_up_its_bias():
    """Weights of 1e-12 and a bias of 0.5: to make the weights large the bias would have to become millions."""
    made = nets.chain(RELU)
    weights = numpy_helper.to_array(made.graph.initializer[0]).copy()
    weights[3] *= 1e-12
    made.graph.initializer[0].CopyFrom(graphs.weight("w1", weights))
    model = nets.hub(made)
    largest = np.abs(nets.layer(model, "first").bias()).max()

    equalize(model)

    assert np.abs(nets.layer(model, "first").bias()).max() <= 4.01 * largest


def test_a_channel_without_weights_stays():
    made = nets.chain(RELU)
    weights = numpy_helper.to_array(made.graph.initializer[0]).copy()
    weights[3] = 0
    made.graph.initializer[0].CopyFrom(graphs.weight("w1", weights))
    model = nets.hub(made)
    before = nets.run(model, nets.images())

    equalize(model)

    after = nets.run(model, nets.images())
    assert np.isfinite(after).all()
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize("pooled", ["GlobalAveragePool", "GlobalMaxPool"])
def test_into_a_linear_layer_behind_a_global_pool(pooled):
    model = nets.hub(nets.chain(RELU, (pooled, {}), ("Flatten", {}), end="Gemm", bias=False))
    before = nets.run(model, nets.images())

    assert equalize(model).changed == ("first", "second")
    np.testing.assert_allclose(nets.run(model, nets.images()), before, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize(
    ("between", "word"),
    [
        ([("Clip", {"_inputs": ["zero", "six"]})], "Clip"),
        ([("Sigmoid", {})], "Sigmoid"),
        ([("Softplus", {})], "Softplus"),
        ([RELU, ("Pad", {"_inputs": ["pads", "six"]})], "Pad"),
    ],
)
def test_what_does_not_commute_with_a_factor_is_named(between, word):
    made = nets.chain(*between)
    model = nets.hub(made)
    before = ir.to_proto(model).SerializeToString()

    outcome = equalize(model)

    assert outcome.changed == ()
    assert {item.layer for item in outcome.skipped} == {"first", "second"}
    assert word in outcome.skipped[0].reason
    assert ir.to_proto(model).SerializeToString() == before


def depthwise():
    """A pointwise, a depthwise and a pointwise convolution with ReLU between, as in MobileNet."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="wide"),
        helper.make_node("Relu", ["a"], ["b"], name="relu1"),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"], name="deep", group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"], name="relu2"),
        helper.make_node("Conv", ["d", "w3"], ["y"], name="narrow"),
    ]
    weights = [
        graphs.weight("w1", nets.uneven(8, 4, 1, 1, seed=1).astype(np.float32)),
        graphs.weight("w2", nets.uneven(8, 1, 3, 3, seed=2).astype(np.float32)),
        graphs.weight("w3", nets.uneven(4, 8, 1, 1, seed=3, axis=1).astype(np.float32)),
        graphs.weight("b1", np.zeros(8, np.float32)),
        graphs.weight("b2", np.zeros(8, np.float32)),
    ]
    return graphs.model(nodes, [graphs.tensor("x", nets.IMAGE)], [graphs.tensor("y", nets.IMAGE)], weights)


def test_a_depthwise_chain_converges_on_both_its_borders():
    model = nets.hub(depthwise())
    before = nets.run(model, nets.images())

    assert equalize(model).changed == ("wide", "deep", "narrow")

    assert ratio(model, "wide", "deep") < 1.01
    assert ratio(model, "deep", "narrow") < 1.01
    np.testing.assert_allclose(nets.run(model, nets.images()), before, atol=1e-5 * np.abs(before).max())


def test_equalising_saves_what_one_scale_for_the_tensor_would_lose():
    model = nets.hub(depthwise())
    exact = nets.run(model, nets.images())

    def error():
        copy = ir.from_proto(ir.to_proto(model))
        for name in ("wide", "deep", "narrow"):
            item = nets.layer(copy, name)
            item.set_blocks(item.to_blocks(nets.fake_quantised(item.weight, 0, per_tensor=True)))
        return np.square(nets.run(copy, nets.images()) - exact).mean()

    before = error()
    equalize(model)

    assert error() < before / 10


def test_not_where_somebody_else_reads_the_channels():
    made = nets.chain(RELU)
    made.graph.output.append(graphs.tensor("t1", [2, 8, 9, 9]))
    outcome = equalize(nets.hub(made))

    assert outcome.changed == ()
    assert outcome.skipped[0] == Skipped(layer="first", reason="'t1' is an output of the network")


def test_two_readers_are_counted_and_asking_for_the_shape_is_none():
    made = nets.chain(RELU)
    made.graph.node.append(helper.make_node("Shape", ["t1"], ["s"], name="shape"))
    made.graph.output.append(graphs.tensor("s", [4], 7))
    assert equalize(nets.hub(made)).changed == ("first", "second")

    made.graph.node.append(helper.make_node("Neg", ["t1"], ["n"], name="neg"))
    made.graph.output.append(graphs.tensor("n", [2, 8, 9, 9]))
    assert "2 readers" in equalize(nets.hub(made)).skipped[0].reason


def test_a_weight_that_another_layer_uses_too_is_left_to_that_one():
    made = nets.chain(RELU)
    made.graph.node.append(helper.make_node("Conv", ["x", "w1"], ["z"], name="twin"))
    made.graph.output.append(graphs.tensor("z", [2, 8, 7, 7]))
    model = nets.hub(made)
    kept = nets.layer(model, "twin").weight

    equalize(model)

    np.testing.assert_array_equal(nets.layer(model, "twin").weight, kept)
    assert nets.layer(model, "first").node.inputs[1].name != "w1"
