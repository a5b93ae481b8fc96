"""How wrong an energy reading can be: what is known of each instrument, and how the parts add up.

Every part is a relative standard uncertainty (k=1); :func:`expanded` adds the squares and doubles the root (k=2, 95 %),
as the GUM (JCGM 100:2008, section 5.1) does for independent parts. The gain is common to all readings of one
instrument: it does not average out, and it cancels when two readings of the same instrument are compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TOO_SHORT_PERIODS = 10.0  # below so many update periods, an edge alone may be a tenth of the reading


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What is known of an instrument's absolute scale."""

    standard: float  # relative, k=1
    basis: str


GAIN = {
    "rapl": Gain(
        standard=0.05,
        basis="judgement: the literature gives 5 to 10 % absolute for RAPL; 5 % (k=1) is a rectangular bound of 8.7 % "
        "over sqrt(3). Older and client parts model the energy, servers since Haswell-EP measure it at the regulator.",
    ),
    "ina3221": Gain(
        standard=0.01,
        basis="judgement: the chip's own gain error is 0.25 to 0.5 % (data sheet, from memory), the tolerance of "
        "a Jetson's shunts is 1 % where a design guide tells it (AGX Xavier); the shunt offset is counted apart.",
    ),
    "ina238": Gain(standard=0.01, basis="judgement: a shunt of 1 %; the chip's own error is far smaller (data sheet)."),
    "fuel_gauge": Gain(
        standard=0.05,
        basis="judgement: 5 to 10 % is said of fuel gauges; AOSP calls them not guaranteed to be of high accuracy "
        "(source.android.com/docs/core/power/device).",
    ),
    "soc_telemetry": Gain(
        standard=0.05,
        basis="judgement: the vendors document no accuracy for the power that firmware reports; taken as for RAPL.",
    ),
    "nvml": Gain(
        standard=0.05 / math.sqrt(3),
        basis="5 % of the reading as a rectangular bound: against an external meter most of 19 cards lay within it, "
        "and all within -9.5 to +6.4 %, each constant (arXiv 2312.02741, data). Fitted offsets of -12 to +12 W go with "
        "those slopes and are not counted again. A card that was compared with a meter is far better.",
    ),
}


def edges(update_period_s: float, window_s: float) -> float:
    """Return the part that comes from not knowing when, within one update, each end of the window fell.

    Two independent uniform delays of up to one update period differ with a standard deviation of T/sqrt(6).
    """
    return update_period_s / (math.sqrt(6) * window_s)


def quantisation(lsb_j: float, readings: int, energy_j: float) -> float:
    """Return the part that comes from ``readings`` independent readings of a counter in steps of ``lsb_j``."""
    return lsb_j * math.sqrt(readings / 12) / energy_j


def gaps(coverage: float) -> float:
    """Return the part for time that no reading covers.

    Power there is taken as the mean of the rest; it is only known to lie between nothing and twice that.
    """
    return (1 - coverage) / math.sqrt(3)


def expanded(*parts: float) -> float:
    """Return the expanded relative uncertainty, k=2."""
    return 2 * math.hypot(*parts)
