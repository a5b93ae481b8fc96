"""What networks draw, read from the device's meter while one inference follows the other.

A window is so long that what the meter cannot see at its edges is small: at least :data:`PERIODS` of its updates, told
by the readings themselves. Where nothing can be read, or a reading may not be of the load, the sample says why, and is
one of time alone.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator

from hwbench.energy.choose import NONE, choose
from hwbench.energy.flags import FLAGS, doubt
from hwbench.energy.recorder import Recorder
from hwbench.measure.loop import Call, sample, undisturbed
from hwbench.measure.stop import Duration
from hwbench.records.base import Missing
from hwbench.records.device import Device
from hwbench.records.energy import EnergyReading
from hwbench.records.planning import Drawn
from hwbench.units import Clock

PERIODS = 25  # updates of the meter in a window: an edge is then off by 4 % at the worst
_FIRST_S, _LONGEST_S = 0.5, 20.0
_FEWEST = 4  # inferences of a window
_SETTLE_S = 0.05  # untimed, before a window: what the meter averages over is this network then
_GROWTH = 4.0  # of a window that was too short, where the meter does not say by how much


class Metering:
    """A meter kept open. ``seconds``: how long windows have to be, as far as is known."""

    def __init__(self, recorder: Recorder, missing: Missing | None, clock: Clock) -> None:
        self._recorder, self._missing, self._clock = recorder, missing, clock
        self.seconds = _FIRST_S

    def of(self, call: Call) -> Drawn | Missing:
        """Run a network for a window, a longer one where the meter is slow, and return what it drew."""
        if self._missing is not None:
            return self._missing
        while True:
            found, longer_s = self._window(call)
            if longer_s <= self.seconds:
                return found
            if self.seconds >= _LONGEST_S:
                why = f"windows of {self.seconds:g} s are short for this meter"
                self._missing = Missing(code="window_too_short", why=why, cure="a meter that updates more often")
                return self._missing  # of all networks: no window is run again
            self.seconds = min(longer_s, _LONGEST_S)

    def _window(self, call: Call) -> tuple[Drawn | Missing, float]:
        """Return what one window tells, and how long it has to be."""
        with undisturbed():
            sample(call, self._clock, Duration(seconds=_SETTLE_S, min_count=1), _silent)
            with self._recorder.window() as window:
                times = sample(call, self._clock, Duration(seconds=self.seconds, min_count=_FEWEST), _silent)
        reading = window.reading(statistics.median(times) / 1e9)
        if isinstance(reading, Missing):
            return reading, _GROWTH * self.seconds if reading.code == "window_too_short" else 0.0
        if reading.provenance == "replayed":
            return Missing(code="replayed", why="the energy was replayed from a recording, not measured"), 0.0
        if reading.energy_j <= 0:
            return Missing(code="below_resolution", why="the meter saw no energy in a window"), _GROWTH * self.seconds
        if not isinstance(reading.update_period_s, Missing):
            return _drawn(reading, len(times)), PERIODS * reading.update_period_s
        short = "window_too_short" in reading.flags
        return _drawn(reading, len(times)), _GROWTH * self.seconds if short else 0.0


@contextlib.contextmanager
def metering(meter: str, device: Device, clock: Clock, cpus: tuple[int, ...]) -> Iterator[Metering]:
    """Open the meter called ``meter``, ``none`` for nothing, as long as the body takes.

    Raises:
        UsageError, PluginError: as :func:`hwbench.energy.choose.choose`.
    """
    chosen = choose(meter, device) if meter != NONE else None
    if chosen is None:
        missing: Missing | None = Missing(code="not_asked", why="its energy was not asked for")
        instrument = None
    else:
        missing = chosen.instrument if isinstance(chosen.instrument, Missing) else None
        instrument = None if isinstance(chosen.instrument, Missing) else chosen.instrument
    with Recorder(instrument, clock=clock, busy_cpus=cpus) as recorder:
        yield Metering(recorder, missing, clock)


def _drawn(reading: EnergyReading, inferences: int) -> Drawn | Missing:
    flag = doubt(reading.flags)
    if flag is not None:
        why = f"the reading of a window of {reading.window_s:.2g} s is flagged {flag}: {FLAGS[flag].when}"
        return Missing(code=flag, why=why, cure=FLAGS[flag].cure)
    return Drawn(
        energy_j=reading.energy_j / inferences,
        inferences=inferences,
        window_s=reading.window_s,
        relative_uncertainty=reading.relative_uncertainty,
        meter=reading.meter,
        boundary=reading.boundary,
        provenance=reading.provenance,
        flags=reading.flags,
    )


def _silent(fraction: float) -> None:
    """Nobody watches."""
