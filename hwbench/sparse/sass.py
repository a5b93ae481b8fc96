"""Machine code read back: which opcodes are in it, and how many in each loop.

``nvdisasm`` (or ``cuobjdump``), from CUDA's toolkit or by pip as ``nvidia-cuda-nvdisasm``, turns a cubin into text.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hwbench.errors import EngineError
from hwbench.sparse.compilers import find_tool
from hwbench.sparse.manifest import SassRule

CURE: Final = "pip install nvidia-cuda-nvdisasm"
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")
_LABEL = re.compile(r"^(\.L_\w+):")
_SECTION = re.compile(r"^\s*\.section\s+([^,\s]+)|^\s*Function : (\S+)")  # of nvdisasm, of cuobjdump
_JUMP = re.compile(r"`\((\.L_\w+)\)")


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Instructions between the target of a backward jump and the jump."""

    opcodes: Mapping[str, int]

    @property
    def instructions(self) -> int:
        return sum(self.opcodes.values())

    def count(self, pattern: str) -> int:
        """Return how many fit a pattern of :class:`~hwbench.sparse.manifest.SassRule`."""
        return _count(self.opcodes, pattern)


@dataclass(frozen=True, kw_only=True)
class Sass:
    """Opcodes of a cubin with their modifiers, how often each occurs, and its loops in the order of their ends."""

    opcodes: Mapping[str, int]
    loops: tuple[Loop, ...]

    def count(self, pattern: str) -> int:
        """Return how many fit a pattern of :class:`~hwbench.sparse.manifest.SassRule`."""
        return _count(self.opcodes, pattern)

    def breaks(self, rule: SassRule) -> tuple[str, ...]:
        """Return what of a rule is broken, in words."""
        lacks = [f"has no {pattern}" for pattern in rule.required if not self.count(pattern)]
        has = [f"has {self.count(pattern)} {pattern}" for pattern in rule.forbidden if self.count(pattern)]
        return (*lacks, *has)


def inspect(image: bytes, entry: str) -> Sass:
    """Disassemble one kernel of a cubin.

    Raises:
        EngineError: there is no disassembler, or it does not know what this is.
    """
    nvdisasm, cuobjdump = find_tool("nvdisasm"), find_tool("cuobjdump")
    if nvdisasm is None and cuobjdump is None:
        raise EngineError("machine code cannot be read back: there is neither nvdisasm nor cuobjdump", hint=CURE)
    with tempfile.TemporaryDirectory(prefix="hwbench-sass-") as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(image)
        command = [str(nvdisasm), "-c", str(path)] if nvdisasm else [str(cuobjdump), "-sass", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineError(f"{Path(command[0]).name} cannot read the kernel: {done.stderr.strip()[-300:]}")
    return parse(done.stdout, entry)


def parse(text: str, entry: str) -> Sass:
    """Return the opcodes and loops of a kernel in a disassembly by nvdisasm; cuobjdump's has no labels, so no loops.

    Raises:
        EngineError: the kernel is not there.
    """
    found: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    loops: list[Loop] = []
    for line in _lines_of(text, entry):
        if label := _LABEL.match(line):
            labels[label.group(1)] = len(found)
        if not (instruction := _INSTRUCTION.search(line)):
            continue
        opcode, operands = instruction.groups()
        found.append((opcode, operands))
        jump = _JUMP.search(operands) if opcode.startswith("BRA") else None
        start = labels.get(jump.group(1)) if jump else None
        if start is not None and start < len(found) - 1:  # a jump to itself is padding
            loops.append(Loop(opcodes=_counted(found[start:])))
    if not found:
        raise EngineError(f"there is no kernel {entry} in the machine code")
    return Sass(opcodes=_counted(found), loops=tuple(loops))


def _lines_of(text: str, entry: str) -> Iterator[str]:
    inside = False
    for line in text.splitlines():
        if section := _SECTION.match(line):
            inside = entry in {(section.group(1) or "").removeprefix(".text."), section.group(2)}
        elif inside:
            yield line


def _counted(instructions: Iterable[tuple[str, str]]) -> Mapping[str, int]:
    return Counter(opcode for opcode, _ in instructions if opcode != "NOP")


def _count(opcodes: Mapping[str, int], pattern: str) -> int:
    return sum(_count_one(opcodes, each) for each in pattern.split("|"))


def _count_one(opcodes: Mapping[str, int], pattern: str) -> int:
    name, *modifiers = pattern.split(".")
    fits = (count for opcode, count in opcodes.items() if _fits(opcode, name, modifiers))
    return sum(fits)


def _fits(opcode: str, name: str, modifiers: list[str]) -> bool:
    head, *rest = opcode.split(".")
    return head == name and set(modifiers) <= set(rest)
