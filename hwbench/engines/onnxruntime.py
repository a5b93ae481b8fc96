"""ONNX Runtime on the CPU."""

from __future__ import annotations

import bisect
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.engines.edge import artefact_of_another, installed, require_built, require_precision, translated
from hwbench.engines.onnxruntime_memory import read_memory
from hwbench.errors import EngineError
from hwbench.graph.members import assign_members
from hwbench.protocols import BuildRequest, LayerProfile, Tensors, UnitTimes
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.measurement import Built, BuiltLayer
from hwbench.records.memory import RuntimeMemory
from hwbench.records.model import Model, ModelFiles

if TYPE_CHECKING:
    import onnxruntime as ort

_PROVIDER = "CPUExecutionProvider"
_OPTIMIZED = "optimized.onnx"
_MEMORY_RUNS = 3  # the first decides the pattern by which the others allocate
_KERNEL = "_kernel_time"
_NOT_SEPARATE = Missing(
    code="not_separate", why="ONNX Runtime reads and compiles in one call: the time is under compile"
)
_PRECISIONS = ("fp32", "fp16", "bf16", "fp64", "int8", "auto")  # it computes in what the graph is written in
_INSERTED = {"ReorderInput", "ReorderOutput"}  # they change the layout, under the name of the tensor they change
_ELEMENT = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64", "int8": "int8", "uint8": "int8"}


class OnnxRuntime:
    """``onnxruntime`` with its CPU provider and its own full graph optimisation."""

    name = "onnxruntime"

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


class OnnxRuntimeProgram:
    """A file still to be given to ONNX Runtime."""

    load_phase: Missing | None = _NOT_SEPARATE
    compile_phase: Missing | None = None

    def __init__(self, request: BuildRequest) -> None:
        self.request = request

    def compile(self) -> OnnxRuntimeRunner:
        import onnxruntime as ort

        request = self.request
        options = ort.SessionOptions()
        options.intra_op_num_threads = _intra_op_threads(request)
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        if request.profile_layers:
            options.enable_profiling = True
            options.profile_file_prefix = str(request.workdir / "profile")
            options.optimized_model_filepath = str(request.workdir / _OPTIMIZED)
        path = Path(request.files.folder) / request.files.runtime_graph
        with translated("ONNX Runtime refused the model"):
            session = ort.InferenceSession(str(path), options, providers=[_PROVIDER])
        session.disable_fallback()
        require_built("onnxruntime", request.precision, request.model.arithmetic)
        return OnnxRuntimeRunner(session, request, options)


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

        return Built(
            engine="onnxruntime",
            version=str(ort.__version__),
            precision=self.request.model.arithmetic,
            execution_units=tuple(self.session.get_providers()),
            threads=self.request.streams + self.options.intra_op_num_threads - 1,
            settings={
                "graph_optimization_level": self.options.graph_optimization_level.name,
                "execution_mode": self.options.execution_mode.name,
                "intra_op_num_threads": str(self.options.intra_op_num_threads),
                "inter_op_num_threads": str(self.options.inter_op_num_threads),
                "intra_op_spinning": "runtime default (on)",
            },
            layers=Missing(
                code="not_read", why="ONNX Runtime shows its kernels only while profiling: see the layer table"
            ),
            notes=_notes(self.request.model.arithmetic),
        )

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
        kernels = [event for event in told._events() if _is_kernel(event)]
        told.close()
        return read_memory(kernels, _optimized_graph(workdir / _OPTIMIZED))

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


def read_profile(
    events: list[dict[str, Any]], request: BuildRequest, *, skip: int, end_to_end_s: Sequence[float]
) -> LayerProfile:
    """Read ONNX Runtime's profile: one time per node and run, the first ``skip`` runs left out.

    Node events carry ``<node name>_kernel_time``; a run is the window of a ``model_run`` event, in microseconds. The
    window only tells to which run a node belongs: what the run took is ``end_to_end_s``, timed around it. ONNX
    Runtime stops writing after a million events, so there may be fewer windows than runs.
    """
    runs = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event.get("name") == "model_run")
    runs = runs[skip:]
    if not runs:
        raise EngineError("ONNX Runtime's profile holds no complete run")
    starts = [start for start, _ in runs]
    times: dict[str, list[float]] = {}
    described: dict[str, dict[str, Any]] = {}
    nodes = _optimized_nodes(request.workdir / _OPTIMIZED)
    for event in _outer_kernels(events, nodes):
        run = bisect.bisect_right(starts, event["ts"]) - 1
        if run < 0:
            continue
        name = event["name"].removesuffix(_KERNEL)
        times.setdefault(name, [0.0] * len(runs))[run] += event["dur"] / 1e6
        described.setdefault(name, event["args"])
    anchors = _anchors(nodes, list(times))
    members = assign_members(request.model.layers, request.files.merged, anchors)
    units = tuple(
        UnitTimes(unit=_built_layer(name, described[name], belongs), times_s=tuple(values))
        for (name, values), belongs in zip(times.items(), members, strict=True)
    )
    return LayerProfile(
        units=units,
        end_to_end_s=tuple(end_to_end_s[: len(runs)]),
        method="ONNX Runtime profiler (enable_profiling), kernel times at 1 µs resolution, a session of its own",
    )


def _outer_kernels(events: list[dict[str, Any]], nodes: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yield the kernel times, without those of nodes inside a Loop, If or Scan: the outer node's time holds them."""
    nested = any(attribute.HasField("g") or attribute.graphs for node in nodes for attribute in node.attribute)
    outer = {node.name for node in nodes}
    for event in events:
        if _is_kernel(event) and (not nested or event["name"].removesuffix(_KERNEL) in outer):
            yield event


def _is_kernel(event: Mapping[str, Any]) -> bool:
    return event.get("cat") == "Node" and event["name"].endswith(_KERNEL)


def _built_layer(name: str, details: Mapping[str, Any], members: tuple[str, ...]) -> BuiltLayer:
    outputs = [_ELEMENT.get(kind, kind) for shape in details.get("output_type_shape", []) for kind in shape]
    return BuiltLayer(
        name=name,
        op=details["op_name"],
        members=members,
        kernel=f"{details['provider']}/{details['op_name']}",
        precision=statistics.mode(outputs)
        if outputs
        else Missing(code="not_told", why="the profile gives no output type"),
    )


def _optimized_nodes(path: Path) -> Sequence[Any]:
    """Return the nodes of the graph that ONNX Runtime made of the model, or none where it left no such file."""
    graph = _optimized_graph(path)
    return [] if graph is None else graph.node


def _optimized_graph(path: Path) -> Any:
    import onnx

    return onnx.load(path, load_external_data=False).graph if path.exists() else None


def _anchors(nodes: Sequence[Any], names: list[str]) -> list[list[str]]:
    """Return for each profiled node the source names it may go by.

    Layout transformation names a node ``<tensor>_nchwc`` and renames its outputs; other rewrites keep output names.
    """
    outputs = {node.name: list(node.output) for node in nodes if node.name and node.op_type not in _INSERTED}
    return [[*outputs.get(name, []), name, name.removesuffix("_nchwc")] for name in names]
