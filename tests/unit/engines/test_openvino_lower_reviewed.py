"""Graphs whose int8 form OpenVINO's CPU plugin computes wrongly if it is written like any other's."""

import numpy as np
import pytest

pytest.importorskip("openvino", reason="lowers to OpenVINO")
pytest.importorskip("onnxruntime", reason="the float truth is onnxruntime's")

from onnx import helper
from onnx_graphs import model, random_array, tensor, weight
from openvino_lowering import case

from hwbench.errors import Unsupported
from hwbench.records.quantization import PrecisionPlan

INT8 = PrecisionPlan(default="int8", floating="fp32")


def lowered(made, folder, x):
    """Return what was lowered, what runs of it, and the SQNR of its output in decibels."""
    one = case(made, folder, {"x": x})
    result = one.lower(INT8)
    runner = one.program(result)
    truth = one.truth[0]["y"].astype(np.float64)
    noise = np.linalg.norm(one.outputs(runner)["y"] - truth)
    return result, runner, 20 * np.log10(np.linalg.norm(truth) / noise)


def got(result):
    return {layer.layer: layer.got for layer in result.layers}


def built(runner):
    return {name: unit.precision for unit in runner.built().layers for name in unit.members}


@pytest.mark.parametrize(
    ("matrices", "x"), [([2, 40, 8], [2, 3, 40]), ([4, 64, 64], [4, 32, 64]), ([2, 40, 8], [3, 40])]
)
def test_a_stack_of_matrices(tmp_path, matrices, x):
    product = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    shape = [matrices[0], x[-2], matrices[-1]]
    made = model([product], [tensor("x", x)], [tensor("y", shape)], [weight("w", random_array(*matrices))])
    result, runner, sqnr = lowered(made, tmp_path, random_array(*x, seed=1))
    assert sqnr > 25
    assert (got(result), built(runner)) == ({"product": "int8"}, {"product": "int8"})


def averages(*, counts: int):
    """Conv, an average of 3 x 3 with zeros around, Conv."""
    made = [
        helper.make_node("Conv", ["x", "a.w"], ["a"], name="a", pads=[1] * 4),
        helper.make_node(
            "AveragePool", ["a"], ["m"], name="mean", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=counts
        ),
        helper.make_node("Conv", ["m", "b.w"], ["y"], name="b", pads=[1] * 4),
    ]
    weights = [weight("a.w", random_array(8, 3, 3, 3)), weight("b.w", random_array(8, 8, 3, 3, seed=4))]
    return model(made, [tensor("x", [1, 3, 8, 8])], [tensor("y", [1, 8, 8, 8])], weights)


@pytest.mark.parametrize(("counts", "precision"), [(0, "int8"), (1, "fp32")])
def test_an_average_that_counts_padding_is_in_float(tmp_path, counts, precision):
    result, runner, sqnr = lowered(averages(counts=counts), tmp_path, random_array(1, 3, 8, 8, seed=1))
    assert sqnr > 25
    assert got(result) == {"a": "int8", "b": "int8"}
    assert built(runner)["mean"] == precision


def chain(between, rows=4, kind="MatMul", bias=()):
    """Two products with matrices of 64 x 64, with ``between`` from tensor ``a`` to tensor ``m``."""
    made = [
        helper.make_node(kind, ["x", "w", *bias], ["a"], name="first"),
        *(helper.make_node(op, inputs, [out], name=f"{op}.{out}") for op, inputs, out in between),
        helper.make_node(kind, ["m", "v", *bias], ["y"], name="second"),
    ]
    weights = [
        weight("w", random_array(64, 64)),
        weight("v", random_array(64, 64, seed=3)),
        weight("many", random_array(64, seed=4)),
        weight("zeros", np.zeros(64, np.float32)),
        weight("one", np.float32(0.5)),
    ]
    return model(made, [tensor("x", [rows, 64])], [tensor("y", [rows, 64])], weights)


RELU = ("Relu", ["a"], "m")
CHAINS = {
    "relu": ([RELU], {}),
    "one row": ([RELU], {"rows": 1}),
    "eight rows": ([RELU], {"rows": 8}),
    "clip": ([("Clip", ["a"], "m")], {}),
    "scale": ([("Mul", ["a", "many"], "m")], {}),
    "one number added": ([("Add", ["a", "one"], "s"), ("Relu", ["s"], "m")], {}),
    "zeros added": ([("Add", ["a", "zeros"], "s"), ("Relu", ["s"], "m")], {}),
    "bias behind relu": ([("Relu", ["a"], "s"), ("Add", ["s", "many"], "m")], {}),
    "bias, relu, scale": ([("Add", ["a", "many"], "s"), ("Relu", ["s"], "t"), ("Mul", ["t", "many"], "m")], {}),
    "gemm with zeros": ([RELU], {"kind": "Gemm", "bias": ["zeros"]}),
}


@pytest.mark.parametrize("name", CHAINS)
def test_products_on_few_rows_that_follow_each_other(tmp_path, name):
    between, more = CHAINS[name]
    made = chain(between, **more)
    result, runner, sqnr = lowered(made, tmp_path, random_array(more.get("rows", 4), 64, seed=1))
    assert sqnr > 25
    assert got(result) == {"first": "int8", "second": "int8"}
    assert (built(runner)["first"], built(runner)["second"]) == ("int8", "int8")
    assert result.settings["SNIPPETS_MODE"] == "DISABLE"
    assert any("SNIPPETS_MODE=DISABLE" in note and "(second)" in note for note in result.notes)


KEPT = {
    "a bias each": ([("Add", ["a", "many"], "s"), ("Relu", ["s"], "m")], {}),
    "a gemm's bias": ([RELU], {"kind": "Gemm", "bias": ["many"]}),
    "many rows": ([RELU], {"rows": 16}),
}


@pytest.mark.parametrize("name", KEPT)
def test_other_products_may_be_fused(tmp_path, name):
    between, more = KEPT[name]
    result, _, sqnr = lowered(chain(between, **more), tmp_path, random_array(more.get("rows", 4), 64, seed=1))
    assert sqnr > 25
    assert "SNIPPETS_MODE" not in result.settings
    assert result.notes == ()


@pytest.mark.parametrize("behind", [False, True])
def test_a_transposed_convolution_with_a_bias_is_found(tmp_path, behind):
    up = helper.make_node("ConvTranspose", ["x", "w", "b"], ["u" if behind else "y"], name="up", strides=[2, 2])
    made = [up, helper.make_node("Relu", ["u"], ["y"], name="relu")] if behind else [up]
    weights = [weight("w", random_array(8, 4, 2, 2)), weight("b", random_array(4, seed=2))]
    graph = model(made, [tensor("x", [1, 8, 8, 8])], [tensor("y", [1, 4, 16, 16])], weights)
    result, runner, sqnr = lowered(graph, tmp_path, random_array(1, 8, 8, 8, seed=1))
    assert sqnr > 25
    assert got(result) == {"up": "int8"}
    assert (result.arithmetic, built(runner)["up"]) == ("int8", "int8")


def test_a_transposed_convolution_in_groups_is_refused_since_it_would_run_in_floating_point(tmp_path):
    up = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], name="up", strides=[2, 2], group=2)
    weights = [weight("w", random_array(8, 2, 2, 2)), weight("b", random_array(4, seed=2))]
    graph = model([up], [tensor("x", [1, 8, 8, 8])], [tensor("y", [1, 4, 16, 16])], weights)
    with pytest.raises(Unsupported, match="in groups in fp32"):
        lowered(graph, tmp_path, random_array(1, 8, 8, 8, seed=1))
