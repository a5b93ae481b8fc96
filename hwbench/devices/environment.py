"""The software a result is made with, read without importing any of it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import hwbench
from hwbench.records.base import Missing
from hwbench.records.device import Environment, PackageVersion

PACKAGES: Final = (
    "ai-edge-litert",
    "cuda-bindings",
    "msgspec",
    "numpy",
    "nvidia-ml-py",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "openvino",
    "psutil",
    "pycuda",
    "tensorrt",
    "torch",
    "triton",
)
"""The distributions that can change a number; those that are not installed are left out."""

VARIABLES: Final = ("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "DNNL_", "ONEDNN_", "OV_", "ORT_", "TORCH", "ATEN_",
                    "MALLOC_", "LD_PRELOAD", "CUDA_", "PYTORCH_", "HWBENCH_CUDA_")  # fmt: skip
"""Beginnings of the names of environment variables that change what runtimes do."""


def capture() -> Environment:
    """Return the versions of hwbench, Python, the system, and of those ``PACKAGES`` that are installed."""
    return Environment(
        hwbench=hwbench.__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        os=_os(),
        kernel=f"{platform.system()} {platform.release()}",
        libc=_libc(),
        variables={name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
        packages=tuple(package for name in PACKAGES if (package := _package(name)) is not None),
    )


def _package(name: str) -> PackageVersion | None:
    try:
        return PackageVersion(name=name, version=version(name))
    except PackageNotFoundError:
        return None


def _os() -> str:
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]}"
    if platform.system() == "Linux":
        try:
            return platform.freedesktop_os_release()["PRETTY_NAME"]
        except OSError:
            return "Linux of an unnamed distribution"
    return f"{platform.system()} {platform.version()}"


def _libc() -> str | Missing:
    name, number = platform.libc_ver()
    if not name:
        return Missing(code="not_told", why="the Python executable does not tell which C library it is linked with")
    return f"{name} {number}"
