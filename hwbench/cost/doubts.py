"""What speaks against a calibration: in itself, and beside the one that is kept already.

Disturbances only ever lower a rate, so the higher of two is the better one, and a rate that has fallen without a reason
says more about that moment than about the machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from hwbench.cost.levels import LEVELS
from hwbench.records.profile import Calibration, CalibrationPoint
from hwbench.units import format_si

_SPREAD_LIMIT = 0.20  # of the best sample
_SAME = 0.05  # of a rate: two calibrations of a quiet machine differ by less
_AGAIN = "run calibrate again on a quiet machine"


def doubts(points: Sequence[CalibrationPoint]) -> tuple[str, ...]:
    """Return what makes these points doubtful, in words: samples that spread, and a level faster than a nearer one."""
    return (*(text for point in points for text in _spread(point)), *_order(points))


def _spread(point: CalibrationPoint) -> Iterator[str]:
    spread = _relative_spread(point)
    if spread > _SPREAD_LIMIT:
        yield (
            f"{point.key}: the samples spread over {spread:.0%} of the best ({len(point.samples)} taken); "
            f"something else was running, or the clock changed: {_AGAIN}"
        )


def _order(points: Sequence[CalibrationPoint]) -> Iterator[str]:
    rates = {point.key: point.value for point in points if point.quantity == "bandwidth_bytes_per_s"}
    found = [level for level in LEVELS if level in rates]
    for near, far in itertools.pairwise(found):
        if rates[near] < (1 - _SAME) * rates[far]:
            yield (
                f"{near}: {format_si(rates[near], 'B/s')}, slower than {far} ({format_si(rates[far], 'B/s')}), which "
                f"is farther from the core: one of the two was disturbed, or is smaller than the system says: {_AGAIN}"
            )


def _relative_spread(point: CalibrationPoint) -> float:
    return (max(point.samples) - min(point.samples)) / max(point.samples)


def changes(old: Calibration, new: Calibration) -> tuple[str, ...]:
    """Return what differs by more than chance between two calibrations of one machine, in words."""
    before, after = _by_key(old), _by_key(new)
    told = []
    for key, point in before.items():
        if key not in after:
            told.append(f"{key} is missing now")
            continue
        ratio = after[key].value / point.value
        threads = f" ({point.threads} to {after[key].threads} threads)" if point.threads != after[key].threads else ""
        if abs(ratio - 1) > _SAME or threads:
            told.append(f"{key} {ratio - 1:+.0%}{threads}")
    return (*told, *(f"{key} is new" for key in after if key not in before))


def is_worse(old: Calibration, new: Calibration) -> bool:
    """Say whether ``new`` lacks a rate of ``old``, has a clearly lower one, or one as high but doubtful only now."""
    after = _by_key(new)
    for key, point in _by_key(old).items():
        if key not in after or after[key].value < (1 - _SAME) * point.value:
            return True
        doubted = _relative_spread(after[key]) > _SPREAD_LIMIT >= _relative_spread(point)
        if doubted and after[key].value <= (1 + _SAME) * point.value:
            return True
    return False


def _by_key(calibration: Calibration) -> dict[str, CalibrationPoint]:
    return {f"{point.key} {point.quantity.split('_')[0]}": point for point in calibration.points}
