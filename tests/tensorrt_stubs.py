"""The real Python bindings of TensorRT 11, imported on libraries that the tests compile: names, not work.

A process that has loaded them must not load others, so what is asked of them is asked in a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
SOURCE = Path(__file__).with_name("tensorrt_stubs.c")


def why_not() -> str | None:
    """Why they cannot be had here, or None."""
    if importlib.util.find_spec("tensorrt_bindings") is None:
        return "the bindings of TensorRT (tensorrt-cu13-bindings) are not installed"
    return None if shutil.which("gcc") else "there is no gcc"


def build(folder: Path) -> Path:
    """Compile the three libraries into a folder, and return it."""
    for name in LIBRARIES:
        library = f"lib{name}.so.11"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-w", "-o", str(folder / library), str(SOURCE), f"-Wl,-soname,{library}"],
            check=True, capture_output=True,
        )  # fmt: skip
    return folder


def ask(program: str, libraries: Path) -> str:
    """Run a program on the bindings, and return what it prints."""
    root = str(SOURCE.parents[1])
    told = {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **told}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
