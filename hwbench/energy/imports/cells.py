"""What stands in a cell: numbers, units, times.

Every unit becomes SI, every time a whole number of nanoseconds. What can be read in two ways is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Literal

Kind = Literal["time", "power", "current", "voltage", "energy", "marker"]

_MICRO = ("u", "µ", "μ")  # the letter, the micro sign, the Greek letter


def _prefixed(unit: str, prefixes: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}{unit}": factor for prefix, factor in prefixes.items()}


_SMALL = {"": 1.0, "m": 1e-3, "n": 1e-9, **dict.fromkeys(_MICRO, 1e-6)}
UNITS: dict[Kind, dict[str, float]] = {
    "time": {
        **_prefixed("s", _SMALL),
        **_prefixed("sec", _SMALL),
        **dict.fromkeys(("secs", "second", "seconds"), 1.0),
        **dict.fromkeys(("millisecond", "milliseconds"), 1e-3),
        **dict.fromkeys(("microsecond", "microseconds"), 1e-6),
        "min": 60.0,
        "h": 3600.0,
    },
    "power": {**_prefixed("W", {**_SMALL, "k": 1e3}), "watt": 1.0, "watts": 1.0, "milliwatt": 1e-3, "milliwatts": 1e-3},
    "current": {**_prefixed("A", _SMALL), "amp": 1.0, "amps": 1.0},
    "voltage": {**_prefixed("V", _SMALL), "volt": 1.0, "volts": 1.0},
    "energy": {
        **_prefixed("J", {**_SMALL, "k": 1e3}),
        **_prefixed("Ws", _SMALL),
        **{unit: 3600.0 * factor for unit, factor in _prefixed("Wh", {**_SMALL, "k": 1e3}).items()},
        "joule": 1.0,
        "joules": 1.0,
    },
}
_LOWER = {kind: {unit.lower(): factor for unit, factor in units.items()} for kind, units in UNITS.items()}
WORDS: dict[Kind, frozenset[str]] = {
    "time": frozenset({"time", "timestamp", "t", "ts", "elapsed", "date", "datetime", "epoch", "unix"}),
    "power": frozenset({"power", "p", "pwr", "watts", "watt"}),
    "current": frozenset({"current", "i", "curr", "amps", "amp", "amperes"}),
    "voltage": frozenset({"voltage", "u", "volts", "volt"}),
    "energy": frozenset({"energy", "e", "joules"}),
    "marker": frozenset({"marker", "mark", "gpio", "gpi", "gpi0", "gpi1", "event", "trigger", "digital"}),
}
SYMBOLS: dict[str, Kind] = {  # a header of these alone is in SI: t,V,A,P
    "t": "time",
    "s": "time",
    "V": "voltage",
    "U": "voltage",
    "A": "current",
    "I": "current",
    "P": "power",
    "W": "power",
    "E": "energy",
    "J": "energy",
}
_DERIVED = frozenset(  # a column with such a word is not the quantity itself
    {"max", "min", "peak", "std", "stdev", "limit", "factor", "apparent", "reactive", "delta", "diff", "setpoint", "pf"}
)
_BRACKETS = re.compile(r"^(.*?)\s*[(\[]\s*([^()\[\]]+?)\s*[)\]]$")


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What a column's name says. ``kind``: None when it is none that is used; ``factor``: to SI, None when untold."""

    text: str
    kind: Kind | None
    factor: float | None
    derived: bool = False


def heading(text: str) -> Heading:
    """Read a column's name, such as ``Time (s)``, ``power_mW``, ``Current [A]``, ``mW``."""
    bare = text.lstrip("#").strip()
    bracketed = _BRACKETS.match(bare)
    name, unit = (bracketed[1], bracketed[2]) if bracketed else _suffix(bare)
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    derived = bool(_DERIVED & set(words)) or unit in {"VA", "var", "VAR", "VAr"}
    named = next((kind for kind, known in WORDS.items() if known & set(words)), None)
    if unit is None:
        return Heading(text=text, kind=named, factor=None, derived=derived)
    told = next((kind for kind, units in UNITS.items() if unit in units), None)
    if told is None and named is not None and named in _LOWER and unit.lower() in _LOWER[named] and unit.islower():
        told = named
    if told is None or (named not in {None, told}):  # «Power (VA)», «Voltage (mW)»
        return Heading(text=text, kind=named, factor=None, derived=derived)
    return Heading(text=text, kind=told, factor=UNITS[told].get(unit) or _LOWER[told][unit.lower()], derived=derived)


def _suffix(text: str) -> tuple[str, str | None]:
    """Split ``power_mW`` into name and unit; one small letter counts as a unit only after a word for its quantity."""
    if any(text in units for units in UNITS.values()):
        return "", text
    name, _, last = re.sub(r"[\s/]+", "_", text).rpartition("_")
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    for kind, units in UNITS.items():
        if last in units and (len(last) > 1 or words & WORDS[kind]):
            return name, last
        if last.islower() and last in _LOWER[kind] and words & WORDS[kind]:
            return name, last
    return text, None


_NUMBER = re.compile(r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$")
_COMMA = re.compile(r"^[+-]?\d+,\d+$")
_UNREADABLE = frozenset({"", "nan", "inf", "+inf", "-inf", "na", "n/a", "#n/a", "null", "none", "-", "--"})


def is_unreadable(text: str) -> bool:
    """Say whether a cell says that there is no value."""
    return text.lower() in _UNREADABLE


def number(text: str, *, comma: bool = False) -> float:
    """Return the number in a cell; not-a-number where the cell says that there is none.

    Raises:
        ValueError: it is not a number.
    """
    if is_unreadable(text):
        return math.nan
    plain = text.replace(",", ".") if comma and _COMMA.match(text) else text
    if not _NUMBER.match(plain):
        msg = f"'{text[:40]}' is not a number"
        raise ValueError(msg)
    return float(plain)


def decimal_comma(cells: Iterable[str]) -> bool:
    """Say whether numbers are written with a decimal comma.

    Raises:
        ValueError: ``1,234`` and the like alone may be thousands too.
    """
    found = [cell for cell in cells if _COMMA.match(cell)]
    if not found:
        return False
    if all(len(cell.partition(",")[2]) == 3 and not cell.lstrip("+-").startswith("0") for cell in found):
        msg = f"'{found[0]}' may be a decimal comma or a mark of thousands"
        raise ValueError(msg)
    return True


_DATE = re.compile(
    r"^(?:(?P<y>\d{4})-(?P<m>\d\d)-(?P<d>\d\d)|(?P<m2>\d\d)-(?P<d2>\d\d)-(?P<y2>\d{4}))[T ]"
    r"(?P<H>\d\d):(?P<M>\d\d):(?P<S>\d\d)(?:[.,](?P<f>\d{1,9})\d*)?\s*(?P<z>Z|[+-]\d\d:?\d\d)?$"
)
_UNIX_NS = ((1e17, 1), (1e14, 1_000), (1e11, 1_000_000), (1e9, 1_000_000_000))  # of any year from 2001 to 5138


def date_ns(text: str) -> int | None:
    """Return a date-time (ISO 8601, or ``MM-DD-YYYY HH:MM:SS`` as NVIDIA and SPEC write it) as ns since 1970, UTC.

    None when it is no date-time. Without a zone it is taken as UTC: only differences are used.

    Raises:
        ValueError: there is no such day or hour.
    """
    found = _DATE.match(text)
    if found is None:
        return None
    year, month, day = (int(found[a] or found[b]) for a, b in (("y", "y2"), ("m", "m2"), ("d", "d2")))
    moment = datetime(year, month, day, int(found["H"]), int(found["M"]), int(found["S"]), tzinfo=timezone.utc)
    zone = found["z"]
    if zone not in {None, "Z"}:
        sign = -1 if zone[0] == "-" else 1
        moment -= sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    seconds = (moment - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(seconds=1)
    return seconds * 1_000_000_000 + int((found["f"] or "").ljust(9, "0"))


def unix_scale_ns(value: float) -> int | None:
    """Return how many nanoseconds the unit of a Unix time has, told by its size; None when it is none."""
    return next((scale for least, scale in _UNIX_NS if value >= least), None)


def scaled_ns(text: str, factor: float, *, comma: bool = False) -> int:
    """Return a number in a unit of ``factor`` seconds as whole nanoseconds, without loss for Unix times.

    Raises:
        ValueError: it is not a finite number.
    """
    if not math.isfinite(number(text, comma=comma)):
        msg = f"'{text[:40]}' is not a time"
        raise ValueError(msg)
    return round(Decimal(text.replace(",", ".")) * Decimal(repr(factor)) * 1_000_000_000)
