"""LiteRT (formerly TensorFlow Lite) on the CPU: ``.tflite`` files, as they are.

Four engines share the files and differ in who runs the nodes. They can stand side by side in one result:

* ``litert``: the XNNPACK delegate, which LiteRT takes by itself, and LiteRT's own kernels for what it leaves;
* ``litert-builtin``: LiteRT's own kernels alone;
* ``litert-webgpu`` and ``litert-openvino``: the accelerators of :mod:`hwbench.engines.litert_accelerated`.

Only the first runs unasked. An artefact's ``settings["delegate"]`` makes it take another of the four.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from hwbench.engines.edge import artefact_of_another, installed, require_precision, translated
from hwbench.engines.litert_accelerated import ACCELERATORS, NPU, OPENVINO, WEBGPU, AcceleratedProgram
from hwbench.engines.litert_describe import describe
from hwbench.engines.litert_interpreter import BUILTIN, XNNPACK, InterpreterProgram
from hwbench.engines.litert_kinds import SCHEMES
from hwbench.errors import EngineError
from hwbench.protocols import NEEDS_ARTEFACT, ArtefactFacts, BuildRequest, LowerRequest
from hwbench.records.base import Support, unsupported
from hwbench.records.device import Device
from hwbench.records.model import Model, ModelFiles
from hwbench.records.quantization import Lowered

_ENGINE = "litert"  # the one that artefacts name


class LiteRt:
    """``ai-edge-litert`` with its default delegate, XNNPACK."""

    name = _ENGINE
    delegate: ClassVar[str] = XNNPACK
    offered: ClassVar[tuple[str, ...]] = ("auto", "fp32", "fp16", "int8", "int8-dynamic", "int16")  # by the file
    suffixes: tuple[str, ...] = (".tflite",)
    schemes: tuple[str, ...] = SCHEMES

    def installed(self) -> Support:
        return installed("ai-edge-litert", "mobile")

    def supports(self, model: Model, files: ModelFiles, device: Device) -> Support:
        if device.kind != "cpu":
            return unsupported("wrong_device", f"this engine runs on the CPU, not on '{device.name}'")
        if model.artefact is None:
            cure = f"hwbench build --engine {_ENGINE}, and name the bundle; or name a .tflite file"
            return unsupported(NEEDS_ARTEFACT, "LiteRT runs .tflite files, and this model is none", cure)
        return artefact_of_another(model, _ENGINE) or self.installed()

    def precisions(self, device: Device) -> tuple[str, ...]:
        """``auto`` alone: the file says in what each node computes."""
        return ("auto",)

    def start(self) -> str:
        with translated("importing ai_edge_litert"):
            import ai_edge_litert
        return str(ai_edge_litert.__version__)

    def load(self, request: BuildRequest) -> InterpreterProgram | AcceleratedProgram:
        require_precision(self.name, request.precision, self.offered)
        artefact = request.model.artefact
        delegate = self.delegate
        if self.name == _ENGINE and artefact is not None:
            delegate = artefact.settings.get("delegate", delegate)
        return _program(self.name, delegate, request)

    def lower(self, request: LowerRequest) -> Lowered:
        from hwbench.engines.litert_lower import lower

        return lower(request)

    def describe(self, path: Path, shapes: Mapping[str, tuple[int, ...]], batch_size: int | None) -> ArtefactFacts:
        return describe(path, shapes, batch_size)


class LiteRtBuiltin(LiteRt):
    """LiteRT's own kernels, with no delegate."""

    name = "litert-builtin"
    delegate = BUILTIN
    variant_of = _ENGINE


class LiteRtWebGpu(LiteRt):
    """LiteRT's GPU accelerator (ML Drift on WebGPU)."""

    name = "litert-webgpu"
    delegate: ClassVar[str] = WEBGPU
    offered: ClassVar[tuple[str, ...]] = ("auto", "fp32")
    variant_of = _ENGINE


class LiteRtOpenVino(LiteRt):
    """LiteRT's NPU path with Intel's plugin, compiled for the CPU."""

    name = "litert-openvino"
    delegate: ClassVar[str] = NPU
    offered: ClassVar[tuple[str, ...]] = ("auto",)
    variant_of = _ENGINE

    def installed(self) -> Support:
        return Support(reasons=(*super().installed().reasons, *_openvino().reasons))


def _openvino() -> Support:
    """Say whether the one version of OpenVINO is there that the plugin was linked with."""
    cure = f"pip install openvino=={OPENVINO} in an environment of its own: hwbench's openvino engine may be newer"
    try:
        found = importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError:
        return unsupported("not_installed", f"LiteRT's Intel plugin needs openvino {OPENVINO}", cure)
    if found != OPENVINO:
        return unsupported("other_version", f"LiteRT's Intel plugin needs openvino {OPENVINO}, here is {found}", cure)
    return Support()


def _program(engine: str, delegate: str, request: BuildRequest) -> InterpreterProgram | AcceleratedProgram:
    if delegate in {XNNPACK, BUILTIN}:
        return InterpreterProgram(engine, delegate, request)
    if delegate not in ACCELERATORS:
        msg = f"there is no LiteRT delegate '{delegate}'"
        raise EngineError(msg, hint=f"there are: {XNNPACK}, {BUILTIN}, {', '.join(ACCELERATORS)}")
    return AcceleratedProgram(engine, ACCELERATORS[delegate], request)
