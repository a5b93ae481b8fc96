"""How long inputs and outputs take between host and device, beside the inferences and never in them."""

from __future__ import annotations

import statistics

from hwbench.records.base import Record, check


class Transfers(Record, frozen=True, kw_only=True, tag_field="kind", tag="transfers"):
    """Copies of all inputs to the device and of all outputs back, each by itself, after the timed window.

    One sample a repetition, in order, by the device's own clock. ``pinned``: from and to page-locked memory of the
    host, which is the fast way; a program whose data lie elsewhere pays for one more copy.
    """

    h2d_s: tuple[float, ...]
    d2h_s: tuple[float, ...]
    bytes_in: int
    bytes_out: int
    pinned: bool
    method: str

    def __post_init__(self) -> None:
        check(len(self.h2d_s) == len(self.d2h_s) > 0, "as many samples are needed to the device as back")
        check(min(*self.h2d_s, *self.d2h_s, self.bytes_in, self.bytes_out) >= 0, "nothing here can be negative")

    @property
    def n(self) -> int:
        return len(self.h2d_s)

    @property
    def h2d_median_s(self) -> float:
        return statistics.median(self.h2d_s)

    @property
    def d2h_median_s(self) -> float:
        return statistics.median(self.d2h_s)
