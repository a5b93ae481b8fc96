"""CUDA compilers on this machine: nvcc with its host compiler, or NVRTC, which needs neither and comes by pip.

:func:`find_compiler` takes nvcc where it can work, else NVRTC, else says what to install. Both give the same machine
code from the same source; which one it was is part of the cache's key and of what is reported.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from hwbench.errors import EngineError
from hwbench.records.base import Missing

Kind = Literal["cubin", "ptx"]

CURE: Final = (
    "install CUDA's nvcc with a C++ compiler, or: pip install cuda-bindings nvidia-cuda-nvrtc nvidia-cuda-runtime"
)
_TIMEOUT_S: Final = 300.0


class Compiler(Protocol):
    """A CUDA compiler."""

    @property
    def version(self) -> str:
        """Return its name and version, such as ``nvcc 13.0.88``."""
        ...

    @property
    def archs(self) -> frozenset[int]:
        """Return the architectures that it makes machine code for: 90 for ``sm_90``."""
        ...

    def compile(self, source: Path, *, arch: int, kind: Kind, options: Sequence[str]) -> tuple[bytes, str]:
        """Return the image and what the compiler said, the assembler's resource usage included.

        Raises:
            EngineError: it refuses the source.
        """
        ...

    def assembles(self, ptx: bytes, *, arch: int) -> str | None:
        """Return why the assembler refuses a PTX, or None where it takes it.

        Raises:
            EngineError: there is no assembler beside this compiler.
        """
        ...


@dataclass(frozen=True)
class Nvcc:
    """CUDA's offline compiler."""

    path: Path

    @functools.cached_property
    def version(self) -> str:
        said = _run([str(self.path), "--version"])
        found = re.search(r"V(\d+\.\d+\.\d+)", said)
        return f"nvcc {found.group(1) if found else 'of an unknown version'}"

    @functools.cached_property
    def archs(self) -> frozenset[int]:
        return frozenset(int(each) for each in re.findall(r"sm_(\d+)\b", _run([str(self.path), "--list-gpu-code"])))

    def compile(self, source: Path, *, arch: int, kind: Kind, options: Sequence[str]) -> tuple[bytes, str]:
        name = "compute" if kind == "ptx" else "sm"
        with tempfile.TemporaryDirectory(prefix="hwbench-nvcc-") as folder:
            target = Path(folder) / f"out.{kind}"
            command = [str(self.path), f"-{kind}", f"-arch={name}_{arch}", "-Xptxas=-v", "-o", str(target)]
            said = _run([*command, *options, str(source)])
            return target.read_bytes(), said

    def assembles(self, ptx: bytes, *, arch: int) -> str | None:
        with tempfile.TemporaryDirectory(prefix="hwbench-ptxas-") as folder:
            text, target = Path(folder) / "in.ptx", Path(folder) / "out.cubin"
            text.write_bytes(ptx)
            try:
                _run([str(self.path.with_name("ptxas")), f"-arch=sm_{arch}", str(text), "-o", str(target)])
            except EngineError as error:
                return error.message
        return None


@dataclass(frozen=True)
class Nvrtc:
    """CUDA's compiler as a library, through cuda-bindings; it needs no compiler of the host."""

    api: Any  # cuda.bindings.nvrtc

    @functools.cached_property
    def version(self) -> str:
        major, minor = self._call("nvrtcVersion")
        return f"nvrtc {major}.{minor}"

    @functools.cached_property
    def archs(self) -> frozenset[int]:
        (archs,) = self._call("nvrtcGetSupportedArchs")
        return frozenset(archs)

    def compile(self, source: Path, *, arch: int, kind: Kind, options: Sequence[str]) -> tuple[bytes, str]:
        (program,) = self._call("nvrtcCreateProgram", source.read_bytes(), source.name.encode(), 0, [], [])
        name = "compute" if kind == "ptx" else "sm"
        words = [f"-arch={name}_{arch}", *options, f"-I{source.parent}"]
        words += ["--ptxas-options=-v"] if kind == "cubin" else []
        try:
            (status,) = self.api.nvrtcCompileProgram(program, len(words), [word.encode() for word in words])
            said = self._read(program, "ProgramLog").decode(errors="replace").strip("\0\n ")
            if int(status) != 0:
                raise _refused(self.version, said)
            return self._read(program, "CUBIN" if kind == "cubin" else "PTX"), said
        finally:
            self.api.nvrtcDestroyProgram(program)

    def assembles(self, ptx: bytes, *, arch: int) -> str | None:  # noqa: ARG002 - as the protocol has it
        msg = "NVRTC has no assembler that could check a PTX"
        raise EngineError(msg, hint="install nvcc, which brings ptxas: pip install nvidia-cuda-nvcc")

    def _read(self, program: object, what: str) -> bytes:
        (size,) = self._call(f"nvrtcGet{what}Size", program)
        data = bytes(int(size) + 1)  # the binding writes into it; never of one byte: those are shared by all of Python
        self._call(f"nvrtcGet{what}", program, data)
        return data.rstrip(b"\0") if what == "PTX" else data[: int(size)]

    def _call(self, name: str, *arguments: object) -> tuple[Any, ...]:
        status, *values = getattr(self.api, name)(*arguments)
        if int(status) != 0:
            msg = f"{name} of NVRTC failed: {status.name}"
            raise EngineError(msg)
        return tuple(values)


def find_compiler() -> Compiler | Missing:
    """Return nvcc where it and a host compiler are, else NVRTC, else why there is none and what to install.

    nvcc is looked for in ``CUDA_HOME`` and ``CUDA_PATH``, on the path, in ``/usr/local/cuda``, among pip's packages.
    """
    nvcc = find_tool("nvcc")
    if nvcc is not None and shutil.which("g++"):
        return Nvcc(nvcc)
    nvrtc = _nvrtc()
    if nvrtc is not None:
        return nvrtc
    if nvcc is not None:
        return Missing(code="no_host_compiler", why=f"{nvcc} needs g++, which is not here", cure="apt install g++")
    return Missing(code="no_cuda_compiler", why="there is neither nvcc nor NVRTC", cure=CURE)


def _nvrtc() -> Nvrtc | None:
    try:
        api = importlib.import_module("cuda.bindings.nvrtc")
        compiler = Nvrtc(api)
        compiler.version  # noqa: B018 - loads the library
    except (ImportError, RuntimeError, EngineError):  # RuntimeError: cuda-bindings found no libnvrtc
        return None
    return compiler


def find_tool(name: str) -> Path | None:
    """Return a program of CUDA's toolkit: ``nvcc``, ``nvdisasm``, ``cuobjdump``."""
    homes = [os.environ[key] for key in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(key)]
    places = [Path(home) / "bin" / name for home in homes]
    if on_path := shutil.which(name):
        places.append(Path(on_path))
    places += [Path("/usr/local/cuda/bin") / name, *(folder / "bin" / name for folder in _pip_folders())]
    return next((place.resolve() for place in places if os.access(place, os.X_OK)), None)


def _pip_folders() -> Iterator[Path]:
    """Yield ``nvidia/cu13`` and its like, where NVIDIA's packages on the index put their files."""
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations if spec else None) or ():
        yield from sorted((each for each in Path(place).glob("c*") if each.is_dir()), reverse=True)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"{command[0]} could not be run: {error}"
        raise EngineError(msg) from error
    said = (done.stdout + done.stderr).strip()
    if done.returncode != 0:
        raise _refused(Path(command[0]).name, said)
    return said


def _refused(who: str, said: str) -> EngineError:
    lines = [line for line in said.splitlines() if "error" in line.lower() or "fatal" in line.lower()]
    return EngineError(f"{who} refuses the kernel: {'; '.join(lines[:2]) or said[-500:] or 'it says nothing'}")
