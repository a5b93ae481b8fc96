"""PyTorch ahead of time: AOTInductor makes a package with a library of the network, which runs without Python's torch.

It takes the hub, through :mod:`hwbench.torch_view`, so an ONNX file will do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hwbench.engines.edge import artefact_of_another, installed, require_precision, translated
from hwbench.engines.torch_compile import with_compiler
from hwbench.engines.torch_module import TorchRunner, set_threads, start
from hwbench.protocols import NOT_OFFERED, BuildRequest, LayerProfile, LowerRequest, Tensors
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.measurement import Built
from hwbench.records.memory import RuntimeMemory
from hwbench.records.model import Model, ModelFiles
from hwbench.records.quantization import Lowered

_PACKAGE = "model.pt2"
_BUILT_BEFORE = Missing(code="not_applicable", why="the package was compiled when it was built")
_NO_LAYERS = Missing(
    code=NOT_OFFERED, why="AOTInductor makes one library of the network; torch's profiler counts kernels, not layers"
)
_NO_MEMORY = Missing(code="not_told", why="the weights lie inside the library, and torch does not tell their size")


class TorchAoti:
    """AOTInductor, with weights frozen into the library; compiling takes its time, so it runs only when named."""

    name = "torch-aoti"
    variant_of = "torch-compile"
    schemes = ("fp32", "bf16", "auto")

    start = start

    def installed(self) -> Support:
        return with_compiler(installed("torch", "cpu"), "AOTInductor")

    def supports(self, model: Model, files: ModelFiles, device: Device) -> Support:
        if (other := artefact_of_another(model, self.name)) is not None:
            return other
        if device.kind != "cpu":
            return unsupported("wrong_device", f"this engine runs on the CPU, not on '{device.name}'")
        if files.no_graph is not None:
            return Support(reasons=(files.no_graph,))
        return self.installed() if model.artefact is None else installed("torch", "cpu")

    def precisions(self, device: Device) -> tuple[str, ...]:
        return ("fp32",)

    def load(self, request: BuildRequest) -> AotiSource | AotiPackage:
        set_threads(request)
        if request.model.artefact is None:
            return AotiSource(request)
        require_precision(self.name, request.precision, ("auto",))
        path = Path(request.files.folder) / request.files.runtime_graph
        return AotiPackage(open_package(path, request.streams), request)

    def lower(self, request: LowerRequest) -> Lowered:
        from hwbench.engines.torch_aoti_build import lower

        return lower(request)


class AotiSource:
    """A network as a torch module, still to be compiled."""

    load_phase: Missing | None = None
    compile_phase: Missing | None = None

    def __init__(self, request: BuildRequest) -> None:
        from hwbench.engines.torch_aoti_build import arithmetic_for, read_view

        self.arithmetic = arithmetic_for(request.precision, request.model)
        self.view = read_view(request.files)
        self.request = request

    def compile(self) -> AotiRunner:
        """Compile a package in the scratch folder, and load it."""
        from hwbench.engines.torch_aoti_build import compile_package

        path = self.request.workdir / _PACKAGE
        compile_package(self.view, self.request.model, self.arithmetic, path)
        return AotiRunner(open_package(path, self.request.streams), self.arithmetic, self.request)


class AotiPackage:
    """A package that was built before, loaded."""

    load_phase: Missing | None = None
    compile_phase: Missing | None = _BUILT_BEFORE

    def __init__(self, package: Any, request: BuildRequest) -> None:
        self.package = package
        self.request = request

    def compile(self) -> AotiRunner:
        return AotiRunner(self.package, self.request.model.arithmetic, self.request)


def open_package(path: Path, streams: int) -> Any:
    """Load a package with an instance of the network for each concurrent request.

    Raises:
        EngineError: torch does not take it, or it was compiled for another CPU.
    """
    from hwbench.engines.torch_aoti_build import require_same_isa

    with translated(f"AOTInductor cannot load '{path.name}'"):
        from torch._inductor.package.package import load_package

        require_same_isa(path)
        return load_package(str(path), num_runners=streams)


@dataclass(frozen=True)
class _InOrder:
    """Makes arguments of inputs: by position, in the order of the hub."""

    names: tuple[str, ...]

    def arguments(self, tensors: Tensors) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(tensors[name] for name in self.names), {}


class AotiRunner(TorchRunner):
    """A loaded package."""

    timed_region = "package(...) under torch.inference_mode: tensors in host memory to tensors in host memory"

    def __init__(self, package: Any, arithmetic: str, request: BuildRequest) -> None:
        names = tuple(spec.name for spec in request.model.inputs)
        super().__init__("torch-aoti", package, _InOrder(names), request)
        self.arithmetic = arithmetic
        self.settings = {"compiled_for": package.get_metadata().get("AOTI_CPU_ISA", "not told")}

    def precision(self) -> str:
        return self.arithmetic

    def built(self) -> Built:
        return msgspec.structs.replace(super().built(), layers=_NO_LAYERS)

    def profile_layers(self, inputs: Tensors, iterations: int) -> LayerProfile | Missing:
        return _NO_LAYERS

    def memory(self, inputs: Tensors) -> RuntimeMemory | Missing:
        return _NO_MEMORY
