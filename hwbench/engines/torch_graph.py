"""Torch with CUDA graphs: all kernels of an inference recorded once and launched by one call.

An inference of small kernels takes as long as the CPU needs to launch them; a graph takes that away. What is recorded
is what ran: Python, and whatever depends on values, is not there any more. So inputs and outputs lie at fixed
addresses, and a network that looks at its own values (``.item()``, a branch on a tensor) cannot be captured: that is an
error that names the operator, never a run without the graph.

Source: "Accelerating PyTorch with CUDA Graphs" (pytorch.org/blog) and torch's notes on CUDA semantics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hwbench.engines import torch_module
from hwbench.engines.edge import artefact_of_another, translated
from hwbench.engines.torch_aoti import AotiRunner, AotiSource, TorchAoti
from hwbench.engines.torch_compile import TorchCompileProgram, new_cache, with_compiler, with_triton
from hwbench.engines.torch_eager import NOTHING_TO_COMPILE
from hwbench.engines.torch_module import TorchRunner, load_module
from hwbench.engines.torch_place import GPUS, OnGpu, installed_with_cuda, precisions_on
from hwbench.errors import EngineError
from hwbench.protocols import BuildRequest
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.model import Model, ModelFiles

WARM_UPS = 3  # torch's notes ask for a few, on a side stream: libraries set themselves up at the first call


def no_graph(engine: str, model: Model, device: Device) -> Support | None:
    """Return why there is no CUDA graph of a model: it is built already, or the device is no GPU."""
    if (other := artefact_of_another(model, engine)) is not None:
        return other
    if device.kind not in GPUS:
        return unsupported("wrong_device", f"CUDA graphs are for NVIDIA GPUs, and '{device.name}' is none")
    return None


def supports_graphs(engine: Any, model: Model, files: ModelFiles, device: Device) -> Support:
    """Say whether the engine can run: as torch's other engines, and only on a GPU."""
    refused = no_graph(engine.name, model, device)
    return torch_module.supports(engine, model, files, device) if refused is None else refused


class TorchCudaGraph:
    """The user's module run eagerly, captured as one CUDA graph."""

    name = "torch-cuda-graph"
    variant_of = "torch-eager"

    supports = supports_graphs
    start = torch_module.start

    def installed(self) -> Support:
        return installed_with_cuda()

    def precisions(self, device: Device) -> tuple[str, ...]:
        return precisions_on(device)

    def load(self, request: BuildRequest) -> GraphProgram:
        return GraphProgram(self.name, load_module(self.name, request), request)


class GraphProgram:
    """A module in GPU memory, to be captured when its inputs are known."""

    load_phase: Missing | None = None
    compile_phase: Missing | None = NOTHING_TO_COMPILE

    def __init__(self, engine: str, loaded: Any, request: BuildRequest) -> None:
        self.engine, self.loaded, self.request = engine, loaded, request

    def compile(self) -> GraphRunner:
        return GraphRunner(self.engine, self.loaded.module, self.loaded, self.request)


class GraphRunner(TorchRunner):
    """A callable whose kernels are captured at binding; ``watched``: its operators can be told one by one."""

    watched = True

    @property
    def timed_region(self) -> str:
        return f"CUDAGraph.replay(): {self.place.region}"

    def finished(self, call: Callable[[], object]) -> Callable[[], object]:
        if not isinstance(self.place, OnGpu):
            raise EngineError("CUDA graphs need a GPU")
        self.settings["cuda_graph"] = f"one, captured after {WARM_UPS} inferences"
        return captured(self.place, call, self.engine, watched=self.watched)


class TorchCompileCudaGraph:
    """The module under ``torch.compile``, all its kernels captured as one CUDA graph."""

    name = "torch-compile-cuda-graph"
    variant_of = "torch-compile"

    def supports(self, model: Model, files: ModelFiles, device: Device) -> Support:
        return with_triton(supports_graphs(self, model, files, device), device)

    start = torch_module.start

    def installed(self) -> Support:
        return with_compiler(installed_with_cuda(), "torch.compile")

    def precisions(self, device: Device) -> tuple[str, ...]:
        return precisions_on(device)

    def load(self, request: BuildRequest) -> CompiledGraphProgram:
        new_cache(request)
        return CompiledGraphProgram(self.name, load_module(self.name, request), request)


class CompiledGraphRunner(GraphRunner):
    """A compiled module: what is inside its kernels cannot be told apart."""

    watched = False


class CompiledGraphProgram(TorchCompileProgram):
    """A module to be compiled, then captured."""

    runner = CompiledGraphRunner


class TorchAotiCudaGraph:
    """A package of AOTInductor, all its kernels captured as one CUDA graph."""

    name = "torch-aoti-cuda-graph"
    variant_of = "torch-aoti"

    start = torch_module.start

    def installed(self) -> Support:
        return with_compiler(installed_with_cuda(), "AOTInductor")

    def supports(self, model: Model, files: ModelFiles, device: Device) -> Support:
        refused = no_graph(self.name, model, device)
        return TorchAoti().supports(model, files, device) if refused is None else refused

    def precisions(self, device: Device) -> tuple[str, ...]:
        return precisions_on(device)

    def load(self, request: BuildRequest) -> AotiSource:
        torch_module.set_threads(request)
        return AotiSource(request, AotiGraphRunner)


class AotiGraphRunner(GraphRunner, AotiRunner):
    """A loaded package: its kernels are launched by its library, which torch's operators do not show."""

    name = "torch-aoti-cuda-graph"
    watched = False


def captured(place: OnGpu, call: Callable[[], object], engine: str, *, watched: bool) -> Callable[[], object]:
    """Capture ``call`` and return one inference: the graph launched and finished. It returns the graph's own outputs.

    Args:
        place: the GPU.
        call: works on tensors that stay where they are.
        engine: whose graph it is, for the message.
        watched: note each operator, so that the one that cannot be captured is named.

    Raises:
        EngineError: something in it may not be captured.
    """
    torch = place.torch
    stream, last = place.stream(), _last_operator() if watched else None
    enter = place.entering(stream)
    enter()
    with torch.inference_mode():
        with translated(f"{engine}: an inference before the graph"):
            for _ in range(WARM_UPS):
                call()
            stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=stream):
                if last is None:
                    result = call()
                else:
                    with last:
                        result = call()
        except Exception as error:
            raise _uncaptured(engine, error, last) from error
    replay, wait = graph.replay, stream.synchronize

    def run() -> object:
        enter()
        replay()
        wait()
        return result

    return run


def _last_operator() -> Any:
    """Return a mode that notes the operator under way."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class LastOperator(TorchDispatchMode):
        name = "none"

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.name = str(func)
            return func(*args, **(kwargs or {}))

    return LastOperator()  # type: ignore[no-untyped-call]  # torch's


def _uncaptured(engine: str, error: BaseException, last: Any) -> EngineError:
    """Return the error: the first that happened, since ending a broken capture raises another."""
    from hwbench.graph.torch_source import user_line

    first = error
    while (before := first.__cause__ or first.__context__) is not None:
        first = before
    at = "" if last is None else f" at {last.name}"
    words = " ".join(str(first).split())[:300] or type(first).__name__
    return EngineError(
        f"{engine}: the network cannot be captured as a CUDA graph{at}{user_line(first)}: {words}",
        hint="what looks at values (.item(), a branch on a tensor, a copy to the host) cannot be; torch-eager runs it",
    )
