"""Constants along channels, shared ones among them, and what is locked, with the reason that is given."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compress_subjects import run_ort
from onnx import helper
from structure_graphs import Net, assert_close, cut_like_masked, group_of, inputs_of

from hwbench.structure.cut import cut
from hwbench.structure.groups import channel_groups


def sizes(model: ir.Model) -> dict[str, int]:
    return {group.name: group.size for group in channel_groups(model).groups}


def weight(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


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
