"""One short text that differs when measurements of two devices must not be put side by side."""

from __future__ import annotations

import hashlib

from hwbench.records.base import Missing


def fingerprint(*facts: object) -> str:
    """Return 16 hexadecimal digits of SHA-256 over ``facts``; a reason counts by its code, not its wording."""
    parts = [f"missing:{fact.code}" if isinstance(fact, Missing) else repr(fact) for fact in facts]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def rounded_gib(size_bytes: int | Missing) -> int | Missing:
    """Round to whole GiB: the same machine gives some MiB more or less from one kernel to the next."""
    return size_bytes if isinstance(size_bytes, Missing) else round(size_bytes / 2**30)
