"""Where and in what precision a network is to run, and what does not."""

from __future__ import annotations

from hwbench.records.base import Record


class Requirements(Record, frozen=True, kw_only=True):
    """What must hold for every executed unit; None: nothing is required.

    ``device``: part of the name of an execution unit (``CPU``, ``GPU``), whatever its case. ``precision``: of every
    unit with multiply-adds. ``delegate``: the one that must have taken the whole graph.
    """

    device: str | None = None
    precision: str | None = None
    delegate: str | None = None

    @property
    def any(self) -> bool:
        """Say whether anything is required."""
        return (self.device, self.precision, self.delegate) != (None, None, None)


class Unmet(Record, frozen=True, kw_only=True):
    """A unit that is not as was required: what was, what was found, and why, as far as the runtime tells."""

    requirement: str  # device, precision or delegate
    wanted: str
    unit: str
    found: str
    why: str
