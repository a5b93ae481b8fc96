import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
import repair_graphs as nets
from onnx import helper

from hwbench.quantize.bias import correct_bias, weights_of


def coarse(weight, axis):
    """4 bits and one scale for the whole tensor: large errors."""
    return nets.fake_quantised(weight, axis, bits=4, per_tensor=True)


def rounded(model, quantise=coarse):
    copy = ir.from_proto(ir.to_proto(model))
    for name in weights_of(copy):
        layer = nets.layer(copy, name)
        layer.set_blocks(layer.to_blocks(quantise(layer.weight, layer.output_axis)))
    return copy


def shift(model, exact, x):
    """The mean error of each output channel (axis 1 of an image, the last otherwise), after rounding."""
    off = nets.run(rounded(model), x).astype(np.float64) - exact
    return np.abs(off.mean((0, 2, 3) if off.ndim == 4 else tuple(range(off.ndim - 1)))).max()


def single(op, x, weight, bias=None, **attributes):
    taken = ["x", "w"] if bias is None else ["x", "w", "b"]
    weights = [graphs.weight("w", weight), *([] if bias is None else [graphs.weight("b", bias)])]
    node = helper.make_node(op, taken, ["y"], name="layer", **attributes)
    rank = 4 if op.startswith("Conv") else 2
    made = graphs.model([node], [graphs.tensor("x", x.shape)], [graphs.tensor("y", [None] * rank)], weights)
    return nets.hub(made)


PICTURES = np.abs(graphs.random_array(16, 6, 12, 12)) + np.arange(6, dtype=np.float32).reshape(6, 1, 1)
ROWS = np.abs(graphs.random_array(400, 6)) + np.arange(6, dtype=np.float32)
LAYERS = {
    "conv": ("Conv", PICTURES, graphs.random_array(8, 6, 3, 3), {}),
    "grouped": ("Conv", PICTURES, graphs.random_array(8, 3, 3, 3), {"group": 2}),
    "depthwise": ("Conv", PICTURES, graphs.random_array(6, 1, 3, 3), {"group": 6}),
    "two for each": ("Conv", PICTURES, graphs.random_array(12, 1, 3, 3), {"group": 6}),
    "strided": ("Conv", PICTURES, graphs.random_array(8, 6, 2, 2), {"strides": [2, 2]}),
    "pointwise transposed": ("ConvTranspose", PICTURES, graphs.random_array(6, 5, 1, 1), {}),
    "spread": ("ConvTranspose", PICTURES, graphs.random_array(6, 5, 2, 2), {"strides": [2, 2]}),
    "spread in groups": ("ConvTranspose", PICTURES, graphs.random_array(6, 4, 2, 2), {"strides": [2, 2], "group": 2}),
    "gemm": ("Gemm", ROWS, graphs.random_array(6, 5), {}),
    "gemm transposed": ("Gemm", ROWS, graphs.random_array(5, 6), {"transB": 1}),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_mean_error_goes(kind, bias):
    op, x, weight, attributes = LAYERS[kind]
    outputs = {"ConvTranspose": weight.shape[1] * attributes.get("group", 1), "Conv": weight.shape[0]}
    count = outputs.get(op, 5)
    model = single(op, x, weight, graphs.random_array(count, seed=5) if bias else None, **attributes)
    exact = nets.run(model, x)
    before = shift(model, exact, x)

    outcome = correct_bias(model, {"x": nets.measured(x, 1)}, coarse)

    # A tap of a larger kernel does not see every pixel, so the mean over the image is not quite the one it sees.
    border = kind not in {"pointwise transposed", "spread", "spread in groups", "gemm", "gemm transposed"}
    assert outcome.changed == ("layer",)
    assert before > 0.05
    assert shift(model, exact, x) < before * (0.1 if border else 1e-4)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_bias_of_a_matmul_is_in_the_add_behind_it(swapped):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["t"], name="layer"),
        helper.make_node("Add", ["b", "t"] if swapped else ["t", "b"], ["y"], name="add"),
    ]
    weights = [graphs.weight("w", graphs.random_array(6, 5)), graphs.weight("b", graphs.random_array(1, 1, 5, seed=1))]
    x = ROWS.reshape(4, 100, 6)
    made = graphs.model(nodes, [graphs.tensor("x", x.shape)], [graphs.tensor("y", [4, 100, 5])], weights)
    model = nets.hub(made)
    exact = nets.run(model, x)
    before = shift(model, exact, x)

    assert correct_bias(model, {"x": nets.measured(x, -1)}, coarse).changed == ("layer",)

    assert [node.op_type for node in model.graph] == ["MatMul", "Add"]
    assert shift(model, exact, x) < before * 1e-4


def test_a_matmul_without_an_add_has_no_place_for_a_bias():
    weights = [graphs.weight("w", graphs.random_array(6, 5))]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")
    model = nets.hub(graphs.model([node], [graphs.tensor("x", [400, 6])], [graphs.tensor("y", [400, 5])], weights))

    outcome = correct_bias(model, {"x": nets.measured(ROWS, -1)}, coarse)

    assert outcome.changed == ()
    assert "no bias" in outcome.skipped[0].reason


def test_weights_on_their_grid_shift_nothing_unless_the_float_ones_are_given():
    model = single("Gemm", ROWS, LAYERS["gemm"][2], graphs.random_array(5, seed=5))
    exact, floats = nets.run(model, ROWS), weights_of(model)
    model = rounded(model)
    bias = nets.layer(model, "layer").bias()

    correct_bias(model, {"x": nets.measured(ROWS, 1)}, coarse)
    np.testing.assert_allclose(nets.layer(model, "layer").bias(), bias, atol=1e-5)

    before = shift(model, exact, ROWS)
    correct_bias(model, {"x": nets.measured(ROWS, 1)}, coarse, before=floats)
    assert shift(model, exact, ROWS) < before * 1e-3


def test_only_the_layers_asked_for():
    model = nets.hub(graphs.mlp(batch=50))
    facts = {"x": nets.measured(np.abs(graphs.random_array(50, 4)), 1), "r": nets.measured(np.ones((50, 8)), 1)}

    assert correct_bias(model, facts, coarse, only=["fc2"]).changed == ("fc2",)
    assert nets.layer(model, "fc2").bias() is not None


def test_what_is_not_known_is_said():
    model = nets.hub(graphs.mlp(batch=50))
    outcome = correct_bias(model, {"x": nets.measured(np.ones((50, 3)), 1)}, coarse)

    assert "of 3 channels, not 4" in outcome.skipped[0].reason
    assert outcome.skipped[1].reason == "nothing is known about its input"
