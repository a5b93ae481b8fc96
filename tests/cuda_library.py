"""The driver library without a GPU (``data/cuda/driver.c``), compiled once a session."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "data" / "cuda" / "driver.c"


@functools.cache
def driver_library() -> Path:
    """Return ``libcuda.so.1``, compiled; skips the test where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    path = Path(tempfile.mkdtemp(prefix="hwbench-cuda-")) / "libcuda.so.1"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([compiler, *flags, "-o", str(path), str(SOURCE), "-lpthread"], check=True)
    return path
