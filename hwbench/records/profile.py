"""A device profile: what is known about a kind of device, every number with its source.

People write these as TOML in ``profiles/``; ``hwbench calibrate`` writes a :class:`Calibration` (JSON) that overlays
one for the machine in hand.
"""

from __future__ import annotations

import math
import re
from typing import Literal

from hwbench.records.base import Record, check, check_finite
from hwbench.records.device import Environment

PROFILE_SCHEMA = 1
CALIBRATION_SCHEMA = 1

Basis = Literal["measured", "datasheet", "derived", "estimate"]
Precision = Literal["fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "fp4", "int8", "int4"]


class Figure(Record, frozen=True, kw_only=True):
    """One number, where it comes from, and optionally its bounds.

    ``basis``: ``measured`` on such a device; ``datasheet``, the vendor's own figure; ``derived``, arithmetic over
    figures that are (the formula stands in ``note``); ``estimate``, somebody's judgement. ``source`` is a
    key of the profile's ``sources``.
    """

    value: float
    basis: Basis
    source: str
    note: str | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        check(math.isfinite(self.value) and self.value > 0, f"value must be a positive number, got {self.value}")
        if self.low is not None:
            check(0 < self.low <= self.value, f"low must be in (0, value], got {self.low}")
        if self.high is not None:
            check(self.value <= self.high < math.inf, f"high must be at least value, got {self.high}")
        check(self.basis != "derived" or bool(self.note), "a derived figure needs its formula in 'note'")


class Match(Record, frozen=True, kw_only=True):
    """How a device is recognised; all given conditions must hold.

    The texts are regular expressions, searched in what the machine reports: anchor them with ``^`` and ``$``. The
    memory bounds tell apart modules that report the same name (AGX Orin 32 and 64 GB).
    """

    cpu_model: str | None = None
    cpuid: str | None = None
    gpu_name: str | None = None
    device_tree: str | None = None
    android_soc: str | None = None
    android_model: str | None = None
    min_memory_bytes: float | None = None
    max_memory_bytes: float | None = None

    def patterns(self) -> dict[str, str]:
        """Return the given regular expressions by field."""
        texts = {name: getattr(self, name) for name in self.__struct_fields__ if not name.endswith("_memory_bytes")}
        return {name: text for name, text in texts.items() if text is not None}

    def __post_init__(self) -> None:
        for name, pattern in self.patterns().items():
            _check_pattern(name, pattern)
        check_finite(self, "min_memory_bytes", "max_memory_bytes")


def _check_pattern(name: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        msg = f"{name} is not a regular expression: {error}"
        raise ValueError(msg) from error


class PowerMode(Record, frozen=True, kw_only=True):
    """A power mode of a device (``nvpmodel`` on Jetson)."""

    id: int
    name: str
    default: bool = False
    budget_w: Figure | None = None
    cpu_cores: Figure | None = None
    cpu_max_hz: Figure | None = None
    gpu_max_hz: Figure | None = None
    gpu_sm: Figure | None = None
    memory_max_hz: Figure | None = None


class DeviceProfile(Record, frozen=True, kw_only=True):
    """A kind of device.

    ``peak_ops_per_s`` is dense, per whole device, with one multiply-add as two operations.
    ``bandwidth_bytes_per_s`` is keyed by level: ``l1 l2 l3 dram``. ``unknown`` names what nobody publishes, and why.
    """

    schema_version: int
    name: str
    title: str
    kind: Literal["cpu", "board", "gpu", "jetson", "phone"]
    vendor: str
    summary: str
    match: Match = Match()
    isa: tuple[str, ...] = ()
    compute_capability: str | None = None
    engines: tuple[str, ...] = ()
    counts: dict[str, Figure] = {}
    clock_hz: dict[str, Figure] = {}
    peak_ops_per_s: dict[Precision, Figure] = {}
    bandwidth_bytes_per_s: dict[Literal["l1", "l2", "l3", "slc", "dram"], Figure] = {}
    capacity_bytes: dict[Literal["l1", "l2", "l3", "slc", "dram"], Figure] = {}
    power_w: dict[str, Figure] = {}
    power_modes: tuple[PowerMode, ...] = ()
    unknown: dict[str, str] = {}
    sources: dict[str, str]

    def __post_init__(self) -> None:
        check(bool(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name)), f"'{self.name}' must be lower-case-with-dashes")
        for where, figure in self.figures():
            check(figure.source in self.sources, f"{where}: source '{figure.source}' is not in [sources]")
        ids = [mode.id for mode in self.power_modes]
        check(len(ids) == len(set(ids)), "power mode ids must be unique")

    def figures(self) -> list[tuple[str, Figure]]:
        """Return every figure with its path, for checking and listing."""
        tables = ("counts", "clock_hz", "peak_ops_per_s", "bandwidth_bytes_per_s", "capacity_bytes", "power_w")
        found = [(f"{table}.{key}", figure) for table in tables for key, figure in getattr(self, table).items()]
        for mode in self.power_modes:
            for field in mode.__struct_fields__:
                value = getattr(mode, field)
                if isinstance(value, Figure):
                    found.append((f"power_modes[{mode.id}].{field}", value))
        return found


class CalibrationPoint(Record, frozen=True, kw_only=True):
    """One thing that was measured: the best rate over ``samples_per_s``, and how."""

    quantity: Literal["peak_ops_per_s", "bandwidth_bytes_per_s"]
    key: str  # a precision, or a memory level
    value: float
    samples: tuple[float, ...]  # same unit as the quantity, raw, in the order taken
    method: str
    threads: int

    def __post_init__(self) -> None:
        check(bool(self.samples) and all(math.isfinite(s) and s > 0 for s in self.samples), "samples must be positive")
        check(self.value > 0 and math.isfinite(self.value), "value must be positive")


class Calibration(Record, frozen=True, kw_only=True):
    """What ``hwbench calibrate`` measured on one machine; valid only for that ``fingerprint``."""

    schema_version: int
    fingerprint: str
    device: str
    created_at: str
    environment: Environment
    points: tuple[CalibrationPoint, ...]
    unavailable: dict[str, str] = {}  # what could not be measured, and why
    warnings: tuple[str, ...] = ()

    def rate(self, quantity: str, key: str) -> float | None:
        """Return the measured rate, or None when it was not measured."""
        for point in self.points:
            if point.quantity == quantity and point.key == key:
                return point.value
        return None
