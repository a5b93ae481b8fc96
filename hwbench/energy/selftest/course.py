"""The course that a self-test puts the machine through: idle, load, idle, square waves, latency with and without.

    latency blocks · idle_before · load · idle_after · duty 25, 50, 75 %

The load is whatever the caller gives: one call, some milliseconds of work, finished when it returns. All of it is
marked in one trace. Blocks of latency with the recorder, without it, and without it again (the control) alternate in
random order.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from hwbench.energy.choose import Chosen
from hwbench.energy.phases import IDLE_AFTER, IDLE_BEFORE, RECORDER
from hwbench.energy.plateau import slowest_period_s
from hwbench.energy.recorder import Recorder
from hwbench.energy.selftest.checks import CONTROL, DUTY, LOAD, WITH, WITHOUT
from hwbench.energy.trace import Trace
from hwbench.protocols import Instrument
from hwbench.records.base import Missing
from hwbench.units import Clock

Say = Callable[[str], None]
PHASE_S = 10.0
_PERIODS = 20.0  # a phase holds at least so many update periods
_SETTLE_S = 2.0
_WAVE_S = 0.97  # of a square wave: no round fraction or multiple of any sensor's period
DUTIES = (0.25, 0.5, 0.75)
_BLOCK_S = 0.4
_ROUNDS = 8
_PROGRESS_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Course:
    """What is run and how. ``probe``: what is timed with the recorder and without; short, and steady by itself."""

    work: Callable[[], object]
    probe: Callable[[], object]
    clock: Clock
    cpus: tuple[int, ...]
    say: Say = lambda _: None
    seed: int = 0


def go(course: Course, reopen: Callable[[], Chosen], instrument: Instrument) -> Trace:
    """Run the course and return its trace; ``reopen`` gives the instrument again, for the blocks with a recorder.

    Every instrument is closed. Takes about a minute and a half, longer for a slow sensor.
    """
    blocks = _latency(course, reopen)
    with Recorder(instrument, clock=course.clock, busy_cpus=course.cpus) as recorder:
        recorder.at_least_every(_PROGRESS_S)
        run = _Course(course, recorder)
        run.idle(IDLE_BEFORE)
        run.load()
        run.idle(IDLE_AFTER)
        for duty in DUTIES:
            run.wave(duty)
        recorder.stop()
        for name, median_s in blocks:
            recorder.mark(name, median_s=median_s)
        recorder.mark(RECORDER, cpu_s=recorder.cpu_s, span_s=recorder.now_s())
    return recorder.trace


class _Course:
    """The phases."""

    def __init__(self, course: Course, recorder: Recorder) -> None:
        self.course, self.recorder = course, recorder

    @property
    def phase_s(self) -> float:
        """Length of a phase."""
        return max(PHASE_S, _PERIODS * slowest_period_s(self.recorder.trace))

    def idle(self, name: str) -> None:
        self.course.say(f"idle, {self.phase_s:.0f} s")
        self.course.clock.sleep(_SETTLE_S)
        with self.recorder.window(name):
            self.course.clock.sleep(self.phase_s)

    def load(self) -> None:
        self.course.say(f"load, {self.phase_s:.0f} s")
        self._work(_SETTLE_S)
        with self.recorder.window(LOAD):
            self._work(self.phase_s)
        self._work(_SETTLE_S)

    def wave(self, duty: float) -> None:
        """Work for ``duty`` of each period; the mark says what came of it."""
        self.course.say(f"square wave, {duty:.0%}")
        busy_s, clock = 0.0, self.course.clock
        began = self.recorder.mark(f"{DUTY}.start").t_s
        periods = round(self.phase_s / _WAVE_S)
        for number in range(1, periods + 1):
            from_s = self.recorder.now_s()
            self._work(duty * _WAVE_S)
            busy_s += self.recorder.now_s() - from_s
            clock.sleep(max(0.0, began + number * _WAVE_S - self.recorder.now_s()))
        share = busy_s / (self.recorder.now_s() - began)
        self.recorder.end_mark(f"{DUTY}.end", busy=share)

    def _work(self, seconds: float) -> None:
        until_s = self.recorder.now_s() + seconds
        while self.recorder.now_s() < until_s:
            self.course.work()


def _latency(course: Course, reopen: Callable[[], Chosen]) -> list[tuple[str, float]]:
    """Return the median time of the work in blocks, in the order they ran."""
    course.say("latency with and without the recorder")
    draw = random.Random(course.seed)
    _block(course)
    found: list[tuple[str, float]] = []
    for _ in range(_ROUNDS):
        names = [WITH, WITHOUT, CONTROL]
        draw.shuffle(names)
        for name in names:
            if name != WITH:
                found.append((name, _block(course)))
                continue
            opened = reopen().instrument
            if isinstance(opened, Missing):
                continue  # it was there a moment ago; too few blocks then say so
            with Recorder(opened, clock=course.clock, busy_cpus=course.cpus) as recorder:
                recorder.at_least_every(_PROGRESS_S)
                found.append((name, _block(course)))
    return found


def _block(course: Course) -> float:
    now, times = course.clock.now_ns, []
    began = now()
    while now() - began < _BLOCK_S * 1e9:
        before = now()
        course.probe()
        times.append(now() - before)
    return statistics.median(times) / 1e9
