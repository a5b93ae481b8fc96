"""Packages of AOTInductor for a GPU: what is exported and how it is compiled, and on which GPU a package is refused."""

import json
import zipfile

import numpy as np
import onnx_graphs as graphs
import pytest
from fake_torch_cuda import FakeCuda, FakeTorch, fake_gpu, gpu_device  # noqa: F401 - a fixture
from onnx import helper

from hwbench.engines import torch_aoti
from hwbench.engines.torch_aoti import TorchAoti
from hwbench.engines.torch_aoti_build import arithmetic_for, lower
from hwbench.engines.torch_aoti_check import require_same_machine
from hwbench.engines.torch_graph import TorchAotiCudaGraph
from hwbench.engines.torch_place import OnGpu, OnHost
from hwbench.errors import EngineError, Unsupported
from hwbench.graph.importer import import_model
from hwbench.protocols import BuildRequest, LowerRequest
from hwbench.records.base import Missing
from hwbench.records.model import ImportJob
from hwbench.records.quantization import PrecisionPlan
from hwbench.testing import example_cpu

torch = pytest.importorskip("torch")


@pytest.fixture
def imported(tmp_path):
    made = graphs.model(
        [helper.make_node("Gemm", ["x", "m"], ["g"], name="fc"), helper.make_node("Relu", ["g"], ["y"], name="relu")],
        [graphs.tensor("x", [2, 8])],
        [graphs.tensor("y", [2, 4])],
        [graphs.weight("m", graphs.random_array(8, 4, seed=1))],
    )
    path = graphs.save(made, tmp_path)
    job = ImportJob(model=str(path), batch_size=None, shapes={}, input_data=None, seed=0)
    return import_model(job, tmp_path / "model")


def request(imported, folder, device=None, **plan):
    return LowerRequest(
        model=imported.model, files=imported.files, plan=PrecisionPlan(**{"default": "float", **plan}),
        calibration=None, device=device or gpu_device(), folder=folder,
    )  # fmt: skip


@pytest.mark.parametrize("floating", ["fp32", "fp16", "bf16", "auto"])
def test_the_graph_is_exported_in_the_type_that_it_runs_in(imported, tmp_path, fake_gpu, monkeypatch, floating):  # noqa: F811
    seen = {}

    def compiled(program, *, package_path, inductor_configs):
        seen.update(program=program, configs=inductor_configs)

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compiled)
    (tmp_path / "out").mkdir()
    lowered = lower(request(imported, tmp_path / "out", floating=floating))
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(floating, torch.float32)
    assert lowered.arithmetic == ("fp32" if floating == "auto" else floating)
    assert all(tensor.dtype == dtype for tensor in seen["program"].state_dict.values())
    assert seen["program"].example_inputs[0][0].dtype == dtype
    assert seen["configs"] == {}, "threads and freezing are of the CPU"
    assert "H100" in lowered.notes[0]
    x = torch.tensor(np.load(f"{imported.files.folder}/{imported.files.inputs}")["x"]).to(dtype)
    (out,) = seen["program"].module()(x)
    assert out.dtype == dtype


def test_only_the_gpu_itself_can_be_compiled_for(imported, tmp_path):
    away = gpu_device(uuid=Missing(code="not_attached", why="the device is not attached"))
    with pytest.raises(Unsupported, match="is not attached") as error:
        lower(request(imported, tmp_path, away, floating="fp16"))
    assert "--device cuda:0" in error.value.hint


@pytest.mark.parametrize(("device", "has_tf32"), [(gpu_device(), True), (example_cpu(), False)])
def test_what_it_builds_is_told_of_the_device(imported, tmp_path, device, has_tf32):
    with pytest.raises(Unsupported, match="builds no int8") as error:
        lower(request(imported, tmp_path, device, default="int8"))
    assert ("tf32, fp16" in error.value.hint) == has_tf32
    assert {"tf32", "fp16"} <= set(TorchAoti.schemes)


def test_precisions_of_the_generation(imported):
    assert arithmetic_for("tf32", imported.model, gpu_device()) == "tf32"
    with pytest.raises(Unsupported):
        arithmetic_for("bf16", imported.model, gpu_device(compute_capability="7.5"))


@pytest.mark.parametrize(
    ("facts", "capability", "words"),
    [
        ({"AOTI_DEVICE_KEY": "cuda", "AOTI_COMPUTE_CAPABILITY": "90"}, (9, 0), None),
        ({"AOTI_DEVICE_KEY": "cuda", "AOTI_COMPUTE_CAPABILITY": "86"}, (8, 9), None),
        ({"AOTI_DEVICE_KEY": "cuda", "AOTI_COMPUTE_CAPABILITY": "(8, 6)"}, (8, 6), None),
        ({"AOTI_DEVICE_KEY": "cuda", "AOTI_COMPUTE_CAPABILITY": "89"}, (8, 6), "compiled for sm_89"),
        ({"AOTI_DEVICE_KEY": "cuda", "AOTI_COMPUTE_CAPABILITY": "86"}, (9, 0), "this GPU .* is sm_90"),
        ({"AOTI_DEVICE_KEY": "cuda", "AOTI_COMPUTE_CAPABILITY": "120"}, (12, 0), None),
        ({"AOTI_DEVICE_KEY": "cpu"}, (9, 0), "compiled for cpu, not for cuda"),
    ],
)
def test_a_package_runs_on_gpus_of_its_generation(tmp_path, facts, capability, words):
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("model/data/aotinductor/model/x.wrapper_metadata.json", json.dumps(facts))
    where = OnGpu(1, "fp32", FakeTorch(FakeCuda(capabilities=((7, 5), capability))), "cpu")
    if words is None:
        require_same_machine(path, where)
    else:
        with pytest.raises(EngineError, match=words):
            require_same_machine(path, where)
    if facts["AOTI_DEVICE_KEY"] == "cuda":
        with pytest.raises(EngineError, match="compiled for cuda, not for cpu"):
            require_same_machine(path, OnHost())


def test_a_package_is_captured_once_and_replayed(imported, tmp_path, fake_gpu, monkeypatch):  # noqa: F811
    weight = torch.from_numpy(graphs.random_array(8, 4, seed=1))
    calls = []

    class Package:
        def get_metadata(self):
            return {"AOTI_COMPUTE_CAPABILITY": "90"}

        def __call__(self, x):
            calls.append(x)
            return [torch.relu(x @ weight)]

    monkeypatch.setattr("hwbench.engines.torch_aoti_build.compile_package", lambda *_: None)
    monkeypatch.setattr(torch_aoti, "open_package", lambda *_: Package())
    asked = BuildRequest(
        model=imported.model, files=imported.files, device=gpu_device(), precision="fp32", threads=1, streams=1,
        profile_layers=False, workdir=tmp_path,
    )  # fmt: skip
    runner = TorchAotiCudaGraph().load(asked).compile()
    x = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    bound = runner.bind({"x": x})
    assert fake_gpu.cuda.said.count(("capture", 1)) == 1
    ran = len(calls)
    bound.run()
    bound.run()
    assert len(calls) == ran == 4, "three inferences, and the one that is captured"
    np.testing.assert_allclose(bound.outputs()["y"], np.maximum(x @ weight.numpy(), 0), rtol=1e-5)
    assert runner.timed_region.startswith("CUDAGraph.replay()")
    assert "captured after 3" in runner.built().settings["cuda_graph"]


def test_a_captured_package_is_for_gpus_and_for_sources(imported):
    engine = TorchAotiCudaGraph()
    (reason,) = engine.supports(imported.model, imported.files, example_cpu()).reasons
    assert reason.code == "wrong_device"
    assert not hasattr(engine, "lower"), "what it compiles is torch-aoti's to save"
