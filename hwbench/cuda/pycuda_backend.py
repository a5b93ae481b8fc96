"""CUDA through pycuda, on the device's primary context: torch and TensorRT in the same process share it.

What pycuda lacks comes from :mod:`hwbench.cuda.calls`. pycuda ties what it makes to the thread that made it and frees
it when Python does; here it is freed when told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hwbench.cuda.api import Address, CudaFacts, Event, Stream
from hwbench.cuda.arguments import as_bytes
from hwbench.cuda.called_module import CalledModule
from hwbench.cuda.calls import CalledGraph, Calls
from hwbench.cuda.schedules import NON_BLOCKING, event_flags

_NOTHING = np.empty(0, np.uint8)


class PycudaContext:
    """The primary context of one GPU; implements :class:`~hwbench.cuda.api.Cuda`."""

    def __init__(self, module: Any, calls: Calls, device: int, facts: CudaFacts) -> None:
        """Enter the context.

        Args:
            module: ``pycuda.driver``.
            calls: what it lacks.
            device: as CUDA counts.
            facts: of that device.
        """
        self.facts = facts
        self._module = module
        self._calls = calls
        with self.translated():
            module.init()
            calls.set_schedule(device, facts.schedule)
            self._context = module.Device(device).retain_primary_context()
            self._context.push()
        self._handle: int = self._context.handle

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Raise what pycuda raises as ours."""
        try:
            yield
        except self._module.Error as error:
            raise self._calls.from_text(str(error)) from error

    def make_current(self) -> None:
        self._calls.call("cuCtxSetCurrent", self._handle)

    def stream(self) -> PycudaStream:
        with self.translated():
            return PycudaStream(self, self._module.Stream(NON_BLOCKING))

    def event(self, *, timing: bool = True) -> PycudaEvent:
        with self.translated():
            return PycudaEvent(self, self._module.Event(event_flags(self.facts.schedule, timing=timing)))

    def allocate(self, size_bytes: int) -> PycudaBuffer:
        with self.translated():
            return PycudaBuffer(self, self._module.mem_alloc(max(1, size_bytes)), size_bytes)

    def pinned(self, size_bytes: int) -> PycudaPinned:
        with self.translated():
            return PycudaPinned(self, self._module.pagelocked_empty(max(1, size_bytes), np.uint8), size_bytes)

    def copy_in(self, target: int, source: np.ndarray[Any, Any], stream: Stream) -> None:
        array = as_bytes(source)
        self._calls.call("cuMemcpyHtoDAsync_v2", int(target), array.ctypes.data, array.size, stream.handle)

    def copy_out(self, target: np.ndarray[Any, Any], source: int, stream: Stream) -> None:
        array = as_bytes(target)
        self._calls.call("cuMemcpyDtoHAsync_v2", array.ctypes.data, int(source), array.size, stream.handle)

    def fill(self, target: int, byte: int, size_bytes: int, stream: Stream) -> None:
        self._calls.call("cuMemsetD8Async", int(target), byte, size_bytes, stream.handle)

    def load(self, image: bytes) -> CalledModule:
        return CalledModule(self._calls, image)

    def capture(self, work: Callable[[], object], stream: Stream) -> CalledGraph:
        return self._calls.capture(work, stream)

    def close(self) -> None:
        if self._context is not None:
            # Not pycuda's pop: its destructor takes a primary context for one of its own, and ends the process.
            self._calls.leave()
            with self.translated():
                self._context.detach()
            self._context = None


class PycudaStream:
    """A stream of pycuda."""

    def __init__(self, context: PycudaContext, stream: Any) -> None:
        self.stream = stream
        self.handle: int = stream.handle
        self._context = context
        self._errors: type[Exception] = context._module.Error

    def wait(self) -> None:
        try:
            self.stream.synchronize()
        except self._errors as error:
            raise self._context._calls.from_text(str(error)) from error

    def free(self) -> None:
        self.stream = None


class PycudaEvent:
    """An event of pycuda."""

    def __init__(self, context: PycudaContext, event: Any) -> None:
        self._context = context
        self._event = event

    def record(self, stream: Stream) -> None:
        if not isinstance(stream, PycudaStream):
            raise TypeError(f"pycuda puts its events into its own streams, not into a {type(stream).__name__}")
        with self._context.translated():
            self._event.record(stream.stream)

    def wait(self) -> None:
        with self._context.translated():
            self._event.synchronize()

    def since(self, earlier: Event) -> float:
        if not isinstance(earlier, PycudaEvent):
            raise TypeError(f"an event of pycuda is wanted, not {type(earlier).__name__}")
        with self._context.translated():
            return float(self._event.time_since(earlier._event)) / 1e3

    def free(self) -> None:
        self._event = None


class PycudaBuffer:
    """Memory of the GPU."""

    def __init__(self, context: PycudaContext, allocation: Any, size_bytes: int) -> None:
        self.address = Address(int(allocation))
        self.size_bytes = size_bytes
        self._context = context
        self._allocation = allocation

    def free(self) -> None:
        if self._allocation is not None:
            with self._context.translated():
                self._allocation.free()
            self._allocation = None


class PycudaPinned:
    """Page-locked memory."""

    def __init__(self, context: PycudaContext, array: Any, size_bytes: int) -> None:
        self.address = Address(array.ctypes.data)
        self.size_bytes = size_bytes
        self.array = array[:size_bytes]
        self._context = context
        self._allocation = array.base

    def free(self) -> None:
        if self._allocation is not None:
            self.array = _NOTHING
            with self._context.translated():
                self._allocation.free()
            self._allocation = None
