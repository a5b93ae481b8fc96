"""Rules of operators that reshape, join, part, pick, pad and repeat: cuts through them, or why there are none."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compress_subjects import run_ort
from structure_graphs import Net, cut_like_masked, group_of, inputs_of

from hwbench.structure.cut import cut
from hwbench.structure.groups import channel_groups


def sizes(model: ir.Model) -> dict[str, int]:
    return {group.name: group.size for group in channel_groups(model).groups}


def weight(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


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
