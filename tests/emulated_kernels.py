"""Kernels of ``kernels/`` on the CPU: compiled by g++ with sanitizers on the fibers of ``kernels/include/hwb/cpu.h``.

One program per folder of ``kernels/`` holds its entries for every tile, with and without a bias; it reads a job from a
file and writes what the kernel wrote. A read past an array, undefined behaviour, a deadlock or a wrong collective ends
the program, and its words are in the exception.
"""

from __future__ import annotations

import functools
import os
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from hwbench.sparse.formats import Packed
from hwbench.sparse.manifest import load_manifest

ROOT = Path(__file__).parent.parent / "kernels"
ACTIVATIONS = ("none", "relu", "gelu", "silu")  # HWB_ACT 0 to 3

needs_gpp = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run the kernels on the CPU")


@dataclass(frozen=True)
class Kernel:
    """A folder of ``kernels/``: its entries, how many rows of W and columns of Y a block computes, its threads.

    ``entry`` is the one that is run; none: the one of the format's name.
    """

    folder: str
    entries: tuple[str, ...]
    rows: int
    threads: int
    tiles: tuple[int, ...] = (8, 16, 32)
    arch: int = 800
    entry: str | None = None


def emulated(name: str, *, arch: int = 800) -> Kernel:
    """Return a kernel of the manifest, with all entries of its source; ``arch`` 750 takes the path of Turing."""
    all_of_them = load_manifest()
    kernel = all_of_them[name]
    same = [each for each in all_of_them.values() if each.source == kernel.source]  # compiled once, for all of them
    tiles = tuple(sorted({tile for each in same for tile in each.tile_n}))
    folder = str(Path(kernel.source).parent)
    entries = tuple(each.entry for each in same)
    return Kernel(folder, entries, kernel.rows_per_block, kernel.threads, tiles, arch, kernel.entry)


def run_emulated(
    kernel: Kernel, packed: Packed, x: np.ndarray, *, tile_n: int, bias: np.ndarray | None = None, act: str = "none"
) -> np.ndarray:
    """Return Y (N, M) in fp16 as the kernel computes it from X (N, K) in fp16."""
    (m, k), n = packed.shape, x.shape[0]
    inputs = [x.astype(np.float16), *packed.arrays.values(), *([] if bias is None else [bias.astype(np.float16)])]
    integers = [n, m, k, *packed.scalars.values()]
    called = kernel.entry or f"hwb_{packed.format}"
    entry = _variants(kernel).index((called, tile_n, int(bias is not None)))
    grid = (-(-m // kernel.rows), -(-n // tile_n), 1)
    job = struct.pack(
        "<9i", entry, ACTIVATIONS.index(act), *grid, kernel.threads, 1, 1, len(inputs) + len(integers) + 1
    )
    for array in inputs:
        job += struct.pack("<2i", 0, array.nbytes) + np.ascontiguousarray(array).tobytes()
    for value in integers:
        job += struct.pack("<2i", 1, value)
    job += struct.pack("<2i", 2, n * m * 2)
    return np.frombuffer(_run(_program(replace(kernel, rows=0, threads=0, entry=None)), job), np.float16).reshape(n, m)


def expected(weight: np.ndarray, x: np.ndarray, bias: np.ndarray | None, act: str) -> tuple[np.ndarray, np.ndarray]:
    """Return Y in float64 of a weight (M, K) and fp16 inputs, and the error allowed: 2^-10 · (Σ|w||x| + |bias|)."""
    x64, w64 = x.astype(np.float16).astype(np.float64), weight.astype(np.float64)
    b64 = np.zeros(len(weight)) if bias is None else bias.astype(np.float16).astype(np.float64)
    v = x64 @ w64.T + b64
    allowed = (np.abs(x64) @ np.abs(w64).T + np.abs(b64)) * 2.0**-10 + 2.0**-24  # half of fp16's smallest step
    if act == "relu":
        v = np.maximum(v, 0)
    elif act == "gelu":
        v = 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))
    elif act == "silu":
        v = v * (0.5 + 0.5 * np.tanh(v / 2))
    return v, allowed


def assert_close(kernel: Kernel, packed: Packed, weight: np.ndarray, x: np.ndarray, **how: object) -> None:
    """Run a kernel and hold its result against float64 of the weight that it multiplies by."""
    y = run_emulated(kernel, packed, x, **how).astype(np.float64)  # type: ignore[arg-type]
    v, allowed = expected(weight, x, how.get("bias"), how.get("act", "none"))  # type: ignore[arg-type]
    worst = np.max(np.abs(y - v) / allowed) if np.isfinite(y).all() else np.inf
    assert worst <= 1, (
        f"{packed.format} {packed.shape} N={len(x)} {how.get('tile_n')}: {worst:.3g} times the error allowed"
    )


def _variants(kernel: Kernel) -> list[tuple[str, int, int]]:
    return [(entry, tile, bias) for tile in kernel.tiles for bias in (0, 1) for entry in kernel.entries]


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="hwb-emulated-")


@functools.cache
def _program(kernel: Kernel) -> Path:
    """Compile every entry of a folder into one program."""
    text = ['#include "hwb/emulate.h"', "#define HWB_ACT hwb::cpu::act"]
    for tile in kernel.tiles:
        for bias in (0, 1):
            text += [f"#undef {name}" for name in ("HWB_TILE_N", "HWB_BIAS", "HWB_ENTRY")]
            text += [
                f"#define HWB_TILE_N {tile}",
                f"#define HWB_BIAS {bias}",
                f"#define HWB_ENTRY(name) name##_{tile}_{bias}",
            ]
            text += [f'#include "{kernel.folder}/kernel.cu"']
    text += ["int main(int, char** files) {", "  const hwb::cpu::Job job(files[1]);", "  switch (job.entry) {"]
    for number, (entry, tile, bias) in enumerate(_variants(kernel)):
        text += [f"    case {number}: hwb::cpu::call(job, {entry}_{tile}_{bias}); break;"]
    text += ["  }", "  job.write(files[2]);", "}"]
    return compile_for_cpu("\n".join(text), arch=kernel.arch)


def compile_for_cpu(text: str, *, arch: int = 800) -> Path:
    """Compile a C++ program that may include headers of the kernels, with the sanitizers; return it."""
    folder = Path(tempfile.mkdtemp(dir=_folder().name))
    source, program = folder / "program.cpp", folder / "program"
    source.write_text(text + "\n")
    flags = [
        "-std=c++20",
        "-O0",
        "-Wall",
        "-Wextra",
        "-Wno-unknown-pragmas",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    ]
    command = [
        "g++",
        *flags,
        f"-DHWB_ARCH={arch}",
        "-I",
        str(ROOT / "include"),
        "-I",
        str(ROOT),
    ]
    done = subprocess.run([*command, str(source), "-o", str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning:" not in done.stderr, done.stderr
    return program


def run_for_cpu(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a compiled program; leaks are not looked for, fibers share the stack's memory."""
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False, env=environment)


def _run(program: Path, job: bytes) -> bytes:
    with tempfile.TemporaryDirectory(dir=_folder().name) as folder:
        here = Path(folder)
        (here / "job").write_bytes(job)
        done = run_for_cpu(program, str(here / "job"), str(here / "result"))
        if done.returncode:
            raise AssertionError(f"the kernel ended with {done.returncode}:\n{done.stderr}")
        return (here / "result").read_bytes()
