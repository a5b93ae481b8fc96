"""TensorRT 11's real Python bindings on libraries that hold nothing, so that what they check in Python can be tested.

The bindings load three libraries and take nine functions from them; empty ones are compiled here. What is run on them
runs in a process of its own, where ``tensorrt`` is the bindings.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_MAKERS = ("createInferBuilder", "createInferRefitter", "createInferRuntime", "createNvOnnxParser",
           "createNvOnnxParserRefitter")  # fmt: skip
_SOURCE = "\n".join(
    [f"void *{name}_INTERNAL(void) {{ return 0; }}" for name in _MAKERS]
    + [
        "int getNvOnnxParserVersion(void) { return 110400; }",
        "void *getPluginRegistry(void) { return 0; }",
        "void *getBuilderPluginRegistry(int capability) { return 0; }",
        "_Bool initLibNvInferPlugins(void *logger, const char *space) { return 1; }",
    ]
)
_LIBRARIES = ("libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11")
_PRELUDE = """
import sys
import tensorrt_bindings as trt
sys.modules["tensorrt"] = trt
import tensorrt_bindings.plugin as trtp
sys.modules["tensorrt.plugin"] = trtp
"""


def stub_libraries(folder: Path) -> Path:
    """Compile the libraries into a folder; skip where the bindings or a compiler are not here."""
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("the bindings of TensorRT 11 (tensorrt-cu13-bindings) are not installed")
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not here to compile stubs")
    source = folder / "stubs.c"
    source.write_text(_SOURCE)
    for name in _LIBRARIES:
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)], check=True
        )
    return folder


def run_on_stubs(program: str, libraries: Path) -> str:
    """Run a program that finds ``trt`` and ``trtp``; return what it printed."""
    here = str(Path(__file__).parent)
    env = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE + program], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
