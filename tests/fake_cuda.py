"""CUDA without a GPU, for tests: it executes, and it is strict.

Memory of the "GPU" lies in a space of addresses of its own and is full of 0xCD until something is written. What is put
into a stream is *not* done until the stream, or an event in it, is waited for: whoever reads too early reads 0xCD, and
whoever frees too early is told. Kernels are Python functions, registered by name. The GPU's clock counts what is done:
every piece of work takes the seconds that it says.

Wrong use that CUDA might let pass, or punish by a crash, is an ``AssertionError``: memory used after it was freed, an
access beyond its end, a stream of another context, a call from a thread without the context, a launch in the wrong
shape. What CUDA reports is an :class:`~hwbench.errors.EngineError`, as in the real backends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hwbench.cuda import driver
from hwbench.cuda.api import Address, Argument, CudaFacts, LaunchShape
from hwbench.cuda.arguments import as_bytes, letters
from hwbench.cuda.results import failure

START = 0x7F00_0000_0000
GAP = 4096  # between two pieces of memory, so that running over the end of one is seen

FACTS = CudaFacts(
    name="Fake GPU",
    uuid="GPU-00010203-0405-0607-0809-0a0b0c0d0e0f",
    compute_capability=(8, 7),
    multiprocessors=14,
    l2_bytes=4 << 20,
    memory_bytes=8 << 30,
    clock_hz=1.3e9,
    integrated=True,
    driver_cuda=(13, 0),
    backend="fake 1",
    schedule="spin",
)


@dataclass
class Kernel:
    """A kernel: ``run(cuda, shape, *arguments)`` reads and writes through :meth:`FakeCuda.view`."""

    run: Callable[..., None]
    types: str | None = None  # of the arguments, in the letters of hwbench.cuda.arguments; None: any
    registers: int = 24
    shared_bytes: int = 128
    local_bytes: int = 16
    most_threads: int = 1024
    seconds: float = 1e-3


@dataclass
class Work:
    """One piece of work in a stream."""

    what: str
    do: Callable[[], None]
    seconds: float = 1e-6


def axpy(cuda: FakeCuda, shape: LaunchShape, x: Address, y: Address, n: int, a: float) -> None:
    """y += a x, float32."""
    assert shape.grid[0] * shape.block[0] >= n
    cuda.view(y, np.float32, (n,))[:] += np.float32(a) * cuda.view(x, np.float32, (n,))


class FakeCuda:
    """A context on a GPU that is not there."""

    def __init__(self, kernels: Mapping[str, Kernel] | None = None, *, most_bytes: int = 1 << 32, **facts: Any) -> None:
        self.facts = replace(FACTS, **facts)
        self.kernels = {"axpy": Kernel(axpy, "PPif")} | dict(kernels or {})
        self.most_bytes = most_bytes
        self.now_s = 0.0
        self.done: list[str] = []  # what has been done, in order
        self.refuses_capture = False  # as where a tactic of TensorRT cannot be captured
        self.closed = False
        self._memory: dict[int, np.ndarray[Any, Any]] = {}
        self._next = START
        self._streams: dict[int, FakeStream] = {}
        self._here = threading.local()  # as in CUDA: a thread that gets a dead one's number has no context
        self._here.current = True
        self._pinned = 0

    # ---- what the tests ask

    def alive(self) -> int:
        """Return how many buffers, pinned ones included, have not been given back."""
        return len(self._memory) + self._pinned

    def by_handle(self, handle: int) -> FakeStream:
        """Return the stream that a library got the handle of."""
        assert handle in self._streams, f"no stream of this context has the handle {handle}"
        return self._streams[handle]

    def own(self, stream: Any) -> FakeStream:
        """Return the stream of that handle, whoever brings it."""
        return stream if isinstance(stream, FakeStream) else self.by_handle(stream.handle)

    def view(self, address: int, dtype: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Return memory of the GPU as an array, which may be written."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        for start, memory in self._memory.items():
            if start <= address < start + max(1, memory.size):
                offset = address - start
                assert offset + size <= memory.size, (
                    f"{size} bytes at offset {offset} of memory that has {memory.size}: beyond its end"
                )
                return memory[offset : offset + size].view(dtype).reshape(shape)
        raise AssertionError(f"there is no memory at {address:#x}: freed, or never taken")

    def check_thread(self) -> None:
        """Fail where the calling thread has not made the context its own."""
        assert not self.closed, "the context was closed"
        assert getattr(self._here, "current", False), "this thread has not called make_current"

    # ---- the protocol

    def make_current(self) -> None:
        self._here.current = True

    def stream(self) -> FakeStream:
        self.check_thread()
        stream = FakeStream(self, handle=0x5000 + 8 * len(self._streams))
        self._streams[stream.handle] = stream
        return stream

    def event(self, *, timing: bool = True) -> FakeEvent:
        self.check_thread()
        return FakeEvent(self, timing)

    def allocate(self, size_bytes: int) -> FakeBuffer:
        self.check_thread()
        self._check_no_capture()
        if size_bytes + sum(memory.size for memory in self._memory.values()) > self.most_bytes:
            raise failure("cuMemAlloc", 2, "CUDA_ERROR_OUT_OF_MEMORY")
        address = Address(self._next)
        self._memory[address] = np.full(size_bytes, 0xCD, np.uint8)
        self._next += -(-max(1, size_bytes) // 256) * 256 + GAP
        return FakeBuffer(self, address, size_bytes)

    def pinned(self, size_bytes: int) -> FakePinned:
        self.check_thread()
        self._check_no_capture()
        self._pinned += 1
        return FakePinned(self, size_bytes)

    def copy_in(self, target: int, source: np.ndarray[Any, Any], stream: FakeStream) -> None:
        taken = as_bytes(source)

        def do() -> None:
            self.view(target, np.uint8, (taken.size,))[:] = taken

        self.view(target, np.uint8, (taken.size,))
        self.own(stream).put(Work("copy in", do))

    def copy_out(self, target: np.ndarray[Any, Any], source: int, stream: FakeStream) -> None:
        filled = as_bytes(target)

        def do() -> None:
            filled[:] = self.view(source, np.uint8, (filled.size,))

        self.view(source, np.uint8, (filled.size,))
        self.own(stream).put(Work("copy out", do))

    def fill(self, target: int, byte: int, size_bytes: int, stream: FakeStream) -> None:
        def do() -> None:
            self.view(target, np.uint8, (size_bytes,))[:] = byte

        self.view(target, np.uint8, (size_bytes,))
        self.own(stream).put(Work("fill", do))

    def load(self, image: bytes) -> FakeModule:
        self.check_thread()
        if not image.startswith(b"fake cubin"):
            raise failure("cuModuleLoadData", 200, "CUDA_ERROR_INVALID_IMAGE")
        return FakeModule(self)

    def capture(self, work: Callable[[], object], stream: FakeStream) -> FakeGraph:
        self.check_thread()
        stream = self.own(stream)
        assert stream.captured is None, "the stream is capturing already"
        stream.captured, stream.broken = [], False
        try:
            work()
            if self.refuses_capture:
                raise failure("cuStreamEndCapture", 900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
            if stream.broken:
                raise failure("cuStreamEndCapture", 901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
            return FakeGraph(self, tuple(stream.captured))
        finally:
            stream.captured = None

    def close(self) -> None:
        self.closed = True

    def _check_no_capture(self) -> None:
        for stream in self._streams.values():
            if stream.captured is not None:
                stream.broken = True
                raise failure("cuMemAlloc", 900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")


@dataclass
class FakeStream:
    """A queue."""

    cuda: FakeCuda
    handle: int
    queue: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None
    broken: bool = False
    freed: bool = False

    def put(self, work: Work) -> None:
        """Put work behind what is there."""
        self.cuda.check_thread()
        assert not self.freed, "the stream was freed"
        (self.queue if self.captured is None else self.captured).append(work)

    def until(self, last: Work | None) -> None:
        """Do what is in the queue, up to and with ``last``, or all."""
        while self.queue:
            work = self.queue.pop(0)
            self.cuda.now_s += work.seconds
            work.do()
            self.cuda.done.append(work.what)
            if work is last:
                return

    def wait(self) -> None:
        assert not self.freed, "the stream was freed"
        if self.captured is not None:
            self.broken = True
            raise failure("cuStreamSynchronize", 900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        self.until(None)

    def free(self) -> None:
        self.freed = True


class FakeEvent:
    """A mark, which is also work of no duration."""

    def __init__(self, cuda: FakeCuda, timing: bool) -> None:
        self._cuda = cuda
        self._timing = timing
        self._at: tuple[FakeStream, Work] | None = None
        self._reached_s: float | None = None

    def record(self, stream: FakeStream) -> None:
        def do() -> None:
            self._reached_s = self._cuda.now_s

        work = Work("event", do, seconds=0)
        self._reached_s, self._at = None, (stream, work)
        stream.put(work)

    def wait(self) -> None:
        if self._at is not None and self._reached_s is None:
            self._at[0].until(self._at[1])

    def since(self, earlier: FakeEvent) -> float:
        if not (self._timing and earlier._timing) or self._at is None or earlier._at is None:
            raise failure("cuEventElapsedTime", 400, "CUDA_ERROR_INVALID_HANDLE")
        if self._reached_s is None or earlier._reached_s is None:
            raise failure("cuEventElapsedTime", 600, "CUDA_ERROR_NOT_READY")
        return self._reached_s - earlier._reached_s

    def free(self) -> None:
        self._at = None


class FakeBuffer:
    """Memory of the GPU."""

    def __init__(self, cuda: FakeCuda, address: Address, size_bytes: int) -> None:
        self.address = address
        self.size_bytes = size_bytes
        self._cuda = cuda

    def free(self) -> None:
        self._cuda._memory.pop(self.address, None)


class FakePinned:
    """Page-locked memory."""

    def __init__(self, cuda: FakeCuda, size_bytes: int) -> None:
        self._whole = np.full(max(1, size_bytes), 0xCD, np.uint8)
        self.array = self._whole[:size_bytes]
        self.address = Address(self._whole.ctypes.data)
        self.size_bytes = size_bytes
        self._cuda: FakeCuda | None = cuda

    def free(self) -> None:
        if self._cuda is not None:
            self._cuda._pinned -= 1
            self._cuda, self.array = None, np.empty(0, np.uint8)


class FakeModule:
    """The kernels that were registered."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda

    def function(self, name: str) -> FakeFunction:
        if name not in self._cuda.kernels:
            raise failure("cuModuleGetFunction", 500, "CUDA_ERROR_NOT_FOUND")
        return FakeFunction(self._cuda, name, self._cuda.kernels[name])

    def unload(self) -> None:
        pass


class FakeFunction:
    """A kernel."""

    def __init__(self, cuda: FakeCuda, name: str, kernel: Kernel) -> None:
        self.registers = kernel.registers
        self.shared_bytes = kernel.shared_bytes
        self.local_bytes = kernel.local_bytes
        self.most_threads = kernel.most_threads
        self._cuda = cuda
        self._name = name
        self._kernel = kernel

    def launch(self, shape: LaunchShape, arguments: Sequence[Argument], stream: FakeStream) -> None:
        given = letters(arguments)
        wanted = self._kernel.types
        assert wanted is None or given == wanted, f"{self._name} takes {wanted} and was given {given}"
        threads = shape.block[0] * shape.block[1] * shape.block[2]
        if threads > self.most_threads or shape.shared_bytes > 48 << 10:
            raise failure("cuLaunchKernel", 701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES")
        if min(*shape.grid, *shape.block) < 1:
            raise failure("cuLaunchKernel", 1, "CUDA_ERROR_INVALID_VALUE")
        values, kernel = tuple(arguments), self._kernel
        work = Work(self._name, lambda: kernel.run(self._cuda, shape, *values), kernel.seconds)
        self._cuda.own(stream).put(work)


class FakeGraph:
    """Work that was captured; launching it puts all of it into a stream again."""

    def __init__(self, cuda: FakeCuda, work: tuple[Work, ...]) -> None:
        self.work = work
        self._cuda = cuda
        self.freed = False

    def launch(self, stream: FakeStream) -> None:
        assert not self.freed, "the graph was freed"
        for work in self.work:
            self._cuda.own(stream).put(replace(work))

    def free(self) -> None:
        self.freed = True


def show_gpu(monkeypatch, *modules):
    """Let modules that ask for a driver find one, which shows the GPU of :data:`FACTS`."""
    seen = driver.SeenGpu(
        index=0, name="Fake GPU", uuid=FACTS.uuid, whole=FACTS.uuid, mig=False, compute_capability=(8, 7),
        integrated=False, memory_bytes=1 << 33, multiprocessors=14, l2_bytes=1 << 22, clock_hz=1e9,
    )  # fmt: skip
    facts = driver.DriverFacts(library="libcuda.so.1", cuda=(13, 0), gpus=(seen,))
    for module in modules:
        monkeypatch.setattr(module, "require_driver", lambda minimum=None: facts)
