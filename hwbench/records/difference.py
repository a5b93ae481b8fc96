"""The difference of two measurements, layer by layer, so that the column adds up to the end-to-end difference.

``A`` is what one starts from and ``B`` what one looks at: every difference is B minus A, in seconds, so a negative one
says that B is faster.
"""

from __future__ import annotations

import math
from typing import Literal

from hwbench.records.base import Missing, Record, check, check_finite
from hwbench.records.measurement import LayerTime, Status

LAYER_DIFFERENCE_SCHEMA = 1

Name = Literal["A", "B"]
Grouping = Literal["unit", "module", "op"]
RowKind = Literal["both", "only_in_a", "only_in_b", "unseen_in_a", "unseen_in_b", "inserted_in_a", "inserted_in_b"]


class Side(Record, frozen=True, kw_only=True):
    """One of the two measurements: what was run, and its end-to-end median with the 95 % interval."""

    name: Name
    run_id: str
    model: str
    hub_sha256: str
    device: str
    fingerprint: str
    engine: str
    version: str
    precision: str  # as built
    precision_asked: str
    threads: int
    status: Status
    median_s: float
    median_low_s: float
    median_high_s: float
    iterations: int  # of the profiling run
    profiling_overhead: float
    method: str

    @property
    def label(self) -> str:
        return f"{self.engine} {self.precision}"


def share_of(part_s: float, difference_s: float) -> float | Missing:
    """Return ``part_s`` as a share of the end-to-end difference."""
    if difference_s == 0:
        return Missing(code="no_difference", why="the medians are equal: there is no difference to have a share of")
    return part_s / difference_s


class DifferenceRow(Record, frozen=True, kw_only=True):
    """Source layers, what each side runs for them, and the difference.

    ``kind``:

    * ``both``: units of A and of B stand for these layers; together they stand for no others;
    * ``only_in_a``, ``only_in_b``: the other model has no such layers;
    * ``unseen_in_a``, ``unseen_in_b``: both models have them, and no unit of that side is known to stand for them;
    * ``inserted_in_a``, ``inserted_in_b``: the runtime put these units in (reorders, conversions); no layer is behind
      them.

    ``a_s`` and ``b_s`` are the sums of ``scaled_s`` over ``a`` and ``b``. ``group`` is the module or the op that rows
    were gathered by, None for a row that is one piece. ``kinds`` holds more than one only in a gathered row.
    """

    kinds: tuple[RowKind, ...]
    group: str | None
    layers: tuple[str, ...]  # in the order of the model
    ops: tuple[str, ...]  # of those layers, each once
    a: tuple[LayerTime, ...]
    b: tuple[LayerTime, ...]
    a_s: float
    b_s: float
    difference_s: float
    share: float | Missing  # of the end-to-end difference; above 1 or negative where rows work against each other

    def __post_init__(self) -> None:
        check(bool(self.kinds), "a row has a kind")
        check_finite(self, "a_s", "b_s", "difference_s", minimum=None)


class Residual(Record, frozen=True, kw_only=True):
    """What no unit accounts for: end to end less the sum over all units. Negative where units overlap in time."""

    a_s: float
    b_s: float
    difference_s: float
    share: float | Missing


class LayerDifference(Record, frozen=True, kw_only=True):
    """What ``hwbench diff`` writes.

    ``sum(row.difference_s) + residual.difference_s == difference_s``, to the precision of a float. ``low_s`` and
    ``high_s`` bound the end-to-end difference: B's interval less A's, end against opposite end, which is wider than a
    95 % interval of the difference. The rows have no interval: each time is a median of one profiling run.
    """

    schema_version: int
    a: Side
    b: Side
    difference_s: float
    low_s: float
    high_s: float
    grouping: Grouping
    depth: int | None  # of the module path, where rows are gathered by module
    rows: tuple[DifferenceRow, ...]  # largest difference first
    residual: Residual
    notes: tuple[str, ...] = ()

    @property
    def resolved(self) -> bool:
        """Whether the two intervals leave the sign of the end-to-end difference certain."""
        return self.low_s > 0 or self.high_s < 0

    def __post_init__(self) -> None:
        check(self.low_s <= self.difference_s <= self.high_s, "the bounds must contain the difference")
        parts = math.fsum([*(row.difference_s for row in self.rows), self.residual.difference_s])
        scale = max(self.a.median_s, self.b.median_s, *(max(row.a_s, row.b_s) for row in self.rows), 0.0)
        check(
            abs(parts - self.difference_s) <= 1e-12 * scale, "the rows and the residual must add up to the difference"
        )
