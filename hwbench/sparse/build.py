"""From a kernel of the manifest to machine code or PTX, compiled once and kept.

An image depends on the source and every header it includes, the flags, the compiler's version and the architecture;
their hash is its name in ``kernels/`` below the user's folder (``HWBENCH_HOME``). A kept image that is damaged is
compiled again. ``PTX`` is for TensorRT's ahead-of-time plugins, whose text the driver assembles: it must not be newer
than the driver (:func:`newest_ptx`).
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final, Literal

import msgspec

from hwbench.errors import EngineError, StorageError, Unsupported, UsageError
from hwbench.files import read_bytes, write_bytes
from hwbench.records.base import Missing, Record
from hwbench.resources import user_folder
from hwbench.sparse.compilers import Compiler, Kind, find_compiler
from hwbench.sparse.manifest import Kernel, kernels_folder

CACHE_SCHEMA: Final = 1
Act = Literal["none", "relu", "gelu-tanh", "silu"]
ACTS: Final[tuple[Act, ...]] = ("none", "relu", "gelu-tanh", "silu")
"""Activations of the epilogue; the place in this tuple is ``HWB_ACT``."""

_PTX_OF_CUDA: Final = {
    (11, 4): (7, 4),
    (11, 8): (7, 8),
    (12, 0): (8, 0),
    (12, 1): (8, 1),
    (12, 2): (8, 2),
    (12, 3): (8, 3),
    (12, 4): (8, 4),
    (12, 5): (8, 5),
    (12, 7): (8, 6),
    (12, 8): (8, 7),
    (12, 9): (8, 8),
    (13, 0): (9, 0),
}
"""The PTX version that came with a CUDA version ("Release Notes" of the PTX ISA, docs.nvidia.com/cuda)."""

_ORDERED_METADATA: Final = (8, 5)
"""The first PTX with ``mma.sp::ordered_metadata`` (PTX ISA, "mma.sp"); for an older one ``mma.sp`` is written."""


class Compiled(Record, frozen=True, kw_only=True):
    """A compiled kernel.

    ``registers`` (a thread), ``shared_bytes`` (static, a block), ``spill_bytes`` and ``stack_bytes`` (a thread) are the
    assembler's; a PTX has been through none. ``ptx_isa`` is the version of a PTX.
    """

    kernel: str
    entry: str
    arch: int
    tile_n: int
    kind: Kind
    image: bytes
    compiler: str
    registers: int | Missing
    shared_bytes: int | Missing
    spill_bytes: int | Missing
    stack_bytes: int | Missing
    ptx_isa: tuple[int, int] | Missing
    log: str


class _Kept(Record, frozen=True, kw_only=True):
    """What a compiler made of a source, which may have several kernels."""

    schema_version: int
    sha256: str  # of the image
    image: bytes
    log: str


def compile_kernel(
    kernel: Kernel,
    *,
    arch: int | str,
    tile_n: int,
    bias: bool = False,
    act: Act = "none",
    kind: Kind = "cubin",
    ptx_isa: tuple[int, int] | None = None,
    compiler: Compiler | None = None,
    cache: Path | None = None,
) -> Compiled:
    """Return a kernel compiled for an architecture, from the cache where it has been before.

    Args:
        kernel: of :func:`~hwbench.sparse.manifest.load_manifest`.
        arch: 90, ``"90"``, ``"sm_90"`` or ``"9.0"``.
        tile_n: one of the kernel's.
        bias: whether the entry takes a bias after the weight's arrays.
        act: what is applied to the sum.
        kind: machine code of one architecture, or PTX.
        ptx_isa: the newest PTX version that the reader takes; the text uses no newer instruction where there is an
            older one, and is marked with it where the assembler agrees that nothing in it needs more.
        compiler: by default what :func:`~hwbench.sparse.compilers.find_compiler` finds.
        cache: folder of kept images, by default ``kernels`` in the user's folder.

    Raises:
        Unsupported: the kernel is not for this architecture, or the compiler does not know it.
        UsageError: there is no such tile, activation or kind.
        EngineError: there is no compiler, it refuses the source, or the PTX cannot be as old as asked.
    """
    number = parse_arch(arch)
    _check(kernel, number, tile_n, act, kind, ptx_isa)
    compiler = compiler or some_compiler()
    if number not in compiler.archs:
        known = ", ".join(f"sm_{each}" for each in sorted(compiler.archs))
        raise Unsupported(f"{compiler.version} makes no code for sm_{number}; it knows {known}")
    source = kernels_folder() / kernel.source
    options = [*_options(tile_n, bias=bias, act=act), *_older_words(ptx_isa)]
    key = _key(source, compiler, [str(number), kind, str(ptx_isa), *options])
    path = (cache or user_folder() / "kernels") / f"{source.parent.name}-sm{number}-{key}.{kind}.msgpack"
    kept = _kept(path) or _made(path, source, compiler, number, kind, options, ptx_isa)
    return Compiled(
        kernel=kernel.name,
        entry=kernel.entry,
        arch=number,
        tile_n=tile_n,
        kind=kind,
        image=kept.image,
        compiler=compiler.version,
        ptx_isa=_ptx_version(kept.image) if kind == "ptx" else Missing(code="not_ptx", why="it is machine code"),
        log=kept.log,
        **_usage(kept.log, kernel.entry, kind),
    )


def _made(
    path: Path,
    source: Path,
    compiler: Compiler,
    arch: int,
    kind: Kind,
    options: list[str],
    ptx_isa: tuple[int, int] | None,
) -> _Kept:
    include = [f"-I{folder}" for folder in _include_folders()]
    image, log = compiler.compile(source, arch=arch, kind=kind, options=[*options, *include])
    if kind == "ptx" and ptx_isa is not None:
        image = _older_ptx(image, ptx_isa, arch, compiler)
    digest = hashlib.sha256(image).hexdigest()
    kept = _Kept(schema_version=CACHE_SCHEMA, sha256=digest, image=image, log=log)
    write_bytes(path, msgspec.msgpack.encode(kept))
    return kept


def newest_ptx(driver_cuda: tuple[int, int]) -> tuple[int, int]:
    """Return the newest PTX version that a driver reads, from the CUDA version it implements (13000 is (13, 0)).

    Raises:
        UsageError: the driver is older than CUDA 11.4.
    """
    fitting = [cuda for cuda in _PTX_OF_CUDA if cuda <= driver_cuda]
    if not fitting:
        raise UsageError(f"a driver for CUDA {driver_cuda[0]}.{driver_cuda[1]} is older than what hwbench writes for")
    return _PTX_OF_CUDA[max(fitting)]


def parse_arch(arch: int | str) -> int:
    """Return 90 for 90, ``"90"``, ``"sm_90"`` and ``"9.0"``.

    Raises:
        UsageError: it is none of these.
    """
    found = re.fullmatch(r"(?:sm_)?(\d+)(?:\.(\d))?", str(arch))
    number = int(found.group(1) + (found.group(2) or "")) if found else 0
    if not 50 <= number <= 999:
        raise UsageError(f"'{arch}' is no architecture", hint="write sm_90, 90 or 9.0")
    return number


def _check(kernel: Kernel, arch: int, tile_n: int, act: str, kind: str, ptx_isa: tuple[int, int] | None) -> None:
    if arch not in kernel.archs:
        legal = ", ".join(f"sm_{each}" for each in kernel.archs)
        raise Unsupported(f"the kernel {kernel.name} is not for sm_{arch}; it is for {legal}")
    if tile_n not in kernel.tile_n:
        raise UsageError(f"the kernel {kernel.name} has no tile of {tile_n}; it has {kernel.tile_n}")
    if act not in ACTS:
        raise UsageError(f"there is no activation '{act}'; there are {', '.join(ACTS)}")
    if kind not in {"cubin", "ptx"}:
        raise UsageError(f"'{kind}' is neither cubin nor ptx")
    if ptx_isa is not None and kind != "ptx":
        raise UsageError("a version of PTX was asked for, and machine code has none")


def some_compiler() -> Compiler:
    """Return the compiler that is here.

    Raises:
        EngineError: there is none; the hint says what to install.
    """
    found = find_compiler()
    if isinstance(found, Missing):
        raise EngineError(f"the kernels cannot be compiled: {found.why}", hint=found.cure)
    return found


def _options(tile_n: int, *, bias: bool, act: Act) -> list[str]:
    return ["-std=c++17", f"-DHWB_TILE_N={tile_n}", f"-DHWB_BIAS={int(bias)}", f"-DHWB_ACT={ACTS.index(act)}"]


def _older_words(ptx_isa: tuple[int, int] | None) -> list[str]:
    return ["-DHWB_ORDERED_METADATA=0"] if ptx_isa is not None and ptx_isa < _ORDERED_METADATA else []


def _key(source: Path, compiler: Compiler, words: list[str]) -> str:
    digest = hashlib.sha256("\0".join([str(CACHE_SCHEMA), compiler.version, *words]).encode())
    for path in included(source):
        data = read_bytes(path)
        digest.update(f"\0{path.name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:32]


def _include_folders() -> tuple[Path, Path]:
    return kernels_folder(), kernels_folder() / "include"


def included(source: Path) -> tuple[Path, ...]:
    """Return a source and every header of ours that it includes, directly or not."""
    todo, seen = [source.resolve()], dict[Path, None]()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen[path] = None
        for name in re.findall(rb'^\s*#\s*include\s*[<"]([^">]+)[">]', read_bytes(path), re.MULTILINE):
            near = [place / name.decode() for place in (path.parent, *_include_folders())]
            todo += [place.resolve() for place in near if place.is_file()][:1]
    return tuple(sorted(seen))


def _kept(path: Path) -> _Kept | None:
    """Return what was kept, or None where there is nothing or it is damaged: then it is compiled again."""
    try:
        kept = msgspec.msgpack.decode(path.read_bytes(), type=_Kept)
    except (OSError, msgspec.DecodeError, ValueError):
        return None
    good = kept.schema_version == CACHE_SCHEMA and hashlib.sha256(kept.image).hexdigest() == kept.sha256
    return kept if good else None


def _usage(log: str, entry: str, kind: Kind) -> dict[str, int | Missing]:
    names = ("registers", "shared_bytes", "spill_bytes", "stack_bytes")
    if kind == "ptx":
        why = "PTX is assembled by the driver that loads it"
        return dict.fromkeys(names, Missing(code="not_assembled", why=why))
    _, found, said = log.partition(f"Compiling entry function '{entry}'")
    said = said.partition("Compiling entry function")[0]
    registers = re.search(r"Used (\d+) registers", said)
    stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    if not found or registers is None or stack is None:
        raise EngineError(f"the assembler said nothing of the kernel {entry}", hint=log[-300:])
    shared = re.search(r"(\d+) bytes smem", said)
    spilled = max(int(stack.group(2)), int(stack.group(3)))
    sizes = (int(registers.group(1)), int(shared.group(1)) if shared else 0, spilled, int(stack.group(1)))
    return dict(zip(names, sizes, strict=True))


def _ptx_version(image: bytes) -> tuple[int, int]:
    found = re.search(rb"^\.version (\d+)\.(\d+)", image, re.MULTILINE)
    if found is None:
        raise StorageError("the compiler wrote a PTX without a version")
    return (int(found.group(1)), int(found.group(2)))


def _older_ptx(image: bytes, newest: tuple[int, int], arch: int, compiler: Compiler) -> bytes:
    """Mark a PTX with an older version, if the assembler finds nothing in it that the version lacks."""
    version = _ptx_version(image)
    if version <= newest:
        return image
    older = re.sub(rb"^\.version \d+\.\d+", b".version %d.%d" % newest, image, count=1, flags=re.MULTILINE)
    why = compiler.assembles(older, arch=arch)
    if why is not None:
        asked = f"PTX {newest[0]}.{newest[1]} was asked for, and {compiler.version} writes {version[0]}.{version[1]}"
        raise EngineError(
            f"{asked}, which cannot be read as the older: {why}", hint="use a newer driver, or older CUDA"
        )
    return older
