"""What the machine was doing when: the marks of a trace, read.

    idle_before · pulse x 3 · warmup (warmup.look …) · window x n · tail · idle_after · pulse x 3

Each is a pair of marks ``NAME.start`` and ``NAME.end``. The end of a window carries ``inferences`` and ``paused_s``;
``warmup.look`` carries the median latency of the inferences just before it (``median_s``). A mark ``host`` carries
what could be read of the machine (``busy_s``, ``process_cpu_s``, ``cpus``, ``temperature_c``, ``throttle_events``,
``clocks_locked``), and ``recorder`` what recording cost (``cpu_s``, ``span_s``). What is not there was not readable.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwbench.energy.trace import Trace
from hwbench.records.energy import Mark

IDLE_BEFORE, IDLE_AFTER = "idle_before", "idle_after"
WARMUP, LOOK, WINDOW, TAIL, PULSE = "warmup", "warmup.look", "window", "tail", "pulse"
HOST, RECORDER = "host", "recorder"
LOADED = (WARMUP, WINDOW, TAIL)  # the same work goes on through all of these


@dataclass(frozen=True)
class Span:
    """A phase: from one mark to another, with the facts of both."""

    start: Mark
    end: Mark

    @property
    def start_s(self) -> float:
        return self.start.t_s

    @property
    def end_s(self) -> float:
        return self.end.t_s

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    def fact(self, name: str, default: float) -> float:
        """Return what the end of the phase says."""
        return self.end.facts.get(name, default)


def spans(trace: Trace, name: str) -> list[Span]:
    """Return all phases of a name, in order.

    Raises:
        StorageError: one is without its other end.
    """
    return [Span(start, end) for start, end in trace.windows(name)]


def first(trace: Trace, name: str) -> Span | None:
    """Return the first phase of a name, if there is one."""
    found = spans(trace, name)
    return found[0] if found else None


def looks(trace: Trace, name: str) -> list[Mark]:
    """Return the single marks of a name."""
    return [mark for mark in trace.marks if mark.mark == name]


def host_around(trace: Trace, span_start_s: float, span_end_s: float) -> tuple[Mark, Mark] | None:
    """Return the last ``host`` mark before a stretch and the first one after it, if there are both."""
    marks = looks(trace, HOST)
    before = [mark for mark in marks if mark.t_s <= span_start_s]
    after = [mark for mark in marks if mark.t_s >= span_end_s]
    return (before[-1], after[0]) if before and after else None


def loaded_stretch(trace: Trace, start_s: float, end_s: float, gap_s: float) -> tuple[float, float]:
    """Return from when to when the same work went on around a window, over pauses of up to ``gap_s``."""
    phases = sorted((span for name in LOADED for span in spans(trace, name)), key=lambda span: span.start_s)
    for span in reversed(phases):
        if span.end_s <= start_s and start_s - span.end_s <= gap_s:
            start_s = span.start_s
    for span in phases:
        if span.start_s >= end_s and span.start_s - end_s <= gap_s:
            end_s = span.end_s
    return start_s, end_s
