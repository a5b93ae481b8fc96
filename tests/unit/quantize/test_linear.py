"""Layers seen alike: blocks against what the runtime computes, and rows of inputs against the layer's own result."""

import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
import repair_graphs as nets
from onnx import helper

from hwbench.graph.linear import Linear, Skipped, constant, linear_layers
from hwbench.quantize.patches import rows

SHAPES = {
    "Conv": ((2, 6, 9, 8), (8, 3, 3, 2), {"group": 2}),
    "ConvTranspose": ((2, 6, 4, 4), (6, 4, 3, 2), {"group": 2}),
    "Gemm": ((7, 6), (6, 5), {}),
    "MatMul": ((7, 6), (6, 5), {}),
}


def single(op, shape, weight, **attributes):
    node = helper.make_node(op, ["x", "w"], ["y"], name="layer", **attributes)
    outs = [graphs.tensor("y", [None] * len(shape))]
    return nets.hub(graphs.model([node], [graphs.tensor("x", shape)], outs, [graphs.weight("w", weight)]))


@pytest.mark.parametrize("op", [*SHAPES, "Gemm transposed"])
def test_scaling_blocks_scales_channels(op):
    """Outputs times a, inputs times b in the weights is the same as inputs times b before and outputs times a after."""
    shape, kernel, attributes = SHAPES[op.split()[0]]
    if op == "Gemm transposed":
        kernel, attributes = kernel[::-1], {"transB": 1}
    model = single(op.split()[0], shape, graphs.random_array(*kernel), **attributes)
    layer = nets.layer(model, "layer")
    x = graphs.random_array(*shape, seed=1)
    generator = np.random.default_rng(2)
    a, b = generator.uniform(0.5, 2, layer.output_channels), generator.uniform(0.5, 2, layer.input_channels)
    spread = [1, -1] + [1] * (len(shape) - 2)
    wanted = nets.run(model, (x * b.reshape(spread)).astype(np.float32)) * a.reshape(spread)

    blocks = layer.blocks()
    groups, outputs, inputs, _ = blocks.shape
    layer.set_blocks(blocks * a.reshape(groups, outputs, 1, 1) * b.reshape(groups, 1, inputs, 1))

    np.testing.assert_allclose(nets.run(model, x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [
        ((8, 6, 3, 3), {}),
        ((8, 6, 3, 3), {"pads": [1, 0, 2, 1]}),
        ((8, 6, 3, 2), {"strides": [2, 3], "pads": [1, 1, 1, 1]}),
        ((8, 6, 2, 2), {"dilations": [2, 1]}),
        ((6, 1, 3, 3), {"group": 6, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((8, 3, 2, 2), {"group": 2, "auto_pad": "SAME_LOWER"}),
        ((8, 6, 3, 3), {"auto_pad": "VALID"}),
    ],
)
def test_rows_times_blocks_is_the_convolution(weight, attributes):
    model = single("Conv", (3, 6, 9, 8), graphs.random_array(*weight), **attributes)
    x = graphs.random_array(3, 6, 9, 8, seed=1)
    layer = nets.layer(model, "layer")
    y = nets.run(model, x)

    found = rows(layer, x, 10_000, np.random.default_rng(0))
    blocks = layer.blocks()
    product = found @ blocks.reshape(*blocks.shape[:2], -1).swapaxes(1, 2)  # groups x rows x outputs

    by_channel = np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])
    np.testing.assert_allclose(np.moveaxis(product, 0, 1).reshape(by_channel.shape), by_channel, rtol=1e-4, atol=1e-5)


def test_a_convolution_over_one_axis():
    model = single("Conv", (2, 4, 11), graphs.random_array(5, 4, 3), dilations=[2])
    x = graphs.random_array(2, 4, 11, seed=1)
    layer = nets.layer(model, "layer")
    product = rows(layer, x, 1000, np.random.default_rng(0))[0] @ layer.blocks().reshape(5, -1).T

    np.testing.assert_allclose(product, np.moveaxis(nets.run(model, x), 1, -1).reshape(-1, 5), rtol=1e-4, atol=1e-5)


def test_rows_are_drawn_without_replacement():
    layer = nets.layer(single("Gemm", (100, 1), graphs.random_array(1, 2)), "layer")
    x = np.arange(100, dtype=np.float32).reshape(100, 1)
    drawn = rows(layer, x, 40, np.random.default_rng(0))[0, :, 0]

    assert len(set(drawn)) == 40


@pytest.mark.parametrize(
    ("node", "word"),
    [
        (helper.make_node("Gemm", ["x", "w"], ["y"], name="layer", alpha=2.0), "scales its result"),
        (helper.make_node("Gemm", ["x", "w", "row"], ["y"], name="layer"), "bias"),
        (helper.make_node("MatMul", ["x", "bad"], ["y"], name="layer"), "NaN"),
        (helper.make_node("MatMul", ["x", "deep"], ["y"], name="layer"), "3 axes"),
        (helper.make_node("MatMul", ["w", "x"], ["y"], name="layer"), "second input"),
    ],
)
def test_what_is_no_such_layer_says_why(node, word):
    arrays = {
        "w": graphs.random_array(6, 6),
        "row": graphs.random_array(6, 1),
        "bad": np.full((6, 6), np.nan, np.float32),
        "deep": graphs.random_array(2, 6, 6),
    }
    weights = [graphs.weight(name, array) for name, array in arrays.items() if name in node.input]
    made = graphs.model([node], [graphs.tensor("x", [6, 6])], [graphs.tensor("y", None)], weights)

    (found,) = linear_layers(ir.from_proto(made))

    assert isinstance(found, Skipped)
    assert word in found.reason


def test_a_product_of_two_activations_has_no_weights():
    node = helper.make_node("MatMul", ["x", "x"], ["y"], name="layer")
    made = graphs.model([node], [graphs.tensor("x", [6, 6])], [graphs.tensor("y", [6, 6])])

    assert list(linear_layers(ir.from_proto(made))) == []


def test_weights_may_come_from_a_constant_node_and_keep_their_precision():
    nodes = [
        helper.make_node("Constant", [], ["w"], value=graphs.weight("v", np.ones((6, 5), np.float16))),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="layer"),
    ]
    made = graphs.model(nodes, [graphs.tensor("x", [2, 6], 10)], [graphs.tensor("y", [2, 5], 10)])
    model = ir.from_proto(made)
    layer = nets.layer(model, "layer")

    layer.set_blocks(layer.blocks() * 2)

    assert isinstance(layer, Linear)
    assert layer.node.inputs[1].dtype == ir.DataType.FLOAT16
    np.testing.assert_array_equal(constant(layer.node.inputs[1]), np.full((6, 5), 2.0))
    ir.to_proto(model)
