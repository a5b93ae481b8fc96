"""What would disturb a measurement on this machine, as found at one moment."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, check

HEALTH_SCHEMA = 1

Severity = Literal["warning", "cannot_tell", "info", "ok"]


class HealthCheck(Record, frozen=True, kw_only=True):
    """One thing that was looked at.

    ``found`` says what there is, or why that cannot be told. A warning also says what it does to a measurement and what
    to do about it. ``info`` is worth knowing and neither good nor bad. ``figures`` holds the numbers behind the words,
    with their unit in the name.
    """

    name: str  # stable, for programs: ``governor``
    severity: Severity
    found: str | Missing
    effect: str | None = None
    cure: str | None = None
    figures: dict[str, float] = {}

    def __post_init__(self) -> None:
        check((self.severity == "cannot_tell") == isinstance(self.found, Missing), "cannot_tell goes with a reason")
        check(self.severity != "warning" or bool(self.effect and self.cure), "a warning needs its effect and its cure")


class Health(Record, frozen=True, kw_only=True):
    """What ``hwbench doctor`` writes. A check that has no meaning here (a Jetson's power mode on a PC) is left out."""

    schema_version: int
    hwbench: str
    created_at: str  # UTC
    machine: str | Missing
    root: str  # what /proc and /sys were read under
    elapsed_s: float
    checks: tuple[HealthCheck, ...]

    @property
    def warnings(self) -> tuple[HealthCheck, ...]:
        """The checks that found something to warn of."""
        return tuple(found for found in self.checks if found.severity == "warning")
