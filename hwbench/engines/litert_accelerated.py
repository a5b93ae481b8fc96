"""LiteRT's accelerators: the GPU through WebGPU, and vendors' NPU paths, of which Intel's OpenVINO is one.

They are reached through ``CompiledModel``. The GPU's call returns once the work is queued
(https://github.com/google-ai-edge/LiteRT/issues/9453), so an inference here ends when its outputs lie in numpy arrays.
What the accelerators took, they tell in their log alone, which is read from the process's standard error.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwbench.engines.edge import require_built, threads_per_stream, translated
from hwbench.engines.litert import LiteRt, names_in_file
from hwbench.engines.litert_file import FileTensor, TfliteFile, read_tflite
from hwbench.engines.litert_members import members_of
from hwbench.engines.litert_partitions import accelerator_partitions, adapter_in
from hwbench.errors import EngineError
from hwbench.protocols import BuildRequest, LayerProfile, Tensors
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.measurement import Built
from hwbench.records.model import Model, ModelFiles

if TYPE_CHECKING:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.options import Options

_OPENVINO = "2026.3.1"  # what the plugin in ai-edge-litert 2.3 was linked with: libopenvino.so.2631
_GPU, _NPU = "webgpu", "openvino"


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One of LiteRT's accelerators, and what is to be known of it."""

    delegate: str
    unit: str
    options: Callable[[int, bool], Options]  # for a number of CPU threads, and whether fp32 is asked for
    hint: str


def _gpu_options(threads: int, fp32: bool) -> Options:
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.options import CpuOptions, GpuOptions, Options

    both = HardwareAccelerator.GPU | HardwareAccelerator.CPU
    return Options(
        hardware_accelerators=both,
        cpu_options=CpuOptions(num_threads=threads),
        gpu_options=GpuOptions(enforce_f32=fp32),
    )


def _npu_options(threads: int, fp32: bool) -> Options:
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.options import CpuOptions, IntelOpenVinoGraphBackend, IntelOpenVinoOptions, Options

    both = HardwareAccelerator.NPU | HardwareAccelerator.CPU
    return Options(
        hardware_accelerators=both,
        cpu_options=CpuOptions(num_threads=threads),
        intel_openvino_options=IntelOpenVinoOptions(graph_backend=IntelOpenVinoGraphBackend.CPU),
    )


ACCELERATORS = {
    _GPU: Accelerator(
        delegate=_GPU,
        unit="WebGPU",
        options=_gpu_options,
        hint="it needs a GPU with a Vulkan driver: libvulkan.so.1, and VK_ICD_FILENAMES where the driver is not installed",
    ),
    _NPU: Accelerator(
        delegate=_NPU,
        unit="OpenVINO CPU",
        options=_npu_options,
        hint=f"pip install openvino=={_OPENVINO}: LiteRT's plugin takes no other version",
    ),
}


class LiteRtWebGpu(LiteRt):
    """LiteRT's GPU accelerator (ML Drift on WebGPU)."""

    name = "litert-webgpu"
    delegate: ClassVar[str] = _GPU
    offered: ClassVar[tuple[str, ...]] = ("auto", "fp32")
    variant_of = "litert"


class LiteRtOpenVino(LiteRt):
    """LiteRT's NPU path with Intel's plugin, compiled for the CPU."""

    name = "litert-openvino"
    delegate: ClassVar[str] = _NPU
    offered: ClassVar[tuple[str, ...]] = ("auto",)
    variant_of = "litert"

    def installed(self) -> Support:
        return Support(reasons=(*super().installed().reasons, *_openvino().reasons))


def _openvino() -> Support:
    """Say whether the one version of OpenVINO is there that the plugin was linked with."""
    cure = f"pip install openvino=={_OPENVINO} in an environment of its own: hwbench's openvino engine may be newer"
    try:
        found = importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError:
        return unsupported("not_installed", f"LiteRT's Intel plugin needs openvino {_OPENVINO}", cure)
    if found != _OPENVINO:
        return unsupported("other_version", f"LiteRT's Intel plugin needs openvino {_OPENVINO}, here is {found}", cure)
    return Support()


@dataclass
class Log:
    """What was written, once it is over."""

    text: str = ""


@contextlib.contextmanager
def captured_log() -> Iterator[Log]:
    """Collect what the process writes to standard error meanwhile, native code included; then pass it on."""
    log = Log()
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield log
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            raw = file.read()
            log.text = raw.decode(errors="replace")
            os.write(2, raw)


class AcceleratedProgram:
    """A file still to be given to ``CompiledModel``."""

    load_phase: Missing | None = Missing(
        code="not_separate", why="LiteRT's CompiledModel reads and compiles in one call: the time is under compile"
    )
    compile_phase: Missing | None = None

    def __init__(self, engine: str, accelerator: Accelerator, request: BuildRequest) -> None:
        self.engine = engine
        self.accelerator = accelerator
        self.request = request
        self.path = Path(request.files.folder) / request.files.runtime_graph
        self.threads = threads_per_stream(request.threads, request.streams)

    def compile(self) -> AcceleratedRunner:
        file = read_tflite(self.path)
        model, log = self.make(file)
        return AcceleratedRunner(self, file, model, log)

    def make(self, file: TfliteFile) -> tuple[CompiledModel, str]:
        """Compile the file, and return the model and the log of compiling."""
        if self.accelerator.delegate == _NPU:
            with translated("importing openvino"):
                import openvino  # noqa: F401 - LiteRT's plugin finds the library only where it is loaded already
        from ai_edge_litert.compiled_model import CompiledModel

        options = self.accelerator.options(self.threads, self.request.precision == "fp32")
        with captured_log() as log:
            try:
                model = CompiledModel.from_file(str(self.path), options=options)
                self._resize(model, file)
            except Exception as error:  # noqa: BLE001 - whatever the runtime raises, its log has the reason
                failure: Exception | None = error
            else:
                failure = None
        if failure is not None:
            why = _reason(log.text) or " ".join(str(failure).split())
            msg = f"LiteRT's {self.accelerator.unit} accelerator refused the model: {why}"
            raise EngineError(msg, hint=self.accelerator.hint) from failure
        return model, log.text

    def _resize(self, model: CompiledModel, file: TfliteFile) -> None:
        names, _ = names_in_file(self.request.model, file)
        order = ends_of(model, file, "inputs")
        for spec in self.request.model.inputs:
            if spec.shape != file.inputs[names[spec.name]].shape:
                model.resize_input_tensor(order.index(names[spec.name]), spec.shape, file.signature_index)


def ends_of(model: CompiledModel, file: TfliteFile, way: str) -> list[str]:
    """Return the file's names of the ``inputs`` or ``outputs``, in the order of the compiled model's buffers."""
    ends = file.inputs if way == "inputs" else file.outputs
    by_tensor = {tensor.name: name for name, tensor in ends.items()}
    signatures = model.get_signature_list()
    told = list(signatures.values())[file.signature_index][way]
    return [name if name in ends else by_tensor[name] for name in told]


def _reason(log: str) -> str:
    """Return the lines of a log that speak of errors, on one line."""
    lines = [line.partition("] ")[2] or line for line in log.splitlines() if _ERROR.match(line)]
    return "; ".join(dict.fromkeys(lines))[:_LONGEST]


class AcceleratedBound:
    """A compiled model with buffers of its own; ``run`` ends with the outputs in numpy arrays."""

    def __init__(self, model: CompiledModel, file: TfliteFile, names: tuple[dict[str, str], dict[str, str]], specs: Sequence[TensorSpec], inputs: Tensors) -> None:
        index = file.signature_index
        given = model.create_input_buffers(index)
        read = model.create_output_buffers(index)
        for own, buffer in zip(ends_of(model, file, "inputs"), given, strict=True):
            name = next(name for name, found in names[0].items() if found == own)
            if name not in inputs:
                raise EngineError(f"LiteRT asks for an input '{name}', there are: {', '.join(inputs)}")
            buffer.write(np.ascontiguousarray(inputs[name]))
        places = {own: place for place, own in enumerate(ends_of(model, file, "outputs"))}
        plan = [(spec, read[places[names[1][spec.name]]], math.prod(spec.shape), np.dtype(spec.dtype)) for spec in specs]
        self._last: list[np.ndarray[Any, Any]] = []
        self._specs = specs

        def run() -> object:
            model.run_by_index(index, given, read)
            self._last = [buffer.read(count, kind) for _, buffer, count, kind in plan]
            return self._last

        self.run: Callable[[], object] = run

    def outputs(self) -> Tensors:
        return {spec.name: array.reshape(spec.shape) for spec, array in zip(self._specs, self._last, strict=True)}
