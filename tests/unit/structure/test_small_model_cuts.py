"""Small built-in and real networks, cut by a quarter: they run, they export, and equal the original with zeros.

All of them: tests/benchmarks/test_model_cuts.py.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from command import shared_data
from compress_subjects import imported
from structure_graphs import Net, cut_and_exported, cut_like_masked

from hwbench.structure.groups import channel_groups

pytest.importorskip("torch", reason="the built-in models are torch's")


@pytest.mark.parametrize(("name", "groups"), [("digits_cnn", 3), ("ds_cnn", 5), ("resnet20", 12)])
def test_small_built_in_models(name, groups, tmp_path):
    assert len(cut_and_exported(imported(name, tmp_path, batch=1))) == groups


@pytest.mark.parametrize(
    ("file", "groups"),
    [("cifar10/resnet20.onnx", 12), ("kws/kws_dscnn.onnx", 5), ("imagenet/efficientnet_lite0.onnx", 24)],
)
def test_real_networks(file, groups, tmp_path):
    found, _ = cut_like_masked(imported(str(shared_data(file)), tmp_path, batch=1))
    assert len(found) == groups


def tokens_of_an_image() -> ir.Model:
    net = Net(1, 3, 8, 8)
    y = net.conv("x", 3, 12, 2, strides=[2, 2], pads=[0] * 4, name="patches")
    y = net.node("Transpose", net.reshape(y, 1, 12, 16), perm=[0, 2, 1])
    z = net.node("LayerNormalization", y, net.random(12), net.random(12), axis=-1, name="norm1")
    z = net.linear(net.node("Tanh", net.linear(z, 12, 24, "up")), 24, 12, "down")
    y = net.node("LayerNormalization", net.node("Add", y, z), net.random(12), axis=-1, name="norm2")
    first = net.node("Gather", y, net.constant(np.array(0, np.int64)), axis=1)
    return net.model(net.gemm(first, 12, 5, "head"))


def test_what_cannot_be_cut_is_told_with_its_reason_before_anything_is():
    model = tokens_of_an_image()
    before = ir.to_proto(model).SerializeToString()
    found = channel_groups(model)
    assert [group.name for group in found.groups] == ["up"]
    assert {name: reason.code for name, reason in found.locked.items()} == {
        "patches": "statistics", "down": "statistics", "head": "output",
    }  # fmt: skip
    assert "norm1" in found.locked["patches"].why
    assert ir.to_proto(model).SerializeToString() == before
    cut_like_masked(model)
