"""Heads of attention in the forms that exporters write, and the hidden units beside them."""

from __future__ import annotations

import numpy as np
import pytest
from structure_graphs import (
    BATCH,
    DIM,
    TOKENS,
    WIDTH,
    Net,
    attended,
    cut_like_masked,
    group_of,
    heads_of,
    joined,
    rotated,
)

from hwbench.structure.groups import channel_groups


@pytest.mark.parametrize("masked", [False, True])
def test_heads_take_queries_keys_and_values_with_them(masked):
    net = Net(BATCH, TOKENS, WIDTH)
    q, k, v = (heads_of(net, net.linear("x", WIDTH, 4 * DIM, name), 4) for name in "qkv")
    mask = net.random(1, 1, TOKENS, TOKENS) if masked else None
    model = net.model(joined(net, attended(net, q, k, v, mask), 4))
    group = group_of(model, "q")
    assert (group.kind, group.size, list(group.producers)) == ("heads", 4, ["q", "k", "v"])
    np.testing.assert_array_equal(group.consumers["o"], np.arange(16).reshape(4, 4))
    cut_like_masked(model)


def test_a_mask_of_its_own_for_each_head_is_cut_along():
    net = Net(BATCH, TOKENS, WIDTH)
    q, k, v = (heads_of(net, net.linear("x", WIDTH, 4 * DIM, name), 4) for name in "qkv")
    model = net.model(joined(net, attended(net, q, k, v, net.random(1, 4, TOKENS, TOKENS, name="bias")), 4))
    cut_like_masked(model)
    assert model.graph.initializers["bias"].const_value.shape == (1, 3, TOKENS, TOKENS)


@pytest.mark.parametrize("repeat", ["Expand", "Concat"])
def test_a_head_of_keys_and_values_goes_with_its_queries(repeat):
    net = Net(BATCH, TOKENS, WIDTH)
    q = rotated(net, heads_of(net, net.linear("x", WIDTH, 6 * DIM, "q", bias=False), 6))
    k = rotated(net, heads_of(net, net.linear("x", WIDTH, 3 * DIM, "k", bias=False), 3))
    v = heads_of(net, net.linear("x", WIDTH, 3 * DIM, "v", bias=False), 3)

    def repeated(y: str) -> str:
        y = net.node("Unsqueeze", y, net.constant(np.array([2], np.int64)))
        if repeat == "Expand":
            y = net.node("Expand", y, net.constant(np.array([BATCH, 3, 2, TOKENS, DIM], np.int64)))
        else:
            y = net.node("Concat", y, y, axis=2)
        return net.reshape(y, BATCH, 6, TOKENS, DIM)

    model = net.model(joined(net, attended(net, q, repeated(k), repeated(v)), 6))
    group = group_of(model, "k")
    assert (group.kind, group.size) == ("heads", 3)
    np.testing.assert_array_equal(group.producers["q"], np.arange(24).reshape(3, 8))
    np.testing.assert_array_equal(group.producers["k"], np.arange(12).reshape(3, 4))
    cut_like_masked(model)


def test_one_product_for_all_three_parted_by_an_axis():
    """Reshape to [3, heads, dim] and pick: the outermost axis cannot go, the heads can."""
    net = Net(BATCH, TOKENS, WIDTH)
    y = net.reshape(net.linear("x", WIDTH, 3 * 4 * DIM, "qkv"), BATCH, TOKENS, 3, 4, DIM)
    y = net.node("Transpose", y, perm=[2, 0, 3, 1, 4])
    q, k, v = (net.node("Gather", y, net.constant(np.array(index, np.int64)), axis=0) for index in range(3))
    model = net.model(joined(net, attended(net, q, k, v), 4))
    group = group_of(model, "qkv")
    assert (group.kind, group.size) == ("heads", 4)
    np.testing.assert_array_equal(group.producers["qkv"][1], np.r_[4:8, 20:24, 36:40])
    cut_like_masked(model)


def test_heads_that_are_folded_into_the_batch():
    net = Net(BATCH, TOKENS, WIDTH)
    q, k, v = (
        net.reshape(heads_of(net, net.linear("x", WIDTH, 4 * DIM, name), 4), BATCH * 4, TOKENS, DIM) for name in "qkv"
    )
    logits = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 1]))
    y = net.node("MatMul", net.node("Softmax", logits, axis=-1), v)
    model = net.model(joined(net, net.reshape(y, BATCH, 4, TOKENS, DIM), 4))
    assert (group_of(model, "v").kind, group_of(model, "v").size) == ("heads", 4)
    cut_like_masked(model)


def test_one_head_stays_and_so_do_the_dimensions_that_its_product_sums_over():
    net = Net(BATCH, TOKENS, WIDTH)
    q, k, v = (heads_of(net, net.linear("x", WIDTH, DIM, name), 1) for name in "qkv")
    model = net.model(joined(net, attended(net, q, k, v), 1))
    found = channel_groups(model)
    assert {name: reason.code for name, reason in found.locked.items()} == {"q": "mixed", "k": "mixed", "o": "output"}
    assert [(group.name, group.kind, group.size) for group in found.groups] == [("v", "columns", DIM)]
    cut_like_masked(model)
