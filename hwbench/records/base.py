"""What every record is made of.

A record is frozen, keyword-only, refuses unknown fields, and is checked when it is made, whether by code
or from a file. A quantity is a value *or* a :class:`Missing` that says why there is none: never zero,
never ``None``, never a stand-in.
"""

from __future__ import annotations

import math

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records."""


class Missing(Record, frozen=True, kw_only=True, tag_field="kind", tag="missing"):
    """The reason why a quantity has no value.

    ``code`` is stable and meant for programs (``permission_denied``, ``too_few_samples``); ``why`` and
    ``cure`` are for people.
    """

    code: str
    why: str
    cure: str | None = None

    def __str__(self) -> str:
        return f"{self.why}; {self.cure}" if self.cure else self.why


class Support(Record, frozen=True, kw_only=True):
    """Whether something can be used here: yes when there are no reasons against it."""

    reasons: tuple[Missing, ...] = ()

    @property
    def usable(self) -> bool:
        return not self.reasons

    def __str__(self) -> str:
        return "; ".join(str(reason) for reason in self.reasons) or "usable"


def unsupported(code: str, why: str, cure: str | None = None) -> Support:
    """Return a :class:`Support` that says no, for one reason."""
    return Support(reasons=(Missing(code=code, why=why, cure=cure),))


def check(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition``; msgspec adds the path when it reads a file."""
    if not condition:
        raise ValueError(message)


def check_finite(record: Record, *names: str, minimum: float | None = 0.0) -> None:
    """Check that the named fields are finite numbers, at least ``minimum``; ``Missing`` passes."""
    for name in names:
        value = getattr(record, name)
        if isinstance(value, Missing) or value is None:
            continue
        check(math.isfinite(value), f"{name} must be finite, got {value}")
        if minimum is not None:
            check(value >= minimum, f"{name} must be at least {minimum:g}, got {value}")
