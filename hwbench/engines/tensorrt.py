"""TensorRT and TensorRT-RTX on NVIDIA GPUs.

Two engines of one make. ``tensorrt`` builds on the device that is to run the plan, from JetPack's 8.5 to 11.x.
``tensorrt-rtx`` is NVIDIA's runtime for GeForce RTX cards: it builds without a GPU, so ``hwbench build --device
nvidia-rtx-4090 -e tensorrt-rtx`` makes a deployable engine anywhere.

=============================================  =========================================================
:mod:`hwbench.engines.tensorrt_lower`          the network as a typed ONNX graph, by the precision plan
:mod:`hwbench.engines.tensorrt_save`           that graph built, and what lies beside the plan
:mod:`hwbench.engines.tensorrt_build`          one build, through :mod:`hwbench.engines.tensorrt_api`
:mod:`hwbench.engines.tensorrt_inspect`        what was built: layers, kernels, types
:mod:`hwbench.engines.tensorrt_program`        a plan loaded and run
:mod:`hwbench.engines.tensorrt_place`          for which GPU; why one that was built cannot run here
=============================================  =========================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hwbench.engines.edge import artefact_of_another, require_precision
from hwbench.engines.tensorrt_api import api, installed
from hwbench.engines.tensorrt_example import run_example
from hwbench.engines.tensorrt_options import DESCRIPTIONS, RTX_DESCRIPTIONS
from hwbench.engines.tensorrt_place import why_not
from hwbench.protocols import ArtefactFacts, BuildRequest, LowerRequest
from hwbench.quantize.nvidia import RTX_TARGETS, Flavour, capability_of, named
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.bundle import Manifest
from hwbench.records.device import Device
from hwbench.records.model import Model, ModelFiles
from hwbench.records.quantization import Lowered, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

    from hwbench.engines.tensorrt_program import PlanProgram, SourceProgram

_FLOATING = ("fp32", "tf32", "fp16", "bf16")  # what a network without ranges can be run in


class TensorRt:
    """TensorRT, on the device that is to run what it builds."""

    name = "tensorrt"
    flavour: ClassVar[Flavour] = "tensorrt"
    schemes: tuple[str, ...] = ("fp32", "tf32", "fp16", "bf16", "auto", "int8", "fp8", "int4-weights")
    reads_ranges_of: tuple[str, ...] = ("auto", "fp16")
    suffixes: tuple[str, ...] = (".engine", ".plan", ".trt")
    options: Mapping[str, str] = DESCRIPTIONS
    takes_kernels = True
    one_of: tuple[Scheme, ...] = ("int8", "fp8")

    def layer_schemes(self, model: ir.Model, device: Device) -> Mapping[str, Mapping[Scheme, Missing | None]] | Missing:
        from hwbench.engines.tensorrt_legal import offered

        capability = device.gpu.compute_capability if device.gpu is not None else None
        if not isinstance(capability, str):
            return _untold(device)
        return offered(model.graph, capability_of(capability), self.flavour)

    def installed(self) -> Support:
        return installed(self.flavour)

    def supports(self, model: Model, files: ModelFiles, device: Device) -> Support:
        if (other := artefact_of_another(model, self.name)) is not None:
            return other
        support = why_not(device, model.artefact, self.flavour)
        if support.usable and files.no_graph is not None:
            return Support(reasons=(files.no_graph,))
        return support

    def builds_for(self, device: Device) -> Support:
        if device.kind not in {"nvidia", "jetson"}:
            return why_not(device, None, self.flavour)
        jetson = device.kind == "jetson"
        where = "on the Jetson itself, with JetPack's own TensorRT" if jetson else "on the device itself"
        rtx = "; for GeForce RTX cards -e tensorrt-rtx builds anywhere" if device.kind == "nvidia" else ""
        return unsupported(
            "not_attached",
            f"TensorRT times kernels on the GPU while it builds, and '{device.name}' is not attached",
            f"run hwbench build {where}{rtx}: docs/nvidia.md",
        )

    def precisions(self, device: Device) -> tuple[str, ...]:
        """fp32 for what was trained in it, and fp16, which every GPU that TensorRT runs on is made for."""
        return ("fp32", "fp16")

    def start(self) -> str:
        """Look for a driver before anything else: without one TensorRT crashes the process instead of failing."""
        from hwbench.cuda.driver import require_driver
        from hwbench.engines.tensorrt_api import needed_cuda

        require_driver(needed_cuda(self.flavour))
        return api(self.flavour).text

    def load(self, request: BuildRequest) -> PlanProgram | SourceProgram:
        from hwbench.engines.tensorrt_program import PlanProgram, SourceProgram

        if request.model.artefact is not None:
            require_precision(self.name, request.precision, ("auto",))
            return PlanProgram(self.flavour, request)
        require_precision(self.name, request.precision, (*_FLOATING, "auto"))
        return SourceProgram(self.flavour, request)

    def lower(self, request: LowerRequest) -> Lowered:
        from hwbench.engines.tensorrt_save import lower

        return lower(request, self.flavour)

    def describe(self, path: Path, shapes: Mapping[str, tuple[int, ...]], batch_size: int | None) -> ArtefactFacts:
        from hwbench.engines.tensorrt_describe import describe

        return describe(path, shapes, batch_size, self.flavour)

    def run_example(self, manifest: Manifest) -> str | Missing:
        return run_example(manifest, self.flavour)


class TensorRtRtx(TensorRt):
    """TensorRT-RTX: plans for GeForce RTX and RTX PRO cards, built on any machine."""

    name = "tensorrt-rtx"
    flavour = "tensorrt-rtx"
    schemes = (*TensorRt.schemes, "int8-weights")
    suffixes = (".rtx",)
    options = RTX_DESCRIPTIONS
    takes_kernels = False
    one_of = ()

    def builds_for(self, device: Device) -> Support:
        if device.kind != "nvidia":
            return why_not(device, None, self.flavour)
        support = self.installed()
        capability = device.gpu.compute_capability if device.gpu is not None else None
        if not support.usable:
            return support
        if not isinstance(capability, str):
            return Support(reasons=(_untold(device),))
        if capability_of(capability) not in RTX_TARGETS:
            targets = ", ".join(named(target) for target in RTX_TARGETS)
            why = f"{device.title} has {capability}, and TensorRT-RTX builds for {targets}"
            return unsupported("other_gpu", f"compute capability: {why}", "-e tensorrt, on the device itself")
        return support

    def start(self) -> str:
        """Import it; its builder needs no driver, and its runtime looks for one itself when a plan is loaded."""
        return api(self.flavour).text


def _untold(device: Device) -> Missing:
    return Missing(
        code="no_compute_capability",
        why=f"the profile of '{device.name}' tells no compute capability, and a plan is built for one",
        cure=f"add compute_capability to profiles/{device.name}.toml",
    )
