"""LiteRT's accelerators: the GPU through WebGPU, and vendors' NPU paths, of which Intel's OpenVINO is one.

They are reached through ``CompiledModel``. The GPU's call returns once the work is queued
(https://github.com/google-ai-edge/LiteRT/issues/9453), so an inference here ends when its outputs lie in numpy arrays.
What the accelerators took, they tell in their log alone, which is read from the process's standard error.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench.engines.edge import threads_per_stream, translated
from hwbench.engines.litert_ends import BufferedModel, names_in_file, order_of
from hwbench.engines.litert_file import TfliteFile, read_tflite
from hwbench.engines.litert_members import members_of
from hwbench.engines.litert_partitions import Adapter, accelerator_partitions, adapter_in, taken_by_accelerator
from hwbench.errors import EngineError
from hwbench.protocols import NOT_OFFERED, BuildRequest, LayerProfile, Tensors
from hwbench.records.base import Missing
from hwbench.records.measurement import Built

if TYPE_CHECKING:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.options import Options

OPENVINO = "2026.3.1"  # what the plugin in ai-edge-litert 2.3 was linked with: libopenvino.so.2631
WEBGPU, NPU = "webgpu", "openvino"
_ERROR = re.compile(r"(ERROR|E\d{4}|F\d{4}|WARNING: \[compiled_model|└ Could not|Warning: Couldn't)")
_LONGEST = 500
_FRONTEND = "libopenvino_tensorflow_lite_frontend.so.*"
_NO_LAYERS = Missing(code=NOT_OFFERED, why="LiteRT's accelerators offer no times of single nodes")


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One of LiteRT's accelerators, and what is to be known of it."""

    delegate: str
    unit: str
    options: Callable[[int, bool], Options]  # for a number of CPU threads, and whether fp32 is asked for
    hint: str
    threads: Missing | None = None  # why it does not keep to the number that it is given


def _gpu_options(threads: int, fp32: bool) -> Options:
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.options import CpuOptions, GpuOptions, Options

    both = HardwareAccelerator.GPU | HardwareAccelerator.CPU
    return Options(
        hardware_accelerators=both,
        cpu_options=CpuOptions(num_threads=threads),
        gpu_options=GpuOptions(enforce_f32=fp32),
    )


def _npu_options(threads: int, _fp32: bool) -> Options:
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.options import CpuOptions, IntelOpenVinoGraphBackend, IntelOpenVinoOptions, Options

    both = HardwareAccelerator.NPU | HardwareAccelerator.CPU
    return Options(
        hardware_accelerators=both,
        cpu_options=CpuOptions(num_threads=threads),
        intel_openvino_options=IntelOpenVinoOptions(graph_backend=IntelOpenVinoGraphBackend.CPU),
    )


ACCELERATORS = {
    WEBGPU: Accelerator(
        delegate=WEBGPU,
        unit="WebGPU",
        options=_gpu_options,
        hint="it needs a GPU with a Vulkan driver: libvulkan.so.1, and VK_ICD_FILENAMES where none is installed",
    ),
    NPU: Accelerator(
        delegate=NPU,
        unit="OpenVINO CPU",
        options=_npu_options,
        hint=f"pip install openvino=={OPENVINO}: LiteRT's plugin takes no other version",
        threads=Missing(
            code="not_told",
            why="LiteRT's Intel plugin takes as many threads as OpenVINO likes, INFERENCE_NUM_THREADS or not",
        ),
    ),
}


def _load_openvino() -> None:
    """Load OpenVINO's libraries: LiteRT's plugin finds them only where the process has them already."""
    with translated("loading openvino"):
        import openvino

        for library in sorted((Path(openvino.__file__).parent / "libs").glob(_FRONTEND)):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


class Log:
    """What the process writes to standard error while it is captured, native code included; it is passed on after."""

    def __init__(self) -> None:
        self.text = ""

    @contextlib.contextmanager
    def captured(self) -> Iterator[None]:
        """Capture while the body runs; ``text`` is there once it has ended, however it ended."""
        sys.stderr.flush()
        before = os.dup(2)
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(before, 2)
                os.close(before)
                file.seek(0)
                raw = file.read()
                self.text = raw.decode(errors="replace")
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
        if self.accelerator.delegate == NPU:
            _load_openvino()
        from ai_edge_litert.compiled_model import CompiledModel

        options = self.accelerator.options(self.threads, self.request.precision == "fp32")
        log = Log()
        try:
            with log.captured():
                model = CompiledModel.from_file(str(self.path), options=options)
                self._resize(model, file)
        except Exception as error:
            why = _reason(log.text) or " ".join(str(error).split())
            msg = f"LiteRT's {self.accelerator.unit} accelerator refused the model: {why}"
            raise EngineError(msg, hint=self.accelerator.hint) from error
        if not taken_by_accelerator(log.text, len(file.nodes)):  # then LiteRT runs all of it on the CPU, and is silent
            why = _reason(log.text) or "its log names no node that it took"
            msg = f"LiteRT's {self.accelerator.unit} accelerator took no node of the model: {why}"
            raise EngineError(msg, hint=self.accelerator.hint)
        return model, log.text

    def _resize(self, model: CompiledModel, file: TfliteFile) -> None:
        names, _ = names_in_file(self.request.model, file)
        order = order_of(model, file, "inputs")
        for spec in self.request.model.inputs:
            if spec.shape != file.inputs[names[spec.name]].shape:
                model.resize_input_tensor(order.index(names[spec.name]), spec.shape, file.signature_index)


@dataclass(kw_only=True)
class AcceleratedBound:
    """A compiled model with its inputs written."""

    run: Callable[[], object]
    buffers: BufferedModel

    def outputs(self) -> Tensors:
        return self.buffers.outputs()


class AcceleratedRunner:
    """A compiled file; each bound executable is a compiled model of its own."""

    timed_region = "CompiledModel.run_by_index and reading: inputs in the runtime's buffers to outputs in numpy arrays"

    def __init__(self, program: AcceleratedProgram, file: TfliteFile, model: CompiledModel, log: str) -> None:
        self.program = program
        self.request = program.request
        self.file = file
        self.members = members_of(file, self.request.model, self.request.files)
        self.ready = [model]
        self.log = log

    def bind(self, inputs: Tensors) -> AcceleratedBound:
        model = self.ready.pop() if self.ready else self.program.make(self.file)[0]
        with translated("LiteRT refused the inputs"):
            buffers = BufferedModel(model, self.file, self.request.model, inputs)
        weakref.finalize(buffers, self.ready.append, model).atexit = False  # to be used again: making one is slow
        return AcceleratedBound(run=buffers.run, buffers=buffers)

    def built(self) -> Built:
        import ai_edge_litert

        accelerator, adapter = self.program.accelerator, adapter_in(self.log)
        settings = {"delegate": accelerator.delegate, "num_threads": str(self.program.threads)}
        if adapter is not None:
            settings |= {"adapter": adapter.name, "adapter_type": "software" if adapter.software else adapter.kind}
        taken = taken_by_accelerator(self.log, len(self.file.nodes))
        parts = accelerator_partitions(accelerator.unit, taken, self.log, self.file.nodes, self.members.layers)
        unit = accelerator.unit if adapter is None else f"{accelerator.unit}: {adapter.name}"
        return Built(
            engine=self.program.engine,
            version=str(ai_edge_litert.__version__),
            precision=self.request.precision,
            execution_units=(unit, "LiteRT CPU") if parts.left else (unit,),
            threads=accelerator.threads or self.program.threads * self.request.streams,
            settings=settings,
            layers=_NO_LAYERS,
            notes=_notes(self.request.precision, adapter),
            partitions=parts,
        )

    def profile_layers(self, inputs: Tensors, iterations: int) -> LayerProfile | Missing:
        return _NO_LAYERS

    def close(self) -> None:
        self.ready.clear()


def _notes(precision: str, adapter: Adapter | None) -> tuple[str, ...]:
    notes = []
    if precision == "auto":
        notes.append("in what the accelerator computes, it does not tell")
    if adapter is not None and adapter.software:
        notes.append(f"{adapter.name} is a CPU that plays a GPU: outputs and partitions hold, times mean nothing")
    return tuple(notes)


def _reason(log: str) -> str:
    """Return the lines of a log that speak of errors, on one line."""
    lines = [line.partition("] ")[2] or line for line in log.splitlines() if _ERROR.match(line)]
    return "; ".join(dict.fromkeys(lines))[:_LONGEST]
