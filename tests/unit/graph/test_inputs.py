"""Input tensors: described, read from a file, made at random, changed in shape."""

from __future__ import annotations

import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import psutil
import pytest
from onnx import TensorProto, helper

from hwbench.errors import ModelError, UsageError
from hwbench.graph.inputs import (
    input_specs,
    override_example,
    random_inputs,
    read_inputs,
    specs_in,
    specs_of,
    table_rows,
)
from hwbench.graph.onnx_file import graph_inputs, infer_shapes
from hwbench.records.model import TensorSpec


def spec(name="x", dtype="float32", shape=(1, 4)):
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def made_for(made, seed=0):
    model = infer_shapes(ir.from_proto(made))
    return random_inputs(model, input_specs(graph_inputs(model)), seed)


def npz(folder, **arrays):
    path = folder / "x.npz"
    np.savez(path, **arrays)
    return path


# Descriptions


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (TensorProto.BOOL, "bool"),
        (TensorProto.INT8, "int8"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.INT64, "int64"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.FLOAT, "float32"),
        (TensorProto.DOUBLE, "float64"),
    ],
)
def test_an_input_is_described_in_numpys_words(dtype, name):
    model = ir.from_proto(graphs.unary("Identity", (2, 3), dtype))

    assert input_specs(graph_inputs(model)) == (spec(dtype=name, shape=(2, 3)),)


@pytest.mark.parametrize(
    ("dtype", "word"),
    [
        (TensorProto.STRING, "string"),
        (TensorProto.BFLOAT16, "bfloat16"),
        (TensorProto.FLOAT8E4M3FN, "float8"),
        (TensorProto.INT4, "int4"),
        (TensorProto.COMPLEX64, "complex64"),
    ],
)
def test_an_input_that_no_numpy_file_can_hold_is_refused(dtype, word):
    model = ir.from_proto(graphs.unary("Identity", (2, 3), dtype))

    with pytest.raises(ModelError, match=f"input 'x' holds {word}"):
        input_specs(graph_inputs(model))


@pytest.mark.parametrize("kind", ["sequence", "optional"])
def test_an_input_that_is_no_tensor_is_refused(kind):
    of = helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 4])
    proto = helper.make_sequence_type_proto(of) if kind == "sequence" else helper.make_optional_type_proto(of)
    op = "SequenceLength" if kind == "sequence" else "OptionalGetElement"
    node = helper.make_node(op, ["x"], ["y"], name="only")
    made = graphs.model([node], [helper.make_value_info("x", proto)], [graphs.tensor("y", [])])

    with pytest.raises(ModelError, match=f"'x' is of type {kind}, not a tensor"):
        input_specs(graph_inputs(ir.from_proto(made)))


def test_an_unknown_axis_of_an_output_is_zero():
    model = ir.from_proto(graphs.unary("NonZero", (1, 4), TensorProto.FLOAT))
    model.graph.outputs[0].shape = ir.Shape([2, "found"])

    assert specs_of(list(model.graph.outputs)) == (spec("y", "float32", (2, 0)),)


# Random values


def test_floats_are_standard_normal_and_follow_the_seed():
    first, again, other = (made_for(graphs.unary(axes=(40, 50)), seed)["x"] for seed in (3, 3, 4))

    assert first.dtype == np.float32
    assert abs(first.mean()) < 0.1
    assert 0.9 < first.std() < 1.1
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_keep_their_type(dtype):
    array = made_for(graphs.unary(axes=(40, 50), dtype=helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))["x"]

    assert array.dtype == dtype
    assert 0.9 < array.astype(np.float64).std() < 1.1


@pytest.mark.parametrize(("dtype", "low", "high"), [(TensorProto.UINT8, 0, 255), (TensorProto.INT8, -128, 127)])
def test_bytes_use_their_whole_range(dtype, low, high):
    array = made_for(graphs.unary("Identity", (100, 100), dtype))["x"]

    assert (array.min(), array.max()) == (low, high)


def test_booleans_are_true_and_plain_integers_zero():
    assert made_for(graphs.unary("Not", (2, 3), TensorProto.BOOL))["x"].all()
    assert not made_for(graphs.unary("Identity", (2, 3), TensorProto.INT64))["x"].any()


@pytest.mark.parametrize(
    "through",
    [(), ("Cast",), ("Unsqueeze",), ("Identity", "Unsqueeze", "Cast"), ("Transpose",)],
    ids=lambda ops: "+".join(ops) or "direct",
)
def test_token_ids_stay_inside_their_table(through):
    made = graphs.embedding(rows=5, through=through, dtype=TensorProto.INT32)

    arrays = made_for(made)

    assert set(np.unique(arrays["input_ids"])) == {0, 1, 2, 3, 4}
    assert arrays["input_ids"].dtype == np.int32
    assert (arrays["attention_mask"] == 1).all()


def test_the_smallest_table_bounds_the_ids():
    made = graphs.embedding(rows=9)
    made.graph.initializer.append(graphs.weight("other", graphs.random_array(3, 4)))
    made.graph.node.insert(0, helper.make_node("Gather", ["other", "input_ids"], ["unused"], name="second"))

    model = infer_shapes(ir.from_proto(made))

    assert table_rows(model.graph.inputs[0]) == 3
    assert made_for(made)["input_ids"].max() == 2


def test_a_gather_along_another_axis():
    made = graphs.embedding(rows=5)
    made.graph.node[0].attribute.append(helper.make_attribute("axis", -1))

    assert table_rows(infer_shapes(ir.from_proto(made)).graph.inputs[0]) == 3


@pytest.mark.parametrize("axis", [2, -3, 10**12])
def test_a_gather_along_an_axis_that_is_not_there_bounds_nothing(axis):
    model = ir.from_proto(graphs.embedding(rows=5))
    node = next(iter(model.graph))
    node.attributes.add(ir.AttrInt64("axis", axis))

    assert table_rows(model.graph.inputs[0]) is None


def test_a_table_without_rows_bounds_nothing():
    model = ir.from_proto(graphs.embedding(rows=0))

    assert table_rows(model.graph.inputs[0]) is None


def test_an_input_that_is_gathered_from_is_no_index():
    node = helper.make_node("Gather", ["x", "i"], ["y"], name="only")
    made = graphs.model(
        [node],
        [graphs.tensor("x", [6, 4], TensorProto.INT64)],
        [graphs.tensor("y", [1, 4], TensorProto.INT64)],
        [graphs.weight("i", np.array([0]))],
    )

    assert table_rows(ir.from_proto(made).graph.inputs[0]) is None


@pytest.mark.parametrize("axes", [(), (0, 4)])
def test_scalars_and_empty_inputs(axes):
    array = made_for(graphs.unary(axes=axes))["x"]

    assert (array.shape, array.dtype) == (axes, np.float32)


def test_inputs_that_cannot_fit_in_memory_are_refused():
    model = ir.from_proto(graphs.unary(axes=(psutil.virtual_memory().total, 4)))

    with pytest.raises(UsageError, match="the inputs would take"):
        random_inputs(model, input_specs(graph_inputs(model)), 0)


# A file of inputs


def test_arrays_come_back_as_they_were_saved(tmp_path):
    array = graphs.random_array(1, 4)

    read = read_inputs(npz(tmp_path, x=array, unused=np.zeros(3)), (spec(),))

    assert list(read) == ["x"]
    np.testing.assert_array_equal(read["x"], array)


def test_a_scalar_stays_a_scalar(tmp_path):
    read = read_inputs(npz(tmp_path, x=np.float32(2.5)), (spec(shape=()),))

    assert (read["x"].shape, float(read["x"])) == ((), 2.5)


def test_a_transposed_array_is_laid_out_anew(tmp_path):
    array = graphs.random_array(4, 3).T

    read = read_inputs(npz(tmp_path, x=array), (spec(shape=(3, 4)),))

    assert read["x"].flags.c_contiguous
    np.testing.assert_array_equal(read["x"], array)


@pytest.mark.parametrize(
    ("have", "want"),
    [("uint8", "float32"), ("int32", "int64"), ("float32", "float64"), ("bool", "int64"), ("float16", "float32")],
)
def test_a_type_that_loses_nothing_is_converted(tmp_path, have, want):
    array = np.array([[1, 0, 1, 1]], dtype=have)

    read = read_inputs(npz(tmp_path, x=array), (spec(dtype=want),))

    assert read["x"].dtype == want
    np.testing.assert_array_equal(read["x"], array)


@pytest.mark.parametrize(
    ("have", "want"),
    [
        ("float32", "int64"),
        ("float64", "float32"),
        ("int64", "int32"),
        ("int64", "float32"),
        ("int8", "uint8"),
        ("float32", "bool"),
        ("complex64", "float32"),
        ("U3", "float32"),
    ],
)
def test_a_type_that_could_lose_something_is_refused_with_the_cure(tmp_path, have, want):
    path = npz(tmp_path, x=np.zeros((1, 4), dtype=have))

    with pytest.raises(UsageError, match=f"gives 'x' as .*, the model takes {want}") as caught:
        read_inputs(path, (spec(dtype=want),))

    assert caught.value.hint == f"save it converted: x.astype('{want}')"


def test_a_missing_array_lists_those_there_are(tmp_path):
    with pytest.raises(UsageError, match="has no array 'x'") as caught:
        read_inputs(npz(tmp_path, image=np.zeros(3), label=np.zeros(3)), (spec(),))

    assert caught.value.hint == "it has: image, label"


def test_a_wrong_shape_shows_both(tmp_path):
    with pytest.raises(UsageError, match=r"gives 'x' \[4, 1\], the model takes \[1, 4\]"):
        read_inputs(npz(tmp_path, x=np.zeros((4, 1), dtype=np.float32)), (spec(),))


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_pickled_objects_are_not_loaded(tmp_path):
    path = npz(tmp_path, x=np.array([Trap()], dtype=object))

    with pytest.raises(UsageError, match=r"cannot be read: .*allow_pickle"):
        read_inputs(path, (spec(),))


@pytest.mark.parametrize("data", [b"", b"text", b"PK\x03\x04broken", b"PK\x05\x06"])
def test_a_corrupt_file_is_refused(tmp_path, data):
    path = tmp_path / "x.npz"
    path.write_bytes(data)

    with pytest.raises(UsageError, match=r"x\.npz' cannot be read"):
        read_inputs(path, (spec(),))


def test_every_cut_of_a_file_is_refused(tmp_path):
    path = npz(tmp_path, x=graphs.random_array(1, 4))
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UsageError):
            read_inputs(path, (spec(),))


def test_a_single_array_without_a_name_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros(3))

    with pytest.raises(UsageError, match="one array without a name"):
        read_inputs(path, (spec(),))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.npz"):
        specs_in(tmp_path / "nowhere.npz")


def test_the_arrays_of_a_file_are_described(tmp_path):
    path = npz(tmp_path, a=np.zeros((2, 3), np.int8), b=np.float32(1))

    assert specs_in(path) == {"a": spec("a", "int8", (2, 3)), "b": spec("b", "float32", ())}


# Examples under --shapes and --batch-size


EXAMPLE = {"ids": np.zeros((2, 6)), "scale": np.float32(1) * np.ones(())}


@pytest.mark.parametrize(
    ("shapes", "batch", "expected"),
    [
        ({}, None, {"ids": (2, 6), "scale": ()}),
        ({}, 5, {"ids": (5, 6), "scale": ()}),
        ({"ids": (1, 9)}, None, {"ids": (1, 9), "scale": ()}),
        ({"ids": (5, 9)}, 5, {"ids": (5, 9), "scale": ()}),
        ({"scale": ()}, 5, {"ids": (5, 6), "scale": ()}),
    ],
)
def test_an_example_takes_other_shapes(shapes, batch, expected):
    assert override_example(EXAMPLE, shapes, batch) == expected


@pytest.mark.parametrize(("shapes", "why"), [({"id": (2, 6)}, "'id', which is no input"), ({"ids": (2,)}, "1 axes")])
def test_shapes_that_do_not_fit_an_example(shapes, why):
    with pytest.raises(UsageError, match=why):
        override_example(EXAMPLE, shapes, None)


def test_a_batch_size_that_the_shapes_contradict_is_refused():
    with pytest.raises(UsageError, match="--batch-size 5: --shapes gives 'ids' the size 1 on axis 0"):
        override_example(EXAMPLE, {"ids": (1, 9)}, 5)
