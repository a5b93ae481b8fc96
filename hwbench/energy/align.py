"""Bring an external meter's clock and ours together, so that its readings can be cut at our marks.

The energy mode makes strong pulses of load before and after the run and marks each (``pulse.start``, ``pulse.end``).
The meter saw them too. Where its power follows the square pattern of the pulses best is where its clock stands:

* Coarse: the correlation (Pearson's r) of the pattern with the meter's power at every offset, before and after the run
  together. A second offset that fits nearly as well, or none that fits well, is a refusal.
* Fine: each end by itself, below the distance of two samples. Two ends give the offset and how much faster one clock
  runs (skew); one end gives the offset alone.
* The residual: each pulse by itself, against that straight line.

A meter with an event input needs no correlation: its own marks ``marker.start`` and ``marker.end`` are held against
ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np

from hwbench.energy.integrate import Sample
from hwbench.energy.pulse_fit import MOST_PPM, STEPS_PER_PULSE, Floats, Found, Pulse, Signal, coarse, fine
from hwbench.energy.trace import Trace
from hwbench.records.base import Missing

PULSE, MARKER = "pulse", "marker"
LEAST_R = 0.6  # correlation below which nothing was found
LEAST_R_OF_ONE = 0.45  # the same, of the pulses at one end
AMBIGUOUS = 0.8  # of the best correlation: a second one so high leaves it open which is right


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How the meter's clock stands to ours: ``own = imported * (1 + skew_ppm * 1e-6) + offset_s``.

    ``residual_s``: root mean square of what the single pulses differ from that. ``quality``: correlation at the best
    offset, 1 is perfect; ``runner_up``: at the second best. ``skew_known``: False with pulses at one end only.
    """

    offset_s: float
    skew_ppm: float
    residual_s: float
    quality: float
    runner_up: float
    skew_known: bool
    method: str

    def own_time(self, imported_s: float) -> float:
        """Return our time of a time of the meter."""
        return imported_s * (1 + self.skew_ppm * 1e-6) + self.offset_s


def align(own: Trace, imported: Trace) -> Alignment | Missing:
    """Find where the imported trace lies on our clock.

    Args:
        own: has marks ``pulse.start`` and ``pulse.end`` (or ``marker``) and need have no readings.
        imported: has a channel that counts as the total, or marks ``marker.start`` and ``marker.end`` of its own.

    Returns:
        The alignment; Missing with ``no_pulses``, ``no_total``, ``meter_too_slow``, ``pulses_not_found``,
        ``alignment_ambiguous`` or ``alignment_poor``.

    Raises:
        StorageError: a mark is without its other end.
    """
    pulses = [Pulse(start.t_s, end.t_s) for start, end in own.windows(PULSE)]
    edges = [Pulse(start.t_s, end.t_s) for start, end in own.windows(MARKER)] or pulses
    markers = [Pulse(start.t_s, end.t_s) for start, end in imported.windows(MARKER)]
    signal = _signal(imported)
    if markers and len(markers) == len(edges):
        return _by_marker(edges, markers, 0.0 if isinstance(signal, Missing) else signal.period_s)
    if not pulses:
        why = "our trace has no marks of pulses"
        return Missing(code="no_pulses", why=why, cure="record with --meter external, which makes pulses")
    if isinstance(signal, Missing):
        return signal
    shortest_s = min(pulse.length_s for pulse in pulses)
    if signal.period_s > shortest_s:
        why = f"the meter reads every {signal.period_s:g} s, and the pulses are {shortest_s:g} s long"
        return Missing(code="meter_too_slow", why=why, cure="longer pulses")
    return _by_pulses(_groups(pulses), signal, shortest_s)


def merge(own: Trace, imported: Trace, alignment: Alignment) -> Trace:
    """Return our marks with the imported channels, on our clock; what was fitted is in the settings."""
    settings = {
        **imported.header.settings,
        "align_method": alignment.method,
        "align_offset_s": repr(alignment.offset_s),
        "align_skew_ppm": repr(alignment.skew_ppm),
        "align_residual_s": repr(alignment.residual_s),
        "align_quality": repr(alignment.quality),
        "imported_clock": imported.header.clock,
    }
    if not alignment.skew_known:
        settings["flags"] = f"{settings.get('flags', '')} skew_unknown".strip()
    header = msgspec.structs.replace(
        imported.header, clock=own.header.clock, started_at=own.header.started_at, settings=settings
    )
    samples = {
        name: [Sample(alignment.own_time(sample.t_s), sample.value) for sample in found]
        for name, found in imported.samples.items()
    }
    faults = {name: (alignment.own_time(t_s), fault) for name, (t_s, fault) in imported.faults.items()}
    return Trace(header, samples, faults, marks=list(own.marks))


def _signal(trace: Trace) -> Signal | Missing:
    """Return the power of the first channel that counts as the total; of a counter, its rise over each step."""
    channel = next((c for c in trace.header.channels if c.role == "total" and len(trace.of(c)) > 2), None)
    if channel is None:
        return Missing(code="no_total", why="the imported trace has no channel that counts as the total")
    times = np.array([sample.t_s for sample in trace.of(channel)])
    values = np.array([sample.value for sample in trace.of(channel)])
    steps = np.diff(times)
    period_s = float(np.median(steps))
    if channel.quantity == "energy":
        return Signal((times[1:] + times[:-1]) / 2, np.diff(values) / steps, period_s, period_s)
    averaging_s = channel.averaging_s if isinstance(channel.averaging_s, float) else 0.0
    return Signal(times - averaging_s / 2, values, period_s, max(averaging_s, period_s))


def _groups(pulses: Sequence[Pulse]) -> list[list[Pulse]]:
    """Return the pulses before and after the run: parted at the widest gap, if that is wider than the others by far."""
    gaps_s = [b.start_s - a.end_s for a, b in pairwise(pulses)]
    if len(gaps_s) < 3 or max(gaps_s) < 3 * sorted(gaps_s)[-2]:
        return [list(pulses)]
    at = gaps_s.index(max(gaps_s)) + 1
    return [list(pulses[:at]), list(pulses[at:])]


def _by_marker(edges: Sequence[Pulse], markers: Sequence[Pulse], period_s: float) -> Alignment | Missing:
    own = np.array(edges, dtype=float).ravel()
    theirs = np.array(markers, dtype=float).ravel()
    centre_s = float(theirs.mean())
    slope, height = np.polyfit(theirs - centre_s, own, 1)
    residual_s = float(np.sqrt(np.mean((own - height - slope * (theirs - centre_s)) ** 2)))
    if residual_s > max(period_s, 1e-3) or abs(slope - 1) * 1e6 > _most_ppm(own, period_s):
        return _poor(residual_s, (slope - 1) * 1e6)
    return Alignment(
        offset_s=float(height - slope * centre_s),
        skew_ppm=float((slope - 1) * 1e6),
        residual_s=residual_s,
        quality=1.0,
        runner_up=0.0,
        skew_known=True,
        method="marker column",
    )


def _most_ppm(own: Floats, period_s: float) -> float:
    """Return the skew that may be: a crystal's, and what one sample at either end makes of it."""
    return MOST_PPM + 2e6 * period_s / float(own[-1] - own[0])


def _by_pulses(groups: Sequence[Sequence[Pulse]], signal: Signal, shortest_s: float) -> Alignment | Missing:
    found = _found(coarse(groups, signal, shortest_s))
    if isinstance(found, Missing):
        return found
    reach_s = 1.5 * max(signal.period_s, shortest_s / STEPS_PER_PULSE)
    fitted = [fine(group, signal, offset, reach_s) for group, offset in zip(groups, found.offsets_s, strict=True)]
    own = [(group[0].start_s + group[-1].end_s) / 2 for group in groups]
    theirs = [at - offset for at, offset in zip(own, fitted, strict=True)]
    rate = (own[-1] - own[0]) / (theirs[-1] - theirs[0]) if len(groups) > 1 else 1.0
    offset_s = own[0] - rate * theirs[0]
    misses: list[float] = []
    for pulse in (pulse for group in groups for pulse in group):
        at = (pulse.start_s + pulse.end_s) / 2
        line_s = at - (at - offset_s) / rate
        misses.append(fine([pulse], signal, line_s, max(signal.period_s, shortest_s / 2)) - line_s)
    residual_s = float(np.sqrt(np.mean(np.square(misses))))
    if residual_s > max(signal.period_s, shortest_s / 10):
        return _poor(residual_s, (rate - 1) * 1e6)
    return Alignment(
        offset_s=offset_s,
        skew_ppm=(rate - 1) * 1e6,
        residual_s=residual_s,
        quality=found.quality,
        runner_up=found.runner_up,
        skew_known=len(groups) > 1,
        method=f"{sum(map(len, groups))} pulses",
    )


def _poor(residual_s: float, skew_ppm: float) -> Missing:
    why = f"the pulses lie {residual_s:.3g} s beside the fitted line, with a skew of {skew_ppm:.3g} ppm"
    return Missing(code="alignment_poor", why=why, cure="was the meter's clock set meanwhile? record again")


def _found(found: Found | None) -> Found | Missing:
    """Refuse what cannot be told apart from chance, or from another offset."""
    if found is None:
        why = "the meter's recording is shorter than the pattern of the pulses"
        return Missing(code="pulses_not_found", why=why, cure="start the meter before the run, stop it after")
    if found.quality < LEAST_R or found.weakest < LEAST_R_OF_ONE:
        why = f"the pulses are not to be seen in the meter's power: the best correlation is {found.weakest:.2f}"
        return Missing(code="pulses_not_found", why=why, cure="did the meter run all the time, on this machine?")
    if found.runner_up >= AMBIGUOUS * found.quality:
        why = f"two offsets fit the pulses: correlations {found.quality:.2f} and {found.runner_up:.2f}"
        return Missing(code="alignment_ambiguous", why=why, cure="pulses of differing lengths, less other load")
    return found
