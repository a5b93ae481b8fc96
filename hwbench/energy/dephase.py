"""Start groups of inferences so that a sensor that looks a part of the time sees every part of the load.

A sensor that looks at 25 of every 100 ms (NVML on A100 and H100) sees one quarter of an inference that takes 100 ms,
the same quarter for as long as it goes on: a longer window does not help. The cure (Yang, Adámek and Armour, arXiv
2312.02741) is to let each group of inferences start one sensing window later, as the sensor counts. Groups are alike,
so the sensed windows of ``n`` groups, each one n-th of an update period later than the one before, together cover the
work of one group once, whatever its shape.

The start counts on the sensor's clock: a pause is the rest to the wanted phase, not a fixed time. How long the sensor's
period is must therefore be known to a small part of a sensing window over one measurement: detect it
(:mod:`hwbench.energy.update_period`). Where it was not detected, or the sensor is read less often than it changes, no
phase can be steered to: groups of about a second start after pauses of random length, which makes of a constant error a
scatter that the repeats show, and the reading keeps its ``aliasing_risk``.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from hwbench.energy.plateau import summed
from hwbench.energy.shares import polled_s
from hwbench.energy.trace import Trace
from hwbench.records.base import Missing
from hwbench.records.energy import Channel

_GROUP_S = 2.5  # groups are not shorter than this where the window allows
_CHANCE_GROUP_S = 1.0  # where only chance spreads the phases, many groups are needed
_FEW_PERIODS = 10.0  # a group is at least so many update periods
_GOLDEN = (math.sqrt(5) - 1) / 2  # steps of this part of a circle fill it most evenly, however many there are
_SEEN_WHOLE = 10.0  # so many loads within one sensing window are seen well enough
_ROUNDING = 1e-9
_READ_IN_TIME = 1.01  # the median interval of a reader that keeps up is not longer than so many periods


@dataclass(frozen=True, kw_only=True)
class Dephasing:
    """How to split a window: ``groups`` groups of ``inferences`` each, a pause before each but the first.

    ``pause_share`` is the part of the window that the pauses are expected to take. They belong to the window: what is
    drawn in them is in its energy. Without ``step_s`` they are of random length, up to a period.
    """

    groups: int
    inferences: int
    step_s: float | None
    period_s: float
    pause_share: float
    why: str
    chance: random.Random = field(default_factory=random.Random, compare=False)

    def pause_s(self, group: int, elapsed_s: float) -> float:
        """Return how long to wait before ``group`` (the second is 1), ``elapsed_s`` after the first one's start."""
        if self.step_s is None:
            return self.chance.uniform(0, self.period_s)
        rest_s = (group * self.step_s - elapsed_s) % self.period_s
        return 0.0 if self.period_s - rest_s < _ROUNDING else rest_s


def sensors(trace: Trace) -> list[Channel]:
    """Return the channels whose clock counts: those of power, where there are any; a counter is fed by the same."""
    channels = summed(trace)
    return [channel for channel in channels if channel.quantity == "power"] or channels


def phase_known(trace: Trace, channel: Channel) -> bool:
    """Say whether pauses can steer to a phase of a sensor: its period was detected, and it was read often enough."""
    detected = "(detected" in trace.header.settings.get("update_period", "")
    return (
        detected
        and isinstance(channel.period_s, float)
        and polled_s(trace.of(channel)) <= _READ_IN_TIME * channel.period_s
    )


def plan(trace: Trace, load_period_s: float, window_s: float) -> Dephasing | None:
    """Return the plan for the first sensor that would see a part of the load only; None where none would."""
    for channel in sensors(trace):
        if phase_known(trace, channel):
            found = dephasing(channel, load_period_s, window_s)
        else:
            found = _by_chance(channel, load_period_s, window_s, polled_s(trace.of(channel)))
        if found is not None:
            return found
    return None


def _by_chance(channel: Channel, load_period_s: float, window_s: float, polled_every_s: float) -> Dephasing | None:
    """Return groups of about a second with pauses of random length; one read rarely looks as often as it is read."""
    if isinstance(channel.period_s, Missing) or sees_all(channel, load_period_s):
        return None
    period_s = max(channel.period_s, polled_every_s)
    groups = max(4, round(window_s / _CHANCE_GROUP_S))
    inferences = math.ceil(max(window_s / groups, _FEW_PERIODS * period_s) / load_period_s - _ROUNDING)
    paused_s, worked_s = (groups - 1) * period_s / 2, groups * inferences * load_period_s
    return Dephasing(
        groups=groups,
        inferences=inferences,
        step_s=None,
        period_s=period_s,
        pause_share=paused_s / (paused_s + worked_s),
        why=f"the update period of {channel.name} was not detected, or it is read less often: pauses of random length",
    )


def dephasing(channel: Channel, load_period_s: float, window_s: float) -> Dephasing | None:
    """Return how to split a window of ``window_s`` for a sensor, or None where it sees the load as it is.

    Where it is known how long the sensor looks, the groups' sensing windows cover its period evenly. Where it is not,
    groups of about a second start at phases spread over the period by the golden ratio.

    Args:
        channel: of power, or a counter fed by such a sensor.
        load_period_s: time of one inference.
        window_s: how long the window is to be at least.
    """
    period_s, sensed_s = channel.period_s, channel.sensed_s
    if isinstance(period_s, Missing) or sees_all(channel, load_period_s):
        return None
    if isinstance(sensed_s, Missing):
        groups = max(4, round(window_s))
        step_s = _GOLDEN * period_s
        why = f"how much of each {period_s:g} s {channel.name} looks at is not known: phases spread by the golden ratio"
    else:
        cycle = _cycle(period_s / sensed_s)
        groups = cycle * max(1, math.floor(window_s / (cycle * _GROUP_S)))
        step_s = period_s / cycle
        why = f"{channel.name} looks at {sensed_s:g} of every {period_s:g} s: {cycle} phases cover all of it"
    least = math.ceil(max(window_s / groups, _FEW_PERIODS * period_s) / load_period_s - _ROUNDING)
    inferences = _whole(least, load_period_s, step_s, period_s)
    pause_s = (step_s - inferences * load_period_s) % period_s
    share = pause_s * (groups - 1) / (pause_s * (groups - 1) + inferences * load_period_s * groups)
    return Dephasing(groups=groups, inferences=inferences, step_s=step_s, period_s=period_s, pause_share=share, why=why)


def sees_all(channel: Channel, load_period_s: float) -> bool:
    """Say whether every reading of a sensor holds the whole load, or many of them."""
    period_s, sensed_s = channel.period_s, channel.sensed_s
    if isinstance(period_s, Missing) or isinstance(sensed_s, Missing):
        return False
    return sensed_s >= 0.99 * period_s or load_period_s <= sensed_s / _SEEN_WHOLE


def _cycle(ratio: float) -> int:
    """Return into how many phases to split a period of ``ratio`` sensing windows, so that all is seen equally often."""
    fewest = math.ceil(ratio - _ROUNDING)

    def unevenness(count: int) -> float:
        times = count / ratio
        return round(abs(times - round(times)) / times, 3)

    return min(range(fewest, 4 * fewest + 1), key=lambda count: (unevenness(count), count))


def _whole(least: int, load_period_s: float, step_s: float, period_s: float) -> int:
    """Return how many inferences, ``least`` or some more, leave the shortest pause for their length."""
    return min(
        range(least, least + max(1, least // 5) + 1),
        key=lambda count: (round((step_s - count * load_period_s) % period_s / (count * load_period_s), 4), count),
    )
