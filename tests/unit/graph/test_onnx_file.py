"""Reading ONNX files, good and bad, and fixing their dynamic axes."""

from __future__ import annotations

import math
import re

import numpy as np
import onnx
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
from onnx import helper

from hwbench.errors import ModelError, UsageError
from hwbench.graph.onnx_file import fix_axes, graph_inputs, infer_shapes, read_onnx


def read(made, folder):
    return read_onnx(graphs.save(made, folder))


def shapes_of(model):
    return {value.name: tuple(value.shape) for value in model.graph.inputs}


# Damaged files


def test_every_cut_of_a_file_is_refused(tmp_path):
    data = graphs.mlp().SerializeToString()
    path = tmp_path / "net.onnx"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError) as caught:
            read_onnx(path)
        assert "net.onnx" in caught.value.message or "initialiser" in caught.value.message


@pytest.mark.parametrize("data", [b"", b"hello, I am no model\n", b"\x80\x04K\x01.", b"PK\x03\x04", b"\xff" * 64])
def test_a_file_that_is_no_onnx_is_refused_with_its_size(tmp_path, data):
    path = tmp_path / "net.onnx"
    path.write_bytes(data)

    with pytest.raises(ModelError) as caught:
        read_onnx(path)

    assert f"{len(data)} bytes" in str(caught.value.hint)


def test_a_file_that_may_not_be_read(tmp_path):
    with pytest.raises(ModelError, match=r"cannot be read: .*directory"):
        read_onnx(tmp_path)


def test_a_weight_with_fewer_values_than_its_shape_says(tmp_path):
    made = graphs.mlp()
    made.graph.initializer[0].dims[0] = 9

    with pytest.raises(ModelError, match=r"32.*9"):
        read(made, tmp_path)


def test_a_weight_without_data(tmp_path):
    made = graphs.mlp()
    made.graph.initializer[0].raw_data = b""

    with pytest.raises(ModelError):
        read(made, tmp_path)


def test_a_node_that_reads_what_nothing_makes(tmp_path):
    made = graphs.mlp()
    made.graph.node[1].input[0] = "lost"

    with pytest.raises(ModelError, match="node 'relu' needs 'lost'"):
        read(made, tmp_path)


def test_an_output_that_nothing_makes(tmp_path):
    made = graphs.mlp()
    made.graph.output[0].name = "lost"

    with pytest.raises(ModelError, match="nothing makes 'lost'"):
        read(made, tmp_path)


def test_nodes_in_a_circle_or_out_of_order(tmp_path):
    circle = graphs.mlp()
    circle.graph.node[0].input[2] = "r"
    unsorted = graphs.mlp()
    unsorted.graph.node.insert(0, unsorted.graph.node.pop())

    with pytest.raises(ModelError, match="node 'fc1' needs 'r', which nothing has made"):
        read(circle, tmp_path)
    with pytest.raises(ModelError, match="node 'fc2' needs 'r', which nothing has made"):
        read(unsorted, tmp_path)


def test_a_value_made_twice(tmp_path):
    made = graphs.mlp()
    made.graph.node[1].output[0] = "h"
    made.graph.node[2].input[0] = "h"

    with pytest.raises(ModelError, match="'h' is redeclared"):
        read(made, tmp_path)


@pytest.mark.parametrize("word", [b"Relu", b"relu", b"fc2", b"Gemm", b"transB"])
def test_a_name_that_is_no_text(tmp_path, word):
    path = tmp_path / "net.onnx"
    path.write_bytes(graphs.mlp().SerializeToString().replace(word, b"\xff" * len(word)))

    with pytest.raises(ModelError, match=r"net\.onnx"):
        read_onnx(path)


# Operators and opsets


def test_an_unknown_operator_is_named_with_its_node(tmp_path):
    with pytest.raises(ModelError, match=r"opset 18 does not have: Frobnicate \(node 'only'\)") as caught:
        read(graphs.unary("Frobnicate"), tmp_path)

    assert "domain of its own" in str(caught.value.hint)


def test_an_unknown_operator_inside_a_branch_is_found(tmp_path):
    made = graphs.branches()
    made.graph.node[2].attribute[0].g.node[0].op_type = "Frobnicate"

    with pytest.raises(ModelError, match=r"Frobnicate \(node '(inner|keep)'\)"):
        read(made, tmp_path)


def test_an_operator_newer_than_the_files_opset_is_unknown(tmp_path):
    made = graphs.unary("Gelu")  # opset 20

    with pytest.raises(ModelError, match="opset 18 does not have: Gelu"):
        read(made, tmp_path)


def test_an_operator_of_another_domain_is_accepted(tmp_path):
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="custom", domain="acme")
    made = graphs.model([node], [graphs.tensor("x", [1, 4])], [graphs.tensor("y", [1, 4])], opsets={"": 18, "acme": 1})

    assert [n.op_type for n in read(made, tmp_path).graph] == ["Frobnicate"]


def test_a_local_function_is_no_unknown_operator(tmp_path):
    assert [n.op_type for n in read(graphs.local_function(), tmp_path).graph] == ["Twice", "Relu"]


def test_a_file_without_an_opset(tmp_path):
    made = graphs.mlp()
    del made.opset_import[:]

    with pytest.raises(ModelError, match="imports no opset"):
        read(made, tmp_path)


def test_the_default_domain_may_be_written_out(tmp_path):
    made = graphs.mlp()
    made.opset_import[0].domain = "ai.onnx"

    assert len(list(read(made, tmp_path).graph)) == 3


@pytest.mark.parametrize("opset", [-(2**40), -1, 0, onnx.defs.onnx_opset_version() + 1, 2**40])
def test_an_opset_that_the_installed_onnx_does_not_know(tmp_path, opset):
    made = graphs.mlp()
    made.opset_import[0].version = opset

    with pytest.raises(ModelError, match=f"opset {opset}, .* 1 to {onnx.defs.onnx_opset_version()}"):
        read(made, tmp_path)


# External data


def test_external_data_is_read_into_memory(tmp_path):
    array = graphs.random_array(64, 64)
    path = graphs.external(tmp_path, location="w.bin", array=array)

    model = read_onnx(path)
    (tmp_path / "w.bin").unlink()

    held = model.graph.initializers["w"].const_value
    assert not isinstance(held, ir.ExternalTensor)
    np.testing.assert_array_equal(held.numpy(), array)


def test_external_data_is_found_from_the_models_own_folder(tmp_path, monkeypatch):
    graphs.external(tmp_path, location="w.bin", array=graphs.random_array(64, 64))
    monkeypatch.chdir(tmp_path)

    assert "w" in read_onnx(graphs.Path("net.onnx")).graph.initializers


def test_missing_external_data_is_named(tmp_path):
    path = graphs.external(tmp_path, location="w.bin", array=None)

    with pytest.raises(ModelError, match=r"'w' lies in 'w.bin'.*no such file"):
        read_onnx(path)


@pytest.mark.parametrize("rows", [0, 1, 63])
def test_external_data_that_ends_too_early(tmp_path, rows):
    path = graphs.external(tmp_path, location="w.bin", array=graphs.random_array(rows, 64))

    with pytest.raises(ModelError, match=f"'w.bin' has {rows * 256} bytes, the weight 'w' ends at byte 16384"):
        read_onnx(path)


@pytest.mark.parametrize("working_folder_is_the_models", [False, True])
@pytest.mark.parametrize("form", ["up", "through", "absolute", "link"])
def test_external_data_outside_the_models_folder_is_refused(tmp_path, monkeypatch, form, working_folder_is_the_models):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(graphs.random_array(64, 64).tobytes())
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "link.bin").symlink_to(secret)
    location = {"up": "../secret.bin", "through": "sub/../../secret.bin", "absolute": str(secret), "link": "link.bin"}
    path = graphs.external(folder, location=location[form], array=None)
    if working_folder_is_the_models:
        monkeypatch.chdir(folder)
        path = graphs.Path("net.onnx")

    with pytest.raises(ModelError, match="outside the model's folder"):
        read_onnx(path)


def test_external_data_in_a_folder_below_is_read(tmp_path):
    (tmp_path / "data").mkdir()
    path = graphs.external(tmp_path, location="data/w.bin", array=graphs.random_array(64, 64))

    assert read_onnx(path).graph.initializers["w"].const_value.size == 4096


def test_external_data_with_a_name_no_file_can_have(tmp_path):
    path = graphs.external(tmp_path, location="w\0.bin", array=None)

    with pytest.raises(ModelError):
        read_onnx(path)


# Dynamic axes


def test_a_named_batch_axis_becomes_one_or_what_is_asked(tmp_path):
    model = read(graphs.mlp("batch"), tmp_path)
    assert fix_axes(model, {}, None) == {"batch": 1}
    assert shapes_of(model) == {"x": (1, 4)}

    model = read(graphs.mlp("batch"), tmp_path)
    assert fix_axes(model, {}, 8) == {"batch": 8}
    assert shapes_of(model) == {"x": (8, 4)}


@pytest.mark.parametrize("unnamed", [None, -1])
def test_an_unnamed_axis_0_is_the_batch(tmp_path, unnamed):
    model = read(graphs.mlp(unnamed), tmp_path)

    assert fix_axes(model, {}, 4) == {"x.0": 4}
    assert shapes_of(model) == {"x": (4, 4)}
    assert tuple(infer_shapes(model).graph.outputs[0].shape) == (4, 3)


def test_intermediate_shapes_follow_the_sizes_chosen(tmp_path):
    made = graphs.mlp("batch")
    made.graph.value_info.append(graphs.tensor("h", ["batch", 8]))
    model = read(made, tmp_path)

    fix_axes(model, {}, 5)
    inferred = infer_shapes(model)

    shapes = {value.name: tuple(value.shape) for node in inferred.graph for value in node.outputs}
    assert shapes == {"h": (5, 8), "r": (5, 8), "y": (5, 3)}


def test_a_batch_name_counts_on_any_axis(tmp_path):
    model = read(graphs.unary(axes=(3, "batch_size")), tmp_path)

    assert fix_axes(model, {}, None) == {"batch_size": 1}


def test_another_dynamic_axis_needs_a_size(tmp_path):
    model = read(graphs.unary(axes=("N", 7, "length")), tmp_path)

    with pytest.raises(UsageError, match="input 'x' has a dynamic axis 'length'") as caught:
        fix_axes(model, {}, None)

    assert "--shapes x:1x7x1" in str(caught.value.hint)


def test_shapes_give_the_sizes(tmp_path):
    model = read(graphs.unary(axes=("N", 7, "length")), tmp_path)

    assert fix_axes(model, {"x": (2, 7, 30)}, None) == {"N": 2, "length": 30}
    assert shapes_of(model) == {"x": (2, 7, 30)}


@pytest.mark.parametrize("given", ["a", "b"])
def test_an_axis_shared_by_two_inputs_has_one_size_whichever_is_given(tmp_path, given):
    model = read(graphs.two_inputs(["N", "length"], ["N", "length"]), tmp_path)

    assert fix_axes(model, {given: (1, 12)}, None) == {"N": 1, "length": 12}
    assert shapes_of(model) == {"a": (1, 12), "b": (1, 12)}


@pytest.mark.parametrize("axes", [(["N", "length"], ["length"]), (["length"], ["N", "length"])])
def test_an_axis_that_is_first_in_one_input_only_is_no_batch(tmp_path, axes):
    model = read(graphs.two_inputs(*axes), tmp_path)

    with pytest.raises(UsageError, match="dynamic axis 'length'"):
        fix_axes(model, {}, None)


def test_two_sizes_for_one_axis_are_a_conflict(tmp_path):
    model = read(graphs.two_inputs(["N", 4], ["N", 5]), tmp_path)

    with pytest.raises(UsageError, match="axis 'N' the size 2, and 3 in 'b'"):
        fix_axes(model, {"a": (2, 4), "b": (3, 5)}, None)


def test_shapes_and_batch_size_that_disagree(tmp_path):
    model = read(graphs.mlp("batch"), tmp_path)

    with pytest.raises(UsageError, match="--batch-size 8"):
        fix_axes(model, {"x": (4, 4)}, 8)


def test_a_batch_size_for_a_model_with_a_fixed_one(tmp_path):
    model = read(graphs.mlp(1), tmp_path)

    with pytest.raises(UsageError, match="--batch-size 8: input 'x' has axis 0 fixed at 1") as caught:
        fix_axes(model, {}, 8)

    assert "dynamic batch" in str(caught.value.hint)


def test_a_batch_size_equal_to_the_fixed_one_is_fine(tmp_path):
    assert fix_axes(read(graphs.mlp(8), tmp_path), {}, 8) == {}


@pytest.mark.parametrize(
    ("shapes", "why"),
    [
        ({"x": (1, 4, 1)}, "3 axes, the model has 2: batchx4"),
        ({"x": (4,)}, "1 axes, the model has 2"),
        ({"x": (1, 5)}, "axis 1 is fixed at 4"),
        ({"image": (1, 4)}, "'image', which is no input"),
        ({"w1": (8, 4)}, "'w1', which is no input"),
    ],
)
def test_shapes_that_do_not_fit(tmp_path, shapes, why):
    model = read(graphs.mlp("batch"), tmp_path)

    with pytest.raises(UsageError, match=re.escape(why)):
        fix_axes(model, shapes, None)


def test_an_input_without_any_shape_needs_one(tmp_path):
    model = read(graphs.unary(axes=None), tmp_path)

    with pytest.raises(UsageError, match="input 'x' has no shape"):
        fix_axes(model, {}, None)

    assert fix_axes(model, {"x": (2, 3)}, None) == {}
    assert shapes_of(model) == {"x": (2, 3)}


@pytest.mark.parametrize("axes", [(), (0, 4)])
def test_scalars_and_empty_axes_stay(tmp_path, axes):
    model = read(graphs.unary(axes=axes), tmp_path)

    assert fix_axes(model, {}, None) == {}
    assert shapes_of(model) == {"x": axes}


def test_weights_listed_among_the_inputs_are_no_inputs(tmp_path):
    made = graphs.mlp("batch")
    made.graph.input.extend(graphs.tensor(item.name, item.dims) for item in made.graph.initializer)
    model = read(made, tmp_path)

    assert [value.name for value in graph_inputs(model)] == ["x"]
    assert fix_axes(model, {}, 2) == {"batch": 2}


def test_a_model_without_inputs(tmp_path):
    node = helper.make_node("Relu", ["w"], ["y"], name="only")
    made = graphs.model([node], [], [graphs.tensor("y", [2])], [graphs.weight("w", np.ones(2, np.float32))])

    assert fix_axes(read(made, tmp_path), {}, None) == {}


# Shape inference


def fill(size):
    """``x`` plus the sum of a tensor of ``size`` elements that the graph computes."""
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["filled"], name="fill"),
        helper.make_node("Expand", ["one", "size"], ["expanded"], name="expand"),
        helper.make_node("Range", ["zero", "count", "step"], ["range"], name="range"),
        helper.make_node("Add", ["filled", "expanded"], ["both"], name="both"),
        helper.make_node("ReduceSum", ["both"], ["s"], name="sum", keepdims=0),
        helper.make_node("ReduceSum", ["range"], ["r"], name="sum_range", keepdims=0),
        helper.make_node("Sum", ["x", "s", "r"], ["y"], name="add"),
    ]
    weights = [
        graphs.weight("size", np.array(size, dtype=np.int64)),
        graphs.weight("one", np.float32(1)),
        graphs.weight("zero", np.float32(0)),
        graphs.weight("count", np.float32(math.prod(size))),
        graphs.weight("step", np.float32(1)),
    ]
    return graphs.model(nodes, [graphs.tensor("x", [1, 4])], [graphs.tensor("y", [1, 4])], weights)


def test_a_giant_constant_is_never_computed(tmp_path):
    """A terabyte that the graph asks for must not be filled to learn a shape."""
    inferred = infer_shapes(read(fill([1_000_000, 250_000]), tmp_path))

    shapes = {value.name: value.shape for node in inferred.graph for value in node.outputs}
    assert tuple(shapes["filled"]) == (1_000_000, 250_000)
    assert tuple(shapes["y"]) == (1, 4)


def test_shapes_that_hang_on_computed_constants_are_found(tmp_path):
    nodes = [
        helper.make_node("ConstantOfShape", ["four"], ["pads"], name="pads", value=graphs.weight("v", np.array([2]))),
        helper.make_node("Pad", ["x", "pads"], ["y"], name="pad"),
    ]
    made = graphs.model(
        nodes, [graphs.tensor("x", [1, 4])], [graphs.tensor("y", ["p", "q"])], [graphs.weight("four", np.array([4]))]
    )

    inferred = infer_shapes(read(made, tmp_path))

    assert [node.op_type for node in inferred.graph] == ["ConstantOfShape", "Pad"]
    assert tuple(inferred.graph.outputs[0].shape) == (5, 8)


@pytest.mark.parametrize("make", [graphs.branches, graphs.loop, graphs.local_function, graphs.quantized])
def test_subgraphs_functions_and_quantised_nodes_survive(tmp_path, make):
    model = read(make(), tmp_path)
    names = [node.name for node in model.graph]

    inferred = infer_shapes(model)

    assert [node.name for node in inferred.graph] == names
    assert inferred.graph.outputs[0].shape.is_static()
