"""Running an engine of TensorRT or TensorRT-RTX that has been deserialised.

    TensorRtRunner            protocols.Runner, TimesTransfers: any number of executables, one context each
    tensorrt_bound            one context: buffers, stream, first run, CUDA graph
    tensorrt_buffers          names, types, shapes, optimization profiles, memory

An inference starts with its inputs on the GPU and ends with its outputs there; what it costs to bring them there and
back is told apart (:meth:`TensorRtRunner.transfers`). ``HWBENCH_CUDA_GRAPH=off`` runs without a CUDA graph.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import msgspec

from hwbench.cuda.api import Cuda
from hwbench.engines.tensorrt_bound import Complaint, TensorRtBound
from hwbench.engines.tensorrt_buffers import fed, profile_for, tensors_of
from hwbench.errors import EngineError, UsageError
from hwbench.protocols import BuildRequest, LayerProfile, Tensors
from hwbench.records.base import Missing
from hwbench.records.measurement import Built
from hwbench.records.transfers import Transfers

GRAPH: Final = "HWBENCH_CUDA_GRAPH"
_TRANSFERS = 20
_CLOSED = "the engine has been closed"
_REGION = (
    "inputs in GPU memory to outputs in GPU memory, synchronised with the host: the launch of a CUDA graph of "
    "execute_async_v3, or execute_async_v3 itself where the setting cuda_graph is off"
)

Profiler = Callable[[Any, Callable[[], None], int], "LayerProfile | Missing"]
"""Called with an execution context, a function that runs it once and waits, and how many inferences to profile."""


def wants_graph() -> bool:
    """Say whether ``HWBENCH_CUDA_GRAPH`` leaves CUDA graphs on.

    Raises:
        UsageError: it is neither ``on`` nor ``off``.
    """
    said = os.environ.get(GRAPH, "on")
    if said not in {"on", "off"}:
        raise UsageError(f"{GRAPH} is '{said}'", hint="it may be on or off")
    return said == "on"


class TensorRtRunner:
    """A deserialised engine, on one GPU."""

    timed_region = _REGION

    def __init__(
        self,
        *,
        engine: Any,
        context_of: Callable[[], Any],
        cuda: Cuda,
        request: BuildRequest,
        built: Callable[[], Built],
        profile: Profiler,
        complaint: Complaint,
        graph: bool | None = None,
    ) -> None:
        """Take an engine over; :meth:`close` lets go of it and closes ``cuda``.

        Args:
            engine: an ``ICudaEngine`` of TensorRT 8.5 or newer, or of TensorRT-RTX.
            context_of: makes an ``IExecutionContext`` of it; None is an error, explained by ``complaint``.
            cuda: opened before TensorRT's runtime was made, so that both use the same GPU; current in this thread.
            request: what was asked for.
            built: what the engine is; settings and notes of running it are added to its own.
            profile: reads per-layer times. A context that is profiled is never run as a CUDA graph, where TensorRT's
                profiler sees nothing.
            complaint: the last error in TensorRT's log, if there is one.
            graph: whether to run as a CUDA graph; as the environment says where it is left open.
        """
        self._engine = engine
        self._context_of: Callable[[], Any] | None = context_of
        self._cuda = cuda
        self._request = request
        self._built: Callable[[], Built] | None = built
        self._profile: Profiler | None = profile
        self._complaint = complaint
        self._graph = wants_graph() if graph is None else graph
        self._tensors = tensors_of(engine)
        self._bound: list[TensorRtBound] = []
        self._profiles: set[int] = set()

    def bind(self, inputs: Tensors) -> TensorRtBound:
        return self._bind(inputs, graph=self._graph and not self._request.profile_layers)

    def built(self) -> Built:
        if self._built is None:
            raise EngineError(_CLOSED)
        found = self._built()
        settings = {**found.settings, **self._settings()}
        return msgspec.structs.replace(found, settings=settings, notes=(*found.notes, *self._notes()))

    def profile_layers(self, inputs: Tensors, iterations: int) -> LayerProfile | Missing:
        if self._profile is None:
            raise EngineError(_CLOSED)
        bound = self._bind(inputs, graph=False)
        return self._profile(bound.context, bound.plain, iterations)

    def transfers(self, inputs: Tensors) -> Transfers | Missing:
        """Time the copies of all inputs and of all outputs, by events; nothing else may run on the GPU meanwhile."""
        bound = self._bound[0] if self._bound else self.bind(inputs)
        start, end = self._cuda.event(), self._cuda.event()
        bound.timed(bound.send, start, end)  # the first ones are slower
        bound.timed(bound.fetch, start, end)
        found = [(bound.timed(bound.send, start, end), bound.timed(bound.fetch, start, end)) for _ in range(_TRANSFERS)]
        start.free()
        end.free()
        return Transfers(
            h2d_s=tuple(to for to, _ in found),
            d2h_s=tuple(back for _, back in found),
            bytes_in=bound.bytes_in,
            bytes_out=bound.bytes_out,
            pinned=True,
            method="CUDA events around cuMemcpyHtoDAsync and cuMemcpyDtoHAsync of every tensor, one after another"
            + ("; host and GPU share one memory here" if self._cuda.facts.integrated else ""),
        )

    def close(self) -> None:
        """Free contexts, then the engine, then the context of CUDA; a second call does nothing.

        TensorRT frees an engine when nothing refers to it any more, and needs the context for that: what was given to
        this runner must not be kept by others.
        """
        if self._context_of is None:
            return
        for bound in self._bound:
            bound.free()
        self._bound.clear()
        self._engine = self._context_of = self._built = self._profile = None
        self._cuda.close()

    def _bind(self, inputs: Tensors, *, graph: bool) -> TensorRtBound:
        if self._context_of is None:
            raise EngineError(_CLOSED)
        values = fed(self._tensors, inputs)
        profile = profile_for(self._engine, self._tensors, values)
        context = self._context_of()
        if context is None:
            raise EngineError(
                f"TensorRT could not make an execution context: {self._complaint() or 'it does not say why'}",
                hint="most often there is not enough GPU memory; TensorRT 8.5 wants one profile for each stream",
            )
        bound = TensorRtBound(context=context, cuda=self._cuda, complaint=self._complaint, graph=graph)
        try:
            bound.place(self._tensors, values, profile)
        except BaseException:
            bound.free()
            raise
        self._bound.append(bound)
        self._profiles.add(profile)
        return bound

    def _settings(self) -> dict[str, str]:
        facts = self._cuda.facts
        graph = "on" if self._graph else "off"
        return {
            "cuda_graph": "off: it cannot be captured" if self._refusals() else graph,
            "streams": str(self._request.streams),
            "host_waits_by": facts.schedule,
            "transfers": "outside the timed region, told apart",
            "optimization_profile": ", ".join(map(str, sorted(self._profiles))) or "none yet",
            "gpu": facts.uuid,
            "cuda_backend": facts.backend,
            "cuda_of_driver": ".".join(map(str, facts.driver_cuda)),
        }

    def _refusals(self) -> list[str]:
        told = [bound.prepared.refused for bound in self._bound if bound.prepared is not None]
        return [refusal for refusal in dict.fromkeys(told) if refusal is not None]

    def _notes(self) -> tuple[str, ...]:
        notes = [f"run without a CUDA graph: {refusal}" for refusal in self._refusals()]
        first = next((bound.prepared for bound in self._bound if bound.prepared is not None), None)
        if first is not None and first.capture_s is not None:
            notes.append(
                f"the first inference: {first.first_s:.4f} s for itself, {first.capture_s:.4f} s for a second one and "
                "for making the CUDA graph"
            )
        return tuple(notes)
