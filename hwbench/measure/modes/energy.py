"""Energy by the plateau method: idle, warm up until settled, repeated windows, idle; all of it recorded.

    idle · (pulses) · warm up · window x n · tail · (pulses) · idle

Everything is marked in the recorder's trace, the trace is written beside the result, and the energy is computed from
that file (:mod:`hwbench.energy.protocol`), so that it can be computed again. The machine is left alone as far as it can
be: a window holds inferences and, for a sensor that looks at a part of the time, deliberate pauses
(:mod:`hwbench.energy.dephase`). Three strong load pulses at both ends are there only for an external meter, whose
recording they bring onto this clock.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import time
from array import array
from collections.abc import Sequence

import msgspec

from hwbench.energy.choose import EXTERNAL, refuse
from hwbench.energy.dephase import Dephasing, plan
from hwbench.energy.per_inference import window_rule_s
from hwbench.energy.phases import HOST, IDLE_AFTER, IDLE_BEFORE, LOOK, PULSE, RECORDER, TAIL, WARMUP, WINDOW
from hwbench.energy.plateau import longest_averaging_s, settled, slowest_period_s
from hwbench.energy.protocol import TRACE, energy_run_of
from hwbench.energy.recorder import Window
from hwbench.energy.trace import write_trace
from hwbench.measure.binned import MOST_SAMPLES
from hwbench.measure.loop import sample
from hwbench.measure.session import Edges, Seen, Session
from hwbench.measure.stop import Count, Duration
from hwbench.records.base import Missing, Record
from hwbench.records.device import HostState
from hwbench.records.energy import EnergySettings, Mark
from hwbench.records.modes import Bin, Series
from hwbench.stats import quantile, supported_percentile

LEAST_INFERENCES = 50  # in a window
_PROGRESS_S = 1.0  # counters, which else are read at marks alone, are read so often
_LOOK_S = 2.0  # of warm-up between two looks at whether the machine has settled
_SETTLE_S = 2.0  # between work and rest, at the least
_PULSES_S = (2.0, 4.0, 2.0)  # on; unlike each other, so that they can be told apart
_BETWEEN_PULSES_S = 2.0


def run(session: Session) -> Seen:
    """Record an energy run and compute its energy from the file.

    Raises:
        DeviceError: no meter can be read, and none is external.
    """
    refuse(session.settings.meter, "this device", session.chosen)
    return _Run(session).run()


class _Run:
    """One energy run."""

    def __init__(self, session: Session) -> None:
        self.session = session
        given = session.settings.mode_settings
        self.settings = EnergySettings(
            repeats=int(given["repeats"]), window_s=given.get("window_s"), max_warmup_s=given["max_warmup_s"]
        )
        self.recorder = session.recorder
        self._tell_choice()
        self.samples: list[array[int]] = []  # of each window
        self.spans_s: list[tuple[float, float]] = []  # of each window, since the first one began

    def run(self) -> Seen:
        self.recorder.at_least_every(_PROGRESS_S)
        self._idle(IDLE_BEFORE)
        self._pulses()
        warmup = self._warm_up()
        edges = self._windows(statistics.fmean(warmup) / 1e9)
        with self.recorder.window(TAIL):
            self._work(self._settle_s(), "tail")
        self._pulses()
        self._idle(IDLE_AFTER)
        self.recorder.stop()
        self.recorder.mark(RECORDER, cpu_s=self.recorder.cpu_s, span_s=self.recorder.now_s())
        path = self.session.folder / TRACE
        write_trace(path, self.recorder.trace)
        parts: dict[str, Record] = {"energy_run": energy_run_of(path)}
        every = max(1, math.ceil(sum(map(len, self.samples)) / MOST_SAMPLES))
        if every > 1:
            parts["series"] = _series(self.samples, self.spans_s, every)
        return Seen(
            warmup_ns=warmup,
            samples_ns=array("q", itertools.chain.from_iterable(window[::every] for window in self.samples)),
            edges=edges,
            target_reached=True,  # all windows; whether the machine had settled before is in the run
            parts=parts,
        )

    def _tell_choice(self) -> None:
        """Put into the trace why this meter and no other."""
        trace, chosen = self.recorder.trace, self.session.chosen
        settings = dict(trace.header.settings)
        if any(reason.code == "permission_denied" for reason in chosen.reasons.values()):
            settings["flags"] = f"{settings.get('flags', '')} permission_fallback".strip()
        trace.header = msgspec.structs.replace(trace.header, not_used=chosen.not_used, settings=settings)

    def _settle_s(self) -> float:
        """Return how long the instrument needs to see nothing of what went before."""
        trace = self.recorder.trace
        return max(_SETTLE_S, 2 * longest_averaging_s(trace), 2 * slowest_period_s(trace))

    def _window_s(self) -> float:
        """Return how long a window and an idle phase are to be: as asked, or by the instrument's update period."""
        given_s = self.settings.window_s
        return window_rule_s(slowest_period_s(self.recorder.trace)) if given_s is None else given_s

    def _idle(self, name: str) -> None:
        self.session.rest(self._settle_s(), "settle")
        self._host()
        with self.recorder.window(name):
            self.session.rest(self._window_s(), "idle")
        self._host()
        self.session.rest(self._settle_s(), "settle")

    def _host(self) -> None:
        """Note what can be read of the machine; what cannot be is left out."""
        host, cpus = self.session.host(), self.session.settings.cpus
        facts = {"process_cpu_s": time.process_time(), "cpus": float(len(cpus) or os.cpu_count() or 1)}
        read = {
            "busy_s": host.busy_s,
            "temperature_c": host.heat_c,
            "throttle_events": host.throttle_events,
        }
        facts |= {name: float(value) for name, value in read.items() if isinstance(value, int | float)}
        locked = _locked(host)
        if locked is not None:
            facts["clocks_locked"] = float(locked)
        self.recorder.mark(HOST, **facts)

    def _pulses(self) -> None:
        if self.session.settings.meter != EXTERNAL:
            return
        for seconds in _PULSES_S:
            self.session.rest(_BETWEEN_PULSES_S, "pulses")
            with self.recorder.window(PULSE):
                self._work(seconds, "pulses")
        self.session.rest(_BETWEEN_PULSES_S, "pulses")

    def _work(self, seconds: float, phase: str) -> array[int]:
        return sample(
            self.session.calls[0], self.session.clock, Duration(seconds=seconds, min_count=1), self.session.tick(phase)
        )

    def _warm_up(self) -> array[int]:
        """Work until the machine has settled, or the longest time is over; return the last stretch's samples."""
        tick = self.session.tick("warm-up")
        with self.recorder.window(WARMUP) as window:
            while True:
                last = self._work(_LOOK_S, "warm-up")
                look = self._look(last)
                plateau = settled(self.recorder.trace, window.start.t_s, look.t_s)
                tick(min(1.0, plateau.after_s / self.settings.max_warmup_s))
                if plateau.reached or plateau.after_s >= self.settings.max_warmup_s:
                    return last

    def _look(self, last: array[int]) -> Mark:
        facts = {"median_s": statistics.median(last) / 1e9}
        temperature = self.session.host().heat_c
        if isinstance(temperature, float):
            facts["temperature_c"] = temperature
        return self.recorder.mark(LOOK, **facts)

    def _windows(self, inference_s: float) -> Edges:
        """Measure the repeats; ``inference_s`` is the pilot's mean time of one inference."""
        window_s = self._window_s()
        count = max(LEAST_INFERENCES, math.ceil(window_s / inference_s))
        groups = plan(self.recorder.trace, inference_s, max(window_s, LEAST_INFERENCES * inference_s))
        before, cpu_before = self.session.host(), time.process_time()
        self._host()
        opened_ns = self.session.clock.now_ns()
        marks = [self._window(count, groups, number) for number in range(self.settings.repeats)]
        self.spans_s = [(start.t_s - marks[0][0].t_s, end.t_s - marks[0][0].t_s) for start, end in marks]
        recorded = Window(self.recorder, marks[0][0])
        recorded.end = marks[-1][1]
        edges = Edges(
            opened_ns=opened_ns,
            host_before=before,
            recorded=recorded,
            host_after=self.session.host(),
            window_s=marks[-1][1].t_s - marks[0][0].t_s,
            process_cpu_s=time.process_time() - cpu_before,
        )
        self._host()
        return edges

    def _window(self, count: int, groups: Dephasing | None, number: int) -> tuple[Mark, Mark]:
        self.samples.append(array("q"))
        start = self.recorder.mark(f"{WINDOW}.start")
        if groups is None:
            paused_s, done = 0.0, self._count(count, number, 0.0, 1.0)
        else:
            paused_s, done = self._groups(groups, number)
        return start, self.recorder.end_mark(f"{WINDOW}.end", inferences=float(done), paused_s=paused_s)

    def _groups(self, groups: Dephasing, number: int) -> tuple[float, int]:
        """Run groups with pauses between them; return the seconds paused and the inferences done."""
        clock, paused_ns, done = self.session.clock, 0, 0
        began_ns = clock.now_ns()
        for group in range(groups.groups):
            if group:
                from_ns = clock.now_ns()
                clock.sleep(groups.pause_s(group, (from_ns - began_ns) / 1e9))
                paused_ns += clock.now_ns() - from_ns
            done += self._count(groups.inferences, number, group / groups.groups, 1 / groups.groups)
        return paused_ns / 1e9, done

    def _count(self, count: int, number: int, base: float, share: float) -> int:
        tick, repeats = self.session.tick("measure"), self.settings.repeats

        def overall(fraction: float) -> None:
            tick((number + base + share * fraction) / repeats)

        self.samples[-1].extend(sample(self.session.calls[0], self.session.clock, Count(count=count), overall))
        return count


_IN_THE_RUN = Missing(code="in_energy_run", why="the energy run tells it, for its windows")


def _series(windows: Sequence[Sequence[int]], spans_s: Sequence[tuple[float, float]], every: int) -> Series:
    """Return the windows as parts over all inferences, for a result that keeps but every so-many-th as a sample."""
    bins = []
    for samples_ns, (start_s, end_s) in zip(windows, spans_s, strict=True):
        seconds = [sample_ns / 1e9 for sample_ns in sorted(samples_ns)]
        bins.append(
            Bin(
                start_s=start_s,
                end_s=end_s,
                inferences=len(seconds),
                median_s=quantile(seconds, 0.5),
                p90_s=supported_percentile(seconds, 0.9),
                inferences_per_s=len(seconds) / (end_s - start_s),
                temperature_c=_IN_THE_RUN,
                clock_hz=_IN_THE_RUN,
                throttle_events=_IN_THE_RUN,
                power_w=_IN_THE_RUN,
            )
        )
    return Series(
        rest_s=0.0,
        bin_s=spans_s[0][1] - spans_s[0][0],
        kept_every=every,
        bins=tuple(bins),
        last_over_first=_IN_THE_RUN,
    )


def _locked(host: HostState) -> bool | None:
    """Say whether the clocks are held: of a GPU that tells its limits, its own, else the CPUs'; None: nobody tells."""
    gpu = host.gpu
    if not isinstance(gpu, Missing) and isinstance(gpu.sm_least_hz, float) and isinstance(gpu.sm_most_hz, float):
        return gpu.sm_least_hz == gpu.sm_most_hz
    return host.governor == "performance" if isinstance(host.governor, str) else None
