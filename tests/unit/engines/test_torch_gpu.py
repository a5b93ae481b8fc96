"""Torch's engines on a GPU that is pretended: its tensors lie on the CPU, so what they compute is what the CPU does."""

import inspect
import threading
from pathlib import Path
from types import SimpleNamespace

import fake_torch_cuda
import msgspec
import numpy as np
import onnx_graphs as graphs
import pytest
from fake_torch_cuda import FakeCuda, FakeTorch, fake_gpu, gpu_device  # noqa: F401 - a fixture
from onnx import helper

from hwbench import plugins
from hwbench.cuda.torch_devices import cuda_of, kernels_for, torch_index
from hwbench.engines import torch_compile, torch_place
from hwbench.engines.torch_eager import TorchEager
from hwbench.engines.torch_graph import TorchCudaGraph
from hwbench.engines.torch_place import OnGpu, offered, precisions_on
from hwbench.engines.torch_sparse24 import TorchSparse24, compress_layers, is_24
from hwbench.errors import EngineError, Unsupported
from hwbench.graph import torch_source
from hwbench.graph.importer import import_model
from hwbench.protocols import BuildRequest
from hwbench.records.base import Missing
from hwbench.records.model import ImportJob, ModelFiles
from hwbench.testing import example_cpu

torch = pytest.importorskip("torch")

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.fc = torch.nn.Linear(8 * 36, 16)

    def forward(self, image):
        return self.fc(torch.relu(self.conv(image)).flatten(1))

class Looks(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x) * float(x.abs().max().item())

def net():
    return Net(), (torch.linspace(-1, 1, 108).reshape(1, 3, 6, 6),)

def looks():
    return Looks(), (torch.ones(1, 4),)
"""


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nets")
    (folder / "gpunets.py").write_text(NET)
    found = {}
    for name in ("net", "looks"):
        job = ImportJob(model=f"{folder / 'gpunets.py'}:{name}", batch_size=None, shapes={}, input_data=None, seed=0)
        found[name] = import_model(job, folder / name)
    return found


def build(engine, imported, folder, *, device=None, precision="fp32", streams=1):
    request = BuildRequest(
        model=imported.model, files=imported.files, device=device or gpu_device(), precision=precision, threads=1,
        streams=streams, profile_layers=False, workdir=folder,
    )  # fmt: skip
    return engine.load(request).compile()


def inputs_of(imported, scale=1.0):
    with np.load(f"{imported.files.folder}/{imported.files.inputs}") as archive:
        return {name: archive[name] * np.float32(scale) for name in archive.files}


def outputs_on_cpu(imported, inputs, folder):
    return build(TorchEager(), imported, folder, device=example_cpu()).bind(inputs).outputs()


def test_cuda_counts_the_gpus_in_another_order():
    fake = FakeTorch()
    assert torch_index(fake, gpu_device()) == 1
    assert torch_index(fake, gpu_device(uuid="GPU-11111111-0000-0000-0000-000000000000")) == 0


def test_a_gpu_that_is_hidden_is_told(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    reason = torch_index(FakeTorch(FakeCuda(uuids=("22222222" + "0" * 24,), names=("NVIDIA L4",))), gpu_device())
    assert reason.code == "not_visible"
    assert "CUDA_VISIBLE_DEVICES is '0'" in reason.why
    assert "unset" in reason.cure


def test_without_uuids_only_the_one_gpu_of_that_name_is_taken():
    one = FakeTorch(FakeCuda(uuids=None, names=("NVIDIA H100 80GB HBM3",)))
    assert torch_index(one, gpu_device()) == 0
    assert torch_index(FakeTorch(FakeCuda(uuids=None)), gpu_device()).code == "no_uuid"
    other = FakeTorch(FakeCuda(uuids=None, names=("NVIDIA L4",)))
    assert torch_index(other, gpu_device()).code == "no_uuid"


def test_of_a_gpu_cut_by_mig_the_one_instance_is_taken():
    instance = FakeTorch(FakeCuda(uuids=("99999999" + "0" * 24,), names=("NVIDIA H100 80GB HBM3 MIG 1g.10gb",)))
    assert torch_index(instance, gpu_device(mig=True)) == 0
    assert torch_index(instance, gpu_device()).code == "not_visible"


def test_a_jetson_has_one_gpu():
    jetson = example_cpu(name="jetson", kind="jetson")
    assert torch_index(FakeTorch(FakeCuda(uuids=None, names=("Orin",))), jetson) == 0
    assert torch_index(FakeTorch(FakeCuda(uuids=None)), jetson).code == "not_visible"


@pytest.mark.parametrize(
    ("words", "code", "cure"),
    [
        ("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", "no_driver", "--gpus all"),
        ("The NVIDIA driver on your system is too old (found version 11040).", "driver_too_old", "CUDA 13.0"),
        ("No CUDA GPUs are available", "no_driver", "container"),
        ("CUDA unknown error - this may be due to an incorrectly set up environment", "cuda_failed", "nvidia-smi"),
    ],
)
def test_what_torch_says_of_the_driver_is_a_reason_with_a_cure(words, code, cure):
    fake = FakeTorch()
    fake.cuda.failure = RuntimeError(words)
    reason = cuda_of(fake)
    assert reason.code == code
    assert words in reason.why
    assert cure in reason.cure


def test_this_torch_says_itself_that_it_has_no_cuda():
    if torch.version.cuda is not None:
        pytest.skip("this torch has CUDA")
    reason = cuda_of(torch)
    assert reason.code == "torch_without_cuda"
    with pytest.raises(EngineError, match="built without CUDA") as error:
        torch_place.place(gpu_device(), "fp32", "fp32", "torch-eager")
    assert "pytorch.org" in error.value.hint


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 6), ["sm_80"], True),
        ((8, 9), ["sm_80", "sm_86"], True),
        ((9, 0), ["sm_80", "sm_86"], False),
        ((8, 0), ["sm_86"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((12, 0), ["sm_90a", "compute_90a"], False),
        ((9, 0), ["sm_90a"], True),
        ((7, 0), ["sm_75", "sm_120"], False),
        ((12, 1), ["sm_120"], True),
    ],
)
def test_kernels_of_one_generation_do_not_run_on_another(capability, built, runs):
    fake = FakeTorch(FakeCuda(capabilities=(capability,), arch_list=built))
    reason = kernels_for(fake, 0)
    assert (reason is None) == runs
    if reason is not None:
        assert f"sm_{capability[0]}{capability[1]}" in reason.why


@pytest.mark.parametrize(
    ("capability", "names"),
    [
        ("9.0", ("fp32", "tf32", "fp16", "bf16")),
        ("7.5", ("fp32", "fp16")),
        ("5.2", ("fp32",)),
        (Missing(code="not_supported", why="not told"), ("fp32",)),
    ],
)
def test_precisions_follow_the_generation(capability, names):
    assert precisions_on(gpu_device(compute_capability=capability)) == names


def test_only_a_module_in_fp32_is_cast():
    assert offered("bf16", gpu_device()) == ("bf16", "auto")
    assert offered("fp32", example_cpu()) == ("fp32", "auto")


def test_a_generation_that_is_known_to_torch_alone_is_asked_for(fake_gpu):  # noqa: F811
    fake_gpu.cuda.capabilities = ((8, 9), (7, 2))
    jetson = example_cpu(name="jetson", kind="jetson", title="Jetson AGX Xavier")
    with pytest.raises(Unsupported, match="'Jetson AGX Xavier' does not compute in bf16"):
        torch_place.place(jetson, "bf16", "fp32", "torch-eager")
    assert torch_place.place(jetson, "fp16", "fp32", "torch-eager").index == 1


def test_torch_without_cuda_is_known_before_torch_is_imported(monkeypatch):
    source = ModelFiles(folder="/nowhere", torch_source="net.py:make")
    network = SimpleNamespace(artefact=None)
    versions = {"torch": "2.13.0+cpu", "triton": "3.6.0"}
    monkeypatch.setattr("importlib.metadata.version", lambda name: versions[name])
    for engine in (TorchEager(), TorchCudaGraph()):
        (reason,) = engine.supports(network, source, gpu_device()).reasons
        assert reason.code == "torch_without_cuda"
        assert "2.13.0+cpu" in reason.why
    versions["torch"] = "2.13.0"
    assert TorchEager().supports(network, source, gpu_device()).usable
    assert TorchCudaGraph().supports(network, source, example_cpu()).reasons[0].code == "wrong_device"


def test_a_jetson_is_sent_to_nvidias_own_torch(monkeypatch):
    jetson = msgspec.structs.replace(gpu_device(), kind="jetson", name="jetson")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0+cpu")
    for device, words in ((jetson, "docs/jetson.md"), (gpu_device(), "pytorch.org")):
        (reason,) = torch_place.runs_on("torch-eager", device).reasons
        assert words in reason.cure
    if torch.version.cuda is None:
        with pytest.raises(EngineError, match="built without CUDA") as error:
            torch_place.found_index(torch, jetson)
        assert "docs/jetson.md" in error.value.hint
        assert "pytorch.org" not in error.value.hint


@pytest.mark.parametrize("engine", ["torch-cuda-graph", "torch-compile-cuda-graph", "torch-sparse24"])
def test_an_engine_for_gpus_asks_for_torch_with_cuda(monkeypatch, engine):
    def version(name):
        raise torch_compile.installed.__globals__["importlib"].metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    reason = plugins.load("engines", engine).installed().reasons[0]
    assert (reason.code, reason.why) == ("not_installed", "torch is not installed")
    assert "install torch with CUDA" in reason.cure


def test_compiling_for_a_gpu_needs_triton(monkeypatch):
    source = ModelFiles(folder="/nowhere", torch_source="net.py:make")
    versions = {"torch": "2.13.0"}

    def version(name):
        if name not in versions:
            raise torch_compile.installed.__globals__["importlib"].metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr("importlib.metadata.version", version)
    for name in ("torch-compile", "torch-compile-cuda-graph"):
        engine = plugins.load("engines", name)
        (reason,) = engine.supports(SimpleNamespace(artefact=None), source, gpu_device()).reasons
        assert reason.code == "no_triton"
    versions["triton"] = "3.6.0"
    assert engine.supports(SimpleNamespace(artefact=None), source, gpu_device()).usable


@pytest.mark.parametrize("engine", [TorchEager(), TorchCudaGraph()], ids=lambda engine: engine.name)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("tf32", 1e-6), ("fp16", 1e-2), ("bf16", 5e-2)])
def test_outputs_are_those_of_the_cpu(nets, tmp_path, fake_gpu, engine, precision, tolerance):  # noqa: F811
    imported = nets["net"]
    runner = build(engine, imported, tmp_path, precision=precision)
    inputs, other = inputs_of(imported), inputs_of(imported, scale=-0.5)
    bound, second = runner.bind(inputs), runner.bind(other)
    for one, given in ((bound, inputs), (second, other), (bound, inputs)):
        for name, right in outputs_on_cpu(imported, given, tmp_path).items():
            np.testing.assert_allclose(one.outputs()[name], right, rtol=0, atol=tolerance)
    built = runner.built()
    assert built.precision == precision
    assert built.execution_units == ("NVIDIA H100 80GB HBM3",)
    assert "GPU memory" in runner.timed_region
    assert (built.settings["float32_matmul_precision"] == "high") == (precision == "tf32")
    assert torch.backends.cudnn.allow_tf32 == (precision != "fp32")
    runner.close()
    runner.close()


def test_every_inference_enters_its_stream_and_waits_for_it(nets, tmp_path, fake_gpu):  # noqa: F811
    bound = build(TorchEager(), nets["net"], tmp_path).bind(inputs_of(nets["net"]))
    said, here = fake_gpu.cuda.said, threading.get_ident()
    assert ("synchronize", 1) in said, "inputs are in place before a stream reads them"
    said.clear()
    bound.run()
    bound.run()
    assert said == [("stream", here), ("wait", here), ("wait", here)]
    said.clear()
    thread = threading.Thread(target=bound.run)
    thread.start()
    thread.join()
    assert [word for word, _ in said] == ["stream", "wait"], "a new thread has torch's default stream"
    assert said[0][1] != here


def test_two_executables_in_one_thread_have_streams_of_their_own(nets, tmp_path, fake_gpu):  # noqa: F811
    runner = build(TorchCudaGraph(), nets["net"], tmp_path, streams=2)
    first, second = (runner.bind(inputs_of(nets["net"])) for _ in range(2))
    fake_gpu.cuda.said.clear()
    for bound in (first, second, second, first):
        bound.run()
    words = [word for word, _ in fake_gpu.cuda.said]
    assert words == [
        "stream",
        "replay",
        "wait",
        "stream",
        "replay",
        "wait",
        "replay",
        "wait",
        "stream",
        "replay",
        "wait",
    ]


def test_a_graph_is_captured_once_and_replayed(nets, tmp_path, fake_gpu):  # noqa: F811
    runner = build(TorchCudaGraph(), nets["net"], tmp_path)
    bound = runner.bind(inputs_of(nets["net"]))
    assert fake_gpu.cuda.said.count(("capture", 1)) == 1
    first, second = bound.run(), bound.run()
    assert first is second, "the outputs of a graph lie where they lie"
    assert runner.timed_region.startswith("CUDAGraph.replay()")
    assert "captured after 3" in runner.built().settings["cuda_graph"]


def test_what_looks_at_its_values_cannot_be_captured_and_is_told_where(nets, tmp_path, fake_gpu, monkeypatch):  # noqa: F811
    pretended = Path(fake_torch_cuda.__file__).parent  # where the error is raised is no part of the network
    monkeypatch.setattr(torch_source, "_LIBRARIES", (*torch_source._LIBRARIES, pretended))
    runner = build(TorchCudaGraph(), nets["looks"], tmp_path)
    with pytest.raises(EngineError) as error:
        runner.bind(inputs_of(nets["looks"]))
    assert "aten.item.default" in error.value.message
    assert "gpunets.py, line 20, in forward" in error.value.message
    assert "operation not permitted when stream is capturing" in error.value.message
    assert "torch-eager" in error.value.hint
    assert build(TorchEager(), nets["looks"], tmp_path).bind(inputs_of(nets["looks"])).outputs()


def test_auto_tells_what_torch_computes_in(nets, tmp_path, fake_gpu):  # noqa: F811
    torch.backends.cudnn.allow_tf32 = True  # torch's default: convolutions in TF32, products not
    model = nets["net"].model
    assert build(TorchEager(), nets["net"], tmp_path, precision="auto").built().precision == "tf32"
    gpu = OnGpu(1, "auto", fake_gpu, "cpu")
    products = tuple(layer for layer in model.layers if "Conv" not in layer.op)
    assert gpu.arithmetic("fp32", msgspec.structs.replace(model, layers=products)) == "fp32"
    assert gpu.arithmetic("bf16", model) == "bf16"


def test_memory_is_that_of_the_allocator(nets, tmp_path, fake_gpu):  # noqa: F811
    runner = build(TorchCudaGraph(), nets["net"], tmp_path)
    cuda, call = fake_gpu.cuda, runner.call

    def takes(*args, **kwargs):
        cuda.peak = max(cuda.peak, cuda.allocated + 700)
        return call(*args, **kwargs)

    runner.call = takes
    cuda.allocated, cuda.reserved = 1000, 4096
    told = runner.memory(inputs_of(nets["net"]))
    assert (told.activations_bytes, told.arena_bytes) == (700, 4096)
    assert told.weights_bytes == 4 * (8 * 3 * 9 + 8 + 8 * 36 * 16 + 16)
    assert told.method.startswith("in GPU memory")


def pruned(outputs, inputs, seed=0):
    """Weights [outputs, inputs] with the second and fourth of every four zero."""
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))
    weight.view(outputs, -1, 4)[:, :, 1::2] = 0
    return weight


def test_a_pattern_is_looked_for_along_the_inputs():
    weight = pruned(8, 16)
    assert is_24(weight)
    assert not is_24(weight.t())
    assert not is_24(torch.zeros(8, 16))
    assert not is_24(weight[:, :14])
    weight[0, 1] = 1e-3
    assert not is_24(weight)


def test_linear_layers_that_are_24_are_compressed_and_the_others_told():
    net = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 6), torch.nn.ReLU())
    net[0].weight = torch.nn.Parameter(pruned(8, 16))
    net[2].weight = torch.nn.Parameter(pruned(6, 8))
    x = torch.randn(2, 16)
    right, given = net(x), []

    def compress(weight):
        if weight.shape[0] % 8:
            raise RuntimeError("Both dimensions must be larger or equal than and a multiple of (8, 8)")
        given.append(weight)
        return weight.clone()

    found = compress_layers(net, compress)
    assert found.sparse == ("0",)
    assert "not 2:4" in found.dense["1"]
    assert "multiple of (8, 8)" in found.dense["2"]
    assert len(given) == 1
    assert torch.equal(net(x), right)
    assert found.notes()[0] == "2:4: 0"


@pytest.fixture
def sparse_hub(tmp_path):
    """A product [x, w] and a Gemm of 2:4 weights, and a dense product."""
    node = helper.make_node
    w, v = pruned(32, 16, seed=1).numpy(), pruned(16, 32, seed=2).numpy()
    made = graphs.model(
        [
            node("MatMul", ["x", "w"], ["a"], name="first"),
            node("Relu", ["a"], ["r"], name="relu"),
            node("Gemm", ["r", "v", "b"], ["g"], name="second", transB=1),
            node("MatMul", ["g", "u"], ["y"], name="third"),
        ],
        [graphs.tensor("x", [4, 16])],
        [graphs.tensor("y", [4, 8])],
        [
            graphs.weight("w", w.T.copy()),
            graphs.weight("v", v),
            graphs.weight("b", graphs.random_array(16, seed=3)),
            graphs.weight("u", graphs.random_array(16, 8, seed=4)),
        ],
    )
    path = graphs.save(made, tmp_path)
    job = ImportJob(model=str(path), batch_size=None, shapes={}, input_data=None, seed=0)
    return import_model(job, tmp_path / "model")


def test_a_compressed_graph_runs_with_its_24_layers_sparse(sparse_hub, tmp_path, fake_gpu, monkeypatch):  # noqa: F811
    import onnxruntime as ort

    compressed = []

    def compress(weight):
        assert weight.is_contiguous()
        compressed.append(tuple(weight.shape))
        return weight.clone()

    fake_gpu.sparse = SimpleNamespace(to_sparse_semi_structured=compress)
    fake_gpu.backends = SimpleNamespace(
        cusparselt=SimpleNamespace(is_available=lambda: True, version=lambda: 702), cudnn=torch.backends.cudnn
    )
    runner = build(TorchSparse24(), sparse_hub, tmp_path, precision="fp16")
    assert sorted(compressed) == [(16, 32), (32, 16)], "outputs by inputs"
    inputs = inputs_of(sparse_hub)
    path = f"{sparse_hub.files.folder}/{sparse_hub.files.runtime_graph}"
    (right,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)
    found = runner.bind(inputs).outputs()["y"]
    assert np.abs(found - right).max() < 1e-2 * np.abs(right).max()
    built = runner.built()
    assert built.settings["sparse_layers"] == "2 of 3"
    assert built.settings["sparse_backend"] == "cuSPARSELt 702"
    assert any("third" in note and "not 2:4" in note for note in built.notes)
    with pytest.raises(Unsupported, match="cannot run in fp32"):
        build(TorchSparse24(), sparse_hub, tmp_path, precision="fp32")


def test_a_network_without_24_layers_is_refused(nets, tmp_path, fake_gpu):  # noqa: F811
    fake_gpu.backends = SimpleNamespace(
        cusparselt=SimpleNamespace(is_available=lambda: True, version=lambda: 702), cudnn=torch.backends.cudnn
    )
    with pytest.raises(EngineError, match=r"no linear layer can be multiplied as 2:4 \(fc") as error:
        build(TorchSparse24(), nets["net"], tmp_path, precision="fp16")
    assert "pattern=2:4" in error.value.hint


def test_on_hopper_cutlass_is_no_way_out(nets, tmp_path, fake_gpu):  # noqa: F811
    fake_gpu.backends = SimpleNamespace(
        cusparselt=SimpleNamespace(is_available=lambda: False), cudnn=torch.backends.cudnn
    )
    with pytest.raises(EngineError, match="no cuSPARSELt"):
        build(TorchSparse24(), nets["net"], tmp_path, precision="fp16")


def test_sparse_tensor_cores_came_with_ampere():
    files = ModelFiles(folder="/nowhere", torch_source="net.py:make")
    turing = gpu_device(compute_capability="7.5")
    assert TorchSparse24().supports(SimpleNamespace(artefact=None), files, turing).reasons[0].code == "no_sparse_cores"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("cuda.graph", {"cuda_graph", "pool", "stream", "capture_error_mode"}),
        ("cuda.CUDAGraph.replay", {"self"}),
        ("cuda.set_stream", {"stream"}),
        ("cuda.Stream.__new__", {"device", "priority"}),
        ("cuda.Stream.synchronize", {"self"}),
        ("cuda.synchronize", {"device"}),
        ("cuda.get_device_properties", {"device"}),
        ("cuda.get_device_capability", {"device"}),
        ("cuda.get_device_name", {"device"}),
        ("cuda.max_memory_allocated", {"device"}),
        ("cuda.max_memory_reserved", {"device"}),
        ("cuda.memory_allocated", {"device"}),
        ("cuda.reset_peak_memory_stats", {"device"}),
        ("cuda.get_arch_list", set()),
        ("cuda.get_allocator_backend", set()),
        ("sparse.to_sparse_semi_structured", {"original_tensor"}),
        ("_inductor.aoti_compile_and_package", {"exported_program", "package_path", "inductor_configs"}),
        ("_inductor.package.package.load_package", {"path", "num_runners", "device_index"}),
        ("set_float32_matmul_precision", {"precision"}),
        ("backends.cusparselt.is_available", set()),
        ("backends.cusparselt.version", set()),
    ],
)
def test_what_is_called_is_there_in_this_torch(name, wanted):
    import torch._inductor.package.package

    found = torch
    for part in name.split("."):
        found = getattr(found, part)
    assert wanted <= set(inspect.signature(found).parameters)


def test_torch_takes_the_pattern_for_shapes_that_we_know():
    """What is written in docs/torch-cuda.md about shapes comes from these tables."""
    from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS

    for kind in (SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS):
        for dtype in (torch.float16, torch.bfloat16):
            least = kind._DTYPE_SHAPE_CONSTRAINTS[dtype]
            expected = (16, 16) if kind is SparseSemiStructuredTensorCUSPARSELT else (32, 64)
            assert (least.sparse_min_rows, least.sparse_min_cols) == expected


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", ["digits_cnn", "resnet8", "ds_cnn", "mobilenet_v2", "vit_tiny"])
def test_built_in_networks_make_no_tensor_on_the_cpu(name, precision):
    """One that did would fail on a GPU; the meta device stands for any device that is not the CPU."""
    from hwbench.models import zoo

    net, inputs = zoo.create(name, batch_size=1)
    dtype = getattr(torch, precision)
    net = net.to("meta").to(dtype)
    placed = {
        key: value.to("meta", dtype if value.is_floating_point() else value.dtype) for key, value in inputs.items()
    }
    with torch.inference_mode():
        out = net(**placed)
    assert out.device.type == "meta"
    assert out.dtype == dtype
