"""Memory bandwidth of each level, by copying: one thread a core, all at once.

The convention is that of STREAM's Copy (McCalpin 1995): a copy of n bytes counts n read and n written. Bytes that the
hardware moves besides (reading a line before it is written) are not counted, so what the memory really carries may
be half as much again.

One call copies a buffer many times over inside numpy, without the interpreter in between: the buffer is viewed as
*one* element as large as itself, in an array of ``repeats`` such elements with stride zero. numpy then calls libc's
``memmove`` per element, in C, without the GIL. Buffers start on a page: on others ``memmove`` was seen to be three
times slower. The cost per element beside the copy was 3 ns on an EPYC 9004 core, 4 % of the smallest copy used there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from hwbench.cost.levels import Footprint
from hwbench.errors import DeviceError
from hwbench.records.profile import CalibrationPoint
from hwbench.units import Clock, MonotonicClock

REPEATS = 7
_PAGE_BYTES = 4096
_MOST_REPEATS = 1 << 31

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class _Window:
    start_ns: int
    end_ns: int


class Copier:
    """A source and a destination of ``size`` bytes, page-aligned and touched by the thread that makes it."""

    def __init__(self, size: int) -> None:
        self._source = _aligned(size)
        self._target = _aligned(size)
        self._source.fill(1)
        self._target.fill(0)
        self.size = size

    def copy(self, repeats: int) -> None:
        """Copy the source onto the destination ``repeats`` times."""
        np.copyto(_repeated(self._target, repeats), _repeated(self._source, repeats))

    def check(self) -> None:
        """Copy, and see that the destination then holds what the source does."""
        self.copy(2)
        if not np.array_equal(self._source, self._target):
            msg = f"numpy {np.__version__} did not copy a buffer of {self.size} bytes"
            raise RuntimeError(msg)


def measure_copy(
    plan: Footprint, cores: Sequence[int], *, seconds: float, clock: Clock | None = None
) -> CalibrationPoint:
    """Measure the copy bandwidth of one level.

    Args:
        plan: what each thread copies.
        cores: logical CPUs, one thread on each, pinned where the system can.
        seconds: time to spend, over all ``REPEATS`` windows.
        clock: for tests.

    Returns:
        The best window as the value, all of them as samples, in bytes per second over all threads.

    Raises:
        DeviceError: a thread could not be pinned, or there was not enough memory.
    """
    clock = clock or MonotonicClock()
    window_ns = int(seconds * 1e9 / (REPEATS + 1))
    team = _Team(plan.buffer_bytes, cores, clock)
    repeats = team.calibrated_repeats(window_ns)
    windows = team.run(repeats, REPEATS)
    total = 2 * plan.buffer_bytes * repeats * len(cores)
    samples = tuple(total / ((window.end_ns - window.start_ns) / 1e9) for window in windows)
    pinned = "pinned" if hasattr(os, "sched_setaffinity") else "not pinned"
    return CalibrationPoint(
        quantity="bandwidth_bytes_per_s",
        key=plan.level,
        value=max(samples),
        samples=samples,
        method=(
            f"copy (libc memmove through numpy {np.__version__}), two buffers of {plan.buffer_bytes} bytes a thread "
            f"({plan.why}), {pinned}; bytes read + bytes written, write-allocate traffic not counted"
        ),
        threads=len(cores),
    )


class _Team:
    """One thread a core; every call of :meth:`run` starts them anew and joins them."""

    def __init__(self, size: int, cores: Sequence[int], clock: Clock) -> None:
        self._size = size
        self._cores = cores
        self._clock = clock

    def calibrated_repeats(self, window_ns: int) -> int:
        """Return how many copies fill a window, found by doubling with all threads at work."""
        repeats = 1
        while True:
            window = self.run(repeats, 1)[0]
            spent = max(1, window.end_ns - window.start_ns)
            if spent >= window_ns / 4 or repeats >= _MOST_REPEATS:
                return min(_MOST_REPEATS, max(1, round(repeats * window_ns / spent)))
            repeats *= max(2, min(16, window_ns // (2 * spent)))

    def run(self, repeats: int, windows: int) -> list[_Window]:
        """Return ``windows`` windows, each from the first thread's start to the last one's end."""
        barrier = threading.Barrier(len(self._cores))
        times: list[list[_Window]] = [[] for _ in self._cores]
        errors: list[Exception] = []

        def work(index: int, core: int) -> None:
            try:
                _pin(core)
                copier = Copier(self._size)
                copier.check()
                for _ in range(windows):
                    barrier.wait()
                    start = self._clock.now_ns()
                    copier.copy(repeats)
                    times[index].append(_Window(start_ns=start, end_ns=self._clock.now_ns()))
            except threading.BrokenBarrierError:
                return
            except Exception as error:  # noqa: BLE001 - the end of a thread: raised again by the one that waits for it
                errors.append(error)
                barrier.abort()

        _run_all([threading.Thread(target=work, args=pair, daemon=True) for pair in enumerate(self._cores)])
        if errors:
            if not isinstance(errors[0], OSError | MemoryError):
                raise errors[0]
            msg = f"the copy threads on CPUs {list(self._cores)} could not be set up: {errors[0]}"
            raise DeviceError(msg, hint="may this process use those CPUs, and is enough memory free?") from errors[0]
        return [
            _Window(start_ns=min(window.start_ns for window in row), end_ns=max(window.end_ns for window in row))
            for row in zip(*times, strict=True)
        ]


def _run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _pin(core: int) -> None:
    """Keep the calling thread on one CPU; the rest of the process is not touched."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(threading.get_native_id(), {core})


def _aligned(size: int) -> Bytes:
    raw = np.empty(size + _PAGE_BYTES, dtype=np.uint8)
    start = -raw.ctypes.data % _PAGE_BYTES
    return raw[start : start + size]


def _repeated(buffer: Bytes, repeats: int) -> np.ndarray[tuple[int, ...], np.dtype[np.void]]:
    """View ``buffer`` as ``repeats`` elements, each of them the whole of it."""
    whole = buffer.view(np.dtype((np.void, buffer.size)))
    return as_strided(whole, shape=(repeats,), strides=(0,))
