"""A plan, or a network still to be built into one, made to run.

:class:`PlanProgram` reads a plan that was saved. :class:`SourceProgram` builds one from the hub for ``hwbench
profile``, without the timing cache of earlier builds: then builds differ as they do, which is what ``--repeat-build``
measures. The layers of such a profile are of another build of the same graph than its times, and it says so; of a
bundle both are of one plan. Contexts, buffers and CUDA graphs are :mod:`hwbench.engines.tensorrt_runner`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hwbench.cuda.api import Cuda
from hwbench.cuda.choose import open_cuda
from hwbench.engines.edge import require_built
from hwbench.engines.tensorrt_api import Api, api
from hwbench.engines.tensorrt_build import Plan, is_weak, require_target
from hwbench.engines.tensorrt_engine import JUST_IN_TIME, contexts_of, inspected, open_engine, open_saved
from hwbench.engines.tensorrt_inspect import Unit, built_layers, read_units
from hwbench.engines.tensorrt_kernels import kernels_to_load, offer_kernels
from hwbench.engines.tensorrt_lower import TypedGraph, lower_graph
from hwbench.engines.tensorrt_options import BuildOptions
from hwbench.engines.tensorrt_place import Place, attached_place
from hwbench.engines.tensorrt_profile import profile_with
from hwbench.engines.tensorrt_runner import TensorRtRunner
from hwbench.engines.tensorrt_save import build, notes_of
from hwbench.errors import EngineError
from hwbench.protocols import BuildRequest, LowerRequest
from hwbench.quantize.nvidia import Flavour
from hwbench.records.base import Missing
from hwbench.records.measurement import Built, BuiltLayer
from hwbench.records.model import Model
from hwbench.records.quantization import Floating, PrecisionPlan

_OPTIONS = BuildOptions()
_NOT_INSPECTED = "the engine inspector failed: {error}"
_ANOTHER_BUILD = (
    "built for this run alone, without the timing cache of earlier builds: the next one may take other kernels"
)


class PlanProgram:
    """A plan read from a file."""

    load_phase: Missing | None = None
    compile_phase: Missing | None = None

    def __init__(self, flavour: Flavour, request: BuildRequest) -> None:
        self.request = request
        self.place = attached_place(request.device, flavour)
        self.cuda = open_cuda(self.place.uuid)
        self.api = api(flavour)
        artefact = request.model.artefact
        settings = {} if artefact is None else artefact.settings
        needed, driver = kernels_to_load(settings), self.place.cuda
        if driver is not None:
            offer_kernels(self.api, needed, driver, lambda: self.cuda)
        path = Path(request.files.folder) / request.files.runtime_graph
        self.engine: Any | None
        self.engine, told = open_saved(self.api, path, settings)
        self.settings = settings | told

    def compile(self) -> TensorRtRunner:
        """Everything was compiled before; what is left is the first execution context, which ``bind`` makes."""
        arithmetic, engine = self.request.model.arithmetic, self.engine
        if engine is None:
            raise EngineError("the plan has been taken by a runner already", hint="load it again")
        self.engine = None  # the runner's from now on, which frees it
        return _Told(self.api, engine, self.request, arithmetic, self.settings, ()).runner(self.cuda)


class SourceProgram:
    """A network written down as a typed graph, still to be built."""

    load_phase: Missing | None = None
    compile_phase: Missing | None = None

    def __init__(self, flavour: Flavour, request: BuildRequest) -> None:
        self.request = request
        self.place: Place = attached_place(request.device, flavour)
        self.api = api(flavour)
        if flavour == "tensorrt-rtx":
            require_target(self.api, self.place.capability)
        self.cuda = open_cuda(self.place.uuid)
        plan = PrecisionPlan(default="float", floating=cast("Floating", request.precision))
        self.typed: TypedGraph = lower_graph(
            LowerRequest(
                model=request.model,
                files=request.files,
                plan=plan,
                calibration=None,
                device=request.device,
                folder=request.workdir,
            ),
            capability=self.place.capability,
            flavour=flavour,
            typed=not is_weak(self.api, _OPTIONS),
        )

    def compile(self) -> TensorRtRunner:
        """Build the plan and read it into a runtime."""
        made: Plan = build(self.api, self.place, self.request.workdir, self.typed, _OPTIONS, keep=False)
        engine = open_engine(self.api, made.data)
        notes = (*self.typed.notes, *notes_of(made), _ANOTHER_BUILD)
        told = _Told(self.api, engine, self.request, self.typed.arithmetic, made.settings, notes)
        require_built(self.api.flavour, self.request.precision, told.precision())
        return told.runner(self.cuda)


class _Told:
    """What an engine tells of itself; the inspector is asked once."""

    def __init__(
        self,
        adapter: Api,
        engine: Any,
        request: BuildRequest,
        written: str,
        settings: dict[str, str],
        notes: tuple[str, ...],
    ) -> None:
        self.api = adapter
        self.engine = engine
        self.request = request
        self.written = written  # the arithmetic of the graph
        self.contexts, told = contexts_of(adapter, engine)
        self.settings = settings | told
        self.notes = (*notes, JUST_IN_TIME) if adapter.is_rtx else notes
        self.units: tuple[Unit, ...] | Missing | None = None

    def runner(self, cuda: Cuda) -> TensorRtRunner:
        """Return what runs the engine."""
        adapter, contexts = self.api, self.contexts

        def context() -> Any:
            adapter.journal.forget_errors()
            return contexts()

        return TensorRtRunner(
            engine=self.engine,
            context_of=context,
            cuda=cuda,
            request=self.request,
            built=self.built,
            profile=lambda context, run, count: profile_with(adapter, self.layers(), context, run, count),
            complaint=adapter.journal.last_error,
        )

    def precision(self) -> str:
        """Return what most multiply-adds are computed in.

        A strongly typed network computes in what its graph says, and there is no choice to read back: the types at a
        unit's edges, which are all that the inspector tells, need not be those inside. Of a weakly typed one it is what
        the engine tells.
        """
        if not self.api.has_weak_types or "STRONGLY_TYPED" in self.settings.get("network_flags", "").split():
            return self.written
        return executed_precision(_known(self.layers()), self.request.model) or self.written

    def inspect(self) -> tuple[Unit, ...] | Missing:
        if self.units is None:
            try:
                self.units = read_units(inspected(self.api, self.engine))
            except EngineError as error:
                self.units = Missing(code="not_told", why=_NOT_INSPECTED.format(error=error.message))
        return self.units

    def layers(self) -> tuple[BuiltLayer, ...] | Missing:
        units, request = self.inspect(), self.request
        if isinstance(units, Missing):
            return units
        return built_layers(units, request.model.layers, request.files.merged)

    def built(self) -> Built:
        layers = self.layers()
        dla = any("DLA" in layer.op.upper() for layer in _known(layers))
        return Built(
            engine=self.api.flavour,
            version=self.api.text,
            precision=self.precision(),
            execution_units=("GPU", "DLA") if dla else ("GPU",),
            threads=Missing(code="not_applicable", why="the work is on the GPU"),
            settings={**self.settings, "sparse_layers": str(_sparse(self.inspect()))},
            layers=layers,
            notes=self.notes,
        )


def executed_precision(layers: Sequence[BuiltLayer], model: Model) -> str | None:
    """Return the precision of most multiply-adds, or None where no layer with any tells one."""
    macs = {layer.name: 0 if isinstance(layer.macs, Missing) else layer.macs for layer in model.layers}
    weighed: dict[str, int] = {}
    for layer in layers:
        if isinstance(layer.precision, str):
            done = sum(macs[name] for name in layer.members)
            weighed[layer.precision] = weighed.get(layer.precision, 0) + done
    best = max(weighed, key=lambda name: weighed[name], default=None)
    return best if best is not None and weighed[best] > 0 else None


def _known(layers: tuple[BuiltLayer, ...] | Missing) -> tuple[BuiltLayer, ...]:
    return () if isinstance(layers, Missing) else layers


def _sparse(units: tuple[Unit, ...] | Missing) -> str:
    """Return how many layers run sparse kernels, in words."""
    if isinstance(units, Missing):
        return "not told"
    return str(sum(unit.sparse is True for unit in units))
