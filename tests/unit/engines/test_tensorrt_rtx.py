"""Real engines of TensorRT-RTX, built here without a GPU: what is in them, and what RTX refuses.

TensorRT's logger belongs to a process, so all of it is done in one.
"""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_graphs import model as onnx_model
from onnx_graphs import tensor, weight

from hwbench.engines.tensorrt_api import api
from hwbench.engines.tensorrt_batch import open_batch
from hwbench.engines.tensorrt_build import PlanRequest, build_plan, require_target, rtx_targets
from hwbench.engines.tensorrt_inspect import read_units
from hwbench.engines.tensorrt_log import layers_in, write_log
from hwbench.engines.tensorrt_options import read_options
from hwbench.errors import EngineError, Unsupported, UsageError
from hwbench.records.base import Missing

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def rtx():
    return api("tensorrt-rtx")


def products(path: Path, dtype=np.float16, *, batch=4, op="Relu") -> Path:
    """``y = op(x w)``, with a reshape that holds the batch."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node(op, ["h"], ["r"], name="act", domain="strange" if op == "Odd" else ""),
        helper.make_node("Reshape", ["r", "shape"], ["y"], name="shaped"),
    ]
    weights = [
        weight("w", RNG.standard_normal((64, 32)).astype(dtype)),
        weight("shape", np.array([batch, 32], np.int64)),
    ]
    opsets = {"": 18, "strange": 1} if op == "Odd" else {"": 18}
    onnx.save(
        onnx_model(nodes, [tensor("x", [batch, 64], kind)], [tensor("y", [batch, 32], kind)], weights, opsets=opsets),
        path,
    )
    return path


def request(graph: Path, capability=(8, 9), **options) -> PlanRequest:
    return PlanRequest(
        graph=graph, capability=capability, flags=(), weak_flags=(), options=read_options(options), cache=None
    )


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (8, 9), (12, 0)])
def test_a_plan_is_built_for_every_target(rtx, tmp_path, capability):
    plan = build_plan(rtx, request(products(tmp_path / "net.onnx"), capability))
    assert len(plan.data) > 1000
    assert plan.settings["capability"] == f"{capability[0]}.{capability[1]}"
    assert plan.settings["timing_cache"] == "none"
    assert plan.settings["network_flags"] == "STRONGLY_TYPED"
    assert plan.settings["profiling_verbosity"] == "DETAILED"
    assert plan.settings["flags"] == "REQUIRE_USER_ALLOCATION"  # and no TF32


def test_the_log_tells_the_layers_of_the_plan(rtx, tmp_path):
    plan = build_plan(rtx, request(products(tmp_path / "net.onnx")))
    units = read_units(layers_in(plan.lines))
    assert {name for unit in units for name in unit.sources} >= {"product", "act"}
    (gemm,) = [unit for unit in units if "product" in unit.sources]
    assert gemm.precision == "fp16"
    assert isinstance(gemm.kernel, Missing)  # taken on the GPU, when the plan is loaded
    write_log(plan.lines, tmp_path / "build.log")
    text = (tmp_path / "build.log").read_text()
    assert "[VERBOSE] Layers:" in text
    assert "[INFO] Engine generation completed" in text


def test_each_build_has_a_log_of_its_own(rtx, tmp_path):
    first, second = (build_plan(rtx, request(products(tmp_path / "net.onnx"))) for _ in range(2))
    assert abs(len(first.lines) - len(second.lines)) < 5


def test_what_rtx_has_no_operator_for_is_told_by_name(rtx, tmp_path):
    with pytest.raises(EngineError, match=r"cannot take the graph: act \(Odd\): .*Plugin not found"):
        build_plan(rtx, request(products(tmp_path / "net.onnx", op="Odd")))


@pytest.mark.parametrize("capability", [(8, 7), (9, 0), (10, 0), (11, 0)])
def test_other_gpus_are_refused_before_anything_is_built(rtx, capability):
    with pytest.raises(Unsupported, match=r"7\.5, 8\.0, 8\.6, 8\.9, 12\.0, 12\.1") as caught:
        require_target(rtx, capability)
    assert "-e tensorrt" in caught.value.hint
    assert rtx_targets(rtx) == ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


def test_what_the_gpu_cannot_do_is_rtxs_own_word(rtx, tmp_path):
    """int4 weights on Turing: the graph compiler says so, and no plan comes out."""
    packed = helper.make_tensor("q", TensorProto.INT4, (64, 32), np.zeros(1024, np.int8).tobytes(), raw=True)
    scales = weight("s", np.ones((1, 32), np.float16))
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], name="dq", block_size=64, axis=0),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
    ]
    half = TensorProto.FLOAT16
    graph = onnx_model(
        nodes, [tensor("x", [4, 64], half)], [tensor("y", [4, 32], half)], [packed, scales], opsets={"": 21}
    )
    onnx.save(graph, tmp_path / "int4.onnx")
    assert build_plan(rtx, request(tmp_path / "int4.onnx", (8, 6))).data
    with pytest.raises(EngineError, match=r"built no engine: .+"):
        build_plan(rtx, request(tmp_path / "int4.onnx", (7, 5)))


def test_an_open_batch_gets_a_profile(rtx, tmp_path):
    path = products(tmp_path / "net.onnx")
    open_batch(path, 4)
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    plan = build_plan(rtx, request(path, batch="1:4:16"))
    assert plan.settings["profile:x"] == "1x64 4x64 16x64"
    with pytest.raises(UsageError, match="open axes"):
        build_plan(rtx, request(path))


def test_an_opened_batch_computes_the_same_for_every_batch(tmp_path):
    ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime runs the graph")
    path = products(tmp_path / "net.onnx", np.float32)
    x = RNG.standard_normal((4, 64)).astype(np.float32)
    (before,) = ort.InferenceSession(str(path)).run(None, {"x": x})
    open_batch(path, 4)
    session = ort.InferenceSession(str(path))
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], before)
    np.testing.assert_allclose(session.run(None, {"x": x[:1]})[0], before[:1], rtol=1e-5, atol=1e-5)


def test_a_batch_that_is_written_into_the_graph_stays(tmp_path):
    nodes = [helper.make_node("Add", ["x", "c"], ["y"], name="add")]
    single = TensorProto.FLOAT
    graph = onnx_model(
        nodes, [tensor("x", [4, 8], single)], [tensor("y", [4, 8], single)], [weight("c", np.ones((4, 8), np.float32))]
    )
    onnx.save(graph, tmp_path / "baked.onnx")
    with pytest.raises(Unsupported, match="batch cannot be left open"):
        open_batch(tmp_path / "baked.onnx", 4)
    onnx.save(graph, tmp_path / "other.onnx")
    with pytest.raises(Unsupported, match="axis 0 of 'x' is not the batch"):
        open_batch(tmp_path / "other.onnx", 3)


def test_options_are_told_to_rtx(rtx, tmp_path):
    path = products(tmp_path / "net.onnx")
    asked = dataclasses.replace(request(path, sparse="on", level="2", workspace="64"), flags=("TF32",))
    settings = build_plan(rtx, asked).settings
    assert {"TF32", "SPARSE_WEIGHTS"} <= set(settings["flags"].split())
    assert settings["builder_optimization_level"] == "2"
    assert settings["workspace_bytes"] == str(64 << 20)
