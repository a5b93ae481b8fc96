"""How often a power sensor changes, and how much of that time it looks: detected where possible, else from a table.

Two figures decide what a sensor may miss. The update period can be seen by reading as fast as possible while the load
varies: :func:`detect`. How much of each period is sensed cannot be seen that way; it comes from a table of what others
measured against an external meter, and only where the detected period is the one in the table.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hwbench.energy.integrate import Sample
from hwbench.errors import StorageError
from hwbench.files import read_record, write_record
from hwbench.records.base import Missing, Record, check, check_finite
from hwbench.resources import user_folder

DETECTED_SCHEMA = 1
_FEWEST_CHANGES = 10
_POLLS_PER_PERIOD = 4  # so many readings in a period, or the reader is what was seen
_NEAR = 0.25  # gaps that far from the median are another number of updates
_ODD, _MOST = 0.15, 0.6  # more short gaps, or fewer near the median: that is not the period
_SAME = 0.2  # a detected period that far from the table's is another sensor

_YANG = "Yang, Adámek and Armour, arXiv 2312.02741 (SC'24), data in JimZeyuYang/GPU_Power_Benchmark at 4b5c944"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What is known about a sensor's time: each figure with where it comes from."""

    period_s: float | Missing
    sensed_s: float | Missing
    period_basis: str
    sensed_basis: str


_LOGARITHMIC = Missing(code="not_a_mean", why="the reading follows the load logarithmically: it is no mean over a time")
_CONTRADICTORY = Missing(
    code="not_known", why="the whole 100 ms by one measurement of this architecture, some 20 ms by another"
)
_CLASSES: dict[str, tuple[float, float | Missing]] = {
    "9.0": (0.1, 0.025),  # Hopper
    "8.9": (0.1, 0.1),  # Ada
    "8.6": (0.1, 0.1),  # Ampere, GA10x
    "8.0": (0.1, 0.025),  # Ampere, GA100
    "7.5": (0.1, _CONTRADICTORY),  # Turing
    "7.0": (0.02, 0.01),  # Volta
    **dict.fromkeys(("6.0", "6.1", "6.2"), (0.02, 0.01)),  # Pascal
    **dict.fromkeys(("5.0", "5.2", "5.3", "3.5", "3.7"), (0.1, _LOGARITHMIC)),  # Maxwell, the later Kepler
    "3.0": (0.015, _LOGARITHMIC),  # the first Kepler
}
"""NVML's instantaneous power by compute capability: update period and sensed part of it, in seconds."""


def nvidia_timing(compute_capability: str | Missing, detected: DetectedPeriod | None = None) -> Timing:
    """Return the timing of NVML's instantaneous power, from what was detected on this GPU and from the table."""
    known = _CLASSES.get(compute_capability) if isinstance(compute_capability, str) else None
    if known is None:
        absent = Missing(
            code="not_known",
            why=f"nobody has published it for compute capability {compute_capability}",
            cure="'hwbench energy selftest' under load detects the update period",
        )
        sensed_basis = f"not in the table ({_YANG})"
        if detected is None:
            return Timing(period_s=absent, sensed_s=absent, period_basis=sensed_basis, sensed_basis=sensed_basis)
        return Timing(
            period_s=detected.period_s, sensed_s=absent, period_basis=_seen(detected), sensed_basis=sensed_basis
        )
    period_s, sensed_s = known
    table = f"table, compute capability {compute_capability}: {_YANG}"
    if detected is None:
        return Timing(period_s=period_s, sensed_s=sensed_s, period_basis=table, sensed_basis=table)
    if abs(detected.period_s / period_s - 1) > _SAME:
        why = f"the period seen here ({detected.period_s:.3g} s) is not the table's ({period_s:g} s)"
        other = Missing(code="another_sensor", why=why)
        return Timing(period_s=detected.period_s, sensed_s=other, period_basis=_seen(detected), sensed_basis=why)
    return Timing(period_s=detected.period_s, sensed_s=sensed_s, period_basis=_seen(detected), sensed_basis=table)


def _seen(detected: DetectedPeriod) -> str:
    return f"detected: {detected.changes} changes, read every {detected.polled_s * 1e3:.2g} ms"


@dataclass(frozen=True, kw_only=True)
class UpdatePeriod:
    """An update period that was seen."""

    period_s: float
    changes: int
    polled_s: float


def detect(samples: Sequence[Sample]) -> UpdatePeriod | Missing:
    """Return how often a sensor's value changes, from readings much faster than that.

    The median of the gaps between changes says how long a period is about; the mean of the gaps near it says it finer
    than the readings stand. The median, because two updates that show the same value look like one long gap, and a
    reading that came late like one long and one short.

    Args:
        samples: readings as fast as they could be taken, over two or three seconds of varying load.

    Returns:
        The period; Missing with ``no_variation`` (too few changes), ``polled_too_slowly`` (readings are not several
        times faster than the changes) or ``irregular`` (no one period).
    """
    changes_s = [b.t_s for a, b in pairwise(samples) if b.value != a.value]
    if len(changes_s) < _FEWEST_CHANGES:
        why = f"the reading changed {len(changes_s)} times, and {_FEWEST_CHANGES} are the least"
        return Missing(code="no_variation", why=why, cure="read for 3 s while the load varies")
    polled_s = statistics.median(b.t_s - a.t_s for a, b in pairwise(samples))
    gaps_s = [b - a for a, b in pairwise(changes_s)]
    median_s = statistics.median(gaps_s)
    if median_s < _POLLS_PER_PERIOD * polled_s:
        why = f"the reading changes every {median_s:.3g} s and was taken every {polled_s:.3g} s: too slowly to tell"
        return Missing(code="polled_too_slowly", why=why)
    near = [gap for gap in gaps_s if abs(gap / median_s - 1) <= _NEAR]
    short = sum(gap < (1 - _NEAR) * median_s for gap in gaps_s)
    if short > _ODD * len(gaps_s) or len(near) < _MOST * len(gaps_s):
        why = f"the gaps between changes have no one length: {len(near)} of {len(gaps_s)} are near {median_s:.3g} s"
        return Missing(code="irregular", why=why, cure="read again, while the load varies all the time")
    return UpdatePeriod(period_s=statistics.fmean(near), changes=len(changes_s), polled_s=polled_s)


class DetectedPeriod(Record, frozen=True, kw_only=True):
    """An update period as it is kept, for one model of sensor under one driver."""

    schema_version: int
    sensor: str
    driver: str
    period_s: float
    changes: int
    polled_s: float

    def __post_init__(self) -> None:
        check_finite(self, "period_s", "polled_s")
        check(self.period_s > 0, "period_s must be positive")


def detected_path(sensor: str, driver: str) -> Path:
    """Return where the period of ``sensor`` (a GPU's name) under ``driver`` is kept."""
    slug = re.sub(r"[^a-z0-9.]+", "-", f"{sensor} {driver}".lower()).strip("-")
    return user_folder() / "sensors" / f"{slug}.json"


def keep(sensor: str, driver: str, found: UpdatePeriod) -> DetectedPeriod:
    """Keep what was detected, in place of what was kept before.

    Raises:
        StorageError: the file cannot be written.
    """
    detected = DetectedPeriod(
        schema_version=DETECTED_SCHEMA,
        sensor=sensor,
        driver=driver,
        period_s=found.period_s,
        changes=found.changes,
        polled_s=found.polled_s,
    )
    write_record(detected_path(sensor, driver), detected)
    return detected


def kept(sensor: str, driver: str) -> DetectedPeriod | None:
    """Return what was detected before, or None.

    Raises:
        StorageError: there is a file and it cannot be read, or it is of another sensor.
    """
    path = detected_path(sensor, driver)
    if not path.exists():
        return None
    detected = read_record(path, DetectedPeriod, schema=DETECTED_SCHEMA)
    if (detected.sensor, detected.driver) != (sensor, driver):
        msg = f"{path} is of {detected.sensor} under {detected.driver}, not of {sensor} under {driver}"
        raise StorageError(msg, hint="delete it")
    return detected
