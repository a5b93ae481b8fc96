"""What int8 in ONNX Runtime is known to break, each against the float graph or plain integer arithmetic."""

import numpy as np
import onnx_graphs as graphs
import pytest
from onnx import helper, numpy_helper

pytest.importorskip("onnxruntime", reason="lowers to ONNX Runtime")

import lowered_onnxruntime as low


def array(case, name):
    return numpy_helper.to_array(next(item for item in case.model.graph.initializer if item.name == name))


def convolutions(*weights, bias=None, group=1, size=6, after=()):
    """A chain of convolutions ``conv0``, ``conv1``, ... with these weights; ``after`` follows tensor ``c<last>``."""
    nodes, tensors, source = [], [], "x"
    for index, weight in enumerate(weights):
        taken = [source, f"w{index}"]
        tensors.append(graphs.weight(f"w{index}", weight))
        if bias is not None and index == 0:
            taken.append("b")
            tensors.append(graphs.weight("b", bias))
        source = f"c{index}"
        nodes.append(helper.make_node("Conv", taken, [source], name=f"conv{index}", group=group if index == 0 else 1))
    nodes += after or [helper.make_node("Relu", [source], ["y"], name="relu")]
    shape = [1, weights[0].shape[1] * group, size, size]
    return graphs.model(nodes, [graphs.tensor("x", shape)], [graphs.tensor("y", None)], tensors)


def feeds_of(tmp_path):
    return dict(np.load(tmp_path / "imported" / "inputs.npz"))


class TestBias:
    def test_that_does_not_fit_into_32_bits_at_the_scale_of_the_products(self, tmp_path):
        weight = graphs.random_array(4, 3, 1, 1)
        weight[2] *= 1e-10
        bias = np.float32([1, -1, 5, 0])
        case = low.lowered(convolutions(weight, bias=bias), tmp_path)
        fits = 5 / (float(array(case, "x_scale")) * np.abs(weight[2]).max() / 127)
        assert fits > 2**31  # at the scale that the weights ask for
        assert np.abs(array(case, "b_quantized").astype(np.int64)).max() < 2**31 - 1
        feeds = feeds_of(tmp_path)
        expected, found = case.float_outputs(feeds)["y"], case.outputs(feeds)["y"]
        np.testing.assert_allclose(found[:, 2], expected[:, 2], atol=float(array(case, "y_scale")))

    @pytest.mark.parametrize("dead", [[1], [0, 1, 2, 3]])
    def test_of_a_channel_without_weights_is_not_rounded_to_steps_of_the_input(self, tmp_path, dead):
        weight = graphs.random_array(4, 3, 1, 1) / 50
        weight[dead] = 0
        bias = np.float32([0.11, 0.13, -0.07, 0.05])
        case = low.lowered(convolutions(weight, bias=bias), tmp_path)
        step = array(case, "b_quantized_scale")
        assert float(array(case, "x_scale")) / 2 > 50 * step.max()
        assert array(case, "b_quantized") * step == pytest.approx(bias, abs=1e-3)

    @pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 5)])
    def test_of_any_shape_that_adds_one_number_to_an_output(self, tmp_path, shape):
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="fc")]
        weights = [graphs.weight("w", graphs.random_array(4, 5)), graphs.weight("b", graphs.random_array(*shape) + 2)]
        case = low.lowered(
            graphs.model(nodes, [graphs.tensor("x", [3, 4])], [graphs.tensor("y", [3, 5])], weights), tmp_path
        )
        assert case.got == {"fc": "int8"}
        feeds = feeds_of(tmp_path)
        assert low.sqnr_db(case.float_outputs(feeds)["y"], case.outputs(feeds)["y"]) > 30

    def test_of_one_number_for_each_row_leaves_the_layer_float(self, tmp_path):
        nodes = [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="odd"),
            helper.make_node("Gemm", ["h", "v"], ["y"], name="plain"),
        ]
        weights = [graphs.weight("w", graphs.random_array(4, 5)), graphs.weight("b", graphs.random_array(3, 1))]
        weights.append(graphs.weight("v", graphs.random_array(5, 2)))
        case = low.lowered(
            graphs.model(nodes, [graphs.tensor("x", [3, 4])], [graphs.tensor("y", [3, 2])], weights), tmp_path
        )
        assert case.got == {"odd": "float", "plain": "int8"}


def test_depthwise_channels_of_very_different_size_keep_their_own_scale(tmp_path):
    weight = graphs.random_array(8, 1, 3, 3) * np.power(10, -np.arange(8, dtype=np.float32)).reshape(-1, 1, 1, 1)
    after = [
        helper.make_node("Mul", ["c0", "back"], ["m"], name="scale"),
        helper.make_node("Relu", ["m"], ["y"], name="relu"),
    ]
    made = convolutions(weight, group=8, after=after)
    made.graph.initializer.append(graphs.weight("back", np.ones((1, 8, 1, 1), np.float32)))
    case = low.lowered(made, tmp_path)
    restored = array(case, "w0_quantized") * array(case, "w0_scale").reshape(-1, 1, 1, 1)
    for channel in range(8):  # one scale for all would leave nothing of the last ones
        assert low.sqnr_db(weight[channel], restored[channel]) > 35


class TestSaturation:
    """VPMADDUBSW adds two products of an unsigned and a signed byte in 16 bits, and stops at 32767."""

    def pairs(self, tmp_path, device):
        weight = np.sign(graphs.random_array(2, 8, 1, 1)) * np.float32(0.5)  # all of the largest size
        case = low.lowered(convolutions(weight), tmp_path, device=device)
        quantised = np.abs(array(case, "w0_quantized").reshape(2, -1).astype(np.int64))
        return case, (255 * (quantised[:, 0::2] + quantised[:, 1::2])).max()

    def test_eight_bits_would_saturate(self, tmp_path):
        case, largest = self.pairs(tmp_path, low.cpu(low.VNNI))
        assert largest > 32767
        assert not any("reduce_range" in note for note in case.lowered.notes)

    @pytest.mark.parametrize("isa", [low.NO_VNNI, ("avx2", "avx512f")])
    def test_seven_bits_do_not(self, tmp_path, isa):
        case, largest = self.pairs(tmp_path, low.cpu(isa))
        assert largest <= 32767
        assert any("reduce_range" in note for note in case.lowered.notes)

    def test_nor_do_those_of_dynamic_layers(self, tmp_path):
        case = low.lowered(graphs.mlp(), tmp_path, "int8-dynamic", device=low.cpu(low.NO_VNNI))
        assert np.abs(array(case, "fc1_weight_int8")).max() == 64
        feeds = feeds_of(tmp_path)
        assert low.sqnr_db(case.float_outputs(feeds)["y"], case.outputs(feeds)["y"]) > 25


class TestBetweenConvolutions:
    def test_both_sides_and_the_sum_of_a_residual_are_quantised(self, tmp_path):
        weight = graphs.random_array(3, 3, 1, 1)
        after = [
            helper.make_node("Add", ["c1", "c0"], ["s"], name="sum"),
            helper.make_node("Relu", ["s"], ["r"], name="relu"),
            helper.make_node("Conv", ["r", "w0"], ["y"], name="last"),
        ]
        case = low.lowered(convolutions(weight, weight[::-1].copy(), after=after), tmp_path)
        built, units = low.optimised(case, tmp_path)
        assert units["sum"].op == "QLinearAdd"
        assert units["relu"] is units["sum"]
        inner = [unit.op for unit in built.layers]
        assert inner.count("DequantizeLinear") == 1  # at the very end: none between the layers
        assert inner.count("QuantizeLinear") == 1

    def test_a_small_branch_of_a_concatenation_keeps_its_own_scale_up_to_it(self, tmp_path):
        small, large = graphs.random_array(2, 3, 1, 1) / 100, graphs.random_array(2, 3, 1, 1, seed=1)
        nodes = [
            helper.make_node("Conv", ["x", "small"], ["a"], name="first"),
            helper.make_node("Conv", ["x", "large"], ["b"], name="second"),
            helper.make_node("Concat", ["a", "b"], ["c"], name="join", axis=1),
            helper.make_node("MaxPool", ["c"], ["p"], name="pool", kernel_shape=[2, 2]),
            helper.make_node("Conv", ["p", "mix"], ["y"], name="last"),
        ]
        weights = {"small": small, "large": large, "mix": graphs.random_array(2, 4, 1, 1, seed=2)}
        tensors = [graphs.weight(name, values) for name, values in weights.items()]
        made = graphs.model(nodes, [graphs.tensor("x", [1, 3, 6, 6])], [graphs.tensor("y", [1, 2, 5, 5])], tensors)
        case = low.lowered(made, tmp_path)
        scales = {name: float(array(case, f"{name}_scale")) for name in ("a", "b", "c")}
        assert scales["a"] < scales["b"] / 20
        assert scales["c"] >= scales["b"]
        pooled = [node for node in case.model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "p"]
        assert [node.input[1] for node in pooled] == ["c_scale"]  # a maximum keeps the scale of what it chooses from
        _, units = low.optimised(case, tmp_path)
        assert (units["join"].op, units["pool"].precision) == ("QLinearConcat", "int8")

    def test_what_leads_to_no_quantised_layer_stays_float(self, tmp_path):
        after = [
            helper.make_node("Add", ["c0", "shift"], ["s"], name="shifted"),
            helper.make_node("Softmax", ["s"], ["y"], name="softmax", axis=1),
        ]
        made = convolutions(graphs.random_array(4, 3, 1, 1), after=after)
        made.graph.initializer.append(graphs.weight("shift", graphs.random_array(1, 4, 1, 1)))
        _, units = low.optimised(low.lowered(made, tmp_path), tmp_path)
        assert {name: units[name].precision for name in ("conv0", "shifted", "softmax")} == {
            "conv0": "int8",
            "shifted": "fp32",
            "softmax": "fp32",
        }

    def test_a_clip_that_zero_does_not_pass_is_not_made_the_edge_of_a_range(self, tmp_path):
        after = [
            helper.make_node("Clip", ["c0", "low", "high"], ["k"], name="clip"),
            helper.make_node("Conv", ["k", "w1"], ["y"], name="last"),
        ]
        made = convolutions(graphs.random_array(4, 3, 1, 1), after=after)
        made.graph.initializer.extend(
            [
                graphs.weight("low", np.float32(1)),
                graphs.weight("high", np.float32(2)),
                graphs.weight("w1", graphs.random_array(2, 4, 1, 1)),
            ]
        )
        case = low.lowered(made, tmp_path)
        feeds = feeds_of(tmp_path)
        assert low.sqnr_db(case.float_outputs(feeds)["y"], case.outputs(feeds)["y"]) > 30

    def test_a_relu_that_is_left_out_is_the_edge_of_its_range(self, tmp_path):
        case = low.lowered(graphs.convnet(), tmp_path)
        assert "Relu" not in [node.op_type for node in case.model.graph.node]
        feeds = feeds_of(tmp_path)
        found = case.outputs(feeds)
        (name,) = found
        assert found[name].min() == 0
        assert low.sqnr_db(case.float_outputs(feeds)[name], found[name]) > 30


@pytest.mark.parametrize("name", ["conv0", "conv2"])
def test_the_first_and_the_last_layer_are_float_when_the_plan_says_so(tmp_path, name):
    weight = graphs.random_array(3, 3, 1, 1)
    case = low.lowered(convolutions(weight, weight, weight), tmp_path, layers={name: "float"})
    assert name not in case.got
    _, units = low.optimised(case, tmp_path)
    expected = {f"conv{index}": "fp32" if f"conv{index}" == name else "int8" for index in range(3)}
    assert {layer: units[layer].precision for layer in expected} == expected
