"""The packages that run each engine's files, and whether files of one version are readable by another."""

from __future__ import annotations

import importlib.metadata

from hwbench.errors import ModelError
from hwbench.records.base import Missing
from hwbench.records.bundle import Manifest, Runtime

# Of each engine, the packages whose metadata tell its version. Of TensorRT, the one without a CUDA version last: on the
# index it holds nothing, and stays when what it brought is exchanged; JetPack has no other.
PACKAGES: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "litert": ("ai-edge-litert",),
    "tensorrt": ("tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings", "tensorrt"),
    "tensorrt-rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
    "torch-aoti": ("torch",),
}
_TIED = frozenset({"torch-aoti"})  # compiled against the runtime's own headers: another minor version cannot load it


def runtime_of(engine: str) -> Runtime | Missing:
    """Return the package that runs an engine's files, as installed here."""
    packages = PACKAGES.get(engine)
    if packages is None:
        return Missing(code="not_known", why=f"which package runs the files of '{engine}' is not known")
    for package in packages:
        version = _version(package)
        if version is not None:
            return Runtime(package=package, version=version)
    return Missing(code="not_installed", why=f"{' or '.join(packages)} is not installed")


def version_warnings(manifest: Manifest, engine: str) -> tuple[str, ...]:
    """Return what is to be said about the runtime here, which may not be the one that the bundle was built with.

    Raises:
        ModelError: files of that version cannot be loaded by the one that is here.
    """
    built = manifest.runtime
    here = None if isinstance(built, Missing) else _version(built.package)
    if isinstance(built, Missing) or here is None or here == built.version:  # not installed: the engine says so
        return ()
    if engine in _TIED and _minor(here) != _minor(built.version):
        raise ModelError(
            f"'{manifest.name}' was built for {built.package} {built.version}; {here}, which is here, cannot load it",
            hint=f"pip install {built.package}=={built.version}, or build it again here",
        )
    return (f"built with {built.package} {built.version}, run here by {here}: speed and last digits may differ",)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split("+", maxsplit=1)[0].split(".")[:2])
