"""The compile matrix: kernels by architectures, tiles and epilogues, each held to the budget of its manifest.

Without a GPU this is what can be known of machine code: that there is some, that registers, shared memory and spills
keep to the budget, and that the opcodes a kernel was written for are in it.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hwbench.errors import HwbenchError
from hwbench.records.base import Missing, Record
from hwbench.sparse.build import ACTS, Act, Compiled, compile_kernel, some_compiler
from hwbench.sparse.compilers import Compiler
from hwbench.sparse.manifest import Kernel
from hwbench.sparse.sass import inspect

CHECKS_SCHEMA = 1


class Checked(Record, frozen=True, kw_only=True):
    """A kernel compiled for one architecture, tile and epilogue; ``broken`` says in words what is not as it must be."""

    kernel: str
    arch: int
    tile_n: int
    bias: bool
    act: Act
    registers: int | Missing
    shared_bytes: int | Missing
    broken: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return what was compiled, in words."""
        return f"{self.kernel} sm_{self.arch} N{self.tile_n}{' bias' if self.bias else ''} {self.act}"


class Checks(Record, frozen=True, kw_only=True):
    """The compile matrix: the file of ``hwbench kernels --check --json``."""

    schema_version: int
    checked: tuple[Checked, ...]


def check_matrix(
    kernels: Iterable[Kernel],
    archs: Sequence[int] | None = None,
    *,
    epilogues: Sequence[tuple[bool, Act]] = tuple(itertools.product((False, True), ACTS)),
    all_tiles: bool = True,
    at_once: int = 2,
    sass: bool = True,
    cache: Path | None = None,
    watch: Callable[[str, float], object] | None = None,
) -> tuple[Checked, ...]:
    """Compile every kernel for every architecture that it is for, and hold each to its manifest.

    Args:
        kernels: which.
        archs: which of the kernels' architectures; by default all that the compiler knows.
        epilogues: bias and activation.
        all_tiles: every tile of N, or only the largest, which needs the most registers.
        at_once: compilers at the same time; one takes about 100 MB.
        sass: read the machine code back, which needs nvdisasm or cuobjdump.
        cache: folder of kept images; by default one that is thrown away, so that everything is compiled.
        watch: told what was compiled, and the share of all that is done.

    Raises:
        EngineError: there is no compiler.
    """
    compiler = some_compiler()
    images: dict[tuple[object, ...], list[_Point]] = {}  # kernels of one source come out of one compilation
    for point in _points(kernels, compiler, archs, epilogues, all_tiles=all_tiles):
        images.setdefault((point[0].source, *point[1:]), []).append(point)
    with tempfile.TemporaryDirectory(prefix="hwbench-matrix-") as folder, ThreadPoolExecutor(at_once) as pool:
        where = cache or Path(folder)
        done = pool.map(lambda points: [_checked(each, compiler, where, sass=sass) for each in points], images.values())
        found: list[Checked] = []
        for number, checked in enumerate(done, start=1):
            found += checked
            if watch is not None:
                watch(f"compiled {checked[-1].name}", number / len(images))
        return tuple(found)


_Point = tuple[Kernel, int, int, bool, Act]


def _points(
    kernels: Iterable[Kernel],
    compiler: Compiler,
    archs: Sequence[int] | None,
    epilogues: Sequence[tuple[bool, Act]],
    *,
    all_tiles: bool,
) -> Iterator[_Point]:
    for kernel in kernels:
        legal = [arch for arch in kernel.archs if arch in compiler.archs and (archs is None or arch in archs)]
        tiles = kernel.tile_n if all_tiles else kernel.tile_n[-1:]
        for arch, tile, (bias, act) in itertools.product(legal, tiles, epilogues):
            yield kernel, arch, tile, bias, act


def _checked(point: _Point, compiler: Compiler, cache: Path, *, sass: bool) -> Checked:
    kernel, arch, tile_n, bias, act = point
    registers: int | Missing = Missing(code="not_compiled", why="it does not compile")
    shared_bytes: int | Missing = registers
    try:
        compiled = compile_kernel(kernel, arch=arch, tile_n=tile_n, bias=bias, act=act, compiler=compiler, cache=cache)
        registers, shared_bytes = compiled.registers, compiled.shared_bytes
        broken = over_budget(kernel, compiled)
        if sass:
            broken += inspect(compiled.image, kernel.entry).breaks(kernel.sass)
    except HwbenchError as error:
        broken = (error.message,)
    return Checked(
        kernel=kernel.name,
        arch=arch,
        tile_n=tile_n,
        bias=bias,
        act=act,
        registers=registers,
        shared_bytes=shared_bytes,
        broken=broken,
    )


def over_budget(kernel: Kernel, compiled: Compiled) -> tuple[str, ...]:
    """Return what a compiled kernel uses beyond its manifest, in words."""
    limits = (
        ("registers", compiled.registers, kernel.registers),
        ("bytes of shared memory", compiled.shared_bytes, kernel.shared_bytes),
        ("bytes spilled", compiled.spill_bytes, kernel.spill_bytes),
        ("bytes of stack", compiled.stack_bytes, 0),
    )
    return tuple(
        f"{used} {what}, and {limit} are allowed"
        for what, used, limit in limits
        if not isinstance(used, Missing) and used > limit
    )
