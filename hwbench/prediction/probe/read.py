"""Reads a ``probe.json`` and says what is wrong with it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec

from hwbench.errors import StorageError
from hwbench.files import parse_record, read_bytes
from hwbench.prediction.probe.anchors import BY_NAME, PACK
from hwbench.records.prediction import PROBE_SCHEMA, Probe

FEWEST = 9
"""Anchors below which no 90 % interval can be had from what the others say of each."""
_SCATTER = 0.3  # (75 % - 25 %) / median: the clock moved or others were running


def read_probe(path: Path) -> Probe:
    """Read what a probe pack measured on a device.

    Raises:
        StorageError: the file is missing, damaged, of another program, of another pack, or holds too little.
    """
    data = read_bytes(path)
    probe = parse_record(data, Probe, schema=PROBE_SCHEMA, what=str(path))
    if digest(data) != probe.sha256:
        raise StorageError(
            f"{path} is not as it was written: its checksum does not fit", hint="copy it again, or run the probe again"
        )
    if probe.pack != PACK:
        raise StorageError(
            f"{path} is of pack {probe.pack}, and this hwbench knows the anchors of pack {PACK}",
            hint="write a pack with this hwbench (hwbench probe pack) and run it again",
        )
    foreign = sorted({point.anchor for point in probe.points} - set(BY_NAME))
    if foreign:
        raise StorageError(f"{path} holds anchors that the pack has not: {', '.join(foreign)}")
    if len(probe.points) < FEWEST:
        raise StorageError(
            f"{path} holds {len(probe.points)} anchors, and a prediction takes {FEWEST}",
            hint="; ".join(f"{name}: {why}" for name, why in probe.failed.items())[:400] or "run the whole pack",
        )
    return probe


def digest(data: bytes) -> str:
    """Return the hash that the program of the pack writes: over everything but itself, keys sorted."""
    content = msgspec.json.decode(data)
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def doubts(probe: Probe) -> tuple[str, ...]:
    """Return what speaks against a probe, in words."""
    found = []
    scattered = [point.anchor for point in probe.points if scatter(point.samples_ns) > _SCATTER]
    if len(scattered) > len(probe.points) / 4:
        found.append(
            f"{len(scattered)} of {len(probe.points)} anchors scatter by more than {_SCATTER:.0%}: was it busy?"
        )
    if probe.failed:
        found.append(f"{len(probe.failed)} anchors could not be run")
    governor = probe.facts.get("governor")
    if governor not in {None, "performance", "schedutil"}:
        found.append(f"the governor was '{governor}': the clock may not have been what a long run gets")
    if probe.clock == "cpu":
        found.append("times are those of the CPU, not of the clock on the wall")
    return tuple(found)


def scatter(samples: tuple[int, ...]) -> float:
    """Return the distance of the quartiles as a share of the median."""
    ordered = sorted(samples)
    n = len(ordered)
    return (ordered[(3 * n) // 4] - ordered[n // 4]) / ordered[n // 2]
