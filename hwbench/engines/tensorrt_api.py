"""One adapter for the Python APIs of TensorRT 8.5 to 11 and of TensorRT-RTX: which module, which flags, one logger.

The versions differ in names more than in kind. What they share is used under one name; what one of them lacks is asked
for by name (:meth:`Api.flag`, :meth:`Api.member`), and its absence is an error that tells the version. JetPack decides
which of them a Jetson has, so none can be left out (docs/nvidia.md has the table).

=================  =============================================================================================
8.5, 8.6           ``EXPLICIT_BATCH`` networks, weakly typed: the builder chooses among the types its flags allow
10.x               ``STRONGLY_TYPED`` networks; the weak flags are there still, and DLA needs them
11.x, RTX          strongly typed alone; no precision flags, no calibrators
=================  =============================================================================================

Sources: the migration guides and the Python API reference of TensorRT 8.6, 10.x and 11.4
(docs.nvidia.com/deeplearning/tensorrt) and of TensorRT-RTX 1.7; names are checked against the bindings of 11.4 and 1.7
by tests/unit/engines/test_tensorrt_names.py.

**No object of TensorRT may be made before a driver was found** (:func:`hwbench.cuda.driver.require_driver`): without
one a ``Runtime`` is returned that crashes the process when it is used. RTX's ``Builder`` alone needs none.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hwbench.bundles.runtimes import PACKAGES
from hwbench.engines.edge import translated
from hwbench.engines.tensorrt_log import Journal
from hwbench.errors import EngineError, Unsupported
from hwbench.quantize.nvidia import Flavour
from hwbench.records.base import Support, unsupported

Version = tuple[int, ...]

JETPACK_CURE = (
    "pip install tensorrt-cu13 on a PC or server (tensorrt-cu12 for a driver of CUDA 12); on a Jetson use "
    "JetPack's own (apt install python3-libnvinfer) in a virtual environment made with --system-site-packages: "
    "docs/nvidia.md"
)
_RTX_CURE = "pip install '.[rtx]' from the checkout"
# Of each flavour, the modules that have the API.
_MODULES: dict[Flavour, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt_bindings"),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_LIBRARIES = ("tensorrt_libs", "tensorrt_lean_libs")  # what the bindings alone do not have


@dataclass(frozen=True)
class Api:
    """A flavour of TensorRT that has been imported."""

    trt: Any
    flavour: Flavour
    version: Version
    journal: Journal
    logger: Any  # of the class that the module wants; all it is told goes into the journal

    @property
    def text(self) -> str:
        """The version as the module tells it."""
        return str(self.trt.__version__)

    @property
    def title(self) -> str:
        """Name and version, for messages."""
        return f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {self.text}"

    @property
    def is_rtx(self) -> bool:
        return self.flavour == "tensorrt-rtx"

    @property
    def strongly_typed(self) -> bool:
        """Whether networks can be (in 11 and RTX: are) built of the very types that the graph has."""
        return hasattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def has_weak_types(self) -> bool:
        """Whether a network may be weakly typed: the builder chooses types, within flags."""
        return hasattr(self.trt.BuilderFlag, "FP16")

    def member(self, enumeration: str, name: str) -> Any:
        """Return a member of one of TensorRT's enumerations.

        Raises:
            Unsupported: this version has none of that name.
        """
        found = getattr(getattr(self.trt, enumeration, None), name, None)
        if found is None:
            raise Unsupported(f"{self.title} has no {enumeration}.{name}", hint="leave the option that needs it out")
        return found

    def flag(self, name: str) -> Any:
        """Return a ``BuilderFlag``; see :meth:`member`."""
        return self.member("BuilderFlag", name)

    def network_flags(self, *, weak: bool) -> tuple[str, ...]:
        """Return the names of the flags that a network is made with: ``weak`` leaves its types to the builder."""
        if self.strongly_typed and not weak:
            return ("STRONGLY_TYPED",)
        return ("EXPLICIT_BATCH",) if self.version < (10,) else ()  # from 10 on there is no other

    def flag_names(self, bits: int) -> tuple[str, ...]:
        """Return the names of the builder flags that are set in ``config.flags``."""
        members: dict[str, Any] = self.trt.BuilderFlag.__members__
        return tuple(name for name, member in members.items() if bits >> int(member) & 1)

    def builder(self) -> Any:
        """Return a builder.

        Raises:
            EngineError: TensorRT makes none: the log's words are in the message.
        """
        with self.explained("TensorRT could not make a builder"):
            return self.trt.Builder(self.logger)

    def runtime(self) -> Any:
        """Return a runtime. The caller has seen to it that there is a driver.

        Raises:
            EngineError: TensorRT makes none.
        """
        with self.explained("TensorRT could not make a runtime"):
            runtime = self.trt.Runtime(self.logger)
        if runtime is None or self.journal.last_error() is not None:
            raise EngineError(f"{self.title} could not make a runtime: {self.journal.last_error()}")
        return runtime

    def explained(self, doing: str) -> Any:
        """Return a context in which what is raised becomes an error that ends with the log's last complaint."""
        return _explained(self.journal, doing)


class _explained:  # noqa: N801 - used as a function
    """A context manager: exceptions of TensorRT as errors of ours, with what its log said."""

    def __init__(self, journal: Journal, doing: str) -> None:
        self.journal = journal
        self.inner = translated(doing)

    def __enter__(self) -> None:
        self.journal.forget_errors()
        self.inner.__enter__()

    def __exit__(self, *raised: Any) -> bool | None:
        try:
            return self.inner.__exit__(*raised)
        except EngineError as error:
            said = self.journal.last_error()
            if said is None or isinstance(error, Unsupported):
                raise
            raise EngineError(f"{error.message}: {said}", hint=error.hint) from error


@functools.cache
def api(flavour: Flavour) -> Api:
    """Import TensorRT, once: a process has one logger for it, and the first it is given stays.

    Raises:
        EngineError: it is not installed, or does not import; the hint is the cure.
    """
    return adapt(_import(flavour), flavour)


def adapt(trt: Any, flavour: Flavour) -> Api:
    """Return the adapter of a module that has been imported.

    Raises:
        EngineError: the version is older than what hwbench knows.
    """
    version = version_of(str(trt.__version__))
    if flavour == "tensorrt" and version < (8, 5):
        raise EngineError(
            f"TensorRT {trt.__version__} is older than what hwbench can speak to",
            hint="8.5 (JetPack 5.1) is the first; JetPack 4 has none that will do",
        )
    journal = Journal()
    return Api(trt=trt, flavour=flavour, version=version, journal=journal, logger=journal.logger_for(trt))


def installed(flavour: Flavour) -> Support:
    """Say whether a flavour is installed, without importing it."""
    cure = _RTX_CURE if flavour == "tensorrt-rtx" else JETPACK_CURE
    found = [module for module in _MODULES[flavour] if importlib.util.find_spec(module) is not None]
    title = "TensorRT-RTX" if flavour == "tensorrt-rtx" else "TensorRT"
    if not found:
        return unsupported("not_installed", f"{title} is not installed", cure)
    if flavour == "tensorrt" and found == ["tensorrt_bindings"] and not _libraries():
        why = "the Python bindings of TensorRT are installed, and its libraries (libnvinfer) are not"
        return unsupported("no_libraries", why, cure)
    majors = _cuda_majors(flavour)
    if len(majors) > 1:
        return _mixed(flavour, title, majors)
    return Support()


def _mixed(flavour: Flavour, title: str, majors: Sequence[int]) -> Support:
    """Return the refusal of packages for two CUDA versions: they write into the same folders, and the last one won."""
    pattern = re.compile(rf"{flavour}(-cu\d+.*)?")
    names = " ".join(sorted(name for name in dict(_distributions()) if pattern.fullmatch(name)))
    kinds = " and ".join(f"CUDA {major}" for major in majors)
    why = f"packages of {title} for {kinds} are installed together, and each has overwritten files of the other"
    return unsupported(
        "two_installed", why, f"pip uninstall {names}; then install the one that the driver is for: docs/nvidia.md"
    )


def installed_version(flavour: Flavour) -> str | None:
    """Return the version that package metadata tell, where there are any."""
    here = dict(_distributions())
    return next((here[package] for package in PACKAGES[flavour] if package in here), None)


def needed_cuda(flavour: Flavour) -> tuple[int, int] | None:
    """Return the CUDA version that the driver must implement, where the installed packages tell: cu12, cu13."""
    majors = _cuda_majors(flavour)
    return (majors[-1], 0) if majors else None


def _cuda_majors(flavour: Flavour) -> list[int]:
    """Return the CUDA versions that packages of a flavour are installed for; more than one is refused."""
    found = (re.match(rf"{flavour}-cu(\d+)", name) for name in dict(_distributions()))
    return sorted({int(match[1]) for match in found if match is not None})


def version_of(text: str) -> Version:
    """Return a version's numbers: (10, 3, 0) of 10.3.0, (1, 7, 1, 116) of 1.7.1.116."""
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+", maxsplit=1)[0]))


def _import(flavour: Flavour) -> Any:
    support = installed(flavour)
    if not support.usable:
        raise EngineError(support.reasons[0].why, hint=support.reasons[0].cure)
    for module in _MODULES[flavour]:
        if importlib.util.find_spec(module) is not None:
            with translated(f"importing {module}"):
                return importlib.import_module(module)
    raise EngineError(f"{flavour} went away while it was looked at")  # pragma: no cover - installed() found it


def _libraries() -> bool:
    import ctypes.util

    beside = any(importlib.util.find_spec(name) is not None for name in _LIBRARIES)
    return beside or ctypes.util.find_library("nvinfer") is not None


@functools.cache
def _distributions() -> tuple[tuple[str, str], ...]:
    """Return names and versions of what is installed, names as they are spelt on the index."""
    found = [
        (distribution.metadata["Name"], distribution.version) for distribution in importlib.metadata.distributions()
    ]
    return tuple((name.replace("_", "-").lower(), version) for name, version in reversed(found) if name)


def dotted(version: Sequence[int]) -> str:
    """Return a version, or a compute capability, as text."""
    return ".".join(map(str, version))
