"""Functions of CUDA's driver that pycuda does not have, through ctypes on the same handles.

pycuda (2026.1) has no graphs, cannot put work into a stream that it has not made itself (torch's, or the one that
TensorRT hands to a plugin), cannot set the flags of a primary context, and can make a context current in another thread
only in a way that aborts the process when that thread ends before it is taken away again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

from hwbench.cuda.api import Schedule, Stream
from hwbench.cuda.driver import LIBRARY
from hwbench.cuda.results import RESULTS, SUCCESS, failure
from hwbench.cuda.schedules import THREAD_LOCAL, require_schedule, with_schedule
from hwbench.errors import EngineError

_ADDRESS, _SIZE = ctypes.c_uint64, ctypes.c_size_t
_HANDLE, _OUT, _INT, _UINT = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
_SIGNATURES: Final[dict[str, tuple[object, ...]]] = {
    "cuGetErrorName": (_INT, _OUT),
    "cuGetErrorString": (_INT, _OUT),
    "cuCtxSetCurrent": (_HANDLE,),
    "cuCtxPopCurrent_v2": (_OUT,),
    "cuDevicePrimaryCtxGetState": (_INT, _OUT, _OUT),
    "cuDevicePrimaryCtxSetFlags_v2": (_INT, _UINT),
    "cuMemcpyHtoDAsync_v2": (_ADDRESS, _HANDLE, _SIZE, _HANDLE),
    "cuMemcpyDtoHAsync_v2": (_HANDLE, _ADDRESS, _SIZE, _HANDLE),
    "cuMemsetD8Async": (_ADDRESS, ctypes.c_ubyte, _SIZE, _HANDLE),
    "cuModuleLoadData": (_OUT, ctypes.c_char_p),
    "cuModuleGetFunction": (_OUT, _HANDLE, ctypes.c_char_p),
    "cuModuleUnload": (_HANDLE,),
    "cuFuncGetAttribute": (_OUT, _INT, _HANDLE),
    "cuLaunchKernel": (_HANDLE, _UINT, _UINT, _UINT, _UINT, _UINT, _UINT, _UINT, _HANDLE, _HANDLE, _HANDLE),
    "cuStreamBeginCapture_v2": (_HANDLE, _INT),
    "cuStreamEndCapture": (_HANDLE, _OUT),
    "cuGraphInstantiateWithFlags": (_OUT, _HANDLE, ctypes.c_ulonglong),
    "cuGraphLaunch": (_HANDLE, _HANDLE),
    "cuGraphExecDestroy": (_HANDLE,),
    "cuGraphDestroy": (_HANDLE,),
}


class Calls:
    """The functions, by their names in the library; what fails raises an :class:`EngineError`."""

    def __init__(self) -> None:
        # Global, since pycuda may have been linked without naming the library it needs.
        self._library = ctypes.CDLL(LIBRARY, mode=ctypes.RTLD_GLOBAL)
        for name, types in _SIGNATURES.items():
            if (function := getattr(self._library, name, None)) is not None:
                function.argtypes, function.restype = types, ctypes.c_int

    def raw(self, name: str) -> Callable[..., int]:
        """Return a function as it is, which gives a ``CUresult``.

        Raises:
            EngineError: the driver does not have it.
        """
        function: Callable[..., int] | None = getattr(self._library, name, None)
        if function is None:
            raise EngineError(
                f"the CUDA driver here has no {name}", hint="upgrade the NVIDIA driver (CUDA 11.4 or newer)"
            )
        return function

    def call(self, name: str, *arguments: object) -> None:
        """Call a function."""
        result = self.raw(name)(*arguments)
        if result != SUCCESS:
            raise self.failed(name, result)

    def failed(self, what: str, result: int) -> EngineError:
        """Return the error of a call that gave ``result``."""
        return failure(what, result, self._told("cuGetErrorName", result))

    def from_text(self, said: str) -> EngineError:
        """Return the error for what pycuda says, ``cuMemAlloc failed: out of memory - ...``: it keeps no number."""
        what, _, rest = said.partition(" failed: ")
        texts = {result: self._told("cuGetErrorString", result) for result in RESULTS}
        fitting = {result: len(text) for result, text in texts.items() if text and rest.startswith(text)}
        if not fitting:
            return EngineError(said)
        return self.failed(what, max(fitting, key=lambda result: fitting[result]))

    def _told(self, function: str, result: int) -> str | None:
        text = ctypes.c_char_p()
        known = self.raw(function)(result, ctypes.byref(text)) == SUCCESS
        return text.value.decode() if known and text.value else None

    def set_schedule(self, device: int, schedule: Schedule) -> None:
        """Say how threads that use the device's primary context wait."""
        self.call("cuDevicePrimaryCtxSetFlags_v2", device, with_schedule(self._flags(device), schedule))
        require_schedule(self._flags(device), schedule)

    def leave(self) -> None:
        """Make that context current again which was so before the last one was pushed."""
        self.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def _flags(self, device: int) -> int:
        flags, active = ctypes.c_uint(), ctypes.c_int()
        self.call("cuDevicePrimaryCtxGetState", device, ctypes.byref(flags), ctypes.byref(active))
        return flags.value

    def capture(self, work: Callable[[], object], stream: Stream) -> CalledGraph:
        """Return what ``work`` puts into the stream, instantiated."""
        template = ctypes.c_void_p()
        self.call("cuStreamBeginCapture_v2", stream.handle, THREAD_LOCAL)
        try:
            work()
        except BaseException:
            # Ends the capture, whatever has become of it; the error of the work is the one that tells.
            if self.raw("cuStreamEndCapture")(stream.handle, ctypes.byref(template)) == SUCCESS and template.value:
                self.call("cuGraphDestroy", template)
            raise
        self.call("cuStreamEndCapture", stream.handle, ctypes.byref(template))
        executable = ctypes.c_void_p()
        try:
            self.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), template, 0)
        finally:
            self.call("cuGraphDestroy", template)
        return CalledGraph(self, executable)


class CalledGraph:
    """A graph that is launched through ctypes."""

    def __init__(self, calls: Calls, executable: ctypes.c_void_p) -> None:
        self._calls = calls
        self._executable = executable
        self._launch = calls.raw("cuGraphLaunch")

    def launch(self, stream: Stream) -> None:
        result = self._launch(self._executable, stream.handle)
        if result:
            raise self._calls.failed("launching a CUDA graph", result)

    def free(self) -> None:
        if self._executable.value:
            self._calls.call("cuGraphExecDestroy", self._executable)
            self._executable = ctypes.c_void_p()
