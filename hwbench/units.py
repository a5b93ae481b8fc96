"""Units, and the one clock.

Inside hwbench every quantity is SI (seconds, bytes, joules, watts, hertz) and its unit is in the name of
the field that holds it. Only this module turns a quantity into text.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Literal, Protocol

from hwbench.errors import UsageError


class Clock(Protocol):
    """Monotonic time. Tests pass a fake; nothing else in hwbench reads the time for a duration."""

    def now_ns(self) -> int:
        """Nanoseconds since an arbitrary start."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class MonotonicClock:
    """``time.perf_counter_ns``: monotonic, not stepped by NTP, the finest that Python offers."""

    def now_ns(self) -> int:
        return time.perf_counter_ns()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_SI = (
    (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"),
    (1e-12, "p"), (1e-15, "f"),
)  # fmt: skip
_BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def format_seconds(value: float, digits: int = 3) -> str:
    """``0.00123`` -> ``1.23 ms``."""
    for factor, unit in _SECONDS:
        if _reaches(value, factor, digits):
            return f"{_significant(value / factor, digits)} {unit}"
    return "0 s" if value == 0 else f"{_significant(value / 1e-9, digits)} ns"


def format_bytes(value: float) -> str:
    """``102760448`` -> ``98.0 MiB``."""
    for factor, unit in _BYTES:
        if abs(value) >= factor:
            return f"{_significant(value / factor, 3)} {unit}"
    return f"{value:.0f} B"


def format_si(value: float, unit: str, digits: int = 3) -> str:
    """``4.09e9, "FLOP"`` -> ``4.09 GFLOP``."""
    for factor, prefix in _SI:
        if _reaches(value, factor, digits):
            return f"{_significant(value / factor, digits)} {prefix}{unit}"
    return f"0 {unit}" if value == 0 else f"{value:.{digits - 1}e} {unit}"


def _reaches(value: float, factor: float, digits: int) -> bool:
    """Say whether ``value`` shown in ``digits`` digits is at least ``factor``: 999.6 µs is 1.00 ms, not 1000 µs."""
    return abs(value) >= factor * (1 - 0.5 * 10.0**-digits)


def _significant(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    whole = len(str(int(float(f"{abs(value):.{digits - 1}e}"))))  # of the rounded value: 9.996 is 10.0
    return f"{value:.{max(0, digits - whole)}f}"


_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|min|h)?\s*$")
_DURATION_FACTOR = {"ms": 1e-3, "s": 1.0, None: 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_seconds(text: str) -> float:
    """Read a duration such as ``10``, ``10s``, ``500ms``, ``2min``; returns seconds."""
    match = _DURATION.match(text)
    if match is None:
        msg = f"'{text}' is not a duration"
        raise UsageError(msg, hint="write for example 10s, 500ms or 2min")
    return float(match[1]) * _DURATION_FACTOR[match[2]]


_NUMBER = re.compile(r"\s*(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<unit>\S*)\s*")
_PREFIXES = {"": 1.0, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3}  # both of Unicode's micro signs
_QUANTITIES: dict[str, dict[str, float]] = {
    "s": {f"{prefix}s": factor for prefix, factor in _PREFIXES.items()} | {"": 1.0, "min": 60.0},
    "J": {f"{prefix}J": factor for prefix, factor in _PREFIXES.items()} | {"": 1.0, "kJ": 1e3},
    "B": {"": 1.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9} | {name: float(factor) for factor, name in _BYTES},
    "1/s": {"": 1.0, "/s": 1.0, "1/s": 1.0, "k/s": 1e3, "M/s": 1e6, "G/s": 1e9},
    "share": {"": 1.0, "%": 0.01},
    "%": {"%": 0.01},
    "pp": {"pp": 0.01},  # a change of a share; "1 %" could be one of it
    "change": {"pp": 0.01, "": 1.0},  # of a share, or of a metric in its own unit
}


def parse_quantity(text: str, unit: str) -> float:
    """Read ``5 ms``, ``20MiB`` or a bare number in SI units; returns it in ``unit``.

    Units are s, J, B, 1/s, share, %, pp and change. A change of a share is read as ``1pp`` (0.01), never bare;
    ``change`` is also one of a metric in its own unit, bare.

    Raises:
        UsageError: it is no number, or its unit is of something else.
    """
    units = _QUANTITIES[unit]
    match = _NUMBER.fullmatch(text)
    name = "" if match is None else match["unit"]
    if unit == "B":  # no byte unit differs from another by case alone
        name = next((known for known in units if known.lower() == name.lower()), name)
    if match is None or name not in units:
        said = f"'{text}' is no number" if match is None else f"'{match['unit']}' is no unit of it"
        if match is not None and name == "%" and "pp" in units:
            raise UsageError(said, hint=f"write {match['number']}pp for a change of a share")
        raise UsageError(said, hint=f"units are: {', '.join(name for name in units if name)}")
    return float(match["number"]) * units[name]


_COMPARISON = re.compile(r"\s*(?P<name>[a-z][a-z0-9_ -]*?)\s*(?P<sign>[<>])=?\s*(?P<value>[^<>=\s][^<>=]*?)\s*")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``latency <= 5ms`` taken apart. ``<`` and ``<=`` are one: no measurement tells them apart."""

    name: str
    sign: Literal["<", ">"]
    value: str


def parse_comparison(text: str) -> Comparison | None:
    """Read ``NAME < VALUE``, as goals, constraints and ``--fail-if`` have it; None where it is no such thing."""
    match = _COMPARISON.fullmatch(text)
    if match is None:
        return None
    name = " ".join(match["name"].split())
    return Comparison(name=name, sign="<" if match["sign"] == "<" else ">", value=match["value"])
