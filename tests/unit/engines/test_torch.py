import sys

import pytest

from hwbench.engines import torch_compile
from hwbench.engines.torch_compile import TorchCompile
from hwbench.engines.torch_eager import TorchEager, supports_torch
from hwbench.records.base import Support, unsupported
from hwbench.records.model import ModelFiles
from hwbench.testing import example_cpu

ONNX = ModelFiles(folder="/nowhere")
TORCH = ModelFiles(folder="/nowhere", torch_source="net.py:make", torch_state="state.pt")


@pytest.mark.parametrize("engine", [TorchEager(), TorchCompile()], ids=lambda engine: engine.name)
def test_an_onnx_file_holds_no_module(engine):
    support = supports_torch(Support(), ONNX, example_cpu())
    assert [reason.code for reason in support.reasons] == ["no_torch_source"]
    assert "net.py:make" in support.reasons[0].cure
    assert engine.precisions(example_cpu()) == ("fp32",)


def test_the_device_and_the_installation_decide():
    missing = unsupported("not_installed", "torch is not installed")
    assert supports_torch(missing, TORCH, example_cpu()) == missing
    assert supports_torch(Support(), TORCH, example_cpu()).usable
    elsewhere = supports_torch(Support(), TORCH, example_cpu(name="cuda:0", kind="nvidia"))
    assert elsewhere.reasons[0].code == "wrong_device"


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setattr(torch_compile, "installed", lambda package, extra: Support())
    monkeypatch.setattr(torch_compile.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    (reason,) = TorchCompile().installed().reasons
    assert reason.code == "no_compiler"
    monkeypatch.setenv("CXX", "/opt/bin/c++")
    assert TorchCompile().installed().usable


def test_the_engines_are_imported_without_torch():
    assert TorchEager.__module__ in sys.modules
    assert "torch" not in vars(sys.modules[TorchEager.__module__])
