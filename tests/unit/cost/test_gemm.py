"""The products the peaks are measured with: their graphs, what the runtimes are made to tell, and a whole child."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest

from hwbench.children import run_child
from hwbench.cost import gemm
from hwbench.cost.gemm import GemmJob, GemmResult
from hwbench.cost.gemm_graphs import float_graph, integer_graph, left_operand, quantised_graph
from hwbench.cost.gemm_runtimes import PRODUCTS, openvino_executed, ort_executed
from hwbench.errors import EngineError


@pytest.mark.parametrize("make", [float_graph, integer_graph, quantised_graph])
def test_graphs_are_valid_onnx(make):
    onnx.checker.check_model(onnx.load_model_from_string(make(16)), full_check=True)


def test_quantised_graph_multiplies_what_it_says():
    from onnx.reference import ReferenceEvaluator

    a = left_operand(16, np.float32)
    (got,) = ReferenceEvaluator(onnx.load_model_from_string(quantised_graph(16))).run(None, {"a": a})
    weight = np.random.default_rng(0).integers(-127, 128, (16, 16), dtype=np.int8) * np.float32(0.01)
    assert np.abs(got - a @ weight).max() < 16 * 0.03 * 1.27  # half a step of a, times the largest weight, summed


@pytest.mark.parametrize(
    ("taken", "precision"), [("float", "fp32"), ("uint8", "int8"), ("bfloat16", "bf16"), ("double", "double")]
)
def test_ort_precision_is_the_type_the_node_took(taken, precision):
    events = [
        {"cat": "Session", "args": {}},
        {"cat": "Node", "args": {"op_name": "MatMul", "provider": "P", "input_type_shape": [{taken: [4, 4]}]}},
    ]
    assert ort_executed(events) == (precision, f"MatMul on {taken}, P")


def test_ort_profile_without_a_product_is_an_error():
    with pytest.raises(EngineError, match="no matrix product"):
        ort_executed([{"cat": "Node", "args": {"op_name": "Add", "input_type_shape": [{"float": [4]}]}}])


@pytest.mark.parametrize(
    ("told", "kernel", "precision"),
    [
        ("f32", "gemm_mlas_f32", "fp32"),
        ("bf16", "brgemm_avx512_bf16", "bf16"),
        ("u8", "brgemm_avx512_I8", "int8"),
        ("i8", "brgemm_avx512_amx_i8", "int8"),
        ("i8", "brgemm_avx512_f32", "int8 weights only"),
    ],
)
def test_openvino_precision_is_that_of_the_executed_node(told, kernel, precision):
    nodes = [
        {"layerType": "Reorder", "primitiveType": "jit_uni_f32", "runtimePrecision": "f32"},
        {"layerType": "FullyConnected", "primitiveType": kernel, "runtimePrecision": told},
    ]
    assert openvino_executed(nodes) == (precision, kernel)


class FakeProduct:
    version = "1.2"

    def __init__(self, request):
        self.precision = "bf16"

    def run(self):
        pass

    def executed(self):
        return self.precision, "fake_kernel"


def job(**changes):
    facts = {"engine": "openvino", "precision": "bf16", "cpus": (0,), "seconds": 1.0, "sizes": (8, 16)}
    return GemmJob(**(facts | changes))


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setitem(PRODUCTS, "openvino", FakeProduct)
    monkeypatch.setattr(gemm, "_SAMPLE_AT_LEAST_S", 1e-4)
    monkeypatch.setattr(gemm.os, "sched_setaffinity", lambda *_: None, raising=False)


def test_another_precision_than_asked_for_is_an_error(fake, tmp_path):
    with pytest.raises(EngineError, match=r"in bf16 \(fake_kernel\), not in fp16"):
        gemm.measure(job(precision="fp16"), tmp_path, lambda _: None)


def test_every_size_is_timed_while_there_is_time(fake, tmp_path):
    result = gemm.measure(job(), tmp_path, lambda _: None)
    assert [rate.size for rate in result.rates] == [8, 16]
    assert all(len(rate.ops_per_s) == gemm.SAMPLES for rate in result.rates)
    assert result.version == "1.2"


def test_the_first_size_is_timed_even_without_time(fake, tmp_path):
    assert [rate.size for rate in gemm.measure(job(seconds=0.0), tmp_path, lambda _: None).rates] == [8]


def test_too_little_memory_is_an_error(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(gemm, "_fits_memory", lambda size: False)
    with pytest.raises(EngineError, match="not enough memory"):
        gemm.measure(job(), tmp_path, lambda _: None)


@pytest.mark.parametrize(("engine", "precision"), [("onnxruntime", "int8"), ("openvino", "int8")])
def test_child(engine, precision, tmp_path):
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    cpus = tuple(sorted(gemm.os.sched_getaffinity(0))[:1])
    asked = GemmJob(engine=engine, precision=precision, cpus=cpus, seconds=0.2, sizes=(64,))
    result = run_child(
        "hwbench.cost.gemm", asked, GemmResult, folder=tmp_path, what="a product", failure=EngineError, timeout_s=60
    )
    assert [rate.size for rate in result.rates] == [64]
    assert result.kernel
    assert 1e6 < max(result.rates[0].ops_per_s) < 1e14
