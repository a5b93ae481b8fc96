"""Blocks that one layer computes exactly, one behind the other; and every reason why a layer cannot stand for one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compress_subjects import run_ort
from residual_graphs import ACTIVATIONS, PADDED, drawn, net, residual_net, unclipped_net

from hwbench.graph.linear import constant
from hwbench.graph.onnx_file import infer_shapes
from hwbench.records.base import Missing
from hwbench.structure.blocks import residual_blocks
from hwbench.structure.replace import Replaceable, delta, replace_block, replaceable

pytest.importorskip("onnxruntime", reason="onnxruntime computes the networks")

X = {"x": drawn(2, 4, 8, 8, seed=5)}
KINDS = ("scale", "shift", "mean", "var")


def found(model: ir.Model) -> list[Replaceable]:
    each = [replaceable(block) for block in residual_blocks(model)]
    assert all(isinstance(one, Replaceable) for one in each), each
    return each


def parameter(model: ir.Model, name: str) -> np.ndarray:
    return constant(model.graph.initializers[name])


def folded(model: ir.Model, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a layer as outputs x inputs x positions, and its bias, with the norm behind it folded in."""
    weight, bias = parameter(model, f"{path}.w"), parameter(model, f"{path}.b")
    if f"{path}.norm.var" in model.graph.initializers:
        scale, shift, mean, var = (parameter(model, f"{path}.norm.{kind}") for kind in KINDS)
        factor = scale / np.sqrt(var + 1e-5)
        weight, bias = weight * factor[:, None, None, None], (bias - mean) * factor + shift
    return weight.reshape(*weight.shape[:2], -1), bias


def whole(model: ir.Model, one: Replaceable) -> tuple[np.ndarray, np.ndarray]:
    """The weights and bias that compute what the block adds up, where its inner activation clips nothing."""
    (first, first_bias), (second, second_bias) = (folded(model, f"{one.name}.{part}") for part in ("one", "two"))
    blocks = np.einsum("om,mip->oip", second[:, :, 0], first)[None] + delta(one.first)
    return blocks, second[:, :, 0] @ first_bias + second_bias


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_chain_of_two_blocks_becomes_the_layers_that_compute_it(activation, norms):
    model = unclipped_net(activation=activation, norms=norms)
    before = run_ort(model, X)
    ones = found(model)
    solved = [whole(model, one) for one in ones]
    for one, (blocks, bias) in zip(ones, solved, strict=True):
        replace_block(model, one, blocks, bias)
    np.testing.assert_allclose(run_ort(model, X)[0], before[0], rtol=1e-4)
    act = ACTIVATIONS[activation][0]
    assert [node.op_type for node in model.graph] == ["Conv", act, "Conv", act, "Conv", act, "GlobalAveragePool"]
    assert not [name for name in model.graph.initializers if ".two." in name or ".norm." in name]


def test_an_end_that_is_put_out_keeps_its_name_numbers_and_shape():
    model = unclipped_net(1, norms=True)
    model.graph.outputs.append(next(node.outputs[0] for node in model.graph if node.name == "h1"))
    before = run_ort(model, X)[1]
    (one,) = found(model)
    replace_block(model, one, *whole(model, one))
    assert [value.name for value in model.graph.outputs] == ["y", "h1"]
    np.testing.assert_allclose(run_ort(model, X)[1], before, atol=1e-4)
    shapes = {value.name: value.shape for node in infer_shapes(model).graph for value in node.outputs}
    assert shapes["block.0/Add"] == shapes["h1"] == [2, 4, 8, 8]


def test_what_went_is_told_with_the_norms():
    model = unclipped_net(1, norms=True)
    (one,) = found(model)
    gone = replace_block(model, one, *whole(model, one))
    assert set(gone.nodes) == {"block.0.one.norm", "block.0.two", "block.0.two.norm", "block.0/Add", "h1"}
    norms = [f"block.0.{part}.norm.{kind}" for part in ("one", "two") for kind in KINDS]
    assert gone.initializers == dict.fromkeys(["block.0.two.w", "block.0.two.b", *norms], 4)
    assert gone.parameters == 16 + 4 + 8 * 4
    assert gone.renamed == ("block.0.act", "h1")


def test_a_layer_without_a_bias_gets_one():
    model = residual_net(1)
    next(node for node in model.graph if node.name == "block.0.one").resize_inputs(2)
    (one,) = found(model)
    replace_block(model, one, 0 * delta(one.first), np.arange(4.0))
    model.graph.outputs.append(one.activation.outputs[0])
    np.testing.assert_array_equal(run_ort(model, X)[1], np.broadcast_to(np.arange(4.0)[:, None, None], (2, 4, 8, 8)))


THREE = {"w": drawn(4, 4, 3, 3), "v": drawn(4, 4, 3, 3, seed=1)}
ONES = {"w": drawn(4, 4, 1, 1), "v": drawn(4, 4, 1, 1, seed=1)}
STRIDED = {"strides": [2, 2], "pads": [4, 4, 4, 4]}


def plain(first=PADDED, second=PADDED, *, weight="v", start="h", summand="h"):
    """A block as it may be, with one thing changed."""
    return [
        ("Conv", f"{start} w", "a", first), ("Relu", "a", "b"), ("Conv", f"b {weight}", "c", second),
        ("Add", f"{summand} c", "e"), ("Relu", "e", "y"),
    ]  # fmt: skip


WAYS = {
    "its shortcut does something": ("no_identity", [("Conv", "h u", "p"), *plain(summand="p")], THREE),
    "nothing behind the Add": ("no_activation", plain()[:-1], THREE),
    "more is added than it starts from": (
        "no_activation", [("Conv", "h u", "p"), ("Add", "h p", "q"), *plain(summand="q")], THREE,
    ),
    "something else comes first": ("no_layer", [("Sigmoid", "h", "s"), *plain(start="s")], THREE),
    "groups": ("no_layer", plain(PADDED | {"group": 2}), THREE | {"w": drawn(4, 2, 3, 3)}),
    "another activation": ("other_activation", [*plain()[:-1], ("Clip", "e low high", "y")], THREE),
    "no activation within": (
        "other_activation",
        [("Conv", "h w", "a", PADDED), ("Conv", "a v", "c", PADDED), ("Add", "h c", "e"), ("Relu", "e", "y")],
        THREE,
    ),
    "three convolutions": (
        "other_branch",
        [*plain()[:3], ("Relu", "c", "d"), ("Conv", "d u", "f"), ("Add", "h f", "e"), ("Relu", "e", "y")],
        THREE,
    ),
    "an activation at the end of the branch": (
        "other_branch", [*plain()[:3], ("Tanh", "c", "d"), ("Add", "h d", "e"), ("Relu", "e", "y")], THREE,
    ),
    "layers that look aside and back": (
        "other_shape", plain({"pads": [0, 0, 2, 2]}, {"pads": [2, 2, 0, 0]}), THREE,
    ),
    "a first layer that looks aside": ("other_shape", plain({"pads": [0, 0, 2, 2]}), THREE),
    "a second layer that looks aside": ("other_shape", plain(PADDED, {"pads": [2, 2, 0, 0]}), THREE),
    "a stride that padding makes up for": ("other_shape", plain(STRIDED, {}), ONES),
    "an even kernel": ("other_shape", plain({"auto_pad": "SAME_UPPER"}), THREE | {"w": drawn(4, 4, 2, 2)}),
    "both layers have the same weights": ("shared_weights", plain(weight="w"), {"w": drawn(4, 4, 3, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_why_not(way):
    code, lines, weights = WAYS[way]
    others = {"u": drawn(4, 4, 1, 1), **ACTIVATIONS["relu6"][1]}
    used = {name for _, given, *_ in lines for name in given.split()}
    weights = weights | {name: array for name, array in others.items() if name in used}
    reason = replaceable(residual_blocks(net([("Relu", "x", "h"), *lines], weights))[-1])
    assert isinstance(reason, Missing)
    assert reason.code == code
    assert reason.why


def test_the_plain_block_may():
    (one,) = found(net([("Relu", "x", "h"), *plain()], THREE))
    assert (one.first.name, one.second.name, one.norm, one.activation.name, one.target.name) == (
        "a",
        "c",
        None,
        "b",
        "e",
    )
