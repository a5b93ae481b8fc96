"""What hwbench needs of CUDA's driver API (docs.nvidia.com/cuda/cuda-driver-api), as protocols.

Every call blocks no longer than its name says, and raises :class:`~hwbench.errors.EngineError` with CUDA's own words.
Sizes are bytes, times seconds. The context is the device's primary one, which torch and TensorRT use too, so handles
and addresses may be passed to and fro.

Threads: what is made (streams, buffers, modules, graphs) is made and freed by the thread that opened the context.
Another thread calls :meth:`Cuda.make_current` once, and may then launch, copy, record and wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, Union

if TYPE_CHECKING:
    import numpy as np

Schedule = Literal["spin", "yield", "block"]
"""How a thread waits for the GPU: it polls; it polls and lets others run in between; it sleeps until woken."""


class Address(int):
    """An address of the GPU: a kernel takes it as 64 bits. What is added to one gives one."""

    def __add__(self, other: int) -> Address:
        return Address(int(self) + other)


Argument = Union[Address, int, float]  # noqa: UP007 - evaluated on Python 3.10
"""Of a kernel: an address, an int32 (any other ``int``), a float32 (``float``)."""


class Buffer(Protocol):
    """Memory of the GPU, or page-locked memory of the host. One of no bytes has an address too."""

    address: Address
    size_bytes: int

    def free(self) -> None:
        """Give it back; a second call does nothing."""
        ...


class Pinned(Buffer, Protocol):
    """Page-locked memory of the host, as an array of bytes."""

    array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


class Event(Protocol):
    """A mark in a stream."""

    def record(self, stream: Stream) -> None:
        """Put it behind what is in the stream."""
        ...

    def wait(self) -> None:
        """Return when it has been reached."""
        ...

    def since(self, earlier: Event) -> float:
        """Return the seconds between two events that have been reached."""
        ...

    def free(self) -> None:
        """Give it back; a second call does nothing."""
        ...


class Stream(Protocol):
    """An order of work. ``handle`` is its ``CUstream`` as an integer.

    Copies, fills, kernels and graphs may be put into a stream that somebody else has made in the same context: anything
    with its handle will do.
    """

    handle: int

    def wait(self) -> None:
        """Return when everything in it is done.

        Raises:
            EngineError: something in it failed.
        """
        ...

    def free(self) -> None:
        """Give it back; a second call does nothing."""
        ...


class Function(Protocol):
    """A kernel of a loaded module."""

    registers: int
    shared_bytes: int
    local_bytes: int
    most_threads: int

    def launch(self, shape: LaunchShape, arguments: Sequence[Argument], stream: Stream) -> None:
        """Put it into a stream: addresses as 64 bits, other integers as int32, floats as float32.

        Raises:
            EngineError: CUDA refuses the shape, or an integer is no int32 (an address that is no :class:`Address`).
        """
        ...


class Module(Protocol):
    """A loaded cubin or PTX."""

    def function(self, name: str) -> Function:
        """Return a kernel by its unmangled name."""
        ...

    def unload(self) -> None:
        """Unload it."""
        ...


class Graph(Protocol):
    """Work that was captured, ready to be launched as one."""

    def launch(self, stream: Stream) -> None:
        """Put all of it into a stream."""
        ...

    def free(self) -> None:
        """Give it back."""
        ...


@dataclass(frozen=True, kw_only=True)
class LaunchShape:
    """Blocks of the grid, threads of a block, and dynamic shared memory."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class CudaFacts:
    """The GPU of a context, from ``cuDeviceGetAttribute``."""

    name: str
    uuid: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    l2_bytes: int
    memory_bytes: int
    clock_hz: float  # highest, of the multiprocessors
    integrated: bool  # shares the host's memory, as in a Jetson
    driver_cuda: tuple[int, int]  # the CUDA version the driver implements
    backend: str  # pycuda, cuda-python, with version
    schedule: Schedule  # in force in this context, read back


class Cuda(Protocol):
    """A context on one GPU."""

    facts: CudaFacts

    def make_current(self) -> None:
        """Make it the context of the calling thread."""
        ...

    def stream(self) -> Stream:
        """Make a stream that does not wait for the default one."""
        ...

    def event(self, *, timing: bool = True) -> Event:
        """Make an event; without ``timing`` it is cheaper and :meth:`Event.since` is refused."""
        ...

    def allocate(self, size_bytes: int) -> Buffer:
        """Take memory of the GPU."""
        ...

    def pinned(self, size_bytes: int) -> Pinned:
        """Take page-locked memory of the host."""
        ...

    def copy_in(self, target: int, source: np.ndarray[Any, Any], stream: Stream) -> None:
        """Copy a contiguous array of the host to an address of the GPU, in order of the stream.

        The array must live, and stay as it is, until the stream has been waited for. Only from page-locked memory does
        the copy run beside the host.
        """
        ...

    def copy_out(self, target: np.ndarray[Any, Any], source: int, stream: Stream) -> None:
        """Copy from an address of the GPU into a contiguous array of the host, in order of the stream.

        The array has its values when the stream has been waited for.
        """
        ...

    def fill(self, target: int, byte: int, size_bytes: int, stream: Stream) -> None:
        """Set every byte."""
        ...

    def load(self, image: bytes) -> Module:
        """Load a cubin or PTX."""
        ...

    def capture(self, work: Callable[[], object], stream: Stream) -> Graph:
        """Return what ``work`` puts into the stream as a graph; it is not run.

        Raises:
            EngineError: ``work`` does what cannot be captured, such as waiting or taking memory; nothing is left over.
        """
        ...

    def close(self) -> None:
        """Leave the context; a second call does nothing."""
        ...
