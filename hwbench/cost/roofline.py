"""The roofline: what a device can attain at a given arithmetic intensity, and the least time a piece of work can take.

After Williams, Waterman, Patterson, *Roofline*, CACM 52(4), 2009. Pure arithmetic; a multiply-add is two
operations.
"""

from __future__ import annotations

OPS_PER_MAC = 2


def intensity_ops_per_byte(macs: int, moved_bytes: int) -> float:
    """Return the operations done per byte moved; infinite for work that moves nothing."""
    return OPS_PER_MAC * macs / moved_bytes if moved_bytes else float("inf")


def ridge_ops_per_byte(peak_ops_per_s: float, bandwidth_bytes_per_s: float) -> float:
    """Return the intensity above which arithmetic, not memory, is the bound."""
    return peak_ops_per_s / bandwidth_bytes_per_s


def attainable_ops_per_s(intensity: float, peak_ops_per_s: float, bandwidth_bytes_per_s: float) -> float:
    """Return the most operations per second at ``intensity`` operations per byte."""
    _check(peak_ops_per_s, bandwidth_bytes_per_s)
    return min(peak_ops_per_s, intensity * bandwidth_bytes_per_s)


def bound_s(macs: int, moved_bytes: int, peak_ops_per_s: float, bandwidth_bytes_per_s: float) -> float:
    """Return a lower bound of the time, in seconds: the longer of computing and moving, wholly overlapped."""
    _check(peak_ops_per_s, bandwidth_bytes_per_s)
    return max(OPS_PER_MAC * macs / peak_ops_per_s, moved_bytes / bandwidth_bytes_per_s)


def _check(peak_ops_per_s: float, bandwidth_bytes_per_s: float) -> None:
    if not (peak_ops_per_s > 0 and bandwidth_bytes_per_s > 0):
        msg = f"peak and bandwidth must be positive, got {peak_ops_per_s} and {bandwidth_bytes_per_s}"
        raise ValueError(msg)
