"""The one measuring loop.

Between two readings of the clock lies one call and nothing else. Everything that could disturb (garbage collection,
stop rules, progress) happens between chunks of calls, outside any sample.
"""

from __future__ import annotations

import gc
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hwbench.measure.stop import Stopper
from hwbench.units import Clock

Call = Callable[[], object]
Tick = Callable[[float], None]

_CHUNK_NS = 50_000_000
SUB_WINDOWS = 10


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector out: what exists is frozen, nothing is collected until the end."""
    gc.collect()
    gc.freeze()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
        gc.unfreeze()


def sample(call: Call, clock: Clock, stopper: Stopper, tick: Tick) -> array[int]:
    """Call until ``stopper`` says so and return one duration a call, in nanoseconds, in order."""
    now = clock.now_ns
    samples = array("q")
    append = samples.append
    started = now()
    chunk = 1
    while True:
        chunk_started = now()
        for _ in range(chunk):
            before = now()
            call()
            append(now() - before)
        elapsed = now()
        if stopper.done(samples, (elapsed - started) / 1e9):
            return samples
        tick(stopper.progress(samples, (elapsed - started) / 1e9))
        per_call = max(1, (elapsed - chunk_started) // chunk)
        chunk = max(1, min(_CHUNK_NS // per_call, 4 * chunk))


@dataclass(frozen=True, kw_only=True)
class Concurrent:
    """Requests completed by several streams over a common window."""

    samples: array[int]  # durations in nanoseconds, one stream after another
    completions_s: tuple[float, ...]  # seconds after the common start, all streams, unordered
    window_s: float


def sample_streams(calls: Sequence[Call], clock: Clock, stopper: Stopper, tick: Tick) -> Concurrent:
    """Keep one request in flight per call, each from a thread of its own, until ``stopper`` says so.

    ``stopper`` must go by time and count alone: looking at the samples while they are taken would slow the streams.
    A request counts when it completes inside the window; those in flight when it closes do not.

    Raises:
        Exception: what a call raised in its thread, raised again here.
    """
    streams = [_Stream(call, clock) for call in calls]
    go, stop = threading.Event(), threading.Event()
    threads = [threading.Thread(target=stream.work, args=(go, stop), daemon=True) for stream in streams]
    for thread in threads:
        thread.start()
    started = clock.now_ns()
    go.set()
    while True:
        clock.sleep(0.05)
        elapsed = (clock.now_ns() - started) / 1e9
        done = range(sum(len(stream.durations) for stream in streams))  # how many; their values are not looked at
        if stopper.done(done, elapsed) or any(stream.error is not None for stream in streams):
            break
        tick(stopper.progress(done, elapsed))
    closed = clock.now_ns()
    stop.set()
    for thread in threads:
        thread.join()
    for stream in streams:
        if stream.error is not None:
            raise stream.error
    samples = array("q")
    completions: list[float] = []
    for stream in streams:
        for duration, end in zip(stream.durations, stream.ends, strict=True):
            if end <= closed:
                samples.append(duration)
                completions.append((end - started) / 1e9)
    return Concurrent(samples=samples, completions_s=tuple(completions), window_s=(closed - started) / 1e9)


class _Stream:
    """One thread that calls again as soon as it is answered."""

    def __init__(self, call: Call, clock: Clock) -> None:
        self.call = call
        self.clock = clock
        self.durations = array("q")
        self.ends = array("q")
        self.error: Exception | None = None

    def work(self, go: threading.Event, stop: threading.Event) -> None:
        now, call = self.clock.now_ns, self.call
        go.wait()
        try:
            while not stop.is_set():
                before = now()
                call()
                end = now()
                self.durations.append(end - before)
                self.ends.append(end)
        except Exception as error:  # noqa: BLE001 - carried to the caller's thread, which raises it
            self.error = error


def sub_window_rates(concurrent: Concurrent) -> tuple[float, ...]:
    """Return the completion rate in each of ten equal parts of the window, in 1/s."""
    width = concurrent.window_s / SUB_WINDOWS
    counts = [0] * SUB_WINDOWS
    for end in concurrent.completions_s:
        counts[min(SUB_WINDOWS - 1, int(end / width))] += 1
    return tuple(count / width for count in counts)
