"""A plan run as a program without hwbench would run it: one context, one CUDA graph, the driver called by ctypes.

Independent of hwbench's own layer over CUDA, which is what it is held against. The GPU's context must be current in
this thread. Nothing is freed: the process ends after it.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


class Driver:
    """Functions of the driver; what fails ends the program."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(LIBRARY)

    def call(self, name: str, *arguments: Any) -> None:
        result = getattr(self.library, name)(*arguments)
        if result:
            sys.exit(f"error: {name}: {result}")

    def allocated(self, size_bytes: int) -> int:
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size_bytes, 1)))
        return int(address.value)

    def stream(self) -> ctypes.c_void_p:
        stream = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        return stream

    def captured(self, work: Callable[[], object], stream: ctypes.c_void_p) -> ctypes.c_void_p:
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
        work()
        self.call("cuStreamEndCapture", stream, ctypes.byref(graph))
        self.call("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_uint64(0))
        return ready


def bare_plan(engine: Any, inputs: dict[str, Any]) -> Callable[[], None]:
    """Return one inference of an ``ICudaEngine`` as a CUDA graph, its inputs in GPU memory."""
    driver, context = Driver(), engine.create_execution_context()
    stream = driver.stream()
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    for name in sorted(names, key=lambda name: name not in inputs):  # shapes of outputs follow from inputs
        if name in inputs:
            array = np.ascontiguousarray(inputs[name])
            context.set_input_shape(name, array.shape)
            address = driver.allocated(array.nbytes)
            driver.call(
                "cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data),
                ctypes.c_size_t(array.nbytes), stream,
            )  # fmt: skip
            driver.call("cuStreamSynchronize", stream)
        else:
            address = driver.allocated(8 * int(np.prod(context.get_tensor_shape(name))))  # the widest type
        context.set_tensor_address(name, address)
    enqueue = context.execute_async_v3
    for _ in range(2):
        if not enqueue(stream.value):
            sys.exit("error: TensorRT did not run the plan")
    driver.call("cuStreamSynchronize", stream)
    ready = driver.captured(lambda: enqueue(stream.value), stream)
    launch, wait = driver.library.cuGraphLaunch, driver.library.cuStreamSynchronize

    def run() -> None:
        launch(ready, stream)
        wait(stream)

    run()
    driver.call("cuStreamSynchronize", stream)
    return run
