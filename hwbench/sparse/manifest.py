"""``kernels/manifest.toml``: what every kernel takes, what it may use, and what it must compile to.

One ``[[kernel]]`` table a kernel. The same table is read by whoever compiles (:mod:`hwbench.sparse.build`), launches,
plans, and by the tests: registers, shared memory and opcodes are budgets that the compile matrix holds it to.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from hwbench.errors import StorageError, UsageError
from hwbench.files import read_bytes
from hwbench.records.base import Record, check
from hwbench.resources import data_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

MANIFEST_SCHEMA: Final = 1
FILE: Final = "manifest.toml"
SHARED_LIMIT: Final = 48 * 1024
"""Bytes of static shared memory that a kernel may have on every GPU (CUDA C++ Programming Guide, compute capabilities).

More needs ``cuFuncSetAttribute``, which TensorRT's ahead-of-time plugins are not known to call.
"""

WIDE_FROM: Final = 0.7
"""How much of the multiprocessors that a kernel keeps busy its wide one must too to be taken.

Where the model (:mod:`hwbench.sparse.select`) has the wide one faster on average, over GPUs and shapes of decoders.
"""

Values = Literal["fp16", "int8", "int4", "int2"]
Multiplies = Literal["none", "all", "kept", "half"]
"""Of the dense matrix, what tensor cores multiply: nothing, all weights, those that are kept, half (``mma.sp``)."""


class Shape(Record, frozen=True, kw_only=True):
    """The shapes that a kernel takes; a layer outside them stays dense."""

    m_multiple: int = 1
    k_multiple: int = 1
    n_most: int
    k_most: int | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            check(value is None or value >= 1, f"{name} must be at least 1, got {value}")

    def refuses(self, *, n: int, m: int, k: int) -> str | None:
        """Return why ``Y[n, m] = X[n, k] W[m, k]^T`` is outside the contract, or None where it is inside."""
        if min(n, m, k) < 1:
            return f"a product of {n} x {k} by {k} x {m} has no element"
        if m % self.m_multiple:
            return f"{m} rows of weights are no multiple of {self.m_multiple}"
        if k % self.k_multiple:
            return f"{k} columns of weights are no multiple of {self.k_multiple}"
        if n > self.n_most:
            return f"{n} rows of inputs are more than {self.n_most}"
        if self.k_most is not None and k > self.k_most:
            return f"{k} columns of weights are more than {self.k_most}"
        return None


class SassRule(Record, frozen=True, kw_only=True):
    """Opcodes that the machine code must and must not have.

    A pattern is an opcode and modifiers that must all be there, in any order: ``LDG.128`` fits ``LDG.E.NA.128``.
    ``A|B`` fits either: architectures differ in what they have.
    """

    required: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()


class Issue(Record, frozen=True, kw_only=True):
    """What the main loop asks of a multiprocessor at one tile of ``N``, counted in the machine code for sm_90.

    ``per_weight`` is paid for every element of the dense matrix, ``per_kept`` for every one that is stored. Both are
    lane instructions: an instruction of a warp is 32 of them. ``waves_per_weight`` and ``waves_per_kept`` are cycles of
    shared memory: an access of a warp takes as many as words fall into its fullest bank, for which random patterns were
    drawn; accesses without conflicts are left out. ``kernels/<name>/README.md`` shows the counts.
    """

    tile_n: int
    per_weight: float = 0.0
    per_kept: float = 0.0
    waves_per_weight: float = 0.0
    waves_per_kept: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            check(getattr(self, name) >= 0, f"{name} must not be negative")


class Kernel(Record, frozen=True, kw_only=True):
    """A kernel.

    ``inputs`` are the arrays of the format in the order of the C entry, between ``x`` and the bias; ``scalars`` follow
    ``n, m, k``. ``threads`` and ``rows_per_block`` make the grid. ``registers`` (a thread), ``shared_bytes`` (static, a
    block) and ``spill_bytes`` are the most it may use on any of ``archs``. ``multiplies`` is what tensor cores do;
    ``reads_x`` what each block reads of X, through the L2 cache, for its ``rows_per_block`` rows of W: all columns, or
    those of weights that are kept.
    """

    name: str
    summary: str
    source: str  # below kernels/
    entry: str  # unmangled
    format: str
    values: Values
    inputs: tuple[str, ...]
    scalars: tuple[str, ...] = ()
    tile_n: tuple[int, ...]
    archs: tuple[int, ...]
    threads: int
    rows_per_block: int
    shared_bytes: int
    registers: int
    spill_bytes: int = 0
    shape: Shape
    sass: SassRule = SassRule()
    multiplies: Multiplies = "none"
    reads_x: Literal["all", "kept"] = "all"
    issue: tuple[Issue, ...] = ()

    def __post_init__(self) -> None:
        check(self.name.isidentifier(), f"'{self.name}' must be usable as a name in C")
        check(self.entry.isidentifier(), f"{self.name}: '{self.entry}' is no name of a C function")
        path = Path(self.source)
        check(not path.is_absolute() and ".." not in path.parts, f"{self.name}: {self.source} must lie below kernels/")
        check(bool(self.tile_n) and tuple(sorted(set(self.tile_n))) == self.tile_n, f"{self.name}: tile_n must ascend")
        check(self.tile_n[0] >= 1, f"{self.name}: tile_n must be at least 1")
        check(bool(self.archs) and tuple(sorted(set(self.archs))) == self.archs, f"{self.name}: archs must ascend")
        check(
            32 <= self.threads <= 1024 and self.threads % 32 == 0, f"{self.name}: {self.threads} threads are no warps"
        )
        check(self.rows_per_block >= 1, f"{self.name}: rows_per_block must be at least 1")
        check(0 <= self.shared_bytes <= SHARED_LIMIT, f"{self.name}: more than {SHARED_LIMIT} bytes of shared memory")
        check(1 <= self.registers <= 255, f"{self.name}: a thread has 1 to 255 registers")
        check(self.threads * self.registers <= 65536, f"{self.name}: a block has no more than 65536 registers")
        tensor = any(each.split(".")[0] == "HMMA" for each in self.sass.required)
        check(tensor == (self.multiplies != "none"), f"{self.name}: multiplies and sass must agree on tensor cores")
        tiles = {issue.tile_n for issue in self.issue}
        check(tiles <= set(self.tile_n), f"{self.name}: instructions are counted for tiles of tile_n")

    def tile_for(self, n: int) -> int:
        """Return the smallest tile that holds ``n`` rows of inputs, or the largest where none does."""
        return next((tile for tile in self.tile_n if tile >= n), self.tile_n[-1])

    def arch_for(self, arch: int) -> int | None:
        """Return the architecture whose machine code a GPU runs: its own, or an older one of the same generation.

        Code for 8.0 runs on 8.6, and not the other way round (CUDA C++ Programming Guide, "Binary Compatibility").
        """
        running = [each for each in self.archs if each // 10 == arch // 10 and each <= arch]
        return running[-1] if running else None

    def grid(self, *, n: int, m: int, tile_n: int) -> tuple[int, int, int]:
        """Return the blocks of the grid: strips of rows of the weights, tiles of rows of the inputs."""
        return (-(-m // self.rows_per_block), -(-n // tile_n), 1)


class _Manifest(Record, frozen=True, kw_only=True):
    schema_version: int
    kernel: tuple[Kernel, ...] = ()


def kernels_folder() -> Path:
    """Return the folder of CUDA sources: of the wheel, or of the checkout."""
    return data_folder("kernels")


def load_manifest(folder: Path | None = None) -> dict[str, Kernel]:
    """Return the kernels of ``folder`` by name, by default those that ship with hwbench.

    Raises:
        StorageError: there is no manifest, it does not fit, or it names a source that is not there.
    """
    folder = kernels_folder() if folder is None else folder
    if not (folder / FILE).is_file():
        msg = f"there is no {FILE} in {folder}"
        raise StorageError(msg, hint="is hwbench installed whole (pip install -e . in a checkout)?")
    kernels = parse_manifest(read_bytes(folder / FILE), what=str(folder / FILE))
    for kernel in kernels.values():
        if not (folder / kernel.source).is_file():
            msg = f"{folder / FILE}: the source of {kernel.name}, {kernel.source}, is not there"
            raise StorageError(msg)
    return kernels


def parse_manifest(data: bytes, *, what: str) -> dict[str, Kernel]:
    """Like :func:`load_manifest`, for bytes already read; does not look for sources."""
    try:
        raw: dict[str, Any] = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        msg = f"{what} is not TOML: {error}"
        raise StorageError(msg) from error
    if raw.get("schema_version") != MANIFEST_SCHEMA:
        msg = f"{what} has the format {raw.get('schema_version')!r}; this hwbench reads {MANIFEST_SCHEMA}"
        raise StorageError(msg)
    try:
        manifest = msgspec.convert(raw, type=_Manifest, strict=True, str_keys=True)
    except (msgspec.ValidationError, OverflowError, RecursionError) as error:
        msg = f"{what} is not a valid manifest of kernels: {error}"
        raise StorageError(msg, hint="kernels/README.md describes the keys") from error
    names = [kernel.name for kernel in manifest.kernel]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"{what} has {', '.join(twice)} twice"
        raise StorageError(msg)
    return {kernel.name: kernel for kernel in manifest.kernel}


def find_kernel(name: str) -> Kernel:
    """Return one kernel of those that ship with hwbench.

    Raises:
        UsageError: there is none of this name.
    """
    kernels = load_manifest()
    if name not in kernels:
        msg = f"there is no kernel '{name}'; there are {', '.join(kernels)}"
        raise UsageError(msg)
    return kernels[name]


def kernel_for(kernels: Mapping[str, Kernel], format_name: str) -> Kernel:
    """Return the kernel that reads a format: that of its name, or the first.

    :func:`fitting` tells where its wide one is faster.

    Raises:
        UsageError: there is none.
    """
    fitting = [kernel for kernel in kernels.values() if kernel.format == format_name]
    if not fitting:
        raise UsageError(f"there is no kernel that reads the format '{format_name}'")
    return next((kernel for kernel in fitting if kernel.name == format_name), fitting[0])


def wide_of(kernels: Mapping[str, Kernel], kernel: Kernel) -> Kernel | None:
    """Return the kernel that reads the same arrays in blocks of more rows, where there is one."""
    wider = [
        each
        for each in kernels.values()
        if (each.format, each.inputs) == (kernel.format, kernel.inputs) and each.rows_per_block > kernel.rows_per_block
    ]
    return wider[0] if wider else None


def fitting(kernel: Kernel, wide: Kernel | None, *, m: int, n: int, multiprocessors: float) -> Kernel:
    """Return which of a kernel and its wide one takes ``Y[n, m]`` on a GPU of so many multiprocessors.

    Blocks of more rows of W read X less often, which saves where X is as much to read as W: above the smallest tile of
    N. They are fewer, and must share out on the multiprocessors as well as the kernel's own.
    """
    if wide is None or n <= kernel.tile_n[0]:
        return kernel
    own, wides = (_shared_out(-(-m // each.rows_per_block), multiprocessors) for each in (kernel, wide))
    return wide if wides >= WIDE_FROM * own else kernel


def _shared_out(blocks: int, multiprocessors: float) -> float:
    """Return what share of the multiprocessors works on average, where blocks are alike and take turns."""
    return blocks / (-(-blocks // multiprocessors) * multiprocessors)
