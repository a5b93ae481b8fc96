"""PyTorch through ``torch.compile`` and its inductor backend."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hwbench.engines import torch_module
from hwbench.engines.edge import installed, translated
from hwbench.engines.torch_module import Placed, TorchRunner, load_module
from hwbench.engines.torch_place import GPUS
from hwbench.protocols import BuildRequest
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.model import Model, ModelFiles

_TRITON = ("triton", "pytorch-triton", "triton-windows")


class TorchCompile:
    """The user's module under ``torch.compile`` with default options."""

    name = "torch-compile"

    def installed(self) -> Support:
        return with_compiler(installed("torch", "cpu"), "torch.compile")

    def supports(self, model: Model, files: ModelFiles, device: Device) -> Support:
        return with_triton(torch_module.supports(self, model, files, device), device)

    precisions = torch_module.precisions
    start = torch_module.start

    def load(self, request: BuildRequest) -> TorchCompileProgram:
        new_cache(request)
        return TorchCompileProgram(self.name, load_module(self.name, request), request)


def new_cache(request: BuildRequest) -> None:
    """Give inductor and Triton caches of their own, so that the compile time is what a first-time user pays."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(request.workdir / "inductor")
    os.environ["TRITON_CACHE_DIR"] = str(request.workdir / "triton")


def with_compiler(found: Support, what: str) -> Support:
    """Return ``found``, or that ``what`` lacks the C++ compiler that inductor calls."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if found.usable and not compiler:
        return unsupported("no_compiler", f"{what} needs a C++ compiler", "install g++ or set CXX")
    return found


def with_triton(found: Support, device: Device) -> Support:
    """Return ``found``, or that Triton is lacking, in which inductor writes its kernels for a GPU."""
    if not found.usable or device.kind not in GPUS:
        return found
    if any(installed(package, "nvidia").usable for package in _TRITON):
        return found
    return unsupported(
        "no_triton", "inductor needs Triton on a GPU, and it is not installed", "torch's package for CUDA brings it"
    )


class TorchCompileProgram:
    """A module to be compiled at its first call."""

    load_phase: Missing | None = None
    compile_phase: Missing | None = None
    runner: type[TorchRunner] = TorchRunner

    def __init__(self, engine: str, loaded: Placed, request: BuildRequest) -> None:
        self.engine = engine
        self.loaded = loaded
        self.request = request

    def compile(self) -> TorchRunner:
        """Compile and run once: ``torch.compile`` does its work at the first call."""
        import numpy as np
        import torch
        from torch._dynamo.utils import counters
        from torch._inductor.async_compile import shutdown_compile_workers

        runner = self.runner(self.engine, torch.compile(self.loaded.module), self.loaded, self.request)
        with np.load(Path(self.request.files.folder) / self.request.files.inputs) as archive:
            inputs = {name: archive[name] for name in archive.files}
        with translated("torch.compile failed"):
            runner.bind(inputs).run()
        shutdown_compile_workers()
        graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
        runner.settings |= {"backend": "inductor", "graphs": str(graphs), "graph_breaks": str(breaks)}
        runner.notes = ("compile time includes one inference: torch.compile works at the first call",)
        if breaks:
            reasons = "; ".join(str(reason).splitlines()[0] for reason in list(counters["graph_break"])[:3])
            runner.notes += (f"{breaks} graph breaks, so parts ran eagerly: {reasons}",)
        return runner
