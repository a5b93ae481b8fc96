"""OpenVINO on the CPU."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.engines.edge import artefact_of_another, installed, require_built, require_precision, translated
from hwbench.engines.openvino_artefact import name_of, read_model, show_layers
from hwbench.engines.openvino_units import constant_bytes, dominant, hint_of, text_of, units_of
from hwbench.errors import EngineError
from hwbench.protocols import ArtefactFacts, BuildRequest, LayerProfile, LowerRequest, Tensors, UnitTimes
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.measurement import Built, BuiltLayer
from hwbench.records.memory import RuntimeMemory
from hwbench.records.model import Model, ModelFiles
from hwbench.records.quantization import Lowered

if TYPE_CHECKING:
    import openvino as ov

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": None, "auto": None}
_NO_STATISTICS = Missing(
    code="not_told", why="OpenVINO's CPU plugin has no memory statistics: no property of it tells (its GPU plugin's do)"
)
_MICROSECOND = timedelta(microseconds=1)
_BF16_ISA = {"avx512_bf16", "amx_bf16"}
_REPORTED = (
    "PERFORMANCE_HINT", "NUM_STREAMS", "INFERENCE_NUM_THREADS", "INFERENCE_PRECISION_HINT", "EXECUTION_MODE_HINT",
    "ENABLE_CPU_PINNING", "ENABLE_HYPER_THREADING", "SCHEDULING_CORE_TYPE", "DYNAMIC_QUANTIZATION_GROUP_SIZE",
)  # fmt: skip


class OpenVino:
    """``openvino`` with its CPU plugin."""

    name = "openvino"
    schemes = ("fp32", "bf16", "fp16", "auto", "int8", "int8-dynamic", "int8-weights", "int4-weights")
    suffixes = (".xml",)

    def installed(self) -> Support:
        return installed("openvino", "cpu")

    def supports(self, model: Model, files: ModelFiles, device: Device) -> Support:
        if (other := artefact_of_another(model, self.name)) is not None:
            return other
        if device.kind != "cpu":
            return unsupported("wrong_device", f"this engine runs on the CPU, not on '{device.name}'")
        if files.no_graph is not None:
            return Support(reasons=(files.no_graph,))
        return self.installed()

    def precisions(self, device: Device) -> tuple[str, ...]:
        """``auto`` beside fp32 where the CPU has bf16 arithmetic: there OpenVINO leaves fp32 unless told not to."""
        has_bf16 = device.cpu is not None and _BF16_ISA & set(device.cpu.isa)
        return ("fp32", "auto") if has_bf16 else ("fp32",)

    def start(self) -> str:
        with translated("importing openvino"):
            import openvino
        return str(openvino.get_version())

    def load(self, request: BuildRequest) -> OpenVinoProgram:
        require_precision(self.name, request.precision, tuple(_HINTS))
        import openvino as ov

        core = ov.Core()
        path = Path(request.files.folder) / request.files.runtime_graph
        with translated("OpenVINO refused the model"):
            return OpenVinoProgram(core, read_model(core, path, request.model), request)

    def lower(self, request: LowerRequest) -> Lowered:
        from hwbench.engines.openvino_lower import lower

        return lower(request)

    def show_layers(self, model: Model, files: ModelFiles, folder: Path) -> tuple[Model, ModelFiles]:
        return show_layers(model, files, folder)

    def describe(self, path: Path, shapes: Mapping[str, tuple[int, ...]], batch_size: int | None) -> ArtefactFacts:
        from hwbench.engines.openvino_artefact import describe

        return describe(path, shapes, batch_size)


class OpenVinoProgram:
    """A model read into OpenVINO."""

    load_phase: Missing | None = None
    compile_phase: Missing | None = None

    def __init__(self, core: ov.Core, model: ov.Model, request: BuildRequest) -> None:
        self.core = core
        self.model = model
        self.request = request

    def compile(self) -> OpenVinoRunner:
        request = self.request
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY" if request.streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": request.streams,
            "INFERENCE_NUM_THREADS": request.threads,
        }
        hint = _HINTS[request.precision]
        if hint is not None:
            config["INFERENCE_PRECISION_HINT"] = hint
        if request.model.artefact is not None:
            config.update(request.model.artefact.settings)
        if request.profile_layers:
            config["PERF_COUNT"] = True
        with translated("OpenVINO refused the model"):
            runner = OpenVinoRunner(self.core.compile_model(self.model, "CPU", config), request)
        # Reading every unit back would add to the time of compiling: in the plain case the hint tells as much.
        plain = request.precision == request.model.arithmetic == "fp32"
        if request.precision != "auto":
            require_built("openvino", request.precision, runner.hint() if plain else runner.precision())
        return runner


@dataclass(kw_only=True)
class OpenVinoBound:
    """An infer request with its input tensors set."""

    run: Callable[[], object]
    request: ov.InferRequest
    names: tuple[str, ...]
    inputs: Tensors  # OpenVINO reads this very memory

    def outputs(self) -> Tensors:
        return {name: self.request.get_output_tensor(index).data.copy() for index, name in enumerate(self.names)}


class OpenVinoRunner:
    """A compiled OpenVINO model."""

    timed_region = "InferRequest.infer: inputs set in host memory to outputs ready in host memory"

    def __init__(self, compiled: ov.CompiledModel, request: BuildRequest) -> None:
        self.compiled = compiled
        self.request = request
        self.runs = 0  # while profiling

    def bind(self, inputs: Tensors) -> OpenVinoBound:
        import openvino as ov

        infer_request = self.compiled.create_infer_request()
        with translated("OpenVINO refused the inputs"):
            for port in self.compiled.inputs:
                name = next((name for name in (*port.get_names(), name_of(port)) if name in inputs), None)
                if name is None:
                    raise EngineError(f"OpenVINO asks for an input '{name_of(port)}', there are: {', '.join(inputs)}")
                infer_request.set_tensor(port, ov.Tensor(inputs[name], shared_memory=True))
        names = tuple(spec.name for spec in self.request.model.outputs)
        run = self._counted(infer_request.infer) if self.request.profile_layers else infer_request.infer
        return OpenVinoBound(run=run, request=infer_request, names=names, inputs=inputs)

    def _counted(self, infer: Callable[[], object]) -> Callable[[], object]:
        """Return the call that counts what the performance counters are means over."""

        def run() -> object:
            self.runs += 1
            return infer()

        return run

    def hint(self) -> str:
        """Return the precision that OpenVINO settled on for what is not quantised."""
        return hint_of(self.compiled)

    def precision(self, units: Sequence[BuiltLayer] | None = None) -> str:
        """Return the precision in which OpenVINO says that it does most multiply-adds.

        Units weigh by the multiply-adds of the layers they stand for; where none has any, the hint is all there is.
        """
        return dominant(self._units() if units is None else units, self.request.model) or self.hint()

    def built(self) -> Built:
        import openvino as ov

        layers = tuple(unit for unit in self._units() if unit.members)
        return Built(
            engine="openvino",
            version=str(ov.get_version()),
            precision=self.precision(layers),
            execution_units=tuple(self.compiled.get_property("EXECUTION_DEVICES")),
            threads=int(self.compiled.get_property("INFERENCE_NUM_THREADS")),
            settings={name: text_of(self.compiled.get_property(name)) for name in _REPORTED},
            layers=layers,
        )

    def _units(self, executed: Container[str] | None = None) -> list[BuiltLayer]:
        return units_of(self.compiled, self.request.model, self.request.files, executed)

    def profile_layers(self, inputs: Tensors, iterations: int) -> LayerProfile | Missing:
        import numpy as np

        from hwbench.engines.openvino_counters import told_apart

        bound = self.bind(inputs)
        for _ in range(max(3, iterations // 5)):
            bound.run()
        executed: set[str] = set()  # a unit that took less than a microsecond counts as not run, so ask every time
        means = [_means(bound.request, executed)]
        before, end_to_end = self.runs, list[float]()
        for _ in range(iterations):
            start = time.perf_counter_ns()
            bound.run()
            end_to_end.append((time.perf_counter_ns() - start) / 1e9)
            means.append(_means(bound.request, executed))
        units = [unit for unit in self._units(executed) if unit.name in executed]
        if not units:
            return Missing(code="below_resolution", why="every unit took less than the counters' 1 µs")
        table = np.array([[one[unit.name] / 1e6 for unit in units] for one in means])
        times = told_apart(table, np.array(end_to_end), before)
        return LayerProfile(
            units=tuple(
                UnitTimes(unit=unit, times_s=tuple(column))
                for unit, column in zip(units, times.T.tolist(), strict=True)
            ),
            end_to_end_s=tuple(end_to_end),
            method="OpenVINO performance counters (PERF_COUNT), which are running means in whole µs, told apart; a "
            "compiled model of its own",
        )

    def memory(self, inputs: Tensors) -> RuntimeMemory | Missing:
        """Add up the constants of the executable graph; nothing else is told."""
        return RuntimeMemory(
            weights_bytes=sum(constant_bytes(node) for node in self.compiled.get_runtime_model().get_ordered_ops()),
            activations_bytes=_NO_STATISTICS,
            workspace_bytes=_NO_STATISTICS,
            arena_bytes=_NO_STATISTICS,
            method="OpenVINO: constants of the executable graph, without the copies that its kernels pack",
        )

    def close(self) -> None:
        with contextlib.suppress(AttributeError):  # closed before
            del self.compiled


def _means(request: ov.InferRequest, executed: set[str]) -> Counter[str]:
    """Return the counters by unit, in microseconds, and add those that have run to ``executed``."""
    found: Counter[str] = Counter()
    for entry in request.profiling_info:
        found[entry.node_name] += entry.real_time // _MICROSECOND
        if entry.status.name == "EXECUTED":
            executed.add(entry.node_name)
    return found
