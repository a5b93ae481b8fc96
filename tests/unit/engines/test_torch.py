import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hwbench.engines import torch_compile
from hwbench.engines.torch_compile import TorchCompile
from hwbench.engines.torch_eager import TorchEager
from hwbench.engines.torch_module import TorchBound, supports
from hwbench.errors import EngineError
from hwbench.graph.importer import import_model
from hwbench.protocols import BuildRequest
from hwbench.records.base import Support, unsupported
from hwbench.records.model import ImportJob, ModelFiles
from hwbench.testing import example_cpu

ONNX = ModelFiles(folder="/nowhere")
TORCH = ModelFiles(folder="/nowhere", torch_source="net.py:make", torch_state="state.pt")


@pytest.mark.parametrize("engine", [TorchEager(), TorchCompile()], ids=lambda engine: engine.name)
def test_an_onnx_file_holds_no_module(engine):
    support = engine.supports(SimpleNamespace(artefact=None), ONNX, example_cpu())
    assert [reason.code for reason in support.reasons] == ["no_torch_source"]
    assert "net.py:make" in support.reasons[0].cure
    assert engine.precisions(example_cpu()) == ("fp32",)


def test_the_device_and_the_installation_decide():
    missing = unsupported("not_installed", "torch is not installed")
    absent = SimpleNamespace(name="torch-eager", installed=lambda: missing)
    present = SimpleNamespace(name="torch-eager", installed=Support)
    network = SimpleNamespace(artefact=None)
    assert supports(absent, network, TORCH, example_cpu()) == missing
    assert supports(present, network, TORCH, example_cpu()).usable
    elsewhere = supports(present, network, TORCH, example_cpu(name="phone", kind="android"))
    assert elsewhere.reasons[0].code == "wrong_device"


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setattr(torch_compile, "installed", lambda package, extra: Support())
    monkeypatch.setattr(torch_compile.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    (reason,) = TorchCompile().installed().reasons
    assert reason.code == "no_compiler"
    monkeypatch.setenv("CXX", "/opt/bin/c++")
    assert TorchCompile().installed().usable


def test_bfloat16_outputs_become_fp32():
    torch = pytest.importorskip("torch")
    values = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    bound = TorchBound(run=lambda: (values, torch.tensor([3])), names=("y", "n"))
    outputs = bound.outputs()
    assert outputs["y"].dtype == np.float32
    assert outputs["y"].tolist() == [1.5, -2.0]
    assert outputs["n"].dtype == np.int64


@pytest.mark.parametrize("engine", [TorchEager(), TorchCompile()], ids=lambda engine: engine.name)
def test_auto_takes_the_module_as_it_is(engine, tmp_path):
    torch = pytest.importorskip("torch")
    source = "import torch\n\ndef make():\n    return torch.nn.Linear(4, 2).double(), (torch.ones(1, 4).double(),)\n"
    (tmp_path / "net.py").write_text(source)
    job = ImportJob(model=f"{tmp_path / 'net.py'}:make", batch_size=None, shapes={}, input_data=None, seed=0)
    imported = import_model(job, tmp_path / "out")
    request = BuildRequest(
        model=imported.model,
        files=imported.files,
        device=example_cpu(),
        precision="auto",
        threads=torch.get_num_threads(),
        streams=1,
        profile_layers=False,
        workdir=tmp_path,
    )
    assert imported.model.arithmetic == "fp64"
    from hwbench.graph.torch_source import module_precision

    assert module_precision(engine.load(request).loaded.module) == "fp64"
    with pytest.raises(EngineError, match="cannot run in fp32 here"):
        engine.load(replace(request, precision="fp32"))


def test_the_engines_are_imported_without_torch():
    assert TorchEager.__module__ in sys.modules
    assert "torch" not in vars(sys.modules[TorchEager.__module__])
