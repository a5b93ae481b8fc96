"""Graphs are held against a real builder: TensorRT for RTX, for every architecture that it builds for."""

import numpy as np
import onnx_graphs as graphs
import pytest

pytest.importorskip("tensorrt_rtx", reason="builds with TensorRT for RTX")

import tensorrt_lowering as low
import tensorrt_rtx_oracle as rtx
from tensorrt_lowering import net, small_cnn

from hwbench.quantize.nvidia import REFUSALS, legal

SCHEMES = ("fp16", "bf16", "fp32", "tf32", "int8", "fp8", "int8-weights", "int4-weights")
TARGETS = list(rtx.TARGETS)


def convolution():
    return net(
        [("Conv", "x w", "c", {"pads": [1, 1, 1, 1]}), ("Relu", "c", "y")],
        {"w": graphs.random_array(32, 32, 3, 3) / 17},
        {"x": [1, 32, 8, 8]},
        {"y": [1, 32, 8, 8]},
    )


def product(inputs=256):
    return net(
        [("MatMul", "x w", "m"), ("Relu", "m", "y")],
        {"w": graphs.random_array(inputs, 64) / 16},
        {"x": [8, inputs]},
        {"y": [8, 64]},
    )


def written(case, word, folder):
    """Lower for Ada, whose graphs hold everything, so that the builder and not hwbench refuses."""
    plan, floating = ("float", word) if word in {"fp16", "bf16", "fp32", "tf32"} else (word, "auto")
    return low.again(
        case.imported, folder, plan, floating=floating, ranges=case.ranges, flavour="tensorrt-rtx", feeds=case.feeds
    )


@pytest.mark.parametrize("word", SCHEMES)
def test_the_table_says_what_the_builder_does(word, tmp_path):
    made = product() if "weights" in word else convolution()
    case = written(low.lowered(made, tmp_path), word, tmp_path / "again")
    for capability in TARGETS:
        missing = legal(capability, "tensorrt-rtx")[word]
        verdict = rtx.build(case.path, capability, case.typed.flags)
        if word in {"int8-weights", "tf32"} and capability == (7, 5):
            continue  # built, but unpacked before the product; NVIDIA's table has neither for Turing
        assert verdict.built == (missing is None), (capability, verdict.said)


@pytest.mark.parametrize("refusal", [each for each in REFUSALS if each.operators], ids=lambda each: each.word)
def test_refusals_are_what_the_builder_says(refusal, tmp_path):
    """Graphs of one operator, not written by hwbench, which would not ask for them."""
    from onnx import TensorProto, helper, numpy_helper

    kind = {"fp32": TensorProto.FLOAT, "bf16": TensorProto.BFLOAT16}[refusal.word]
    array = helper.tensor_dtype_to_np_dtype(kind)
    for operator in refusal.operators:
        given, more = ["x"], {}
        if operator in {"MatMul", "Gemm", "Einsum", "ConvTranspose"}:
            given.append("w")
        if operator == "Einsum":
            more["equation"] = "ij,jk->ik"
        shape = [1, 16, 4, 4] if operator in {"ConvTranspose", "HardSwish", "Mish"} else [16, 16]
        weight = np.ones([16, 16, 1, 1] if operator == "ConvTranspose" else [16, 16]).astype(array)
        made = graphs.model(
            [helper.make_node(operator, given, ["y"], name="only", **more)],
            [graphs.tensor("x", shape, kind)],
            [graphs.tensor("y", None, kind)],
            [numpy_helper.from_array(weight, "w")],
        )
        verdict = rtx.build(made.SerializeToString(), refusal.capabilities[0])
        assert not verdict.built, operator
        assert refusal.said in verdict.said


@pytest.mark.parametrize(
    ("plan", "layers", "capability"),
    [
        ("int8", {}, (8, 0)),
        ("int8", {"second": "float"}, (7, 5)),
        ("float", {"second": "fp8", "y": "fp8"}, (8, 9)),
        ("float", {"first": "int8", "second": "fp8", "y": "int8-weights"}, (12, 0)),
    ],
)
def test_a_residual_network(plan, layers, capability, tmp_path):
    case = low.lowered(small_cnn(), tmp_path, plan, layers=layers, flavour="tensorrt-rtx")
    verdict = rtx.build(case.path, capability)
    assert verdict.built, verdict.said


def test_packed_weights_stay_packed(tmp_path):
    """The builder reports the bytes of the weights in the engine."""
    first = low.lowered(product(512), tmp_path, "float", floating="fp16", flavour="tensorrt-rtx")
    sizes = {}
    for word in ("fp16", "int8-weights", "int4-weights"):
        case = written(first, word, tmp_path / word)
        sizes[word] = rtx.build(case.path, (8, 9)).weight_bytes
    elements = 512 * 64
    assert sizes["fp16"] == pytest.approx(2 * elements, rel=0.05)
    assert sizes["int8-weights"] == pytest.approx(elements, rel=0.05)
    assert sizes["int4-weights"] == pytest.approx(elements * (1 / 2 + 2 / 64), rel=0.1)


def test_islands_and_bodies_build(tmp_path):
    nodes = [
        ("ReduceMean", "x axes", "mean"),
        ("Sub", "x mean", "centred"),
        ("Mul", "centred centred", "squared"),
        ("ReduceMean", "squared axes", "variance"),
        ("Add", "variance eps", "more"),
        ("Sqrt", "more", "deviation"),
        ("Div", "centred deviation", "normal"),
        ("HardSwish", "normal", "y"),
    ]
    made = net(nodes, {"axes": np.array([-1]), "eps": np.float32(1e-12)}, {"x": [4, 32]}, {"y": [4, 32]})
    case = low.lowered(made, tmp_path, floating="fp16", ranges={})
    bf16 = low.again(case.imported, tmp_path / "bf16", floating="bf16")
    (tmp_path / "if").mkdir()
    body = low.lowered(graphs.branches(), tmp_path / "if", floating="fp16", ranges={})
    for each in (case, bf16, body):
        assert each.typed.notes
        verdict = rtx.build(each.path, (8, 9))
        assert verdict.built, verdict.said


def test_the_sparse_flag_is_taken(tmp_path):
    mask = np.tile(np.array([1, 0, 0, 1], np.float32)[:, None], (64, 1))
    made = product()
    array = graphs.random_array(256, 64) * mask
    made.graph.initializer[0].CopyFrom(graphs.weight("w", array))
    case = low.lowered(made, tmp_path, "int8", flavour="tensorrt-rtx")
    assert case.typed.flags == ("SPARSE_WEIGHTS",)
    assert rtx.build(case.path, (8, 9), case.typed.flags).built
