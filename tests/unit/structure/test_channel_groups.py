"""Each operator's rule on a network made by hand: what hangs together, what is locked, and that cuts come out right."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compress_subjects import run_ort
from onnx import helper
from structure_graphs import Net, assert_close, cut_like_masked, group_of, inputs_of

from hwbench.graph.onnx_file import infer_shapes
from hwbench.structure.cut import cut
from hwbench.structure.groups import channel_groups


def sizes(model: ir.Model) -> dict[str, int]:
    return {group.name: group.size for group in channel_groups(model).groups}


def with_shape(model: ir.Model, op: str) -> ir.Model:
    """Enter the shape behind an operator that ONNX's inference knows nothing of, and infer what follows."""
    node = next(node for node in model.graph if node.op_type == op)
    node.outputs[0].shape, node.outputs[0].type = node.inputs[0].shape, node.inputs[0].type
    return infer_shapes(model)


def weight(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


def test_two_convolutions_lose_rows_and_columns():
    net = Net(2, 3, 8, 8)
    y = net.norm(net.conv("x", 3, 6, 3, name="one"), 6, "bn")
    model = net.model(net.conv(net.node("Relu", y), 6, 4, 3, name="two"))
    before = {name: weight(model, name).copy() for name in model.graph.initializers}
    found = channel_groups(model)
    assert [(group.name, group.kind, group.size) for group in found.groups] == [("one", "channels", 6)]
    assert found.locked["two"].code == "output"

    keep = np.array([0, 2, 5])
    made = cut(model, found.groups[0], keep)
    for name in ("one.weight", "one.bias", "bn.scale", "bn.shift", "bn.mean", "bn.variance"):
        np.testing.assert_array_equal(weight(model, name), before[name][keep])
        np.testing.assert_array_equal(made.kept[name, 0], keep)
    np.testing.assert_array_equal(weight(model, "two.weight"), before["two.weight"][:, keep])
    np.testing.assert_array_equal(weight(model, "two.bias"), before["two.bias"])
    np.testing.assert_array_equal(made.kept["bn.out", 1], keep)
    assert list(next(v for node in model.graph for v in node.outputs if v.name == "one.out").shape) == [2, 3, 8, 8]


def test_a_residual_stream_is_one_group_and_branches_are_their_own():
    net = Net(1, 3, 6, 6)
    stream = net.conv("x", 3, 8, name="stem")
    for index in range(2):
        inner = net.node("Relu", net.conv(stream, 8, 5, 3, name=f"in{index}"))
        stream = net.node("Relu", net.node("Add", net.conv(inner, 5, 8, 3, name=f"out{index}"), stream))
    model = net.model(net.pooled(stream, 8))
    assert sizes(model) == {"stem": 8, "in0": 5, "in1": 5}
    stem = group_of(model, "stem")
    assert list(stem.producers) == ["stem", "out0", "out1"]
    assert list(stem.consumers) == ["in0", "in1", "head"]
    cut_like_masked(model)


def test_concatenated_channels_are_groups_of_their_own_with_places_behind_each_other():
    net = Net(1, 3, 6, 6)
    one, two = net.conv("x", 3, 4, name="one"), net.conv("x", 3, 6, name="two")
    model = net.model(net.conv(net.node("Concat", one, two, axis=1), 10, 3, name="last"))
    assert sizes(model) == {"one": 4, "two": 6}
    np.testing.assert_array_equal(group_of(model, "two").consumers["last"][:, 0], np.arange(4, 10))
    cut_like_masked(model)


def test_a_depthwise_convolution_follows_and_loses_groups():
    net = Net(1, 3, 6, 6)
    y = net.node("Relu", net.conv("x", 3, 8, name="one"))
    y = net.conv(y, 8, 16, 3, group=8, name="depthwise")  # a multiplier of two
    model = net.model(net.conv(y, 16, 4, name="last"))
    group = group_of(model, "one")
    assert group.producers["depthwise"].tolist() == [[2 * unit, 2 * unit + 1] for unit in range(8)]
    cut(model, group, np.array([1, 2, 6]))
    node = next(node for node in model.graph if node.name == "depthwise")
    assert node.attributes["group"].as_int() == 3
    assert weight(model, "depthwise.weight").shape == (6, 1, 3, 3)
    assert weight(model, "last.weight").shape == (4, 6, 1, 1)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_grouped_convolution_loses_the_same_places_in_each_group(op):
    net = Net(1, 3, 6, 6)
    y = net.conv("x", 3, 12, name="one")
    shape = (9, 4, 3, 3) if op == "Conv" else (12, 3, 3, 3)
    y = net.node(op, y, net.random(*shape, name="grouped.weight"), net.random(9), name="grouped", group=3)
    model = net.model(net.conv(y, 9, 4, name="last"))
    assert sizes(model) == {"one": 4, "grouped": 3}
    assert group_of(model, "one").producers["one"].tolist() == [[unit, unit + 4, unit + 8] for unit in range(4)]
    cut_like_masked(model)
    node = next(node for node in model.graph if node.name == "grouped")
    assert node.attributes["group"].as_int() == 3


def test_a_transposed_convolution_without_groups():
    net = Net(1, 3, 6, 6)
    y = net.conv("x", 3, 6, name="one")
    y = net.node("ConvTranspose", y, net.random(6, 5, 3, 3), net.random(5), name="up", strides=[2, 2])
    model = net.model(net.conv(net.node("Relu", y), 5, 2, name="last"))
    assert sizes(model) == {"one": 6, "up": 5}
    cut_like_masked(model)


def test_a_group_norm_loses_whole_groups():
    net = Net(1, 3, 6, 6, opset=21)
    y = net.node("GroupNormalization", net.conv("x", 3, 8, name="one"), net.random(8), net.random(8), num_groups=4)
    model = with_shape(net.model(net.conv(y, 8, 3, name="last")), "GroupNormalization")
    assert sizes(model) == {"one": 4}
    cut_like_masked(model)


def test_a_group_norm_of_one_group_locks():
    net = Net(1, 3, 6, 6, opset=21)
    y = net.node("GroupNormalization", net.conv("x", 3, 8, name="one"), net.random(8), net.random(8), num_groups=1)
    model = with_shape(net.model(net.conv(y, 8, 3, name="last")), "GroupNormalization")
    assert channel_groups(model).locked["one"].code == "one_unit"


def test_an_instance_norm_has_numbers_for_each_channel():
    net = Net(1, 3, 6, 6)
    y = net.node("InstanceNormalization", net.conv("x", 3, 8, name="one"), net.random(8), net.random(8))
    model = net.model(net.conv(y, 8, 3, name="last"))
    assert sizes(model) == {"one": 8}
    cut_like_masked(model)


def test_layer_norm_and_a_written_out_rms_norm_lock_the_stream_and_not_the_hidden_units():
    for written_out in (False, True):
        net = Net(2, 5, 6)
        y = net.linear("x", 6, 8, "embed")
        if written_out:
            mean = net.node("ReduceMean", net.node("Mul", y, y), net.constant(np.array([-1], np.int64)))
            y = net.node("Div", y, net.node("Sqrt", mean))
        else:
            y = net.node("LayerNormalization", y, net.random(8), net.random(8), axis=-1, name="norm")
        hidden = net.node("Relu", net.linear(y, 8, 12, "up"))
        model = net.model(net.node("Add", y, net.linear(hidden, 12, 8, "down")))
        found = channel_groups(model)
        assert [(group.name, group.kind) for group in found.groups] == [("up", "columns")]
        assert found.locked["embed"].code in {"statistics", "mixed"}
        cut_like_masked(model)


def test_squeeze_and_excite():
    net = Net(1, 3, 6, 6)
    y = net.conv("x", 3, 8, name="one")
    gate = net.node("Relu", net.conv(net.node("GlobalAveragePool", y), 8, 4, name="squeeze"))
    gate = net.node("Sigmoid", net.conv(gate, 4, 8, name="excite"))
    model = net.model(net.conv(net.node("Mul", y, gate), 8, 3, name="last"))
    assert sizes(model) == {"one": 8, "squeeze": 4}
    assert list(group_of(model, "one").producers) == ["one", "excite"]
    cut_like_masked(model)


def test_channels_flattened_with_their_space_go_as_blocks():
    net = Net(2, 3, 4, 5)
    y = net.node("MaxPool", net.conv("x", 3, 6, name="one"), kernel_shape=[2, 2])
    model = net.model(net.gemm(net.reshape(y, 2, -1), 6 * 3 * 4, 4, "head"))
    group = group_of(model, "one")
    assert group.consumers["head"].shape == (6, 12)
    np.testing.assert_array_equal(group.consumers["head"][2], np.arange(24, 36))
    cut_like_masked(model)


@pytest.mark.parametrize("target", [(2, 72), (0, 72), (-1, 72), (2, -1), (0, -1)])
def test_the_written_sizes_of_a_reshape_are_rewritten_and_its_marks_stay(target):
    net = Net(2, 3, 3, 4)
    y = net.reshape(net.conv("x", 3, 6, name="one"), *target)
    model = net.model(net.gemm(y, 72, 4, "head"))
    cut(model, group_of(model, "one"), np.arange(5))
    node = next(node for node in model.graph if node.op_type == "Reshape")
    expected = [60 if size == 72 else size for size in target]
    assert node.inputs[1].const_value.numpy().tolist() == expected
    assert run_ort(model, inputs_of(model))[0].shape == (2, 4)


def test_padded_channels_of_a_shortcut_go_for_themselves():
    net = Net(1, 3, 8, 8)
    narrow = net.node("Relu", net.conv("x", 3, 4, name="stem"))
    wide = net.conv(narrow, 4, 8, 3, name="wide", strides=[2, 2])
    halved = net.node("AveragePool", narrow, kernel_shape=[2, 2], strides=[2, 2])
    shortcut = net.node("Pad", halved, net.constant(np.array([0, 1, 0, 0, 0, 3, 0, 0], np.int64)), name="pad")
    model = net.model(net.pooled(net.node("Relu", net.node("Add", wide, shortcut)), 8))
    found = {group.name: group for group in channel_groups(model).groups}
    assert found["stem"].producers["wide"].reshape(-1).tolist() == [1, 2, 3, 4]
    assert sorted(np.concatenate([g.producers["wide"].reshape(-1) for g in found.values()]).tolist()) == list(range(8))
    cut_like_masked(model)


def test_padding_by_copies_locks():
    net = Net(1, 3, 8, 8)
    y = net.node(
        "Pad", net.conv("x", 3, 4, name="one"), net.constant(np.array([0, 1] + [0] * 6, np.int64)), mode="edge"
    )
    assert channel_groups(net.model(net.conv(y, 5, 2, name="last"))).locked["one"].code == "padding"


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_split_channels(opset):
    net = Net(1, 3, 6, 6, opset=opset)
    y = net.conv("x", 3, 10, name="one")
    if opset == 11:
        one, two = net.parts("Split", y, count=2, name="split", axis=1, split=[4, 6])
    else:
        one, two = net.parts("Split", y, net.constant(np.array([4, 6], np.int64)), count=2, name="split", axis=1)
    model = net.model(net.node("Concat", net.conv(one, 4, 2, name="a"), net.conv(two, 6, 2, name="b"), axis=1))
    assert sizes(model) == {"one": 4, "one#2": 6}
    cut_like_masked(model)


def test_a_gated_unit_loses_both_halves():
    net = Net(2, 5, 6)
    gate, up = net.parts("Split", net.linear("x", 6, 16, "both"), count=2, name="split", axis=-1, num_outputs=2)
    y = net.node("Mul", net.node("Sigmoid", gate), up)
    model = net.model(net.linear(y, 8, 6, "down"))
    group = group_of(model, "both")
    assert group.kind == "columns"
    assert group.producers["both"].tolist() == [[unit, unit + 8] for unit in range(8)]
    cut_like_masked(model)
    (split,) = [node for node in model.graph if node.op_type == "Split"]
    assert "num_outputs" not in split.attributes


def test_slices_of_channels():
    net = Net(1, 3, 6, 6)
    y = net.conv("x", 3, 10, name="one")
    limits = [net.constant(np.array([n], np.int64)) for n in (2, -2, 1)]
    part = net.node("Slice", y, *limits)
    model = net.model(net.node("Concat", net.conv(part, 6, 2, name="a"), net.conv(y, 10, 2, name="b"), axis=1))
    assert sizes(model) == {"one": 4, "one#2": 6}
    cut_like_masked(model, 0.4)


def test_every_other_channel_locks():
    net = Net(1, 3, 6, 6)
    limits = [net.constant(np.array([n], np.int64)) for n in (0, 10, 1, 2)]
    y = net.node("Slice", net.conv("x", 3, 10, name="one"), *limits)
    assert channel_groups(net.model(net.conv(y, 5, 2, name="last"))).locked["one"].code == "step"


def test_channels_picked_in_another_order_are_picked_by_their_new_places():
    net = Net(1, 3, 6, 6)
    y = net.conv("x", 3, 6, name="one")
    y = net.node("Gather", y, net.constant(np.array([5, 0, 3, -4, 1, 4], np.int64)), axis=1)
    model = net.model(net.conv(y, 6, 2, name="last"))
    assert sizes(model) == {"one": 6}
    cut_like_masked(model, 0.5)


def test_a_shuffle_of_channels_keeps_groups_of_equal_size():
    net = Net(1, 3, 4, 4)
    y = net.conv("x", 3, 12, name="one")
    y = net.node("Transpose", net.reshape(y, 1, 3, 4, 4, 4), perm=[0, 2, 1, 3, 4])
    y = net.conv(net.reshape(y, 1, 12, 4, 4), 12, 6, group=3, name="grouped")
    model = net.model(net.conv(y, 6, 2, name="last"))
    groups, _ = cut_like_masked(model, 0.5)
    assert {group.name for group in groups} >= {"grouped"}


def test_tokens_of_an_image_and_back():
    net = Net(1, 3, 4, 4)
    y = net.node("Transpose", net.reshape(net.conv("x", 3, 6, name="one"), 1, 6, 16), perm=[0, 2, 1])
    y = net.node("Transpose", net.linear(y, 6, 8, "two"), perm=[0, 2, 1])
    model = net.model(net.conv(net.reshape(y, 1, 8, 4, 4), 8, 2, name="last"))
    assert sizes(model) == {"one": 6, "two": 8}
    cut_like_masked(model)


def test_depth_to_space_takes_blocks():
    for mode in ("DCR", "CRD"):
        net = Net(1, 3, 4, 4)
        y = net.node("DepthToSpace", net.conv("x", 3, 20, name="one"), blocksize=2, mode=mode)
        y = net.node("SpaceToDepth", net.conv(y, 5, 6, name="two"), blocksize=2)
        model = net.model(net.conv(y, 24, 2, name="last"))
        assert sizes(model) == {"one": 5, "two": 6}
        cut_like_masked(model)


def test_resized_and_tiled_channels():
    net = Net(1, 3, 4, 4)
    y = net.node("Resize", net.conv("x", 3, 6, name="one"), "", "", net.constant(np.array([1, 6, 8, 8], np.int64)))
    y = net.node("Tile", y, net.constant(np.array([1, 2, 1, 1], np.int64)))
    model = net.model(net.conv(y, 12, 2, name="last"))
    assert group_of(model, "one").consumers["last"].tolist() == [[unit, unit + 6] for unit in range(6)]
    cut_like_masked(model)


def test_constants_along_the_channels_are_cut_along():
    net = Net(1, 3, 4, 4)
    y = net.node("PRelu", net.conv("x", 3, 6, name="one"), net.random(6, 1, 1, name="slope"))
    y = net.node("Mul", y, net.random(1, 6, 1, 1, name="scale"))
    y = net.node("Where", net.constant(np.array([[[True]]] * 3 + [[[False]]] * 3)), y, net.constant(np.float32(0.5)))
    y = net.node("Clip", y, net.constant(np.float32(-1)), net.constant(np.float32(1)))
    model = net.model(net.conv(net.node("Pow", y, net.constant(np.float32(2))), 6, 2, name="last"))
    cut_like_masked(model, 0.5)
    assert weight(model, "slope").shape == (3, 1, 1)
    assert weight(model, "scale").shape == (1, 3, 1, 1)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_a_softmax_over_channels_locks(op):
    net = Net(1, 3, 4, 4)
    y = net.node(op, net.conv("x", 3, 6, name="one"), axis=1, name="soft")
    reason = channel_groups(net.model(net.conv(y, 6, 2, name="last"))).locked["one"]
    assert reason.code == "statistics"
    assert "soft" in reason.why


def test_an_operator_without_a_rule_locks_and_is_named():
    net = Net(1, 3, 4, 4)
    y = net.node("LRN", net.conv("x", 3, 6, name="one"), size=3, name="local")
    reason = channel_groups(net.model(net.conv(y, 6, 2, name="last"))).locked["one"]
    assert reason.code == "no_rule"
    assert "LRN" in reason.why


def test_places_of_maxima_count_channels_and_lock():
    net = Net(1, 3, 4, 4)
    most, places = net.parts("MaxPool", net.conv("x", 3, 6, name="one"), count=2, name="pool", kernel_shape=[2, 2])
    model = net.model(net.conv(most, 6, 2, name="last"), places)
    assert channel_groups(model).locked["one"].code == "no_rule"


def test_what_is_joined_with_an_input_is_locked():
    net = Net(1, 6, 4, 4)
    y = net.node("Add", net.conv("x", 6, 6, name="one"), "x", name="join")
    reason = channel_groups(net.model(net.conv(y, 6, 2, name="last"))).locked["one"]
    assert reason.code == "tied"
    assert "join" in reason.why


def test_one_channel_cannot_go():
    net = Net(1, 3, 4, 4)
    model = net.model(net.conv(net.conv("x", 3, 1, name="one"), 1, 2, name="last"))
    assert channel_groups(model).locked["one"].code == "one_unit"


def test_one_channel_spread_over_several_is_locked():
    net = Net(1, 3, 4, 4)
    y = net.node("Mul", net.conv("x", 3, 1, name="gate"), net.conv("x", 3, 6, name="one"))
    model = net.model(net.conv(y, 6, 2, name="last"))
    assert sizes(model) == {"one": 6}
    assert channel_groups(model).locked["gate"].code == "broadcast"
    cut_like_masked(model)


def test_shared_weights_lose_the_same_channels_or_none():
    def twice(second_width: int) -> ir.Model:
        net = Net(2, 6)
        shared = net.random(6, 6, name="shared")
        y = net.node("MatMul", net.node("Relu", net.node("MatMul", "x", shared, name="one")), shared, name="two")
        return net.model(net.linear(y, 6, second_width, "last"))

    reason = channel_groups(twice(3)).locked["one"]  # its inputs are the model's, and the same axis is its inputs
    assert reason.code in {"tied", "shared"}

    net = Net(2, 6)
    left, right = net.linear("x", 6, 4, "left"), net.linear("x", 6, 4, "right")
    shared = net.random(4, 3, name="shared")
    y = net.node("Add", net.node("MatMul", left, shared, name="a"), net.node("MatMul", right, shared, name="b"))
    model = net.model(y)
    group = group_of(model, "left")
    assert list(group.producers) == ["left", "right"]
    cut_like_masked(model)
    assert weight(model, "shared").shape == (3, 3)


def test_a_weight_that_is_also_read_otherwise_is_locked():
    net = Net(2, 6)
    tied = net.random(6, 5, name="tied")
    y = net.node("Relu", net.node("MatMul", "x", tied, name="one"))
    total = net.node("ReduceSum", net.node("Sigmoid", tied))
    model = net.model(net.node("Add", net.linear(y, 5, 3, "last"), total))
    reason = channel_groups(model).locked["one"]
    assert reason.code == "shared"
    assert "tied" in reason.why


def test_small_constants_that_many_read_are_copied_where_they_are_cut():
    net = Net(1, 3, 4, 4)
    ones = net.constant(np.ones((6, 1, 1), np.float32), "ones")
    y = net.conv(net.node("Mul", net.conv("x", 3, 6, name="one"), ones, name="first"), 6, 6, name="two")
    model = net.model(net.node("Mul", y, ones, name="second"))
    made = cut(model, group_of(model, "one"), np.array([0, 3]))
    assert made.copies == {"ones.of.first": "ones"}
    assert weight(model, "ones").shape == (6, 1, 1)
    np.testing.assert_array_equal(made.kept["ones.of.first", 0], [0, 3])


def test_weights_reached_through_a_transpose_are_cut_where_they_are_stored():
    net = Net(2, 6)
    stored = net.random(8, 6, name="stored")
    y = net.node("MatMul", "x", net.node("Transpose", stored, perm=[1, 0]), name="one")
    model = net.model(net.linear(net.node("Relu", y), 8, 3, "last"))
    cut_like_masked(model)
    assert weight(model, "stored").shape == (6, 6)


def test_the_body_of_a_loop_locks_what_it_reads():
    net = Net(1, 3, 4, 4)
    y = net.conv("x", 3, 6, name="one")
    body = helper.make_graph([helper.make_node("Relu", [y], ["in"], name="inner")], "then", [], [
        helper.make_tensor_value_info("in", 1, [1, 6, 4, 4])])  # fmt: skip
    other = helper.make_graph([helper.make_node("Neg", [y], ["out"], name="other")], "else", [], [
        helper.make_tensor_value_info("out", 1, [1, 6, 4, 4])])  # fmt: skip
    chosen = net.node("If", net.constant(np.array(True)), then_branch=body, else_branch=other, name="if")
    model = net.model(net.conv(y, 6, 2, name="last"), chosen)
    assert channel_groups(model).locked["one"].code == "no_rule"


def test_a_shape_that_is_not_fixed_locks():
    net = Net(1, 3, 4, 4)
    y = net.conv("x", 3, 6, name="one")
    model = net.model(net.conv(net.node("Relu", y, name="relu"), 6, 2, name="last"))
    next(node for node in model.graph if node.name == "relu").outputs[0].shape = ir.Shape([1, 6, "h", 4])
    assert channel_groups(model).locked["one"].code == "dynamic_shape"


def test_sizes_that_follow_from_shapes_come_out_right_alone_or_are_written_out():
    net = Net(2, 3, 4, 4)
    y = net.conv("x", 3, 6, name="one")
    sizes_ = net.node("Shape", y)
    head = net.node("Slice", sizes_, *[net.constant(np.array([n], np.int64)) for n in (0, 2)])
    flat = net.node("Reshape", y, net.node("Concat", head, net.constant(np.array([16], np.int64)), axis=0), name="flat")
    tokens = net.linear(net.node("Transpose", flat, perm=[0, 2, 1]), 6, 8, "two")  # [2, 16, 8]
    batch = net.node("Slice", sizes_, *[net.constant(np.array([n], np.int64)) for n in (0, 1)])
    wide = net.node("Concat", batch, net.constant(np.array([128], np.int64)), axis=0)
    model = net.model(net.gemm(net.node("Reshape", tokens, wide, name="wide"), 128, 3, "head"))
    cut_like_masked(model)
    nodes = {node.name: node for node in model.graph}
    assert nodes["flat"].inputs[1].producer() is not None  # the channel count follows by itself
    assert nodes["wide"].inputs[1].const_value.numpy().tolist() == [0, 96]  # 0: still any batch
    assert_close(*[run_ort(model, inputs_of(model))] * 2)
