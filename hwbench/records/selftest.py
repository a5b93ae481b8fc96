"""The self-test of an energy meter: what was checked, what came out."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, check

SELFTEST_SCHEMA = 1

CheckStatus = Literal["passed", "failed", "cannot_tell"]
SelfTestStatus = Literal["passed", "failed", "skipped"]


class SelfTestCheck(Record, frozen=True, kw_only=True):
    """One check. ``values`` holds the numbers behind the words, units in their names."""

    name: str
    status: CheckStatus
    found: str
    limit: str
    values: dict[str, float] = {}


class SelfTest(Record, frozen=True, kw_only=True):
    """All checks of one meter on one device; ``skipped`` where there is no meter to test, and ``meter`` says why."""

    schema_version: int
    hwbench: str
    created_at: str  # UTC
    device: str
    meter: str | Missing
    boundary: str | Missing
    load: str | Missing  # what the machine was made to do
    status: SelfTestStatus
    checks: tuple[SelfTestCheck, ...] = ()

    def __post_init__(self) -> None:
        check(self.status == verdict(self.meter, self.checks), "status must follow from the checks")


def verdict(meter: str | Missing, checks: tuple[SelfTestCheck, ...]) -> SelfTestStatus:
    """Return ``failed`` where any check failed."""
    if isinstance(meter, Missing):
        return "skipped"
    return "failed" if any(one.status == "failed" for one in checks) else "passed"
