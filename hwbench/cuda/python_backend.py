"""CUDA through NVIDIA's own bindings (cuda-python), on the device's primary context."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hwbench.cuda.api import Address, Argument, CudaFacts, Event, LaunchShape, Stream
from hwbench.cuda.arguments import Packed, as_bytes
from hwbench.cuda.results import SUCCESS, failure
from hwbench.cuda.schedules import NON_BLOCKING, event_flags, require_schedule, with_schedule
from hwbench.errors import EngineError

_NOTHING = np.empty(0, np.uint8)


class Bindings:
    """The module, with errors of ours in place of return codes."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function; returns what it gives beside the result: nothing, a value, or a tuple of them."""
        result, *values = getattr(self.module, name)(*arguments)
        if int(result) != SUCCESS:
            raise self.failed(name, result)
        return values[0] if len(values) == 1 else tuple(values)

    def failed(self, what: str, result: Any) -> EngineError:
        """Return the error of a call that gave ``result``, a member of the enumeration ``CUresult``."""
        return failure(what, int(result), result.name)


class PythonContext:
    """The primary context of one GPU; implements :class:`~hwbench.cuda.api.Cuda`."""

    def __init__(self, module: Any, device: int, facts: CudaFacts) -> None:
        """Enter the context.

        Args:
            module: ``cuda.bindings.driver``.
            device: as CUDA counts.
            facts: of that device.
        """
        self.facts = facts
        self.bindings = Bindings(module)
        call = self.bindings.call
        call("cuInit", 0)
        self._device = call("cuDeviceGet", device)
        flags, _ = call("cuDevicePrimaryCtxGetState", self._device)
        call("cuDevicePrimaryCtxSetFlags", self._device, with_schedule(int(flags), facts.schedule))
        flags, _ = call("cuDevicePrimaryCtxGetState", self._device)
        require_schedule(int(flags), facts.schedule)
        self._context = call("cuDevicePrimaryCtxRetain", self._device)
        call("cuCtxPushCurrent", self._context)

    def make_current(self) -> None:
        self.bindings.call("cuCtxSetCurrent", self._context)

    def stream(self) -> PythonStream:
        return PythonStream(self.bindings, self.bindings.call("cuStreamCreate", NON_BLOCKING))

    def event(self, *, timing: bool = True) -> PythonEvent:
        return PythonEvent(
            self.bindings, self.bindings.call("cuEventCreate", event_flags(self.facts.schedule, timing=timing))
        )

    def allocate(self, size_bytes: int) -> PythonBuffer:
        return PythonBuffer(self.bindings, self.bindings.call("cuMemAlloc", max(1, size_bytes)), size_bytes)

    def pinned(self, size_bytes: int) -> PythonPinned:
        return PythonPinned(self.bindings, int(self.bindings.call("cuMemAllocHost", max(1, size_bytes))), size_bytes)

    def copy_in(self, target: int, source: np.ndarray[Any, Any], stream: Stream) -> None:
        array = as_bytes(source)
        self.bindings.call("cuMemcpyHtoDAsync", int(target), array.ctypes.data, array.size, stream.handle)

    def copy_out(self, target: np.ndarray[Any, Any], source: int, stream: Stream) -> None:
        array = as_bytes(target)
        self.bindings.call("cuMemcpyDtoHAsync", array.ctypes.data, int(source), array.size, stream.handle)

    def fill(self, target: int, byte: int, size_bytes: int, stream: Stream) -> None:
        self.bindings.call("cuMemsetD8Async", int(target), byte, size_bytes, stream.handle)

    def load(self, image: bytes) -> PythonModule:
        return PythonModule(self.bindings, self.bindings.call("cuModuleLoadData", image))

    def capture(self, work: Callable[[], object], stream: Stream) -> PythonGraph:
        call, module = self.bindings.call, self.bindings.module
        call("cuStreamBeginCapture", stream.handle, module.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            work()
        except BaseException:
            # Ends the capture, whatever has become of it; the error of the work is the one that tells.
            result, template = module.cuStreamEndCapture(stream.handle)
            if int(result) == SUCCESS and int(template):
                call("cuGraphDestroy", template)
            raise
        template = call("cuStreamEndCapture", stream.handle)
        try:
            return PythonGraph(self.bindings, call("cuGraphInstantiate", template, 0))
        finally:
            call("cuGraphDestroy", template)

    def close(self) -> None:
        if self._context is not None:
            self.bindings.call("cuCtxPopCurrent")
            self.bindings.call("cuDevicePrimaryCtxRelease", self._device)
            self._context = None


class PythonStream:
    """A stream."""

    def __init__(self, bindings: Bindings, stream: Any) -> None:
        self.handle = int(stream)
        self._bindings = bindings
        self.bound: Any = stream
        self._synchronize = bindings.module.cuStreamSynchronize

    def wait(self) -> None:
        (result,) = self._synchronize(self.bound)
        if result:
            raise self._bindings.failed("waiting for a stream", result)

    def free(self) -> None:
        if self.bound is not None:
            self._bindings.call("cuStreamDestroy", self.bound)
            self.bound = None


class PythonEvent:
    """An event."""

    def __init__(self, bindings: Bindings, event: Any) -> None:
        self._bindings = bindings
        self._event = event

    def record(self, stream: Stream) -> None:
        self._bindings.call("cuEventRecord", self._event, stream.handle)

    def wait(self) -> None:
        self._bindings.call("cuEventSynchronize", self._event)

    def since(self, earlier: Event) -> float:
        if not isinstance(earlier, PythonEvent):
            raise TypeError(f"an event of cuda-python is wanted, not {type(earlier).__name__}")
        return float(self._bindings.call("cuEventElapsedTime", earlier._event, self._event)) / 1e3

    def free(self) -> None:
        if self._event is not None:
            self._bindings.call("cuEventDestroy", self._event)
            self._event = None


class PythonBuffer:
    """Memory of the GPU."""

    def __init__(self, bindings: Bindings, pointer: Any, size_bytes: int) -> None:
        self.address = Address(int(pointer))
        self.size_bytes = size_bytes
        self._bindings = bindings
        self._pointer: Any = pointer

    def free(self) -> None:
        if self._pointer is not None:
            self._bindings.call("cuMemFree", self._pointer)
            self._pointer = None


class PythonPinned:
    """Page-locked memory."""

    def __init__(self, bindings: Bindings, address: int, size_bytes: int) -> None:
        self.address = Address(address)
        self.size_bytes = size_bytes
        self.array = np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))
        self._bindings = bindings
        self._freed = False

    def free(self) -> None:
        if not self._freed:
            self.array = _NOTHING
            self._bindings.call("cuMemFreeHost", int(self.address))
            self._freed = True


class PythonModule:
    """A loaded module."""

    def __init__(self, bindings: Bindings, module: Any) -> None:
        self._bindings = bindings
        self._module: Any = module

    def function(self, name: str) -> PythonFunction:
        return PythonFunction(self._bindings, self._bindings.call("cuModuleGetFunction", self._module, name.encode()))

    def unload(self) -> None:
        if self._module is not None:
            self._bindings.call("cuModuleUnload", self._module)
            self._module = None


class PythonFunction:
    """A kernel."""

    def __init__(self, bindings: Bindings, function: Any) -> None:
        self._bindings = bindings
        self._function = function
        self.registers = self._attribute("NUM_REGS")
        self.shared_bytes = self._attribute("SHARED_SIZE_BYTES")
        self.local_bytes = self._attribute("LOCAL_SIZE_BYTES")
        self.most_threads = self._attribute("MAX_THREADS_PER_BLOCK")

    def _attribute(self, name: str) -> int:
        attribute = getattr(self._bindings.module.CUfunction_attribute, f"CU_FUNC_ATTRIBUTE_{name}")
        return int(self._bindings.call("cuFuncGetAttribute", attribute, self._function))

    def launch(self, shape: LaunchShape, arguments: Sequence[Argument], stream: Stream) -> None:
        packed = Packed(arguments)
        self._bindings.call(
            "cuLaunchKernel",
            self._function,
            *shape.grid,
            *shape.block,
            shape.shared_bytes,
            stream.handle,
            packed.address,
            0,
        )


class PythonGraph:
    """An executable graph."""

    def __init__(self, bindings: Bindings, executable: Any) -> None:
        self._bindings = bindings
        self._executable: Any = executable
        self._launch = bindings.module.cuGraphLaunch

    def launch(self, stream: Stream) -> None:
        # The bindings' own handle where there is one: making it of an integer would cost time in every run.
        handle = stream.bound if isinstance(stream, PythonStream) else stream.handle
        (result,) = self._launch(self._executable, handle)
        if result:
            raise self._bindings.failed("launching a CUDA graph", result)

    def free(self) -> None:
        if self._executable is not None:
            self._bindings.call("cuGraphExecDestroy", self._executable)
            self._executable = None
