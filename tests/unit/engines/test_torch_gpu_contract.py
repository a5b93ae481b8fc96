"""The contract of engines, kept by torch's on a GPU that is pretended: from two threads at once, closed twice..."""

import importlib.metadata

import pytest
from fake_torch_cuda import fake_gpu, gpu_device  # noqa: F401 - a fixture

from hwbench import plugins
from hwbench.testing import EngineContract

VERSION = importlib.metadata.version


@pytest.mark.usefixtures("fake_gpu")
class OnPretendedGpu(EngineContract):
    __test__ = False
    takes = "torch"
    name = ""

    @pytest.fixture(autouse=True)
    def _with_cuda(self, monkeypatch):
        monkeypatch.setattr("importlib.metadata.version", lambda name: VERSION(name).removesuffix("+cpu"))

    @pytest.fixture
    def device(self):
        return gpu_device()

    def make(self):
        return plugins.load("engines", self.name)


class TestTorchEagerOnPretendedGpu(OnPretendedGpu):
    __test__ = True
    name = "torch-eager"


class TestTorchCudaGraphOnPretendedGpu(OnPretendedGpu):
    __test__ = True
    name = "torch-cuda-graph"
