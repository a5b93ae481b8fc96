"""CUDA's return codes (``CUresult``, cuda.h) as reasons with a cure.

Complete for what people meet who have a driver that does not fit, a GPU that is not there, a kernel that was built for
another GPU or that goes wrong. For the rest CUDA's own name of the code is given.
"""

from __future__ import annotations

from typing import Final

from hwbench.errors import EngineError
from hwbench.records.base import Missing

SUCCESS: Final = 0
OUT_OF_MEMORY: Final = 2
NO_DEVICE: Final = 100
INVALID_DEVICE: Final = 101

DRIVER_CURE = "install the NVIDIA driver; in a container, start it with access to the GPU (--gpus all)"
_UPGRADE = "upgrade the NVIDIA driver, or install the package built for the CUDA version that it implements"
_RELOAD = "reboot, or unload and load the NVIDIA kernel modules"
_FAULT = "the context is lost; run it again under compute-sanitizer"
_REBUILD = "build it again for this GPU"

RESULTS: Final[dict[int, tuple[str, str, str | None]]] = {
    1: ("invalid_value", "CUDA refused an argument", None),
    2: ("out_of_gpu_memory", "the GPU has not enough free memory", "use a smaller batch, or free memory of the GPU"),
    3: (
        "not_initialised",
        "CUDA is not initialised in this process: it does not survive a fork",
        "start anew, by spawn",
    ),
    4: ("shutting_down", "the CUDA driver is shutting down", None),
    34: (
        "stub_library",
        "the libcuda that was found is the toolkit's stub for linking, not the driver's",
        "take the toolkit's folder lib64/stubs out of LD_LIBRARY_PATH",
    ),
    35: ("driver_too_old", "the NVIDIA driver is older than the CUDA runtime needs", _UPGRADE),
    36: ("driver_too_old", "the NVIDIA driver is too old for this call", _UPGRADE),
    46: (
        "in_use",
        "the GPU is in exclusive mode and another process has it",
        "end that process, or nvidia-smi --compute-mode=DEFAULT as administrator",
    ),
    100: ("no_gpu", "the CUDA driver sees no GPU", DRIVER_CURE),
    101: ("invalid_device", "there is no GPU of that number", "hwbench devices shows those that are here"),
    200: ("invalid_image", "that is no cubin and no PTX", None),
    201: ("invalid_context", "the thread has no context of CUDA, or one that was destroyed", None),
    209: ("wrong_architecture", "the kernel was built for another GPU architecture", _REBUILD),
    214: ("ecc", "the GPU reports an ECC error that cannot be corrected", "nvidia-smi -q -d ECC; reboot or replace it"),
    218: ("invalid_ptx", "the driver cannot compile the PTX", _REBUILD),
    221: ("no_ptx_compiler", "the driver's PTX compiler is not here", "install libnvidia-ptxjitcompiler of the driver"),
    222: ("driver_too_old", "the PTX is of a newer CUDA version than the driver's", _UPGRADE),
    304: ("os_call_failed", "a call of the driver to the system failed", "see whether /dev/nvidia* may be opened"),
    400: ("invalid_handle", "CUDA does not know the handle: it was destroyed, or is of another context", None),
    500: ("not_found", "CUDA does not find that name", None),
    700: ("illegal_address", "a kernel read or wrote memory that is not its own", _FAULT),
    701: ("launch_resources", "the kernel needs more registers, threads or shared memory than a block has", None),
    702: ("launch_timeout", "the system ended a kernel that took too long", "run on a GPU that drives no display"),
    710: ("assertion", "an assertion in a kernel failed", None),
    715: ("illegal_instruction", "a kernel executed an illegal instruction", _FAULT),
    716: ("misaligned_address", "a kernel read or wrote at an address that is not aligned", _FAULT),
    719: ("launch_failed", "a kernel failed", _FAULT),
    800: ("permission_denied", "the driver does not permit it", "ask the administrator for access to /dev/nvidia*"),
    801: ("not_supported", "this GPU or driver does not support it", None),
    802: (
        "system_not_ready",
        "the GPUs are not set up yet",
        "start nvidia-fabricmanager of the driver's own version (machines with NVSwitch), and wait for it",
    ),
    803: ("driver_mismatch", "the CUDA library and the kernel module of the driver differ in version", _RELOAD),
    804: (
        "compat_not_supported",
        "a forward-compatibility package is in use (cuda-compat), which this GPU does not support",
        "upgrade the driver itself, and take the folder cuda/compat out of LD_LIBRARY_PATH",
    ),
    805: ("mps", "the server of CUDA's multi-process service cannot be reached", "stop it, or start it again"),
    900: ("capture_unsupported", "what was called cannot be captured into a CUDA graph", None),
    901: ("capture_invalidated", "the capture into a CUDA graph was broken off", None),
    906: ("capture_implicit", "work of the legacy stream cannot be captured into a CUDA graph", None),
    999: (
        "cuda_unknown",
        "CUDA reports an unknown error, which at the start mostly means that nvidia_uvm is not loaded",
        "sudo modprobe nvidia_uvm; after a suspend, unload it first; or reboot",
    ),
}
"""Our code, why, and the cure, by ``CUresult``."""


def reason(result: int, name: str | None = None) -> Missing:
    """Return what a ``CUresult`` means; ``name`` is CUDA's own, if known."""
    label = f"{name} ({result})" if name else f"CUresult {result}"
    code, why, cure = RESULTS.get(result, ("cuda_error", "CUDA reports an error", None))
    return Missing(code=code, why=f"{why}: {label}", cure=cure)


def failure(what: str, result: int, name: str | None = None) -> EngineError:
    """Return the error for a call that gave ``result``; ``what`` was asked, in words."""
    told = reason(result, name)
    return EngineError(f"{what}: {told.why}", hint=told.cure)
