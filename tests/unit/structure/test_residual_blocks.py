"""Residual blocks: found, counted against what the architectures say, refused where they cannot go, and dropped."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from benchmarks import real_tasks
from compress_subjects import imported, random_samples, run_ort
from large import LARGE
from residual_graphs import PADDED, drawn, net, residual_net

from hwbench.errors import UsageError
from hwbench.graph.onnx_file import infer_shapes
from hwbench.structure.blocks import residual_blocks, whole_layers
from hwbench.structure.drop import drop_block, going_with

pytest.importorskip("onnxruntime", reason="onnxruntime computes the networks")

# (blocks, those that may go, whole layers): a stage's first block changes the shape; MBConv blocks are residual only
# where they repeat; a transformer's layer is two blocks
ZOO = {
    "digits_cnn": (0, 0, 0),
    "ds_cnn": (0, 0, 0),
    "autoencoder": (0, 0, 0),
    "resnet8": (3, 1, 3),
    "resnet20": (9, 7, 9),
    "mobilenet_v2": (10, 10, 10),
    "resnet50": (16, 12, 16),
    "bert_small": (8, 8, 4),
    "vit_tiny": (24, 24, 12),
}
QUICK = {"resnet8", "resnet20", "digits_cnn", "ds_cnn", "autoencoder"}
REAL = {
    "cifar10/resnet20.onnx": (9, 7),
    "cifar10/resnet56.onnx": (27, 25),
    "cifar10/mlperf_tiny_resnet8.onnx": (3, 1),
    "kws/kws_dscnn.onnx": (0, 0),
    "imagenet/efficientnet_lite0.onnx": (9, 9),
    "imagenet/squeezenet_v1.0_deep_compressed.onnx": (0, 0),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else LARGE) for name in sorted(ZOO)])
def test_blocks_of_built_in_models_are_those_of_their_architecture(name, tmp_path):
    model = imported(name, tmp_path, batch=1)
    blocks = residual_blocks(model)
    assert (len(blocks), sum(block.droppable for block in blocks), len(whole_layers(blocks))) == ZOO[name]
    assert len({block.name for block in blocks}) == len(blocks)
    _drop_all(model)


@pytest.mark.parametrize("name", REAL)
def test_blocks_of_real_models_are_those_of_their_architecture(name, tmp_path):
    if not (real_tasks.DATA / name).exists():
        pytest.skip("needs the shared data")
    model = imported(str(real_tasks.DATA / name), tmp_path, batch=1)
    blocks = residual_blocks(model)
    assert (len(blocks), sum(block.droppable for block in blocks)) == REAL[name]
    _drop_all(model)


def _drop_all(model: ir.Model) -> None:
    """Drop whatever may go, and see that the rest runs, with as many nodes as planned."""
    droppable = [block for block in residual_blocks(model) if block.droppable]
    outputs = [value.name for value in model.graph.outputs]
    for block in droppable:
        nodes, planned = len(list(model.graph)), len(going_with(model, block))
        dropped = drop_block(model, block)
        assert len(dropped.nodes) == planned == nodes - len(list(model.graph))
        assert block.add.graph is None
    assert [value.name for value in model.graph.outputs] == outputs
    assert not [block for block in residual_blocks(model) if block.droppable]
    if droppable:
        assert all(np.isfinite(out).all() for out in run_ort(model, dict(random_samples(model, 1).inputs)))
    used = {value.name for node in model.graph.all_nodes() for value in node.inputs if value is not None}
    if droppable:
        assert set(model.graph.initializers) <= used


def test_dropping_is_what_zeroing_the_branch_does():
    """The oracle: a branch whose last convolution is zero adds nothing."""
    for index in range(3):
        zeroed, cut = residual_net(), residual_net()
        for name in (f"block.{index}.two.w", f"block.{index}.two.b"):
            old = zeroed.graph.initializers[name]
            old.const_value = ir.tensor(np.zeros(old.shape.numpy(), np.float32), name=name)
        block = residual_blocks(cut)[index]
        before = len(list(cut.graph))
        dropped = drop_block(cut, block)
        assert block.name == f"block.{index}"
        # two convolutions, the Relu between, the Add, and the Relu behind: what comes in has been through one
        assert len(list(cut.graph)) == before - 5
        assert dropped.parameters == 2 * (4 * 4 * 9 + 4)
        assert dropped.renamed == (f"h{index}", f"h{index + 1}")
        x = {"x": drawn(2, 4, 8, 8, seed=9)}
        np.testing.assert_array_equal(run_ort(zeroed, x)[0], run_ort(cut, x)[0])


def test_a_relu_stays_where_what_is_passed_on_may_be_negative():
    model = net(
        [("Conv", "x w", "h", PADDED), ("Conv", "h w", "b", PADDED), ("Add", "h b", "s"), ("Relu", "s", "y")],
        {"w": drawn(4, 4, 3, 3)},
    )
    (block,) = residual_blocks(model)
    assert block.end.name == "y"
    drop_block(model, block)
    assert [node.op_type for node in model.graph] == ["Conv", "Relu"]
    assert [node.outputs[0].name for node in model.graph] == ["s", "y"]
    assert "w" in model.graph.initializers  # shared with the layer that stays


def test_a_block_of_the_whole_network_leaves_its_input():
    model = net([("Conv", "x w", "b", PADDED), ("Add", "x b", "y")], {"w": drawn(4, 4, 3, 3)})
    drop_block(model, residual_blocks(model)[0])
    assert [node.op_type for node in model.graph] == ["Identity"]
    x = drawn(2, 4, 8, 8)
    np.testing.assert_array_equal(run_ort(model, {"x": x})[0], x)


@pytest.mark.parametrize(
    ("lines", "outputs", "code"),
    [
        ([("Conv", "x w", "b", PADDED), ("Conv", "x w", "s", PADDED), ("Add", "s b", "y")], ["y"], "no_identity"),
        ([("Conv", "x w", "b", PADDED), ("Add", "x b", "y")], ["y", "b"], "graph_output_inside"),
        (
            [("Conv", "x w", "b", PADDED), ("Relu", "b", "c"), ("Add", "x c", "s"), ("Mul", "s b", "y")],
            ["y"],
            "used_outside",
        ),
    ],
)
def test_what_cannot_go_is_refused(lines, outputs, code):
    model = net(lines, {"w": drawn(4, 4, 3, 3)}, outputs=dict.fromkeys(outputs, (None,) * 4))
    (block,) = residual_blocks(model)
    assert block.reason.code == code
    before = [node.name for node in model.graph]
    with pytest.raises(UsageError, match="cannot be dropped"):
        drop_block(model, block)
    assert [node.name for node in model.graph] == before


def test_unknown_shapes_are_refused():
    model = net([("Conv", "x w", "b", PADDED), ("Add", "x b", "y")], {"w": drawn(4, 4, 3, 3)})
    next(node for node in model.graph if node.op_type == "Add").outputs[0].shape = None
    assert residual_blocks(model)[0].reason.code == "unknown_shape"


@pytest.mark.parametrize(
    "lines",
    [
        [("Mul", "x half", "b"), ("Add", "x b", "y")],  # no product of matrices: an activation written out
        [
            ("Conv", "x w", "b", PADDED),
            ("GlobalAveragePool", "x", "p"),
            ("Add", "p b", "y"),
        ],  # two branches: not x + f(x)
        [("Add", "x x", "y")],
        [("Conv", "x w", "b", PADDED), ("Add", "b half", "y")],
    ],
)
def test_what_is_no_identity_with_a_branch_is_no_droppable_block(lines):
    model = net(lines, {"w": drawn(4, 4, 3, 3), "half": np.float32(0.5)})
    assert not [block for block in residual_blocks(model) if block.droppable]


def test_attention_scores_and_masks_are_no_blocks():
    lines = [
        ("MatMul", "x q1", "s1"),
        ("Softmax", "s1", "p1"),
        ("MatMul", "p1 q1", "o1"),
        ("Add", "o1 x", "scores"),  # as if x were a mask that the layer before has read
        ("Softmax", "scores", "y"),
    ]
    assert residual_blocks(net(lines, {"q1": drawn(6, 6)}, x=(2, 6))) == []


def test_parallel_branches_are_blocks_of_their_own():
    """x + f(n(x)) + g(n(x)): the norm is shared, so it stays with whichever branch stays."""
    lines = [
        ("LayerNormalization", "x gain", "n"),
        ("MatMul", "n f", "fx"),
        ("MatMul", "n g", "gx"),
        ("Add", "x fx", "s"),
        ("Add", "gx s", "y"),
    ]
    weights = {"gain": drawn(6), "f": drawn(6, 6, seed=1), "g": drawn(6, 6, seed=2)}
    x = {"x": drawn(2, 6, seed=3)}
    first, second = residual_blocks(net(lines, weights, x=(2, 6)))
    assert first.droppable
    assert second.droppable
    assert second.start.name == "x"
    assert [node.name for node in second.nodes] == ["gx"]
    model = net(lines, weights, x=(2, 6))
    drop_block(model, residual_blocks(model)[1])
    assert [node.name for node in model.graph] == ["n", "fx", "s"]
    np.testing.assert_allclose(run_ort(model, x)[0], run_ort(net(lines[:-1], weights, x=(2, 6)), x)[0], rtol=1e-6)
    model = net(lines, weights, x=(2, 6))
    for block in residual_blocks(model):
        drop_block(model, block)
    assert [node.op_type for node in model.graph] == ["Identity"]


def test_nested_blocks_go_with_the_outer_one():
    lines = [
        ("Conv", "x w1", "a", PADDED),
        ("Conv", "a w2", "b", PADDED),
        ("Add", "a b", "inner"),
        ("Conv", "inner w3", "c", PADDED),
        ("Add", "x c", "outer"),
        ("Relu", "outer", "y"),
    ]
    model = net(lines, {name: drawn(4, 4, 3, 3, seed=i) for i, name in enumerate(("w1", "w2", "w3"))})
    inner, outer = residual_blocks(model)
    assert (inner.add.name, outer.add.name) == ("inner", "outer")
    drop_block(model, outer)
    assert [node.name for node in model.graph] == ["y"]
    with pytest.raises(UsageError, match="not in the graph"):
        drop_block(model, inner)


def test_inner_blocks_can_go_first():
    lines = [
        ("Conv", "x w1", "a", PADDED),
        ("Conv", "a w2", "b", PADDED),
        ("Add", "a b", "inner"),
        ("Conv", "inner w3", "c", PADDED),
        ("Add", "x c", "y"),
    ]
    weights = {name: drawn(4, 4, 3, 3, seed=i) for i, name in enumerate(("w1", "w2", "w3"))}
    model = net(lines, weights)
    inner, outer = residual_blocks(model)
    drop_block(model, inner)
    assert next((node.op_type, node.outputs[0].name) for node in model.graph) == ("Conv", "inner")
    drop_block(model, outer)
    assert [node.op_type for node in model.graph] == ["Identity"]


def test_names_of_a_block_without_paths_are_those_of_its_add():
    model = net(
        [("Conv", "x w", "b", PADDED), ("Conv", "b w", "c", PADDED), ("Add", "c x", "sum")], {"w": drawn(4, 4, 3, 3)}
    )
    assert [block.name for block in residual_blocks(infer_shapes(model))] == ["sum"]
