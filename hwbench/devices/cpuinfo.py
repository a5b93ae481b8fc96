"""Who made the CPU and what it can do: ``/proc/cpuinfo``.

The file differs by architecture, so the architecture is taken from its content, not from the machine that reads
it. x86 gives a model name and flags; Arm gives an implementer and a part number a core, which may differ
between the clusters of one chip.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hwbench.devices.arm_parts import core_name, implementer_name
from hwbench.records.base import Missing

Block = Mapping[str, str]

X86_ISA: Final = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
)
"""x86 extensions that decide a deployment; Linux spells the flags the same way."""

ARM_ISA: Final = {
    "neon": ("asimd", "neon"),
    "fp16": ("asimdhp",),
    "dotprod": ("asimddp",),
    "i8mm": ("i8mm",),
    "bf16": ("bf16",),
    "sve": ("sve",),
    "sve2": ("sve2",),
}
"""hwbench's spelling to the kernel's ``Features``; any one of them means the extension."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What ``/proc/cpuinfo`` says about the CPU as a whole."""

    architecture: str
    model_name: str
    vendor: str
    cpuid: str | Missing
    isa: tuple[str, ...]


def parse(text: str) -> list[dict[str, str]]:
    """Return one mapping for every logical CPU in the text of ``/proc/cpuinfo``."""
    blocks = []
    for chunk in re.split(r"\n\s*\n", text):
        pairs = (line.partition(":") for line in chunk.splitlines())
        block = {key.strip(): value.strip() for key, colon, value in pairs if colon}
        if "processor" in block:
            blocks.append(block)
    return blocks


def identify(blocks: Sequence[Block]) -> Identity:
    """Return who the CPU is; ``blocks`` come from :func:`parse` and must not be empty."""
    first = blocks[0]
    if "CPU implementer" in first:
        return _arm(blocks)
    if "flags" in first and "vendor_id" in first:
        return _x86(blocks)
    name = next((first[key] for key in ("model name", "uarch", "cpu", "machine") if key in first), platform.machine())
    return Identity(
        architecture=platform.machine(),
        model_name=name,
        vendor=first.get("mvendorid", "not told"),
        cpuid=Missing(code="unknown_architecture", why="only x86 and Arm CPUs are told apart by number"),
        isa=(),
    )


def _x86(blocks: Sequence[Block]) -> Identity:
    first, flags = blocks[0], _common(blocks, "flags")
    numbers = [first.get(key, "") for key in ("vendor_id", "cpu family", "model", "stepping")]
    numbers[3] = numbers[3] if numbers[3] != "unknown" else ""
    return Identity(
        architecture="x86_64" if "lm" in flags else "i686",
        model_name=re.sub(r"\s+", " ", first.get("model name", "")) or "unnamed x86 CPU",
        vendor=first["vendor_id"],
        cpuid="-".join(numbers)
        if all(numbers)
        else Missing(code="not_exposed", why="/proc/cpuinfo does not tell family, model and stepping"),
        isa=tuple(name for name in X86_ISA if name in flags),
    )


def _arm(blocks: Sequence[Block]) -> Identity:
    features = _common(blocks, "Features")
    clusters = list(dict.fromkeys(_arm_part(block) for block in blocks))
    return Identity(
        architecture="aarch64" if "asimd" in features else "arm",
        model_name=" + ".join(dict.fromkeys(core_name(*cluster) for cluster in clusters)),
        vendor=" + ".join(dict.fromkeys(implementer_name(implementer) for implementer, _ in clusters)),
        cpuid="+".join(f"{implementer:#04x}-{part:#05x}" for implementer, part in clusters),
        isa=tuple(name for name, kernel in ARM_ISA.items() if features.intersection(kernel)),
    )


def _arm_part(block: Block) -> tuple[int, int]:
    return int(block.get("CPU implementer", "0"), 0), int(block.get("CPU part", "0"), 0)


def _common(blocks: Sequence[Block], key: str) -> frozenset[str]:
    """Return the words that stand under ``key`` for every logical CPU."""
    lines = {block.get(key, "") for block in blocks}  # nearly always one distinct line
    return frozenset.intersection(*(frozenset(line.split()) for line in lines))
