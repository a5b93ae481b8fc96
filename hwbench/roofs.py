"""The roofs of a machine: measured by ``hwbench calibrate``, or else what the data sheet of its kind says."""

from __future__ import annotations

from collections.abc import Mapping

from hwbench.cost import overlay
from hwbench.inventory import Target
from hwbench.records.base import Missing


def roofs_of(target: Target, threads: int) -> tuple[dict[str, float], dict[str, float], str | Missing]:
    """Return peaks and bandwidths for the roofline: measured on this machine, or else from the profile of its kind."""
    measured = overlay.load(target.device.fingerprint)
    if measured is not None:
        rates: Mapping[str, dict[str, float]] = {"peak_ops_per_s": {}, "bandwidth_bytes_per_s": {}}
        for point in measured.points:
            rates[point.quantity][point.key] = point.value
        used = sorted({point.threads for point in measured.points})
        source = f"measured on this machine on {measured.created_at}"
        if used and used != [threads]:
            source += f" with {' or '.join(map(str, used))} threads, where this run had {threads}"
        if measured.warnings:
            source += f"; doubtful, calibrate warned: {'; '.join(measured.warnings)}"
        return rates["peak_ops_per_s"], rates["bandwidth_bytes_per_s"], source
    kind = target.profile
    if kind is None or not kind.peak_ops_per_s:
        return {}, {}, _unknown(target)
    cores, has = kind.counts.get("cores"), target.device.cpu.physical_cores if target.device.cpu is not None else None
    if cores is not None and cores.value != has:
        why = f"the figures of {kind.title} are for {cores.value:g} cores, this machine shows {has}"
        return {}, {}, Missing(code="part_of_device", why=why, cure="hwbench calibrate")
    peaks = {str(key): figure.value for key, figure in kind.peak_ops_per_s.items()}
    bandwidths = {str(key): figure.value for key, figure in kind.bandwidth_bytes_per_s.items()}
    return peaks, bandwidths, f"data sheet of {kind.title}, not measured here"


def _unknown(target: Target) -> Missing:
    """Return why there are no roofs: a CPU can be calibrated, anything else has those of its data sheet."""
    if target.device.kind == "cpu":
        return Missing(code="not_calibrated", why="no roofs are known for this machine", cure="hwbench calibrate")
    why = f"no profile tells the roofs of '{target.device.title}'"
    return Missing(code="no_profile", why=why, cure="add one (profiles/README.md)")
