"""Every registered engine keeps the contract of an engine."""

import pytest

from hwbench import plugins
from hwbench.testing import EngineContract


class TestOnnxRuntime(EngineContract):
    def make(self):
        return plugins.load("engines", "onnxruntime")


class TestOpenVino(EngineContract):
    def make(self):
        return plugins.load("engines", "openvino")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's own
class TestTorchAoti(EngineContract):
    def make(self):
        return plugins.load("engines", "torch-aoti")


class TestTorchEager(EngineContract):
    takes = "torch"

    def make(self):
        return plugins.load("engines", "torch-eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's own
class TestTorchCompile(EngineContract):
    takes = "torch"

    def make(self):
        return plugins.load("engines", "torch-compile")


class TestLiteRt(EngineContract):
    takes = "tflite"

    def make(self):
        return plugins.load("engines", "litert")


class TestLiteRtBuiltin(EngineContract):
    takes = "tflite"

    def make(self):
        return plugins.load("engines", "litert-builtin")


class TestLiteRtOpenVino(EngineContract):
    takes = "tflite"

    def make(self):
        return plugins.load("engines", "litert-openvino")


@pytest.mark.usefixtures("vulkan")
class TestLiteRtWebGpu(EngineContract):
    takes = "tflite"

    def make(self):
        return plugins.load("engines", "litert-webgpu")


TESTED = {
    "onnxruntime", "openvino", "torch-eager", "torch-compile", "torch-aoti",
    "litert", "litert-builtin", "litert-openvino", "litert-webgpu",
}  # fmt: skip
ON_A_GPU = {  # with pretended GPUs in tests/unit/engines, with one that is there in tests/gpu
    "torch-cuda-graph", "torch-compile-cuda-graph", "torch-aoti-cuda-graph", "torch-sparse24", "tensorrt",
    "tensorrt-rtx",
}  # fmt: skip


def test_none_is_left_out():
    ours = {name for name, point in plugins.available("engines").items() if point.value.startswith("hwbench.")}
    assert ours == TESTED | ON_A_GPU
    suites = (TestOnnxRuntime, TestOpenVino, TestTorchEager, TestTorchCompile, TestTorchAoti)
    for suite in (*suites, TestLiteRt, TestLiteRtBuiltin, TestLiteRtOpenVino, TestLiteRtWebGpu):
        assert suite().make().name in TESTED
