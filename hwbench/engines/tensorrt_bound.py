"""One execution context of TensorRT with its buffers and its stream, and the CUDA graph made of a run of it.

The first :meth:`TensorRtBound.run` is an inference by ``execute_async_v3``; another follows, and what that puts into
the stream is captured. From then on a run launches the graph. The first run is thus the slow one, as it is in a program
that does the same. Where capturing fails the runs stay as they were, and a note says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import local
from typing import Any

from hwbench.cuda.api import Cuda, Event, Graph
from hwbench.engines.tensorrt_buffers import Array, Placed, Tensor
from hwbench.errors import EngineError, Unsupported
from hwbench.protocols import Tensors

Complaint = Callable[[], str | None]


@dataclass(kw_only=True)
class Prepared:
    """How the first run went, in seconds: the inference itself, and what came after it."""

    first_s: float
    capture_s: float | None = None  # None: no graph was wanted
    refused: str | None = None  # why there is none


class _Here(local):
    """Whether the calling thread has made the context of CUDA its own."""

    adopted = False


class TensorRtBound:
    """Implements :class:`~hwbench.protocols.Bound`; its inputs lie on the GPU."""

    def __init__(self, *, context: Any, cuda: Cuda, complaint: Complaint, graph: bool) -> None:
        """Take a context over.

        Args:
            context: an ``IExecutionContext`` of its own.
            cuda: the context of CUDA, current in this thread.
            complaint: what TensorRT's log said last.
            graph: whether to make a CUDA graph.
        """
        self.context = context
        self.prepared: Prepared | None = None
        self._cuda = cuda
        self._complaint = complaint
        self._wants_graph = graph
        self._graph: Graph | None = None
        self._here = _Here()  # of each thread, dead ones' numbers being given to new ones
        self._here.adopted = True
        self._stream = cuda.stream()
        self._inputs: list[Placed] = []
        self._outputs: list[Placed] = []
        self._go: Callable[[], None] = self._first
        self.run: Callable[[], object] = self._run

    def place(self, tensors: tuple[Tensor, ...], values: dict[str, Array], profile: int) -> None:
        """Take memory, put the inputs on the GPU, and tell the context where everything is.

        Args:
            tensors: of the engine.
            values: of the inputs, in the engine's types.
            profile: the optimization profile to run in.

        Raises:
            EngineError: TensorRT refuses the shapes or addresses; its own words are in the message.
        """
        context = self.context
        if context.active_optimization_profile != profile:
            self._must(context.set_optimization_profile_async(profile, self._stream.handle), "change the profile")
        for tensor in tensors:
            if tensor.is_input and not tensor.on_host:
                shape = values[tensor.name].shape
                self._must(context.set_input_shape(tensor.name, shape), f"take '{tensor.name}' in the shape {shape}")
        for tensor in tensors:
            if tensor.is_input:
                self._placed(self._inputs, tensor, values[tensor.name].shape).hold(values[tensor.name])
        for tensor in tensors:
            if not tensor.is_input:
                self._placed(self._outputs, tensor, self._output_shape(tensor))
        self.send()
        self._stream.wait()

    def _run(self) -> None:
        """Run one inference; whoever keeps this call gets the graph too, once there is one."""
        self._adopt()
        self._go()

    def _adopt(self) -> None:
        if not self._here.adopted:
            self._cuda.make_current()
            self._here.adopted = True

    def outputs(self) -> Tensors:
        self.fetch()
        self._stream.wait()
        return {placed.tensor.name: placed.told() for placed in self._outputs}

    def plain(self) -> None:
        """Run one inference without the graph."""
        self._enqueue()
        self._wait()

    def send(self) -> None:
        """Put a copy of the inputs into the stream."""
        for placed in self._inputs:
            placed.send(self._cuda, self._stream)

    def fetch(self) -> None:
        """Put a copy of the outputs into the stream."""
        for placed in self._outputs:
            placed.fetch(self._cuda, self._stream)

    def timed(self, work: Callable[[], None], start: Event, end: Event) -> float:
        """Return the seconds between two events around what ``work`` puts into the stream."""
        start.record(self._stream)
        work()
        end.record(self._stream)
        self._stream.wait()
        return end.since(start)

    @property
    def bytes_in(self) -> int:
        return sum(placed.size_bytes for placed in self._inputs if placed.device is not None)

    @property
    def bytes_out(self) -> int:
        return sum(placed.size_bytes for placed in self._outputs if placed.device is not None)

    def free(self) -> None:
        """Give back the graph, the context and the buffers."""
        if self._graph is not None:
            self._graph.free()
        self.context = None  # before its buffers
        for placed in (*self._inputs, *self._outputs):
            placed.free()
        self._stream.free()

    def _first(self) -> None:
        began = time.perf_counter()
        self.plain()
        self.prepared = Prepared(first_s=time.perf_counter() - began)
        self._go = self.plain
        if self._wants_graph:
            self._capture(self.prepared)

    def _capture(self, prepared: Prepared) -> None:
        began = time.perf_counter()
        self.plain()
        try:
            self._graph = self._captured()
        except EngineError as error:
            prepared.refused = error.message
            self.plain()  # what was broken off must not have broken the context
        else:
            self.run = self._go = self._launching(self._graph)
            self.run()
        prepared.capture_s = time.perf_counter() - began

    def _captured(self) -> Graph:
        capturable = getattr(self.context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self._stream.handle):
            raise EngineError("TensorRT says that a stream with this engine cannot be captured")
        return self._cuda.capture(self._enqueue, self._stream)

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(self._stream.handle):
            raise self._failed("run the engine")

    def _launching(self, graph: Graph) -> Callable[[], None]:
        """Return the run of a graph: no more than what there is to do, since this is what is timed."""
        launch, wait, stream, here = graph.launch, self._stream.wait, self._stream, self._here

        def run() -> None:
            if not here.adopted:
                self._adopt()
            try:
                launch(stream)
                wait()
            except EngineError as error:
                raise self._told(error) from error

        return run

    def _wait(self) -> None:
        try:
            self._stream.wait()
        except EngineError as error:
            raise self._told(error) from error

    def _told(self, error: EngineError) -> EngineError:
        said = self._complaint()
        return EngineError(f"{error.message}; TensorRT said: {said}" if said else error.message, hint=error.hint)

    def _placed(self, kept: list[Placed], tensor: Tensor, shape: tuple[int, ...]) -> Placed:
        placed = Placed(tensor, shape, self._cuda)
        kept.append(placed)
        self._must(self.context.set_tensor_address(tensor.name, placed.address), f"take the address of '{tensor.name}'")
        return placed

    def _output_shape(self, tensor: Tensor) -> tuple[int, ...]:
        shape = tuple(int(size) for size in self.context.get_tensor_shape(tensor.name))
        if min(shape, default=0) < 0:
            raise Unsupported(
                f"the size of the output '{tensor.name}' depends on the values of the inputs: {shape}",
                hint="leave the step that selects (such as non-maximum suppression) out of the model",
            )
        return shape

    def _must(self, went_well: bool, what: str) -> None:
        if not went_well:
            raise self._failed(what)

    def _failed(self, what: str) -> EngineError:
        return EngineError(f"TensorRT could not {what}: {self._complaint() or 'it does not say why'}")
