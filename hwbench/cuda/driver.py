"""Is a CUDA driver here, and what does it see? Asked of the driver's library alone, through ctypes.

No package is needed, no context is made and no memory of a GPU taken, so this may be asked before any runtime is
imported. It must be: TensorRT makes a ``Runtime`` without a driver and then crashes the process. The functions are
those of the CUDA driver API, docs.nvidia.com/cuda/cuda-driver-api. Initialising it takes some milliseconds, or a second
on a server whose GPUs sleep (no persistence mode).

    probe()             what is here, or why nothing is
    require_driver()    the same, or an EngineError
"""

from __future__ import annotations

import ctypes
import os
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hwbench.cuda.results import DRIVER_CURE, NO_DEVICE, SUCCESS, reason
from hwbench.errors import EngineError
from hwbench.records.base import Missing

LIBRARY: Final = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_WSL_LIBRARY = Path("/usr/lib/wsl/lib/libcuda.so.1")
# CUdevice_attribute: COMPUTE_CAPABILITY_MAJOR and _MINOR, INTEGRATED, MULTIPROCESSOR_COUNT, L2_CACHE_SIZE, CLOCK_RATE
_MAJOR, _MINOR, _INTEGRATED, _MULTIPROCESSORS, _L2, _CLOCK_KHZ = 75, 76, 18, 16, 38, 13
_CONTAINER_CURE = (
    "start the container with the GPU: docker run --gpus all (on a Jetson: --runtime nvidia), "
    "podman run --device nvidia.com/gpu=all; the host needs the NVIDIA driver and nvidia-container-toolkit"
)
_WSL_CURE = "install the NVIDIA driver on Windows (none inside Linux), and wsl --update"


@dataclass(frozen=True, kw_only=True)
class SeenGpu:
    """A GPU as CUDA counts it: ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER`` have been applied.

    ``uuid`` is spelt as by nvidia-smi, ``GPU-...``, or ``MIG-...`` of a part of a divided GPU; ``whole`` is then that
    of the GPU, where the driver tells it.
    """

    index: int
    name: str
    uuid: str
    whole: str
    mig: bool
    compute_capability: tuple[int, int]
    integrated: bool  # shares the host's memory, as in a Jetson
    memory_bytes: int
    multiprocessors: int
    l2_bytes: int
    clock_hz: float


@dataclass(frozen=True, kw_only=True)
class DriverFacts:
    """A driver that works, with at least one GPU."""

    library: str
    cuda: tuple[int, int]  # the newest CUDA version it implements
    gpus: tuple[SeenGpu, ...]

    def gpu(self, uuid: str) -> SeenGpu | None:
        """Return the GPU of that UUID, ``GPU-...`` or ``MIG-...``; by the UUID of a divided GPU, its part.

        CUDA shows one part of one divided GPU to a process.
        """
        return next((gpu for gpu in self.gpus if uuid.lower() in {gpu.uuid.lower(), gpu.whole.lower()}), None)


def probe(library: str = LIBRARY, environment: Mapping[str, str] | None = None) -> DriverFacts | Missing:
    """Ask the driver what it sees.

    Returns:
        What is here, or a Missing: ``no_driver``, ``no_gpu``, ``hidden``, ``driver_mismatch`` and the other codes of
        :data:`~hwbench.cuda.results.RESULTS`.
    """
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        return _no_library(str(error))
    if not hasattr(cuda, "cuInit"):
        why = f"{library} was loaded and has no cuInit: it is not the driver's"
        return Missing(code="no_driver", why=why, cure="take the folder of that file out of LD_LIBRARY_PATH")
    asked = _Driver(cuda)
    try:
        asked.call("cuInit", ctypes.c_uint(0))
        gpus = asked.gpus()
        version = asked.integer("cuDriverGetVersion")
    except _Refused as refused:
        return _why(refused, os.environ if environment is None else environment)
    return DriverFacts(library=library, cuda=as_version(version), gpus=gpus)


def require_driver(minimum: tuple[int, int] | None = None) -> DriverFacts:
    """Return what :func:`probe` sees.

    Args:
        minimum: the CUDA version that the driver must implement, such as ``(12, 0)``.

    Raises:
        EngineError: no driver, no GPU, or one that is too old; the hint is the cure.
    """
    found = probe()
    if isinstance(found, Missing):
        raise EngineError(f"CUDA cannot be used here: {found.why}", hint=found.cure)
    if minimum is not None and found.cuda < minimum:
        raise EngineError(
            f"CUDA {_dotted(minimum)} is needed, and the NVIDIA driver here implements CUDA {_dotted(found.cuda)}",
            hint="upgrade the NVIDIA driver, or install the package built for that CUDA version",
        )
    return found


def as_version(number: int) -> tuple[int, int]:
    """Return CUDA's 12040 as (12, 4)."""
    return number // 1000, number % 1000 // 10


def spelt(raw: bytes, *, mig: bool) -> str:
    """Return 16 bytes as nvidia-smi spells them."""
    return f"{'MIG' if mig else 'GPU'}-{uuid.UUID(bytes=raw)}"


class _Refused(Exception):
    """A call gave something else than success."""

    def __init__(self, result: int, name: str | None) -> None:
        super().__init__(result)
        self.result = result
        self.name = name


class _Driver:
    """Calls into the library, which raise :class:`_Refused`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def call(self, function: str, *arguments: object) -> None:
        result = int(getattr(self._library, function)(*arguments))
        if result != SUCCESS:
            raise _Refused(result, self._name(result))

    def integer(self, function: str, *arguments: object) -> int:
        value = ctypes.c_int()
        self.call(function, ctypes.byref(value), *arguments)
        return value.value

    def gpus(self) -> tuple[SeenGpu, ...]:
        count = self.integer("cuDeviceGetCount")
        if count == 0:
            raise _Refused(NO_DEVICE, "CUDA_ERROR_NO_DEVICE")
        return tuple(self._gpu(index) for index in range(count))

    def _gpu(self, index: int) -> SeenGpu:
        device = ctypes.c_int(self.integer("cuDeviceGet", index))
        name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
        self.call("cuDeviceGetName", name, 256, device)
        self.call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        text = name.value.decode("utf-8", "replace")
        whole, part = self._uuid("cuDeviceGetUuid", device), self._uuid("cuDeviceGetUuid_v2", device)
        # Of a part of a divided GPU, the older call names the GPU and the newer one the part.
        own = part or whole or bytes(16)
        mig = (part is not None and whole is not None and part != whole) or " MIG " in text
        return SeenGpu(
            index=index,
            name=text,
            uuid=spelt(own, mig=mig),
            whole=spelt(whole or own, mig=False),
            mig=mig,
            compute_capability=(self._attribute(_MAJOR, device), self._attribute(_MINOR, device)),
            integrated=bool(self._attribute(_INTEGRATED, device)),
            memory_bytes=memory.value,
            multiprocessors=self._attribute(_MULTIPROCESSORS, device),
            l2_bytes=self._attribute(_L2, device),
            clock_hz=self._attribute(_CLOCK_KHZ, device) * 1e3,
        )

    def _attribute(self, number: int, device: ctypes.c_int) -> int:
        return self.integer("cuDeviceGetAttribute", number, device)

    def _uuid(self, function: str, device: ctypes.c_int) -> bytes | None:
        """Return what one of the two calls says; drivers before CUDA 11.4 have the older one alone."""
        if not hasattr(self._library, function):
            return None
        raw = (ctypes.c_char * 16)()
        self.call(function, raw, device)
        return bytes(raw)

    def _name(self, result: int) -> str | None:
        if not hasattr(self._library, "cuGetErrorName"):
            return None
        text = ctypes.c_char_p()
        known = self._library.cuGetErrorName(ctypes.c_int(result), ctypes.byref(text)) == SUCCESS
        return text.value.decode() if known and text.value else None


def _why(refused: _Refused, environment: Mapping[str, str]) -> Missing:
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if refused.result == NO_DEVICE and visible is not None:
        why = f"the CUDA driver shows no GPU, since CUDA_VISIBLE_DEVICES is '{visible}'"
        return Missing(code="hidden", why=why, cure="unset CUDA_VISIBLE_DEVICES, or name a GPU that is here")
    if refused.result == NO_DEVICE and _in_wsl():
        return Missing(code="no_gpu", why="the CUDA driver of Windows shows no GPU to WSL", cure=_WSL_CURE)
    if refused.result == NO_DEVICE and in_container():
        return Missing(code="no_gpu", why="the CUDA driver sees no GPU in this container", cure=_CONTAINER_CURE)
    return reason(refused.result, refused.name)


def _no_library(said: str) -> Missing:
    why = f"there is no NVIDIA driver here: {LIBRARY} cannot be loaded ({said})"
    if _in_wsl():
        here = _WSL_LIBRARY.exists()
        cure = f"export LD_LIBRARY_PATH={_WSL_LIBRARY.parent}" if here else _WSL_CURE
    elif in_container():
        cure = _CONTAINER_CURE
    else:
        cure = DRIVER_CURE
    return Missing(code="no_driver", why=why, cure=cure)


def _in_wsl() -> bool:
    version = Path("/proc/version")
    return version.exists() and "microsoft" in version.read_text(encoding="utf-8", errors="replace").lower()


def in_container() -> bool:
    """Say whether this process runs in a container of Docker or Podman."""
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
