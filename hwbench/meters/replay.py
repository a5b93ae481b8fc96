"""A recorded trace, played back as if it were an instrument: for tests and demonstrations, never chosen unasked.

The trace is one that hwbench recorded or imported, with all its channels, or a plain JSONL file, one reading a line,
all of one kind: ``{"t_s": 0.1, "power_w": 42.0}`` (a power sensor) or ``{"t_s": 0.1, "energy_j": 4.2}`` (a cumulative
counter, not wrapped). It starts with its first reading when the instrument is first read, and it is not repeated.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from hwbench.energy.imports.jsonl import read_plain
from hwbench.energy.integrate import Sample, update_period_s
from hwbench.energy.trace import Trace, read_trace
from hwbench.errors import StorageError
from hwbench.protocols import NOT_NOW
from hwbench.records.base import Missing, Support
from hwbench.records.device import Device
from hwbench.records.energy import Channel, Provenance
from hwbench.units import Clock, MonotonicClock

TRACE_VARIABLE = "HWBENCH_REPLAY_TRACE"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What is played: tracks of channels, times from zero."""

    boundary: str
    flags: str
    tracks: tuple[Track, ...]


@dataclass(frozen=True, kw_only=True)
class Track:
    """One channel of a recording. ``fault``: since when it has no more readings, and why."""

    channel: Channel
    samples: tuple[Sample, ...]
    period_s: float
    fault: tuple[float, Missing] | None = None


class Replay:
    """The meter.

    Args:
        trace: the file; by default the one that ``HWBENCH_REPLAY_TRACE`` names.
        clock: tests pass a fake.
    """

    name = "replay"
    priority = 0

    def __init__(self, trace: Path | None = None, clock: Clock | None = None) -> None:
        named = os.environ.get(TRACE_VARIABLE)
        self.path = Path(named) if trace is None and named else trace
        self.clock = MonotonicClock() if clock is None else clock

    def supports(self, device: Device) -> Support:  # noqa: ARG002 - a trace stands for whatever it was recorded on
        """Say whether there is a trace.

        Codes: ``no_trace``, ``trace_unreadable``, ``trace_too_short``, ``counter_constant``, ``no_total``.
        """
        return Support(reasons=(self.recording,)) if isinstance(self.recording, Missing) else Support()

    def open(self, device: Device) -> Playback | Missing:  # noqa: ARG002 - as above
        """Start playing; the trace begins now."""
        recording = self.recording
        if isinstance(recording, Missing):
            return recording
        return Playback(
            boundary=recording.boundary,
            sources=(_Tape(recording, self.clock),),
            settings={"flags": recording.flags},
        )

    @cached_property
    def recording(self) -> Recording | Missing:
        """The trace, read once, or why there is none."""
        if self.path is None:
            cure = f"set {TRACE_VARIABLE} to a trace of hwbench or a JSONL file of readings"
            return Missing(code="no_trace", why="no trace was given to replay", cure=cure)
        try:
            with self.path.open("rb") as file:
                own = b'"schema_version"' in file.readline()
        except OSError as error:
            return Missing(code="no_trace", why=f"{self.path} cannot be read: {error.strerror or error}")
        return _own(self.path) if own else _plain(self.path)


@dataclass(frozen=True, kw_only=True)
class Playback:
    """A trace being played."""

    boundary: str
    sources: tuple[_Tape, ...]
    meter: str = Replay.name
    provenance: Provenance = "replayed"
    settings: dict[str, str] = field(default_factory=dict)

    def close(self) -> None:
        """Nothing is held open."""


class _Tape:
    """Gives, at any time, the readings that the sensors would have shown."""

    def __init__(self, recording: Recording, clock: Clock) -> None:
        self._tracks, self._clock = recording.tracks, clock
        self._times = [[sample.t_s for sample in track.samples] for track in self._tracks]
        self._end_s = max(times[-1] for times in self._times)
        self._origin_ns: int | None = None
        self.channels = tuple(track.channel for track in self._tracks)
        self.every_s: float | None = min(track.period_s for track in self._tracks) / 2

    def read(self) -> Sequence[float | Missing]:
        now_ns = self._clock.now_ns()
        if self._origin_ns is None:
            self._origin_ns = now_ns
        now_s = (now_ns - self._origin_ns) / 1e9
        return [self._shown(track, times, now_s) for track, times in zip(self._tracks, self._times, strict=True)]

    def _shown(self, track: Track, times: Sequence[float], now_s: float) -> float | Missing:
        if track.fault is not None and now_s >= track.fault[0]:
            return track.fault[1]
        if now_s > self._end_s:
            why = f"the work goes on after {now_s:.6g} s, and the trace ends at {self._end_s:.6g} s"
            cure = "replay a longer trace, or measure for less time"
            return Missing(code="trace_too_short", why=why, cure=cure)
        at = bisect.bisect_right(times, now_s) - 1
        held_s = now_s - times[at] if at >= 0 else float("inf")
        if at < 0 or (held_s > track.period_s * (1 + 1e-9) and track.channel.quantity == "power"):
            return Missing(code=NOT_NOW, why="the trace has a gap here")
        return track.samples[at].value


def _plain(path: Path) -> Recording | Missing:
    plain = read_plain(path)
    if isinstance(plain, Missing):
        return plain
    channel = Channel(
        name="trace",
        quantity="energy" if plain.kind == "counter" else "power",
        role="total",
        source=str(path),
        period_s=plain.period_s,
    )
    track = Track(channel=channel, samples=plain.samples, period_s=plain.period_s)
    return Recording(boundary=f"whatever {path.name} was recorded on", flags="gain_unknown", tracks=(track,))


def _own(path: Path) -> Recording | Missing:
    try:
        trace = read_trace(path)
    except StorageError as error:
        return Missing(code="trace_unreadable", why=error.message, cure=error.hint)
    if not any(channel.role == "total" and len(trace.of(channel)) > 1 for channel in trace.header.channels):
        why = f"{path} has no channel that counts as the total, with two readings or more"
        return Missing(code="no_total", why=why, cure="replay a trace with readings of a meter")
    origin_s = min(samples[0].t_s for samples in trace.samples.values() if samples)
    tracks = [_track(trace, channel, origin_s) for channel in trace.header.channels]
    return Recording(
        boundary=trace.header.boundary,
        flags=trace.header.settings.get("flags", ""),
        tracks=tuple(track for track in tracks if track is not None),
    )


def _track(trace: Trace, channel: Channel, origin_s: float) -> Track | None:
    """Return a channel to play; none of one that was never read."""
    samples = tuple(Sample(sample.t_s - origin_s, sample.value) for sample in trace.of(channel))
    if len(samples) < 2:
        return None
    found = trace.faults.get(channel.name)
    fault = (found[0] - origin_s, found[1]) if found is not None and found[0] - origin_s > samples[-1].t_s else None
    period_s = channel.period_s
    if isinstance(period_s, Missing):
        period_s = update_period_s(samples, counter=channel.quantity == "energy") or samples[-1].t_s - samples[0].t_s
    return Track(channel=channel, samples=samples, period_s=period_s, fault=fault)
