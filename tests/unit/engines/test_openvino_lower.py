"""A plan lowered to OpenVINO: against the float graph, and against what the IR and the runtime say of themselves."""

import numpy as np
import pytest

pytest.importorskip("openvino", reason="lowers to OpenVINO")
pytest.importorskip("onnxruntime", reason="the float truth is onnxruntime's")

from onnx import helper
from onnx_graphs import convnet, embedding, mlp, model, random_array, tensor, weight
from openvino_lowering import case, integers, nodes, quantised_inputs, relative_error, saved

from hwbench.errors import Unsupported
from hwbench.records.quantization import PrecisionPlan

INT8 = PrecisionPlan(default="int8", floating="fp32")


def conv(name, source, result, kernel, **attributes):
    pads = [kernel // 2] * 4
    return helper.make_node("Conv", [source, f"{name}.w"], [result], name=name, pads=pads, **attributes)


def image(channels=8, size=12, seed=1):
    return {"x": random_array(1, channels, size, size, seed=seed)}


def residual():
    """Conv, Relu, Conv, added to the first Relu's result, Relu, Conv."""
    made = [
        conv("a", "x", "a.y", 3),
        helper.make_node("Relu", ["a.y"], ["a.r"], name="relu1"),
        conv("b", "a.r", "b.y", 3),
        helper.make_node("Add", ["b.y", "a.r"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["sum.r"], name="relu2"),
        conv("c", "sum.r", "y", 1),
    ]
    weights = [weight(f"{name}.w", random_array(8, 8, k, k, seed=k) / 9) for name, k in (("a", 3), ("b", 3), ("c", 1))]
    return model(made, [tensor("x", [1, 8, 12, 12])], [tensor("y", [1, 8, 12, 12])], weights)


def attention(width=32):
    """Scores of one head, a Softmax, the product with the values, an addition, LayerNorm, Gelu, and a product."""
    made = [
        helper.make_node("MatMul", ["x", "q.w"], ["q"], name="query"),
        helper.make_node("MatMul", ["x", "k.w"], ["k"], name="key"),
        helper.make_node("MatMul", ["x", "v.w"], ["v"], name="value"),
        helper.make_node("Transpose", ["k"], ["k.t"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "k.t"], ["scores"], name="scores"),
        helper.make_node("Softmax", ["scores"], ["shares"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["shares", "v"], ["mixed"], name="mix"),
        helper.make_node("Add", ["mixed", "x"], ["sum"], name="add"),
        helper.make_node("LayerNormalization", ["sum", "n.s", "n.b"], ["normal"], name="norm"),
        helper.make_node("Gelu", ["normal"], ["gelu"], name="gelu"),
        helper.make_node("MatMul", ["gelu", "o.w"], ["y"], name="out"),
    ]
    weights = [weight(f"{name}.w", random_array(width, width, seed=ord(name)) / 6) for name in "qkvo"]
    weights += [weight("n.s", np.ones(width, np.float32)), weight("n.b", np.zeros(width, np.float32))]
    shape = [1, 10, width]
    return model(made, [tensor("x", shape)], [tensor("y", shape)], weights, opsets={"": 20})


def got(lowered):
    return {layer.layer: layer.got for layer in lowered.layers}


def test_a_convolution_runs_in_int8_near_the_float_one(tmp_path):
    one = case(residual(), tmp_path, image())
    lowered = one.lower(INT8)
    runner = one.program(lowered)
    assert relative_error(one.outputs(runner)["y"], one.truth[0]["y"]) < 0.03
    assert got(lowered) == {"a": "int8", "b": "int8", "c": "int8"}
    assert (lowered.arithmetic, runner.built().precision) == ("int8", "int8")
    weights = integers(saved(tmp_path / "ir"))
    assert len(weights) == 3
    assert all(array.min() >= -127 and np.abs(array).max() == 127 for array in weights)


def test_both_sides_of_a_residual_addition_are_quantised(tmp_path):
    one = case(residual(), tmp_path, image())
    one.lower(INT8)
    adds = [node for node in nodes(saved(tmp_path / "ir"), "Add") if node.get_friendly_name() == "add"]
    assert quantised_inputs(adds[0]) == [True, True]


def test_what_begins_in_float_is_added_in_int8_where_it_is_quantised_anyway(tmp_path):
    """Else no addition behind it would be in int8, through the whole of a residual network."""
    one = case(residual(), tmp_path, image())
    lowered = one.lower(PrecisionPlan(default="int8", layers={"a": "float", "relu1": "float"}))
    (add,) = (node for node in nodes(saved(tmp_path / "ir"), "Add") if node.get_friendly_name() == "add")
    assert quantised_inputs(add) == [True, True]
    assert got(lowered) == {"b": "int8", "c": "int8"}
    built = {name: unit.precision for unit in one.program(lowered).built().layers for name in unit.members}
    assert (built["b"], built["add"]) == ("int8", "int8")
    assert built["a"] != "int8"
    assert relative_error(one.outputs(one.program(lowered))["y"], one.truth[0]["y"]) < 0.03


def test_a_sum_that_goes_to_a_normalisation_stays_in_float(tmp_path):
    one = case(attention(), tmp_path, {"x": random_array(1, 10, 32, seed=5)})
    one.lower(INT8)
    adds = [node for node in nodes(saved(tmp_path / "ir"), "Add") if node.get_friendly_name() == "add"]
    assert quantised_inputs(adds[0]) == [False, False]


def test_in_a_transformer_only_products_are_quantised(tmp_path):
    one = case(attention(), tmp_path, {"x": random_array(1, 10, 32, seed=5)})
    lowered = one.lower(INT8)
    readers = {
        reader.get_node().get_type_name()
        for node in nodes(saved(tmp_path / "ir"), "FakeQuantize")
        for reader in node.output(0).get_target_inputs()
    }
    assert readers <= {"MatMul", "Transpose"}
    assert got(lowered) == dict.fromkeys(("query", "key", "value", "scores", "out"), "int8") | {"mix": "float"}
    assert "Softmax" in next(layer.why for layer in lowered.layers if layer.layer == "mix")
    assert relative_error(one.outputs(one.program(lowered))["y"], one.truth[0]["y"]) < 0.05


def test_a_product_with_a_softmax_is_quantised_where_the_plan_names_it(tmp_path):
    one = case(attention(), tmp_path, {"x": random_array(1, 10, 32, seed=5)})
    lowered = one.lower(PrecisionPlan(default="int8", layers={"mix": "int8"}))
    assert got(lowered)["mix"] == "int8"
    mix = next(node for node in nodes(saved(tmp_path / "ir"), "MatMul") if node.get_friendly_name() == "mix")
    assert quantised_inputs(mix) == [True, True]


def test_channels_of_a_depthwise_convolution_have_scales_of_their_own(tmp_path):
    scale = np.logspace(-3, 2, 8).astype(np.float32)
    made = model(
        [conv("d", "x", "y", 3, group=8)],
        [tensor("x", [1, 8, 12, 12])],
        [tensor("y", [1, 8, 12, 12])],
        [weight("d.w", random_array(8, 1, 3, 3) * scale.reshape(8, 1, 1, 1))],
    )
    one = case(made, tmp_path, image())
    out = one.outputs(one.program(one.lower(INT8)))["y"]
    errors = [relative_error(out[:, channel], one.truth[0]["y"][:, channel]) for channel in range(8)]
    assert max(errors) < 0.03  # with one scale for all, the small channels would be zero: an error of 1


def concatenated(factor=50.0):
    made = [
        conv("a", "x", "a.y", 3),
        conv("b", "x", "b.y", 3),
        helper.make_node("Concat", ["a.y", "b.y"], ["both"], name="concat", axis=1),
        conv("c", "both", "y", 1),
    ]
    weights = [
        weight("a.w", random_array(4, 8, 3, 3) / 9),
        weight("b.w", random_array(4, 8, 3, 3, seed=3) * factor / 9),
        weight("c.w", random_array(4, 8, 1, 1, seed=4) / 9),
    ]
    return model(made, [tensor("x", [1, 8, 12, 12])], [tensor("y", [1, 4, 12, 12])], weights)


def test_what_is_concatenated_shares_a_scale_and_stays_in_int8(tmp_path):
    one = case(concatenated(), tmp_path, image())
    lowered = one.lower(INT8)
    concat = nodes(saved(tmp_path / "ir"), "Concat")[0]
    quantisers = [concat.input_value(index).get_node() for index in (0, 1)]
    assert [node.get_type_name() for node in quantisers] == ["FakeQuantize"] * 2
    ends = [[float(node.input_value(index).get_node().data) for index in range(1, 5)] for node in quantisers]
    assert ends[0] == ends[1]
    low = min(one.truth[0][name].min() for name in ("a.y", "b.y"))
    assert ends[0][0] == pytest.approx(low, rel=0.02)
    runner = one.program(lowered)
    assert relative_error(one.outputs(runner)["y"], one.truth[0]["y"]) < 0.03
    unit = next(unit for unit in runner.built().layers if unit.op == "Concatenation")
    assert unit.precision == "int8"


def test_without_dot_products_weights_keep_half_their_range(tmp_path):
    one = case(residual(), tmp_path, image())
    plain = one.lower(INT8, into="avx2", isa=("avx2",))
    assert max(np.abs(array.astype(int)).max() for array in integers(saved(tmp_path / "avx2"))) == 63
    assert "63" in plain.notes[0]
    assert one.lower(INT8, into="vnni").notes == ()


def test_layers_that_the_plan_keeps_in_float_are_float(tmp_path):
    one = case(residual(), tmp_path, image())
    plan = PrecisionPlan(default="int8", floating="fp32", layers={"a": "float", "c": "float"})
    lowered = one.lower(plan)
    built = {name: unit.precision for unit in one.program(lowered).built().layers for name in unit.members}
    assert (built["a"], built["b"], built["c"]) == ("fp32", "int8", "fp32")
    assert got(lowered) == {"b": "int8"}
    assert len(integers(saved(tmp_path / "ir"))) == 1


def test_a_tensor_that_was_always_zero_is_quantised_on_some_grid(tmp_path):
    one = case(residual(), tmp_path, {"x": np.zeros((1, 8, 12, 12), np.float32)})
    out = one.outputs(one.program(one.lower(INT8)))["y"]
    assert np.all(out == 0)


def test_a_tensor_without_a_range_leaves_its_layers_in_float(tmp_path):
    one = case(residual(), tmp_path, image())
    lowered = one.lower(INT8, without=("a.r",))
    reasons = {layer.layer: layer.why for layer in lowered.layers}
    assert got(lowered) == {"a": "int8", "b": "float", "c": "int8"}
    assert reasons["b"] == "calibration has no range of 'a.r'"
    with pytest.raises(Unsupported, match=r"layer 'b' in int8: calibration has no range of 'a\.r'"):
        one.lower(PrecisionPlan(default="int8", layers={"b": "int8"}), into="again", without=("a.r",))


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ({"softmax": "int8"}, "'softmax' in int8: it has no weights"),
        ({"scores": "int8-weights"}, "'scores' in int8-weights: it has no weights"),
        ({"norm": "int4-weights"}, "'norm' in int4-weights"),
    ],
)
def test_a_layer_that_cannot_have_what_the_plan_names_is_refused(tmp_path, layers, why):
    one = case(attention(), tmp_path, {"x": random_array(1, 10, 32, seed=5)})
    with pytest.raises(Unsupported, match=why):
        one.lower(PrecisionPlan(default="int8", layers=layers))


def test_a_plan_that_comes_to_nothing_is_refused(tmp_path):
    made = model([helper.make_node("Relu", ["x"], ["y"], name="relu")], [tensor("x", [1, 4])], [tensor("y", [1, 4])])
    with pytest.raises(Unsupported, match="no layer of this model in int8: it has no layer with weights"):
        case(made, tmp_path).lower(INT8)


def test_the_same_bytes_come_out_twice(tmp_path):
    one = case(convnet(bias=True), tmp_path)
    lowered = one.lower(INT8, into="first")
    saved(tmp_path / "first")  # moves the counters that name OpenVINO's own nodes
    case(mlp(), tmp_path / "other").lower(INT8)
    assert one.lower(INT8, into="second") == lowered
    for name in lowered.files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "first" / "model.xml").read_bytes()
    assert lowered.same_bytes is True


def test_the_layer_table_maps_back_to_the_hub(tmp_path):
    one = case(convnet(bias=True), tmp_path)
    runner = one.program(one.lower(INT8), profile_layers=True)
    members = {name for unit in runner.built().layers for name in unit.members}
    assert members == {"conv", "bn", "relu"}


def test_a_float_plan_is_the_float_network(tmp_path):
    one = case(attention(), tmp_path, {"x": random_array(1, 10, 32, seed=5)})
    lowered = one.lower(PrecisionPlan(default="float", floating="fp32"))
    runner = one.program(lowered)
    assert relative_error(one.outputs(runner)["y"], one.truth[0]["y"]) < 1e-5
    assert (lowered.settings, lowered.layers, lowered.arithmetic) == ({"INFERENCE_PRECISION_HINT": "f32"}, (), "fp32")
    assert runner.built().settings["INFERENCE_PRECISION_HINT"] == "f32"


@pytest.mark.parametrize("floating", ["bf16", "fp16"])
def test_arithmetic_that_the_cpu_does_not_have_is_refused(tmp_path, floating):
    with pytest.raises(Unsupported, match=f"cannot compute in {floating}"):
        case(mlp(), tmp_path).lower(PrecisionPlan(default="float", floating=floating), isa=("avx2",))


@pytest.mark.parametrize("plan", [{"default": "fp8"}, {"default": "float", "floating": "tf32"}])
def test_arithmetic_that_no_cpu_has_is_refused(tmp_path, plan):
    with pytest.raises(Unsupported, match="no CPU has it"):
        case(mlp(), tmp_path).lower(PrecisionPlan(**plan))


def test_fp16_is_stored_as_fp16(tmp_path):
    lowered = case(mlp(), tmp_path).lower(PrecisionPlan(default="float", floating="fp16"), isa=("avx512_fp16",))
    assert (lowered.arithmetic, lowered.settings) == ("fp16", {"INFERENCE_PRECISION_HINT": "f16"})
    stored = saved(tmp_path / "ir")
    assert sorted(array.size for array in integers(stored, "f16") if array.size > 1) == [8, 24, 32]
    assert not integers(stored, "f32")


def test_a_table_is_stored_in_int8(tmp_path):
    one = case(embedding(), tmp_path)
    lowered = one.lower(PrecisionPlan(default="int8-weights", floating="fp32"))
    assert got(lowered) == {"lookup": "int8-weights"}
    assert relative_error(one.outputs(one.program(lowered))["y"], one.truth[0]["y"]) < 0.02


@pytest.mark.parametrize(("value", "kinds"), [(0.0, ["FakeQuantize", "Pad"]), (1.0, ["Pad", "FakeQuantize"])])
def test_zeros_are_padded_behind_the_quantisation(tmp_path, value, kinds):
    """A padding of its own is fused into an int8 convolution; between float and int8 it costs a unit of its own."""
    made = model(
        [
            helper.make_node("Pad", ["x", "pads", "value"], ["p"], name="pad"),
            helper.make_node("Conv", ["p", "w"], ["y"], name="conv"),
        ],
        [tensor("x", [1, 8, 12, 12])],
        [tensor("y", [1, 8, 12, 12])],
        [
            weight("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1])),
            weight("value", np.float32(value)),
            weight("w", random_array(8, 8, 3, 3) / 9),
        ],
    )
    one = case(made, tmp_path, image())
    lowered = one.lower(INT8)
    order = [node.get_type_name() for node in saved(tmp_path / "ir").get_ordered_ops()]
    assert [kind for kind in order if kind in kinds] == kinds
    assert relative_error(one.outputs(one.program(lowered))["y"], one.truth[0]["y"]) < 0.03


@pytest.mark.parametrize("default", ["int8", "int8-dynamic", "int8-weights"])
def test_rows_that_depend_on_the_data_are_no_obstacle(tmp_path, default):
    made = model(
        [
            helper.make_node("NonZero", ["x"], ["where"], name="where"),
            helper.make_node("Transpose", ["where"], ["places"], name="turn"),
            helper.make_node("GatherND", ["table", "places"], ["rows"], name="rows"),
            helper.make_node("MatMul", ["rows", "w"], ["y"], name="product"),
        ],
        [tensor("x", [1, 6])],
        [tensor("y", [None, 8])],
        [weight("table", random_array(1, 6, 64)), weight("w", random_array(64, 8) / 8)],
    )
    one = case(made, tmp_path, {"x": np.array([[0, 1, 0, 1, 1, 0]], np.float32)})
    lowered = one.lower(PrecisionPlan(default="float", floating="fp32", layers={"product": default}))
    assert relative_error(one.outputs(one.program(lowered))["y"], one.truth[0]["y"]) < 0.02
