"""Each operator's rule on a network made by hand: what hangs together, what is locked, and that cuts come out right."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from structure_graphs import Net, cut_like_masked, group_of

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
