"""A model brought in as a whole: from a file to a folder, in this process and in one of its own."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_graphs as graphs
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from hwbench.children import run_child
from hwbench.errors import ModelError, UsageError
from hwbench.graph.importer import import_model
from hwbench.records.base import Missing
from hwbench.records.model import ImportJob, ImportResult


def job(path, **changes):
    settings = {"batch_size": None, "shapes": {}, "input_data": None, "seed": 0} | changes
    return ImportJob(model=str(path), **settings)


def bring(made, tmp_path, **changes):
    path = made if isinstance(made, Path) else graphs.save(made, tmp_path)
    return import_model(job(path, **changes), tmp_path / "out")


def inputs_of(result):
    with np.load(Path(result.files.folder) / result.files.inputs, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def run(path, feeds):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


ALL = {
    "mlp": graphs.mlp,
    "convnet": graphs.convnet,
    "embedding": graphs.embedding,
    "branches": graphs.branches,
    "loop": graphs.loop,
    "local_function": graphs.local_function,
    "quantized": graphs.quantized,
    "scalar": lambda: graphs.unary(axes=()),
    "empty": lambda: graphs.unary(axes=(0, 4)),
    "bool": lambda: graphs.unary("Not", (1, 4), TensorProto.BOOL),
    "uint8": lambda: graphs.unary("Cast", (1, 4), TensorProto.UINT8, to=TensorProto.FLOAT),
    "int8": lambda: graphs.unary("Cast", (1, 4), TensorProto.INT8, to=TensorProto.FLOAT),
    "float16": lambda: graphs.unary("Abs", (1, 4), TensorProto.FLOAT16),
}


@pytest.mark.parametrize("name", ALL)
def test_what_comes_out_is_what_went_in_to_a_runtime(tmp_path, name):
    path = graphs.save(ALL[name](), tmp_path)

    result = bring(path, tmp_path)

    folder, feeds = Path(result.files.folder), inputs_of(result)
    assert {spec.name: (spec.dtype, spec.shape) for spec in result.model.inputs} == {
        key: (array.dtype.name, array.shape) for key, array in feeds.items()
    }
    expected = run(path, feeds)
    for file in {result.files.hub, result.files.runtime_graph}:
        for found, wanted in zip(run(folder / file, feeds), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)
    assert [spec.shape for spec in result.model.outputs] == [array.shape for array in expected]
    assert result.model.warnings == ()


def test_the_description_of_a_small_network(tmp_path):
    path = graphs.save(graphs.convnet(batch="batch"), tmp_path)

    model = bring(path, tmp_path, batch_size=2).model

    assert (model.name, model.source, model.kind, model.weights) == ("net", str(path), "onnx", "as_given")
    assert model.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.hub_sha256 == hashlib.sha256((tmp_path / "out" / "model.onnx").read_bytes()).hexdigest()
    assert (model.opset, model.batch_size, model.fixed_axes) == (18, 2, {"batch": 2})
    assert [(layer.name, layer.op) for layer in model.layers] == [
        ("conv", "Conv"),
        ("bn", "BatchNormalization"),
        ("relu", "Relu"),
    ]
    assert model.macs == 2 * 25 * 6 * 4 * 9
    assert model.parameters == 6 * 4 * 9 + 2 * 6
    assert model.weight_bytes == 4 * (6 * 4 * 9 + 4 * 6)
    assert model.outputs[0].shape == (2, 6, 5, 5)


def test_the_hub_is_the_model_as_it_came_and_the_other_graph_what_runtimes_get(tmp_path):
    files = bring(graphs.convnet(), tmp_path).files

    assert (files.hub, files.runtime_graph, files.merged) == ("model.onnx", "lowered.onnx", {"bn": "conv"})
    assert [node.op_type for node in onnx.load(tmp_path / "out/model.onnx").graph.node][:2] == [
        "Conv",
        "BatchNormalization",
    ]
    assert (files.torch_source, files.torch_state) == (None, None)


def test_without_batch_norms_there_is_one_graph(tmp_path):
    files = bring(graphs.mlp(), tmp_path).files

    assert (files.runtime_graph, files.merged) == ("model.onnx", {})
    assert not (tmp_path / "out/lowered.onnx").exists()


def test_two_imports_make_the_same_files(tmp_path):
    path = graphs.save(graphs.convnet(), tmp_path)

    first, second = (import_model(job(path), tmp_path / name) for name in ("a", "b"))

    assert first.model == second.model
    for file in ("model.onnx", "lowered.onnx"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    np.testing.assert_array_equal(inputs_of(first)["x"], inputs_of(second)["x"])


def test_the_seed_chooses_the_inputs_and_nothing_else(tmp_path):
    path = graphs.save(graphs.mlp(), tmp_path)

    first, second = (import_model(job(path, seed=seed), tmp_path / str(seed)) for seed in (1, 2))

    assert first.model.inputs_sha256 != second.model.inputs_sha256
    assert msgspec.structs.replace(first.model, inputs_sha256=second.model.inputs_sha256) == second.model
    assert not np.array_equal(inputs_of(first)["x"], inputs_of(second)["x"])


# Names


def names(*given):
    """A chain of Abs nodes with the names given."""
    nodes = [
        helper.make_node("Abs", ["x" if index == 0 else f"t{index - 1}"], [f"t{index}"], name=name)
        for index, name in enumerate(given)
    ]
    return graphs.model(nodes, [graphs.tensor("x", [4])], [graphs.tensor(f"t{len(given) - 1}", [4])])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("a", "b"), ("a", "b")),
        (("a", "a", "a"), ("a", "a_2", "a_3")),
        (("", "", "a"), ("Abs_0", "Abs_1", "a")),
        (("a", "a", "a_2"), ("a", "a_3", "a_2")),
        (("Abs_1", ""), ("Abs_1", "Abs_1_2")),
        (("", "Abs_0"), ("Abs_0_2", "Abs_0")),
    ],
)
def test_every_node_gets_a_name_of_its_own_and_those_that_have_one_keep_it(tmp_path, given, expected):
    result = bring(names(*given), tmp_path)

    assert tuple(layer.name for layer in result.model.layers) == expected
    assert tuple(node.name for node in onnx.load(tmp_path / "out/model.onnx").graph.node) == expected


# Batch, inputs


def test_inputs_without_a_common_batch(tmp_path):
    model = bring(graphs.two_inputs([2, 3], [4]), tmp_path).model

    assert isinstance(model.batch_size, Missing)
    assert model.batch_size.code == "no_common_batch"


def test_a_model_without_inputs(tmp_path):
    node = helper.make_node("Abs", ["w"], ["y"], name="only")
    result = bring(graphs.model([node], [], [graphs.tensor("y", [2])], [graphs.weight("w", -np.ones(2))]), tmp_path)

    assert (result.model.inputs, inputs_of(result)) == ((), {})


def test_weights_listed_as_inputs_are_not_fed(tmp_path):
    made = graphs.convnet()
    made.graph.input.extend(graphs.tensor(item.name, item.dims) for item in made.graph.initializer)

    result = bring(made, tmp_path)

    assert list(inputs_of(result)) == ["x"]
    (found,) = run(tmp_path / "out/lowered.onnx", inputs_of(result))
    (wanted,) = run(tmp_path / "net.onnx", inputs_of(result))
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


def test_a_file_of_inputs_also_fixes_the_axes(tmp_path):
    array = graphs.random_array(5, 4)
    np.savez(tmp_path / "x.npz", x=array, other=np.zeros(3))

    result = bring(graphs.mlp("rows"), tmp_path, input_data=str(tmp_path / "x.npz"))

    assert (result.model.input_origin, result.model.fixed_axes) == ("file", {"rows": 5})
    np.testing.assert_array_equal(inputs_of(result)["x"], array)


@pytest.mark.parametrize(
    ("arrays", "changes", "why"),
    [
        ({"y": np.zeros((5, 4), np.float32)}, {}, "has no array 'x'"),
        ({"x": np.zeros((5, 3), np.float32)}, {}, "its axis 1 is fixed at 4"),
        ({"x": np.zeros((5, 4), np.float64)}, {}, "'x' as float64, the model takes float32"),
        ({"x": np.zeros((5, 4), np.float32)}, {"batch_size": 2}, "--batch-size 2"),
        ({"x": np.zeros((5, 4), np.float32)}, {"shapes": {"x": (2, 4)}}, r"\[5, 4\], the model takes \[2, 4\]"),
    ],
)
def test_a_file_of_inputs_that_does_not_fit(tmp_path, arrays, changes, why):
    np.savez(tmp_path / "x.npz", **arrays)

    with pytest.raises(UsageError, match=why):
        bring(graphs.mlp("rows"), tmp_path, input_data=str(tmp_path / "x.npz"), **changes)


def test_a_sequence_as_an_output_is_refused(tmp_path):
    node = helper.make_node("SplitToSequence", ["x"], ["y"], name="split")
    out = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [1, 4])

    with pytest.raises(ModelError, match="'y' is of type sequence, not a tensor"):
        bring(graphs.model([node], [graphs.tensor("x", [4, 4])], [out]), tmp_path)


# Weights


def test_external_data_comes_in_and_the_original_may_go(tmp_path):
    array = graphs.random_array(64, 64)
    path = graphs.external(tmp_path, location="w.bin", array=array)

    result = bring(path, tmp_path)
    path.unlink()
    (tmp_path / "w.bin").unlink()

    feeds = inputs_of(result)
    (found,) = run(tmp_path / "out/model.onnx", feeds)
    np.testing.assert_allclose(found, feeds["x"] @ array, rtol=1e-4, atol=1e-4)


def test_weights_that_are_not_finite_are_a_warning(tmp_path):
    made = graphs.mlp()
    bad = graphs.random_array(8, 4)
    bad[3, 2] = np.nan
    made.graph.initializer[0].CopyFrom(graphs.weight("w1", bad))

    (warning,) = bring(made, tmp_path).model.warnings

    assert "w1" in warning
    assert "outputs mean nothing" in warning


def test_many_bad_weights_are_counted(tmp_path):
    made = graphs.convnet(bias=True)
    for item in made.graph.initializer[1:]:
        item.CopyFrom(graphs.weight(item.name, np.full(6, np.inf, np.float32)))

    (warning,) = bring(made, tmp_path).model.warnings

    assert "and 2 more" in warning


# Custom operators


def custom(output):
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="custom", domain="acme")
    opsets = {"": 18, "acme": 1}
    return graphs.model([node], [graphs.tensor("x", ["N", 4])], [graphs.tensor("y", output)], opsets=opsets)


def test_a_custom_operator_comes_in_uncounted(tmp_path):
    model = bring(custom(["N", "found"]), tmp_path).model

    (layer,) = model.layers
    assert isinstance(layer.macs, Missing)
    assert layer.macs.code == "unknown_op"
    assert model.uncounted == ("Frobnicate",)
    assert model.inputs[0].shape == (1, 4)


def test_an_output_that_nobody_knows_the_rank_of_is_refused(tmp_path):
    with pytest.raises(ModelError, match="not a valid ONNX graph"):
        bring(custom(None), tmp_path)


# Refused, whole


@pytest.mark.parametrize("opsets", [{"": 18}, {"": 18, "local": 1}])
def test_a_call_of_a_domain_that_is_not_imported_or_a_function_that_is_broken(tmp_path, opsets):
    made = graphs.local_function()
    if "local" in opsets:
        made.functions[0].node[0].op_type = "Frobnicate"
    del made.opset_import[:]
    made.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets.items())

    with pytest.raises(ModelError, match="not a valid ONNX"):
        bring(made, tmp_path)


def test_an_ir_version_from_the_future(tmp_path):
    made = graphs.mlp()
    made.ir_version = 99

    with pytest.raises(ModelError, match="ir_version 99"):
        bring(made, tmp_path)


def test_the_same_name_for_two_inputs(tmp_path):
    made = graphs.mlp()
    made.graph.input.append(made.graph.input[0])

    with pytest.raises(ModelError, match="'x'"):
        bring(made, tmp_path)


@pytest.mark.parametrize("in_the_way", ["folder", "model", "inputs"])
def test_a_folder_that_cannot_be_written(tmp_path, in_the_way):
    if in_the_way == "folder":
        (tmp_path / "out").write_text("a file")
    else:
        (tmp_path / "out" / ("model.onnx" if in_the_way == "model" else "inputs.npz")).mkdir(parents=True)

    with pytest.raises(ModelError, match=r"cannot write the (model|inputs) to"):
        bring(graphs.mlp(), tmp_path)


# In a process of its own


def in_child(model, tmp_path, timeout_s=60.0):
    return run_child(
        "hwbench.graph.importer",
        job(model),
        ImportResult,
        folder=tmp_path / "child",
        what="reading the model",
        failure=ModelError,
        timeout_s=timeout_s,
    )


def test_a_child_brings_in_the_same_model(tmp_path):
    path = graphs.save(graphs.convnet(), tmp_path)

    there, here = in_child(path, tmp_path), import_model(job(path), tmp_path / "here")

    assert there.model == here.model
    assert (tmp_path / "child/lowered.onnx").exists()


def test_an_error_in_the_child_is_the_same_error_here(tmp_path):
    with pytest.raises(UsageError, match="dynamic axis 'length'") as caught:
        in_child(graphs.save(graphs.unary(axes=(1, "length")), tmp_path), tmp_path)

    assert "--shapes x:1x1" in str(caught.value.hint)


FACTORIES = """
import ctypes, os, signal, sys, time
from torch import nn

def exits():
    os._exit(3)

def exits_well():
    os._exit(0)

def segfaults():
    ctypes.string_at(0)

def is_killed():
    os.kill(os.getpid(), signal.SIGKILL)

def sleeps():
    print("going to sleep", flush=True)
    time.sleep(600)

def talks():
    print('{"event": "done"}')
    os.write(1, b'{"event": "error"}' + bytes([10]))
    sys.stdout.flush()
    raise ValueError("after talking")
"""


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("exits", "reading the model: the process ended with status 3"),
        ("exits_well", "reading the model: "),
        ("segfaults", "reading the model: the process crashed with SIGSEGV"),
        ("is_killed", "SIGKILL"),
        ("talks", "talks' raised ValueError: after talking"),
    ],
)
def test_whatever_a_factory_does_to_its_process_is_a_model_error_here(tmp_path, factory, words):
    (tmp_path / "factories.py").write_text(FACTORIES)

    with pytest.raises(ModelError, match=words):
        in_child(f"{tmp_path / 'factories.py'}:{factory}", tmp_path)


def test_a_factory_that_never_returns_is_stopped(tmp_path):
    (tmp_path / "factories.py").write_text(FACTORIES)

    with pytest.raises(ModelError, match="no sign of life for 6 s") as caught:
        in_child(f"{tmp_path / 'factories.py'}:sleeps", tmp_path, timeout_s=6)

    assert "going to sleep" in str(caught.value.hint)


def test_a_folder_may_be_used_again(tmp_path):
    first = graphs.save(graphs.convnet(), tmp_path, "first.onnx")
    second = graphs.save(graphs.mlp(), tmp_path, "second.onnx")

    import_model(job(first), tmp_path / "out")
    result = import_model(job(second), tmp_path / "out")

    assert result.files.runtime_graph == "model.onnx"
    assert Counter(node.op_type for node in ir.load(tmp_path / "out/model.onnx").graph) == {"Gemm": 2, "Relu": 1}
