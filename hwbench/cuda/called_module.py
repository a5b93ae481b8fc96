"""Modules and kernels through ctypes: pycuda's can only be launched into streams that pycuda has made."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from hwbench.cuda.api import Argument, LaunchShape, Stream
from hwbench.cuda.arguments import Packed
from hwbench.cuda.calls import Calls

# CUfunction_attribute: MAX_THREADS_PER_BLOCK, SHARED_SIZE_BYTES, LOCAL_SIZE_BYTES, NUM_REGS
_MOST_THREADS, _SHARED, _LOCAL, _REGISTERS = 0, 1, 3, 4


class CalledModule:
    """A loaded module."""

    def __init__(self, calls: Calls, image: bytes) -> None:
        self._calls = calls
        self._module = ctypes.c_void_p()
        calls.call("cuModuleLoadData", ctypes.byref(self._module), image)

    def function(self, name: str) -> CalledFunction:
        function = ctypes.c_void_p()
        self._calls.call("cuModuleGetFunction", ctypes.byref(function), self._module, name.encode())
        return CalledFunction(self._calls, function)

    def unload(self) -> None:
        if self._module.value:
            self._calls.call("cuModuleUnload", self._module)
            self._module = ctypes.c_void_p()


class CalledFunction:
    """A kernel."""

    def __init__(self, calls: Calls, function: ctypes.c_void_p) -> None:
        self._calls = calls
        self._function = function
        self.registers = self._attribute(_REGISTERS)
        self.shared_bytes = self._attribute(_SHARED)
        self.local_bytes = self._attribute(_LOCAL)
        self.most_threads = self._attribute(_MOST_THREADS)

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._calls.call("cuFuncGetAttribute", ctypes.byref(value), number, self._function)
        return value.value

    def launch(self, shape: LaunchShape, arguments: Sequence[Argument], stream: Stream) -> None:
        packed = Packed(arguments)
        where = (*shape.grid, *shape.block, shape.shared_bytes, stream.handle)
        self._calls.call("cuLaunchKernel", self._function, *where, packed.address, None)
