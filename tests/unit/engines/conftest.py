"""Small ONNX models, imported and ready to be built."""

import numpy as np
import pytest

from hwbench.graph.importer import import_model
from hwbench.protocols import BuildRequest
from hwbench.records.model import ImportJob
from hwbench.testing import example_cpu


@pytest.fixture
def build_request(tmp_path):
    """Return a function that makes a graph into a request to build it."""
    onnx = pytest.importorskip("onnx")

    def make(nodes, inputs, outputs, weights=(), *, precision="fp32", profile_layers=False, threads=1, streams=1):
        def info(name, kind, shape):
            return onnx.helper.make_tensor_value_info(name, kind, shape)

        graph = onnx.helper.make_graph(
            nodes,
            "graph",
            [info(*item) for item in inputs],
            [info(*item) for item in outputs],
            [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in dict(weights).items()],
        )
        opsets = [onnx.helper.make_opsetid("", 18)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "net.onnx")
        job = ImportJob(model=str(tmp_path / "net.onnx"), batch_size=None, shapes={}, input_data=None, seed=0)
        (tmp_path / "imported").mkdir()
        (tmp_path / "build").mkdir()
        imported = import_model(job, tmp_path / "imported")
        return BuildRequest(
            model=imported.model,
            files=imported.files,
            device=example_cpu(),
            precision=precision,
            threads=threads,
            streams=streams,
            profile_layers=profile_layers,
            workdir=tmp_path / "build",
        )

    return make


@pytest.fixture
def quantised_request(build_request):
    """A product between QuantizeLinear and DequantizeLinear, fp32 in and out; ``x`` is 4 x 64."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto

    def make(precision):
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="q"),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="dq"),
            helper.make_node("DequantizeLinear", ["wq", "s", "wz"], ["wd"], name="dqw"),
            helper.make_node("MatMul", ["xd", "wd"], ["y"], name="product"),
        ]
        weights = {
            "s": np.float32(0.02),
            "z": np.uint8(128),
            "wz": np.int8(0),
            "wq": np.random.default_rng(0).integers(-127, 128, (64, 32)).astype(np.int8),
        }
        ends = [("x", kind.FLOAT, [4, 64])], [("y", kind.FLOAT, [4, 32])]
        return build_request(nodes, *ends, weights, precision=precision)

    return make


@pytest.fixture
def loop_request(build_request):
    """A Relu, then twenty products inside a Loop."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto
    shape = [32, 32]
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["product"], name="inner"),
            helper.make_node("Identity", ["go"], ["go_on"], name="inner_go"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", kind.INT64, []),
            helper.make_tensor_value_info("go", kind.BOOL, []),
            helper.make_tensor_value_info("state", kind.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("go_on", kind.BOOL, []),
            helper.make_tensor_value_info("product", kind.FLOAT, shape),
        ],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Loop", ["n", "true", "r"], ["y"], name="loop", body=body),
    ]
    weights = {"w": np.eye(32, dtype=np.float32), "n": np.array(20), "true": np.array(True)}
    return build_request(nodes, [("x", kind.FLOAT, shape)], [("y", kind.FLOAT, shape)], weights, profile_layers=True)
