"""What a mode is given, and what it brings back.

A mode is a function ``run(session) -> Seen`` in a module of its own in :mod:`hwbench.measure.modes`. The model is
loaded and has answered once, the garbage collector is out of the way, the recorder runs. A mode calls, waits and reads
the machine through the session alone, so that a test with a :class:`~hwbench.testing.FakeClock` sees all it does.
"""

from __future__ import annotations

import contextlib
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hwbench.children import Emit, Throttle
from hwbench.energy.choose import Chosen
from hwbench.energy.recorder import Recorder, Window
from hwbench.measure.gpu_state import gpu_reader
from hwbench.measure.host import read_host
from hwbench.measure.loaded import Opening
from hwbench.measure.loop import Call, Tick
from hwbench.records.base import Missing, Record
from hwbench.records.device import Device, HostState
from hwbench.records.energy import EnergyReading
from hwbench.records.measurement import RunSettings
from hwbench.units import Clock

_PROGRESS_PERIOD_S = 0.5
_REST_STEP_S = 1.0  # a parent takes silence for a hang


@dataclass(kw_only=True)
class Edges:
    """The timed window with what was read at its edges; complete once the window is closed."""

    opened_ns: int
    host_before: HostState
    recorded: Window
    host_after: HostState
    window_s: float = 0.0
    process_cpu_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a mode brings back. ``parts``: fields of ``TimedRun`` that only this mode fills, by name."""

    warmup_ns: Sequence[int] = ()
    samples_ns: array[int]
    edges: Edges
    target_reached: bool
    parts: Mapping[str, Record] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Session:
    """A loaded model and what is around it.

    ``calls``: one a stream; each call is one inference, finished when it returns. ``recorder``: open, of the chosen
    instrument or of marks alone. ``host``: reads the machine now. ``folder``: of this run, kept.
    """

    calls: tuple[Call, ...]
    settings: RunSettings
    batch_size: int | Missing
    clock: Clock
    recorder: Recorder
    chosen: Chosen
    emit: Emit
    folder: Path
    host: Callable[[], HostState]
    opening: Opening | None = None  # how the process came to its first answer
    throttle: Throttle = field(default_factory=lambda: Throttle(_PROGRESS_PERIOD_S))

    def tick(self, phase: str) -> Tick:
        """Return what tells how far ``phase`` is, from 0 to 1; it may be called as often as one likes."""

        def tick(fraction: float) -> None:
            if self.throttle.ready():
                self.emit({"event": "progress", "phase": phase, "fraction": fraction})

        return tick

    def rest(self, seconds: float, phase: str = "rest") -> None:
        """Do nothing for so long, with the model loaded."""
        tick, started = self.tick(phase), self.clock.now_ns()
        while (left_s := seconds - (self.clock.now_ns() - started) / 1e9) > 0:
            tick(1 - left_s / seconds)
            self.clock.sleep(min(left_s, _REST_STEP_S))

    @contextlib.contextmanager
    def window(self) -> Iterator[Edges]:
        """Open the timed window around the body: host and instrument are read at both edges, outside of it."""
        before = self.host()
        cpu_before = time.process_time()
        with self.recorder.window() as recorded:
            edges = Edges(opened_ns=self.clock.now_ns(), host_before=before, recorded=recorded, host_after=before)
            yield edges
            edges.window_s = (self.clock.now_ns() - edges.opened_ns) / 1e9
        edges.process_cpu_s = time.process_time() - cpu_before
        edges.host_after = self.host()


def host_reader(settings: RunSettings, clock: Clock, device: Device) -> Callable[[], HostState]:
    """Return what reads this machine: the times of the measured CPUs, and the state of ``device`` where it is a GPU."""
    gpu = gpu_reader(device)
    gpu()  # connects, which must not happen between the warm-up and the timed window
    return lambda: msgspec.structs.replace(read_host(cpus=settings.cpus, clock=clock), gpu=gpu())


def energy_of(chosen: Chosen, window: Window) -> EnergyReading | Missing:
    """Return the reading of a window, or why nothing was read."""
    if isinstance(chosen.instrument, Missing):
        return chosen.instrument
    reading = window.reading()
    return reading if isinstance(reading, Missing) else msgspec.structs.replace(reading, not_used=chosen.not_used)
