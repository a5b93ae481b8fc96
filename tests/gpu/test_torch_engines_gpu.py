"""Torch's engines on a GPU that is there: the contract of engines, parity with the CPU, memory, 2:4 layers."""

import numpy as np
import pytest
from gpu_networks import TOLERANCE, assert_as_on_the_cpu, built, inputs_of, on_the_cpu, zoo

from hwbench import plugins
from hwbench.measure.gpu_memory import gpu_track, told
from hwbench.records.base import Missing
from hwbench.testing import EngineContract

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("torch_on_gpu"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),  # torch's
]
COMPILED = ("torch-compile", "torch-compile-cuda-graph", "torch-aoti", "torch-aoti-cuda-graph")


class OnGpu(EngineContract):
    __test__ = False
    takes = "torch"
    name = ""

    @pytest.fixture
    def device(self, attached_gpu):
        return attached_gpu

    def make(self):
        return plugins.load("engines", self.name)


class TestTorchEagerOnGpu(OnGpu):
    __test__ = True
    name = "torch-eager"


class TestTorchCudaGraphOnGpu(OnGpu):
    __test__ = True
    name = "torch-cuda-graph"


class TestTorchCompileOnGpu(OnGpu):
    __test__ = True
    name = "torch-compile"


class TestTorchCompileCudaGraphOnGpu(OnGpu):
    __test__ = True
    name = "torch-compile-cuda-graph"


class TestTorchAotiOnGpu(OnGpu):
    __test__ = True
    takes = "onnx"
    name = "torch-aoti"


class TestTorchAotiCudaGraphOnGpu(OnGpu):
    __test__ = True
    takes = "onnx"
    name = "torch-aoti-cuda-graph"


@pytest.mark.parametrize("model", ["resnet50", "bert_small", "mobilenet_v2", "vit_tiny"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("name", ["torch-eager", "torch-cuda-graph"])
def test_outputs_are_those_of_the_cpu(attached_gpu, tmp_path, name, precision, model):
    if precision not in plugins.load("engines", name).precisions(attached_gpu):
        pytest.skip(f"{attached_gpu.title} has no {precision}")
    assert_as_on_the_cpu(name, model, precision, attached_gpu, tmp_path)


@pytest.mark.parametrize("model", ["resnet8", "bert_small"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_outputs_are_those_of_the_cpu(attached_gpu, tmp_path, name, precision, model):
    assert_as_on_the_cpu(name, model, precision, attached_gpu, tmp_path)


def test_the_gpu_that_torch_takes_is_the_one_that_is_meant(attached_gpu, torch_on_gpu):
    torch, index = torch_on_gpu
    assert torch.cuda.get_device_name(index).split(" MIG")[0] == attached_gpu.gpu.name
    major, minor = torch.cuda.get_device_capability(index)
    assert attached_gpu.gpu.compute_capability == f"{major}.{minor}"


def test_memory_holds_at_least_the_weights(attached_gpu, tmp_path):
    imported = zoo("resnet50", tmp_path / "model")
    with gpu_track(attached_gpu) as following:
        runner = built("torch-eager", imported, attached_gpu, tmp_path / "gpu")
        bound = runner.bind(inputs_of(imported))
        bound.run()
        loading = told(following)
        following.start_run()
        bound.run()
        running = told(following)
    weights = 4 * imported.model.parameters
    for seen in (loading, running):
        assert seen.torch_peak_allocated_bytes >= weights
        assert seen.torch_peak_reserved_bytes >= seen.torch_peak_allocated_bytes
        own = seen.nvml_process_peak_bytes
        if isinstance(own, Missing):
            assert own.code in {"pid_not_found", "pid_of_another", "not_supported"}, own
        else:
            assert own >= seen.torch_peak_reserved_bytes


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_24_layers_run_sparse_and_are_right(attached_gpu, tmp_path, precision):
    (tmp_path / "sparse24net.py").write_text(
        "import torch\n\ndef make():\n"
        "    torch.manual_seed(0)\n"
        "    net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 128))\n"
        "    with torch.no_grad():\n"
        "        for layer in (net[0], net[2]):\n"
        "            layer.weight.view(layer.weight.shape[0], -1, 4)[:, :, 1::2] = 0\n"
        "    return net, (torch.randn(16, 256),)\n"
    )
    imported = zoo(f"{tmp_path / 'sparse24net.py'}:make", tmp_path / "model")
    inputs = inputs_of(imported)
    right = on_the_cpu(imported, tmp_path / "cpu")["output_0"]
    runner = built("torch-sparse24", imported, attached_gpu, tmp_path / "gpu", precision)
    found = runner.bind(inputs).outputs()["output_0"]
    assert runner.built().settings["sparse_layers"] == "2 of 2"
    assert np.abs(found - right).max() <= TOLERANCE[precision] * np.abs(right).max()
