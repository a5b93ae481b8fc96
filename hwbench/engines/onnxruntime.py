"""ONNX Runtime on the CPU."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.engines.edge import artefact_of_another, installed, require_built, require_precision, translated
from hwbench.engines.onnxruntime_memory import read_memory
from hwbench.engines.onnxruntime_profile import OPTIMISED, is_kernel, read_profile
from hwbench.engines.onnxruntime_units import executed_precision, optimised_graph, units_of
from hwbench.errors import EngineError
from hwbench.protocols import BuildRequest, LayerProfile, LowerRequest, Tensors
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.measurement import Built, BuiltLayer
from hwbench.records.memory import RuntimeMemory
from hwbench.records.model import Model, ModelFiles
from hwbench.records.quantization import Lowered

if TYPE_CHECKING:
    import onnxruntime as ort

_PROVIDER = "CPUExecutionProvider"
_MEMORY_RUNS = 3  # the first decides the pattern by which the others allocate
_NOT_SEPARATE = Missing(
    code="not_separate", why="ONNX Runtime reads and compiles in one call: the time is under compile"
)
_PRECISIONS = ("fp32", "fp16", "bf16", "fp64", "int8", "auto")  # it computes in what the graph is written in
_LEVEL = "graph_optimization_level"
_ENTRIES = ("session.", "optimization.")  # how the entries of a session's configuration begin
_SCHEMES = ("fp32", "auto", "int8", "int8-dynamic", "int8-weights", "int4-weights")
_NOT_READ = Missing(code="not_read", why="ONNX Runtime shows its kernels only while profiling: see the layer table")


class OnnxRuntime:
    """``onnxruntime`` with its CPU provider and its own full graph optimisation."""

    name = "onnxruntime"
    schemes = _SCHEMES

    def installed(self) -> Support:
        return installed("onnxruntime", "cpu")

    def supports(self, model: Model, files: ModelFiles, device: Device) -> Support:
        if (other := artefact_of_another(model, self.name)) is not None:
            return other
        if device.kind != "cpu":
            return unsupported("wrong_device", f"this engine runs on the CPU, not on '{device.name}'")
        if files.no_graph is not None:
            return Support(reasons=(files.no_graph,))
        return self.installed()

    def precisions(self, device: Device) -> tuple[str, ...]:
        return ("fp32",)

    def start(self) -> str:
        with translated("importing onnxruntime"):
            import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        return str(onnxruntime.__version__)

    def load(self, request: BuildRequest) -> OnnxRuntimeProgram:
        require_precision(self.name, request.precision, _PRECISIONS)
        return OnnxRuntimeProgram(request)

    def show_layers(self, model: Model, files: ModelFiles, folder: Path) -> tuple[Model, ModelFiles]:
        from hwbench.engines.onnxruntime_lower import show_layers

        return show_layers(model, files, folder)

    def lower(self, request: LowerRequest) -> Lowered:
        from hwbench.engines.onnxruntime_lower import lower

        return lower(request)


class OnnxRuntimeProgram:
    """A file still to be given to ONNX Runtime."""

    load_phase: Missing | None = _NOT_SEPARATE
    compile_phase: Missing | None = None

    def __init__(self, request: BuildRequest) -> None:
        self.request = request

    def compile(self) -> OnnxRuntimeRunner:
        request = self.request
        options = session_options(request)
        if request.profile_layers:
            options.enable_profiling = True
            options.profile_file_prefix = str(request.workdir / "profile")
            options.optimized_model_filepath = str(request.workdir / OPTIMISED)
        session = open_session(request, options)
        require_built("onnxruntime", request.precision, request.model.arithmetic)
        return OnnxRuntimeRunner(session, request, options)


def session_options(request: BuildRequest) -> ort.SessionOptions:
    """Return the options of a build: hwbench's own, and over them what an artefact was saved with."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = _intra_op_threads(request)
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    artefact = request.model.artefact
    for key, value in ({} if artefact is None else artefact.settings).items():
        if key == _LEVEL and value in ort.GraphOptimizationLevel.__members__:
            options.graph_optimization_level = ort.GraphOptimizationLevel.__members__[value]
        elif key.startswith(_ENTRIES):
            options.add_session_config_entry(key, value)
        else:
            raise EngineError(f"ONNX Runtime has no setting '{key}' with the value '{value}'")
    return options


def open_session(request: BuildRequest, options: ort.SessionOptions) -> ort.InferenceSession:
    """Give the file to ONNX Runtime."""
    import onnxruntime as ort

    path = Path(request.files.folder) / request.files.runtime_graph
    with translated("ONNX Runtime refused the model"):
        session = ort.InferenceSession(str(path), options, providers=[_PROVIDER])
    session.disable_fallback()
    return session


@dataclass(kw_only=True)
class OnnxRuntimeBound:
    """A session with its feeds."""

    run: Callable[[], object]
    names: list[str]

    def outputs(self) -> Tensors:
        results: Any = self.run()
        return dict(zip(self.names, results, strict=True))


class OnnxRuntimeRunner:
    """An ONNX Runtime session."""

    timed_region = "InferenceSession.run: numpy inputs in host memory to numpy outputs in host memory"

    def __init__(self, session: ort.InferenceSession, request: BuildRequest, options: ort.SessionOptions) -> None:
        self.session = session
        self.request = request
        self.options = options

    def bind(self, inputs: Tensors) -> OnnxRuntimeBound:
        session_run = self.session.run
        feeds = dict(inputs)

        def run() -> object:
            return session_run(None, feeds)

        return OnnxRuntimeBound(run=run, names=[output.name for output in self.session.get_outputs()])

    def built(self) -> Built:
        import onnxruntime as ort

        model = self.request.model
        layers = _NOT_READ if model.artefact is None else self._units()
        told = None if isinstance(layers, Missing) else executed_precision(layers, model.layers)
        artefact_settings = {} if model.artefact is None else model.artefact.settings
        return Built(
            engine="onnxruntime",
            version=str(ort.__version__),
            precision=told or model.arithmetic,
            execution_units=tuple(self.session.get_providers()),
            threads=self.request.streams + self.options.intra_op_num_threads - 1,
            settings={
                **artefact_settings,
                _LEVEL: self.options.graph_optimization_level.name,
                "execution_mode": self.options.execution_mode.name,
                "intra_op_num_threads": str(self.options.intra_op_num_threads),
                "inter_op_num_threads": str(self.options.inter_op_num_threads),
                "intra_op_spinning": "runtime default (on)",
            },
            layers=layers,
            notes=() if told else _notes(model.arithmetic),
        )

    def _units(self) -> tuple[BuiltLayer, ...] | Missing:
        """Read what runs from the optimised graph of one more session, made when all timing is over."""
        path = self.request.workdir / OPTIMISED
        if not self.request.profile_layers:
            options = session_options(self.request)
            options.optimized_model_filepath = str(path)
            open_session(self.request, options)
        graph = optimised_graph(path)
        return _NOT_READ if graph is None else units_of(graph, self.request.model.layers, self.request.files.merged)

    def profile_layers(self, inputs: Tensors, iterations: int) -> LayerProfile | Missing:
        bound = self.bind(inputs)
        warmup = max(3, iterations // 5)
        for _ in range(warmup):
            bound.run()
        end_to_end: list[float] = []
        for _ in range(iterations):
            start = time.perf_counter_ns()
            bound.run()
            end_to_end.append((time.perf_counter_ns() - start) / 1e9)
        return read_profile(self._events(), self.request, skip=warmup, end_to_end_s=end_to_end)

    def memory(self, inputs: Tensors) -> RuntimeMemory | Missing:
        """Ask a session of its own, made for it: only a profile tells."""
        workdir = self.request.workdir / "memory"
        workdir.mkdir(exist_ok=True)
        told = OnnxRuntimeProgram(replace(self.request, profile_layers=True, workdir=workdir)).compile()
        bound = told.bind(inputs)
        for _ in range(_MEMORY_RUNS):
            bound.run()
        kernels = [event for event in told._events() if is_kernel(event)]
        told.close()
        return read_memory(kernels, optimised_graph(workdir / OPTIMISED))

    def _events(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = json.loads(Path(self.session.end_profiling()).read_bytes())
        return events

    def close(self) -> None:
        with contextlib.suppress(AttributeError):  # closed before
            del self.session


def _intra_op_threads(request: BuildRequest) -> int:
    """Return the size to give the session's thread pool.

    A session has one pool, whatever the number of concurrent ``run`` calls: n counts the caller as one of them and
    starts n - 1. So ``streams`` callers and that pool together make ``threads``.
    """
    return max(1, request.threads - request.streams + 1)


def _notes(arithmetic: str) -> tuple[str, ...]:
    if arithmetic == "fp32":
        return ()
    return (
        f"{arithmetic} is what the graph asks for: in what ONNX Runtime's kernels compute is seen only in the layer "
        "table",
    )
