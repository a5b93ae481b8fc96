"""Timing caches: what TensorRT found while timing tactics, kept by GPU and version for the next build.

A cache is valid for one GPU model, driver generation and version of TensorRT; the file's name says which, and TensorRT
checks it again (``ignore_mismatch`` is never set). With one, building again is quicker and takes the same tactics, so
``--repeat-build`` builds without: it is about how builds differ.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path

from hwbench.engines.tensorrt_api import Api
from hwbench.resources import user_folder

FOLDER = "tensorrt"


def cache_path(api: Api, gpu: str, capability: str, driver: str) -> Path:
    """Return where the cache of a GPU lies; ``gpu`` is its name, ``driver`` the CUDA version of the driver."""
    name = f"{gpu}-sm{capability.replace('.', '')}-cuda{driver}-trt{api.text}"
    return user_folder() / FOLDER / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name).lower()}.cache"


def read_cache(path: Path) -> bytes:
    """Return what is kept there; nothing, where nothing is."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def write_cache(path: Path, data: bytes) -> str | None:
    """Keep a cache, in one step; return why it could not be, in words."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        return f"the timing cache was not kept: {path.parent}: {error.strerror or error}"
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(name).replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        return f"the timing cache was not kept: {path}: {error.strerror or error}"
    return None
