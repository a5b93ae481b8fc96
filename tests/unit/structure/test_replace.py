"""Which blocks one layer can stand for, and what becomes of the graph."""

from __future__ import annotations

import numpy as np
import pytest
from compress_subjects import run_ort
from residual_graphs import PADDED, drawn, net, residual_net

from hwbench.graph.onnx_file import infer_shapes
from hwbench.records.base import Missing
from hwbench.structure.blocks import residual_blocks
from hwbench.structure.drop import drop_block
from hwbench.structure.replace import Replaceable, delta, replace_block, replaceable

pytest.importorskip("onnxruntime", reason="onnxruntime computes the networks")

X = {"x": drawn(2, 4, 8, 8, seed=9)}


def one_block(first=PADDED, between="Relu", last="Relu", kernel=3, middle=(), norm=False):
    """A stem and one block, with what is said about its parts."""
    limits = " low high"
    given = lambda op, name: name + (limits if op == "Clip" else "")  # noqa: E731
    lines = [("Conv", "x stem.w", "stem", PADDED), ("Relu", "stem", "h0"), ("Conv", "h0 b.one.w", "b.one", first)]
    behind = "b.one"
    if norm:
        lines.append(("BatchNormalization", "b.one n.scale n.shift n.mean n.var", "b.norm"))
        behind = "b.norm"
    lines += [(between, given(between, behind), "b.act"), *middle]
    lines += [
        ("Conv", f"{'b.act' if not middle else middle[-1][2]} b.two.w", "b.two", PADDED),
        ("Add", "h0 b.two", "b/Add"),
        (last, given(last, "b/Add"), "y"),
    ]
    weights = {name: drawn(4, 4, 3, 3, seed=seed, scale=0.2) for seed, name in enumerate(("stem.w", "b.two.w"))}
    weights["b.one.w"] = drawn(4, 4, kernel, kernel, seed=3, scale=0.2)
    weights |= {"low": np.float32(0), "high": np.float32(6), "mid.w": drawn(4, 4, 1, 1, seed=5)}
    weights |= {"n.scale": drawn(4, seed=6), "n.shift": drawn(4, seed=7), "n.mean": drawn(4, seed=8)}
    weights["n.var"] = np.abs(drawn(4, seed=9)) + 0.5
    return net(lines, {name: np.asarray(array) for name, array in weights.items()})


def found(model):
    return {block.name: replaceable(block) for block in residual_blocks(model)}


def passed_on(model, names):
    """The model with layers that pass on what they read in place of blocks."""
    ways = found(model)
    for name in names:
        one = ways[name]
        replace_block(model, one, delta(one.first), np.zeros(one.first.output_channels))
    return infer_shapes(model)


@pytest.mark.parametrize("which", [["block.0"], ["block.1"], ["block.0", "block.1"], ["block.0", "block.1", "block.2"]])
def test_a_layer_that_passes_on_what_it_reads_is_no_block_at_all(which):
    model, other = residual_net(), residual_net()
    blocks = {block.name: block for block in residual_blocks(other)}
    for name in which:
        drop_block(other, blocks[name])
    made = passed_on(model, which)
    for one, wanted in zip(run_ort(made, X), run_ort(other, X), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=1e-6)
    assert len(made.graph) == len(residual_net().graph) - 3 * len(which)  # a convolution, the Add and a Relu each


@pytest.mark.parametrize("options", [{}, {"between": "Clip", "last": "Clip"}, {"norm": True}])
def test_norms_and_clips(options):
    model, other = one_block(**options), one_block(**options)
    (block,) = residual_blocks(other)
    drop_block(other, block)
    made = passed_on(model, [block.name])
    np.testing.assert_allclose(run_ort(made, X)[0], run_ort(other, X)[0], rtol=1e-5, atol=1e-6)
    assert not {node.op_type for node in made.graph} & {"Add", "BatchNormalization"}


def test_tensors_keep_the_names_that_they_have_in_the_original():
    made = passed_on(residual_net(), ["block.0"])
    first = next(node for node in made.graph if node.name == "block.0.one")
    assert first.outputs[0].name == "block.0/Add"
    (activation,) = (use.node for use in first.outputs[0].uses())
    assert (activation.op_type, activation.outputs[0].name) == ("Relu", "h1")
    assert not {"block.0.two", "block.0/Add", "h1"} & {node.name for node in made.graph}
    assert "block.0.two.w" not in made.graph.initializers


def test_weights_are_those_that_were_given():
    model = one_block()
    one = found(model)["b"]
    assert isinstance(one, Replaceable)
    blocks, bias = drawn(1, 4, 4, 9, seed=20).astype(np.float64), drawn(4, seed=21).astype(np.float64)
    gone = replace_block(model, one, blocks, bias)
    made = infer_shapes(model)
    np.testing.assert_allclose(made.graph.initializers["b.one.w"].const_value.numpy().reshape(4, 4, 9), blocks[0])
    assert gone.initializers == {"b.two.w": 4}
    x, h = X["x"], None
    (h,) = run_ort(net([("Conv", "x stem.w", "s", PADDED), ("Relu", "s", "h")],
                       {"stem.w": model.graph.initializers["stem.w"].const_value.numpy()}), {"x": x})  # fmt: skip
    lines = [("Conv", "x w b", "c", PADDED), ("Relu", "c", "y")]
    weights = {"w": blocks.reshape(4, 4, 3, 3).astype(np.float32), "b": bias.astype(np.float32)}
    np.testing.assert_allclose(run_ort(made, X)[0], run_ort(net(lines, weights), {"x": h})[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"last": "Sigmoid"}, "no_activation"),
        ({"between": "Clip"}, "other_activation"),
        ({"between": "Sigmoid"}, "other_activation"),
        ({"middle": (("Conv", "b.act mid.w", "b.mid"),)}, "other_branch"),
        ({"middle": (("Sigmoid", "b.act", "b.mid"),)}, "other_branch"),
    ],
)
def test_what_no_layer_can_stand_for_has_a_reason(options, code):
    (reason,) = found(one_block(**options)).values()
    assert isinstance(reason, Missing)
    assert reason.code == code


def test_a_layer_of_fewer_channels_cannot():
    weights = {"stem.w": drawn(4, 4, 3, 3), "one.w": drawn(2, 4, 3, 3), "two.w": drawn(4, 2, 3, 3)}
    lines = [
        ("Conv", "x stem.w", "stem", PADDED), ("Relu", "stem", "h"), ("Conv", "h one.w", "one", PADDED),
        ("Relu", "one", "act"), ("Conv", "act two.w", "two", PADDED), ("Add", "h two", "sum"), ("Relu", "sum", "y"),
    ]  # fmt: skip
    (reason,) = found(net(lines, weights)).values()
    assert isinstance(reason, Missing)
    assert reason.code == "other_shape"
