from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from compress_graphs import graph, one_layer
from compress_subjects import run_ort
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator
from sparse_examples import Strips, pruned, strips_kernel, with_strips
from sparse_reference import reference_ops

from hwbench.errors import UsageError
from hwbench.sparse.manifest import Shape
from hwbench.sparse.onnx_kernels import from_words, replace_with_kernels, words

GPU = (9, 0)


@pytest.fixture(autouse=True)
def _strips(monkeypatch):
    with_strips(monkeypatch)


def replaced(model, layers=None, **other):
    layers = layers or {"layer": "strips"}
    return replace_with_kernels(model, layers, kernels={"strips": strips_kernel(**other)}, compute_capability=GPU)


def computed(made, inputs):
    proto = ir.to_proto(made.model)
    onnx.checker.check_model(proto)
    return ReferenceEvaluator(proto, new_ops=reference_ops(made)).run(None, inputs)


def holds(found, wanted, bound):
    """|err| <= 2^-10 sum |w||x|, and what fp16 leaves of the inputs and the result."""
    assert found.shape == wanted.shape
    assert (np.abs(found - wanted) <= 2.0**-9 * bound + 1e-6).all()


def networks(rng):
    """One of each kind of layer that can be replaced, with the input it takes."""
    matmul, gemm, conv = pruned(rng, 8, 12), pruned(rng, 8, 12), pruned(rng, 16, 12)
    bias = rng.normal(size=8).astype(np.float32)
    add = [helper.make_node("MatMul", ["x", "w"], ["h"], name="layer"), helper.make_node("Add", ["b", "h"], ["y"])]
    return {
        "matmul": one_layer("MatMul", matmul.T, (3, 12)),
        "matmul of three axes": one_layer("MatMul", matmul.T, (2, 5, 12)),
        "matmul with a bias": graph(add, {"w": matmul.T, "b": bias}, (2, 5, 12), "y"),
        "gemm": graph([helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="layer", transB=1)],
                      {"w": gemm, "b": bias}, (4, 12), "y"),
        "gemm as it is": one_layer("Gemm", gemm.T, (4, 12)),
        "convolution": graph([helper.make_node("Conv", ["x", "w", "b"], ["y"], name="layer")],
                             {"w": conv.reshape(16, 12, 1, 1), "b": np.repeat(bias, 2)}, (2, 12, 3, 5), "y"),
    }  # fmt: skip


@pytest.mark.parametrize("name", [
    "matmul", "matmul of three axes", "matmul with a bias", "gemm", "gemm as it is", "convolution",
])  # fmt: skip
def test_the_graph_with_kernels_computes_what_the_dense_one_does(name):
    rng = np.random.default_rng(4)
    model = networks(rng)[name]
    shape = tuple(model.graph.inputs[0].shape.numpy())
    x = rng.normal(size=shape).astype(np.float32)
    wanted = run_ort(model, {"x": x})[0]
    absolute = ir.from_proto(ir.to_proto(model))
    for value in absolute.graph.initializers.values():
        value.const_value = ir.tensor(np.abs(value.const_value.numpy()), name=value.name)
    bound = run_ort(absolute, {"x": np.abs(x)})[0]
    made = replaced(model)
    assert not made.left_dense
    assert [output.name for output in made.model.graph.outputs] == ["y"]
    node = next(node for node in made.model.graph if node.domain == "hwbench")
    assert node.name == "layer"
    assert len(node.inputs) == (4 if "bias" in node.op_type else 3)
    assert not {"w", "b"} & set(made.model.graph.initializers)
    holds(computed(made, {"x": x})[0], wanted, bound)


@pytest.mark.parametrize(("size", "x", "how"), [
    ((3, 3), (2, 6, 5, 7), {"pads": [1, 1, 1, 1]}),
    ((3, 3), (1, 6, 9, 8), {"pads": [0, 1, 2, 0], "strides": [2, 3]}),
    ((2, 3), (1, 6, 8, 9), {"dilations": [2, 2]}),
    ((1, 1), (2, 6, 5, 4), {"strides": [2, 2]}),
    ((1, 1), (1, 6, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((5, 1), (1, 6, 7, 3), {"pads": [2, 0, 2, 0]}),
])  # fmt: skip
@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_is_written_out_as_patches(size, x, how, bias):
    rng = np.random.default_rng(5)
    flat = pruned(rng, 8, 6 * size[0] * size[1])
    constants = {"w": flat.reshape(8, 6, *size)} | ({"b": rng.normal(size=8).astype(np.float32)} if bias else {})
    model = graph([helper.make_node("Conv", ["x", *constants], ["y"], name="layer", **how)], constants, x, "y")
    given = rng.normal(size=x).astype(np.float32)
    wanted = run_ort(model, {"x": given})[0]
    absolute = {name: np.abs(array) for name, array in constants.items()}
    bound = graph([helper.make_node("Conv", ["x", *absolute], ["y"], name="layer", **how)], absolute, x, "y")
    made = replaced(model)
    assert not made.left_dense
    assert "Conv" not in {node.op_type for node in made.model.graph}
    assert (made.lowered["layer"].kind, made.lowered["layer"].k) == ("im2col", flat.shape[1])
    holds(computed(made, {"x": given})[0], wanted, run_ort(bound, {"x": np.abs(given)})[0])


def test_two_convolutions_one_behind_the_other_have_patches_of_their_own():
    rng = np.random.default_rng(6)
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], name="one", pads=[1, 1, 1, 1]),
             helper.make_node("Conv", ["h", "v"], ["y"], name="two", pads=[1, 1, 1, 1])]  # fmt: skip
    weights = {"w": pruned(rng, 8, 54).reshape(8, 6, 3, 3), "v": pruned(rng, 4, 72).reshape(4, 8, 3, 3)}
    model = graph(nodes, weights, (1, 6, 5, 5), "y")
    x = rng.normal(size=(1, 6, 5, 5)).astype(np.float32)
    wanted = run_ort(model, {"x": x})[0]
    found = computed(replaced(model, {"one": "strips", "two": "strips"}), {"x": x})[0]
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max() * 10)


def test_the_node_has_what_the_parser_of_tensorrt_looks_for():
    made = replaced(networks(np.random.default_rng(0))["gemm"])
    node = next(node for node in made.model.graph if node.domain == "hwbench")
    told = {name: attribute.value for name, attribute in node.attributes.items()}
    width = made.packed["layer"].scalars["width"]
    assert told == {"plugin_namespace": "hwbench", "plugin_version": "1", "aot": 1,
                    "m": 8, "k": 12, "width": width, "sm": 90}  # fmt: skip
    assert node.op_type == "strips_bias"
    assert made.model.opset_imports["hwbench"] == 1
    types = [value.dtype.name for value in node.inputs]
    assert types == ["FLOAT16", "INT32", "INT32", "FLOAT16"]


def test_a_layer_between_others_keeps_its_neighbours():
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "w"], ["h"], name="layer"),
        helper.make_node("Relu", ["h"], ["y"], name="last"),
    ]
    model = graph(nodes, {"w": pruned(rng, 8, 12).T}, (3, 12), "y")
    x = rng.normal(size=(3, 12)).astype(np.float32)
    wanted = run_ort(model, {"x": x})[0]
    made = replaced(model)
    np.testing.assert_allclose(computed(made, {"x": x})[0], wanted, atol=2e-2)
    names = [node.name for node in made.model.graph]
    assert names.index("first") < names.index("layer") < names.index("last")


def test_two_layers_that_share_a_weight_are_both_replaced():
    rng = np.random.default_rng(1)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], name="one"),
             helper.make_node("MatMul", ["a", "w"], ["y"], name="two")]  # fmt: skip
    model = graph(nodes, {"w": pruned(rng, 12, 12).T}, (3, 12), "y")
    x = rng.normal(size=(3, 12)).astype(np.float32)
    wanted = run_ort(model, {"x": x})[0]
    made = replaced(model, {"one": "strips", "two": "strips"})
    np.testing.assert_allclose(computed(made, {"x": x})[0], wanted, atol=0.1)
    assert "w" not in made.model.graph.initializers


@pytest.mark.parametrize(("model", "code"), [
    (lambda w: one_layer("Conv", w.reshape(8, 12, 1, 1), (1, 24, 4, 4), group=2), "no_product"),
    (lambda w: one_layer("Conv", w.reshape(8, 3, 2, 2), (1, 3, 4, 4), auto_pad="SAME_UPPER"), "no_product"),
    (lambda w: one_layer("Conv", w.reshape(8, 6, 2), (1, 6, 4)), "no_product"),
    (lambda w: one_layer("MatMul", np.ones((12, 8)), (3, 12)), "not_in_format"),
    (lambda w: one_layer("MatMul", np.ones((12, 7)), (3, 12)), "outside_contract"),
    (lambda w: one_layer("MatMul", w.T, ("batch", 12)), "open_shape"),
])  # fmt: skip
def test_what_cannot_be_replaced_is_left_as_it_was_with_the_reason(model, code):
    before = model(pruned(np.random.default_rng(0), 8, 12))
    told = str(ir.to_proto(before))
    made = replaced(before)
    assert {name: why.code for name, why in made.left_dense.items()} == {"layer": code}
    assert not made.packed
    assert str(ir.to_proto(made.model)) == told


def test_shapes_and_gpus_outside_the_contract_stay_dense():
    rng = np.random.default_rng(0)
    few = replaced(networks(rng)["matmul of three axes"], shape=Shape(n_most=4))
    assert "10 rows of inputs are more than 4" in few.left_dense["layer"].why
    old = replaced(networks(rng)["matmul"], archs=(100,))
    assert old.left_dense["layer"].code == "old_gpu"


def test_what_is_not_there_is_refused():
    model = networks(np.random.default_rng(0))["matmul"]
    with pytest.raises(UsageError, match="no layer with weights is called 'other'"):
        replaced(model, {"other": "strips"})
    with pytest.raises(UsageError, match="no sparse format 'stripes'"):
        replaced(model, {"layer": "stripes"})
    with pytest.raises(UsageError, match="no kernel that reads"):
        replace_with_kernels(model, {"layer": "strips"}, kernels={}, compute_capability=GPU)


@settings(max_examples=30, deadline=None)
@given(dtype=st.sampled_from([np.uint8, np.int8, np.uint16, np.float16, np.uint32, np.uint64]), n=st.integers(0, 9))
def test_bytes_go_through_words(dtype, n):
    array = np.random.default_rng(n).integers(0, 100, (n, 3)).astype(dtype)
    np.testing.assert_array_equal(from_words(words(array), array), array)
    assert words(array).dtype == np.int32


def test_strips_are_what_they_say():
    """The format the tests go by: unpacking is the inverse of packing, and of the mask."""
    weight = pruned(np.random.default_rng(9), 16, 30, 0.7)
    np.testing.assert_array_equal(Strips().unpack(Strips().pack(weight)), weight)
