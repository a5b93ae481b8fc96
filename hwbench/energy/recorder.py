"""Read an instrument while work goes on, and keep every reading.

A thread reads each source at its own interval, on an absolute schedule; :meth:`Recorder.mark` reads all of them at once
and notes the moment, so that counters are read at the edges of a window. A source without an interval is read at marks
alone. A source that fails, or raises, is not asked again; the trace says since when and why. A
reading that is no number is a fault.

The thread keeps off the CPUs that are being measured where there are others; :attr:`Recorder.cpu_s` is what it cost.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from types import TracebackType

from hwbench.energy.account import energy_between
from hwbench.energy.integrate import Sample
from hwbench.energy.trace import Trace
from hwbench.protocols import NOT_NOW, Instrument, Source
from hwbench.records.base import Missing
from hwbench.records.energy import TRACE_SCHEMA, EnergyReading, Mark, TraceHeader
from hwbench.units import Clock, MonotonicClock


class Recorder:
    """Records an instrument between entering and leaving the context.

    Args:
        instrument: what to read; it is closed on leaving. None records marks alone.
        clock: tests pass a fake; then nothing is read but at marks and by :meth:`poll`.
        busy_cpus: logical CPUs under measurement, which the thread leaves alone where it can.
    """

    def __init__(
        self,
        instrument: Instrument | None,
        *,
        clock: Clock | None = None,
        busy_cpus: Sequence[int] = (),
    ) -> None:
        self._instrument = instrument
        self._clock = clock or MonotonicClock()
        self._busy = frozenset(busy_cpus)
        self._sources: list[Source] = list(instrument.sources) if instrument is not None else []
        self._every_s = [source.every_s for source in self._sources]
        self._due_s = [0.0 if every_s is not None else float("inf") for every_s in self._every_s]
        self._broken: set[int] = set()
        self._lock, self._wake, self._stop = threading.Lock(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.cpu_s = 0.0
        self.trace = Trace(self._header())

    def _header(self) -> TraceHeader:
        instrument = self._instrument
        return TraceHeader(
            schema_version=TRACE_SCHEMA,
            meter=instrument.meter if instrument is not None else "none",
            boundary=instrument.boundary if instrument is not None else "nothing: marks alone",
            provenance=instrument.provenance if instrument is not None else "measured_external",
            clock=type(self._clock).__name__,
            started_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            channels=tuple(channel for source in self._sources for channel in source.channels),
            settings=dict(instrument.settings) if instrument is not None else {},
        )

    def __enter__(self) -> Recorder:
        self._origin_ns = self._clock.now_ns()
        self._start()
        return self

    def at_least_every(self, seconds: float) -> None:
        """Read every source at least so often from now on.

        Counters, which else are read at marks alone, then show how power went.
        """
        with self._lock:
            self._every_s = [min(seconds, every_s or seconds) for every_s in self._every_s]
            self._due_s = [min(due_s, self.now_s()) for due_s in self._due_s]
        self._wake.set()
        self._start()

    def _start(self) -> None:
        """Begin to read in a thread, where anything is to be read and time goes by itself."""
        asked = any(every_s is not None for every_s in self._every_s)
        if self._thread is None and asked and isinstance(self._clock, MonotonicClock):
            self._thread = threading.Thread(target=self._work, daemon=True, name="hwbench-recorder")
            self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._instrument is not None:
            self._instrument.close()

    def stop(self) -> None:
        """Stop reading in between; the trace grows by marks alone from here on."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def now_s(self) -> float:
        """Return the time since recording began."""
        return (self._clock.now_ns() - self._origin_ns) / 1e9

    def mark(self, name: str, **facts: float) -> Mark:
        """Read every source now and note the moment: after the readings, before work that is to be measured."""
        with self._lock:
            for number in range(len(self._sources)):
                self._read(number)
            mark = Mark(t_s=self.now_s(), mark=name, facts=facts)
            self.trace.marks.append(mark)
        return mark

    def end_mark(self, name: str, **facts: float) -> Mark:
        """Like :meth:`mark` for the end of work: the moment is noted before the readings, and before any wait."""
        t_s = self.now_s()
        with self._lock:
            mark = Mark(t_s=t_s, mark=name, facts=facts)
            self.trace.marks.append(mark)
            for number in range(len(self._sources)):
                self._read(number)
        return mark

    @contextlib.contextmanager
    def window(self, name: str = "window") -> Iterator[Window]:
        """Mark a window around the body; it closes on an exception too."""
        window = Window(self, self.mark(f"{name}.start"))
        try:
            yield window
        finally:
            window.end = self.end_mark(f"{name}.end")

    def poll(self) -> float:
        """Read every source whose time has come; return the seconds until the next one's."""
        for number, every_s in enumerate(self._every_s):
            now_s = self.now_s()
            if every_s is None or now_s < self._due_s[number]:
                continue
            with self._lock:
                self._read(number)
            behind = (now_s - self._due_s[number]) // every_s
            self._due_s[number] += (behind + 1) * every_s  # t0 + k dt: what was missed is not made up for
        return max(0.0, min(self._due_s, default=float("inf")) - self.now_s())

    def _read(self, number: int) -> None:
        """Read one source, with the lock held; the time of a reading is the middle of it."""
        if number in self._broken:
            return
        source = self._sources[number]
        before_s = self.now_s()
        values = _values(source)
        t_s = (before_s + self.now_s()) / 2
        for channel, value in zip(source.channels, values, strict=True):
            if isinstance(value, Missing):
                if value.code == NOT_NOW:
                    continue
                self.trace.faults.setdefault(channel.name, (t_s, value))
                continue
            samples = self.trace.samples.setdefault(channel.name, [])
            if not samples or t_s > samples[-1].t_s:
                samples.append(Sample(t_s, value))
        if all(isinstance(value, Missing) and value.code != NOT_NOW for value in values):
            self._broken.add(number)

    def _work(self) -> None:
        self._step_aside()
        began = time.thread_time()
        while not self._stop.is_set():
            self._wake.wait(min(self.poll(), 3600.0))
            self._wake.clear()
            self.cpu_s = time.thread_time() - began

    def _step_aside(self) -> None:
        """Leave the measured CPUs, where there are others and the OS can pin a thread."""
        if not self._busy or not hasattr(os, "sched_setaffinity"):
            return
        others = set(range(os.cpu_count() or 1)) - self._busy
        with contextlib.suppress(OSError):  # a container may allow none of them
            if others:
                os.sched_setaffinity(0, others)  # 0: this thread


def _values(source: Source) -> Sequence[float | Missing]:
    """Read a source; what it raises, or gives that is no number, becomes a fault."""
    try:
        values = source.read()
    except Exception as error:  # noqa: BLE001 - a plugin's bug must end neither this thread nor the measurement
        fault = Missing(code="meter_failed", why=f"the meter failed while being read: {type(error).__name__}: {error}")
        return [fault] * len(source.channels)
    return [
        value
        if isinstance(value, Missing) or math.isfinite(value)
        else Missing(code="not_finite", why=f"the sensor read {value}")
        for value in values
    ]


class Window:
    """One window of a :class:`Recorder`."""

    def __init__(self, recorder: Recorder, start: Mark) -> None:
        self._recorder = recorder
        self.start = start
        self.end: Mark | None = None

    def reading(self, load_period_s: float | None = None) -> EnergyReading | Missing:
        """Return the energy of the window; ``window_open`` before it is closed. See :func:`energy_between`."""
        if self.end is None:
            return Missing(code="window_open", why="the window has not been closed")
        return energy_between(self._recorder.trace, self.start.t_s, self.end.t_s, load_period_s=load_period_s)
