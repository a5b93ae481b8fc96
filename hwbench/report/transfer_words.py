"""Copies to a device and back, in words: they are in none of the times of the table."""

from __future__ import annotations

from hwbench.records.base import Missing
from hwbench.records.measurement import NO_TRANSFERS, Measurement
from hwbench.units import format_bytes, format_seconds

TITLE = "Copies between host and device, in none of the times above"


def transfer_line(measurement: Measurement) -> str | None:
    """Return what inputs and outputs take; why that is not known; None where the engine has nothing to copy."""
    found = measurement.transfers
    if isinstance(found, Missing):
        return None if found.code == NO_TRANSFERS.code else str(found)
    memory = "page-locked" if found.pinned else "pageable"
    return (
        f"{format_seconds(found.h2d_median_s)} for {format_bytes(found.bytes_in)} in, "
        f"{format_seconds(found.d2h_median_s)} for {format_bytes(found.bytes_out)} out; medians of {found.n}, "
        f"{memory} memory ({found.method})"
    )
