"""What ``hwbench doctor --apply`` has changed on this machine for a while, and what was there before."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Record

JOURNAL_SCHEMA = 1


class Change(Record, frozen=True, kw_only=True):
    """One file of the system that is given another value for a while."""

    setting: str  # as the user names it: ``governor``
    path: str  # below the root: ``sys/devices/system/cpu/smt/control``
    kind: Literal["content", "mode"]  # what it says, or who may read it (octal)
    before: str
    after: str | None  # None: the kernel changes it along with another file; it is only put back


class Journal(Record, frozen=True, kw_only=True):
    """What has to be put back, in the order it is changed; written before the first change."""

    schema_version: int
    hwbench: str
    created_at: str  # UTC
    command: tuple[str, ...]  # what runs meanwhile
    changes: tuple[Change, ...]
