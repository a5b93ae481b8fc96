"""PyTorch ahead of time: AOTInductor makes a package with a library of the network, which runs without Python's torch.

It takes the hub, through :mod:`hwbench.torch_view`, so an ONNX file will do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hwbench.engines.edge import artefact_of_another, installed, require_precision, translated
from hwbench.engines.torch_compile import with_compiler, with_triton
from hwbench.engines.torch_module import Placed, TorchRunner, set_threads, start
from hwbench.engines.torch_place import OnGpu, OnHost, place, precisions_on, runs_on
from hwbench.protocols import NOT_OFFERED, BuildRequest, LayerProfile, LowerRequest, Tensors
from hwbench.records.base import Missing, Support
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
    schemes = ("fp32", "tf32", "fp16", "bf16", "auto")  # tf32 and fp16 on GPUs alone

    start = start

    def installed(self) -> Support:
        return with_compiler(installed("torch", "cpu"), "AOTInductor")

    def supports(self, model: Model, files: ModelFiles, device: Device) -> Support:
        if (other := artefact_of_another(model, self.name)) is not None:
            return other
        if files.no_graph is not None:
            return Support(reasons=(files.no_graph,))
        found = self.installed() if model.artefact is None else installed("torch", "cpu")
        found = runs_on(self.name, device) if found.usable else found
        return with_triton(found, device) if model.artefact is None else found

    def precisions(self, device: Device) -> tuple[str, ...]:
        return precisions_on(device)

    def load(self, request: BuildRequest) -> AotiSource | AotiPackage:
        set_threads(request)
        if request.model.artefact is None:
            return AotiSource(request, AotiRunner)
        require_precision(self.name, request.precision, ("auto",))
        path = Path(request.files.folder) / request.files.runtime_graph
        arithmetic = request.model.arithmetic
        where: OnHost | OnGpu = place(request.device, arithmetic, arithmetic, self.name)
        return AotiPackage(open_package(path, where, request.streams), where, request)

    def lower(self, request: LowerRequest) -> Lowered:
        from hwbench.engines.torch_aoti_build import lower

        return lower(request)


class AotiSource:
    """A network as a torch module, still to be compiled."""

    load_phase: Missing | None = None
    compile_phase: Missing | None = None

    def __init__(self, request: BuildRequest, runner: type[AotiRunner]) -> None:
        from hwbench.engines.torch_aoti_build import arithmetic_for, read_view

        self.runner = runner
        self.arithmetic = arithmetic_for(request.precision, request.model, request.device)
        self.place = place(request.device, self.arithmetic, self.arithmetic, runner.name)
        self.view = read_view(request.files)
        self.request = request

    def compile(self) -> AotiRunner:
        """Compile a package in the scratch folder, and load it."""
        from hwbench.engines.torch_aoti_build import compile_package

        path = self.request.workdir / _PACKAGE
        compile_package(self.view, self.request.model, self.arithmetic, self.place, path)
        package = open_package(path, self.place, self.request.streams)
        return self.runner(package, self.arithmetic, self.place, self.request)


class AotiPackage:
    """A package that was built before, loaded."""

    load_phase: Missing | None = None
    compile_phase: Missing | None = _BUILT_BEFORE

    def __init__(self, package: Any, where: OnHost | OnGpu, request: BuildRequest) -> None:
        self.package = package
        self.place = where
        self.request = request

    def compile(self) -> AotiRunner:
        return AotiRunner(self.package, self.request.model.arithmetic, self.place, self.request)


def open_package(path: Path, where: OnHost | OnGpu, streams: int) -> Any:
    """Load a package with an instance of the network for each concurrent request.

    Raises:
        EngineError: torch does not take it, or it was compiled for another CPU or GPU.
    """
    from hwbench.engines.torch_aoti_check import require_same_machine

    with translated(f"AOTInductor cannot load '{path.name}'"):
        from torch._inductor.package.package import load_package

        require_same_machine(path, where)
        return load_package(str(path), num_runners=streams, device_index=-1 if where.index is None else where.index)


@dataclass(frozen=True)
class InOrder:
    """Makes arguments of inputs: by position, in the order of the hub."""

    names: tuple[str, ...]

    def arguments(self, tensors: Tensors) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(tensors[name] for name in self.names), {}


class AotiRunner(TorchRunner):
    """A loaded package; ``name``: of the engine that runs it."""

    name = "torch-aoti"

    def __init__(self, package: Any, arithmetic: str, where: OnHost | OnGpu, request: BuildRequest) -> None:
        in_order = InOrder(tuple(spec.name for spec in request.model.inputs))
        placed = Placed(module=package, place=where, own=arithmetic, arguments=in_order.arguments)
        super().__init__(self.name, package, placed, request)
        self.arithmetic = arithmetic
        told = package.get_metadata()
        compiled_for = f"sm_{told.get('AOTI_COMPUTE_CAPABILITY', '?')}" if where.index is not None else None
        self.settings = {"compiled_for": compiled_for or told.get("AOTI_CPU_ISA", "not told")}

    @property
    def timed_region(self) -> str:
        return f"package(...) under torch.inference_mode: {self.place.region}"

    def precision(self) -> str:
        return self.arithmetic

    def built(self) -> Built:
        return msgspec.structs.replace(super().built(), layers=_NO_LAYERS)

    def profile_layers(self, inputs: Tensors, iterations: int) -> LayerProfile | Missing:
        return _NO_LAYERS

    def memory(self, inputs: Tensors) -> RuntimeMemory | Missing:
        return _NO_MEMORY
