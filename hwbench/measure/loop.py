"""The one measuring loop.

Between two readings of the clock lies one call and nothing else. Everything that could disturb (garbage collection,
stop rules, progress) happens between chunks of calls, outside any sample.
"""

from __future__ import annotations

import gc
import itertools
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hwbench.measure.stop import Stopper
from hwbench.units import Clock

Call = Callable[[], object]
Tick = Callable[[float], None]

CHUNK_NS = 50_000_000
_POLL_S = 0.05
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


def sample(call: Call, clock: Clock, stopper: Stopper, tick: Tick, *, longest_chunk_ns: int = CHUNK_NS) -> array[int]:
    """Call until ``stopper`` says so and return one duration a call, in nanoseconds, in order.

    ``stopper`` is asked after chunks of calls, which get as long as ``longest_chunk_ns``.
    """
    now = clock.now_ns
    samples = array("q")
    append = samples.append
    started = now()
    chunk = 1
    while True:
        if stopper.limit is not None:
            chunk = min(chunk, stopper.limit - len(samples))
        chunk_started = now()
        for _ in range(chunk):
            before = now()
            call()
            append(now() - before)
        elapsed = now()
        if stopper.done(samples, (elapsed - started) / 1e9):
            return samples
        tick(stopper.progress(samples, (elapsed - started) / 1e9))
        per_call = max(1, (elapsed - chunk_started) // max(1, chunk))
        chunk = max(1, min(longest_chunk_ns // per_call, 4 * chunk))


@dataclass(frozen=True, kw_only=True)
class Concurrent:
    """Requests of several streams, and the common window in which they were sent.

    The requests in flight when the window closes are awaited: they are work that was done, so they are among the
    samples, and they were not done inside the window, so they are not among its completions.
    """

    samples: array[int]  # durations in nanoseconds, one stream after another
    completions_s: tuple[float, ...]  # inside the window: seconds after the common start, all streams, unordered
    window_s: float


def sample_streams(calls: Sequence[Call], clock: Clock, stopper: Stopper, tick: Tick) -> Concurrent:
    """Keep one request in flight per call, each from a thread of its own, until ``stopper`` says so.

    ``stopper`` must go by time and count alone: looking at the samples while they are taken would slow the streams.
    Where it goes by count, that many requests are sent in all, and the window closes when the last one completes.

    Raises:
        BaseException: what a call raised in its thread, raised again here.
    """
    requests: Iterable[int] = itertools.count() if stopper.limit is None else range(stopper.limit)
    shared = iter(requests)  # each request is drawn by exactly one stream
    streams = [_Stream(call, clock, shared) for call in calls]
    go, stop = threading.Event(), threading.Event()
    threads = [threading.Thread(target=stream.work, args=(go, stop), daemon=True) for stream in streams]
    for thread in threads:
        thread.start()
    started = clock.now_ns()
    go.set()
    try:
        _wait(streams, clock, started, stopper, tick)
        closed = clock.now_ns()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for stream in streams:
        if stream.error is not None:
            raise stream.error
    ends = [end for stream in streams for end in stream.ends]
    if stopper.limit is not None:
        closed = max(ends, default=closed)
    return Concurrent(
        samples=array("q", itertools.chain.from_iterable(stream.durations for stream in streams)),
        completions_s=tuple((end - started) / 1e9 for end in ends if end <= closed),
        window_s=(closed - started) / 1e9,
    )


def _wait(streams: Sequence[_Stream], clock: Clock, started: int, stopper: Stopper, tick: Tick) -> None:
    """Wait until ``stopper`` says so, or a stream has failed."""
    while True:
        clock.sleep(_POLL_S)
        elapsed = (clock.now_ns() - started) / 1e9
        done = range(sum(len(stream.ends) for stream in streams))  # how many; their values are not looked at
        if stopper.done(done, elapsed) or any(stream.error is not None for stream in streams):
            return
        tick(stopper.progress(done, elapsed))


class _Stream:
    """One thread that calls again as soon as it is answered."""

    def __init__(self, call: Call, clock: Clock, requests: Iterator[int]) -> None:
        self.call = call
        self.clock = clock
        self.requests = requests
        self.durations = array("q")
        self.ends = array("q")
        self.error: BaseException | None = None

    def work(self, go: threading.Event, stop: threading.Event) -> None:
        now, call = self.clock.now_ns, self.call
        go.wait()
        try:
            for _ in self.requests:
                if stop.is_set():
                    return
                before = now()
                call()
                end = now()
                self.durations.append(end - before)
                self.ends.append(end)
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread, which raises it
            self.error = error


def sub_window_rates(concurrent: Concurrent) -> tuple[float, ...]:
    """Return the completion rate in each of ten equal parts of the window, in 1/s."""
    width = concurrent.window_s / SUB_WINDOWS
    counts = [0] * SUB_WINDOWS
    for end in concurrent.completions_s:
        counts[min(SUB_WINDOWS - 1, int(end / width))] += 1
    return tuple(count / width for count in counts)
