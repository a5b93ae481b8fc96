"""What ``hwbench doctor --apply`` has changed on this machine for a while, and what was there before."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Record

JOURNAL_SCHEMA = 1


class Change(Record, frozen=True, kw_only=True):
    """One thing that is given another value for a while: a file, a GPU's setting, a Jetson's.

    ``kind``: ``content`` and ``mode`` are what a file says and who may read it (octal); ``gpu`` is set through NVML;
    ``nvpmodel`` and ``jetson_clocks`` by NVIDIA's programs of those names. ``path`` is below the root for files
    (``sys/devices/system/cpu/smt/control``); a GPU's UUID and what of it (``GPU-5c0f/power_limit``); where
    ``jetson_clocks`` has stored what to put back.
    """

    setting: str  # as the user names it: ``governor``
    path: str
    kind: Literal["content", "mode", "gpu", "nvpmodel", "jetson_clocks"]
    before: str
    after: str | None  # None: the kernel changes it along with another file; it is only put back


class Journal(Record, frozen=True, kw_only=True):
    """What has to be put back, in the order it is changed; written before the first change."""

    schema_version: int
    hwbench: str
    created_at: str  # UTC
    command: tuple[str, ...]  # what runs meanwhile
    changes: tuple[Change, ...]
