"""NVML, NVIDIA's management library, through ``nvidia-ml-py`` (module ``pynvml``): loading it, asking it, its errors.

Every answer is a value or a :class:`Missing`. ``nvmlDeviceGetFieldValues`` answers for each field apart: whether it
worked (``nvmlReturn``) and in which member of a union the value lies (``valueType``).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hwbench.records.base import Missing

_INSTALL = "pip install nvidia-ml-py"
DRIVER_CURE = "install the NVIDIA driver, or start the container with access to the GPU"
_RELOAD = "reboot, or unload and load the NVIDIA kernel module"
_PERMISSION = "ask the administrator for access to /dev/nvidia*"

ERRORS: Final[dict[int, tuple[str, str, str | None]]] = {
    1: ("nvml_uninitialized", "NVML is not initialised", None),
    2: ("nvml_invalid_argument", "NVML refused an argument", None),
    3: ("not_supported", "this GPU does not support the query", None),
    4: ("permission_denied", "NVML refuses this user", _PERMISSION),
    5: ("nvml_already_initialized", "NVML is already initialised", None),
    6: ("not_found", "NVML does not find it", None),
    7: ("nvml_buffer_too_small", "NVML's answer does not fit its buffer", "upgrade nvidia-ml-py"),
    8: ("power_cable", "the GPU's external power cables are not attached", "attach them"),
    9: ("no_driver", "the NVIDIA driver is not loaded", DRIVER_CURE),
    10: ("timeout", "the NVIDIA driver does not answer in time", _RELOAD),
    11: ("interrupt_problem", "the driver has a problem with the GPU's interrupt", _RELOAD),
    12: ("no_driver", "there is no NVIDIA driver library here (libnvidia-ml)", DRIVER_CURE),
    13: ("driver_too_old", "the driver does not have the query", "upgrade the NVIDIA driver"),
    14: ("corrupted_inforom", "the GPU's infoROM is corrupted", None),
    15: ("gpu_lost", "the GPU has fallen off the bus", "reboot"),
    16: ("gpu_needs_reset", "the GPU must be reset before it can be used", "ask the administrator to reset it"),
    17: ("blocked_by_os", "the operating system blocks the GPU", _PERMISSION),
    18: ("driver_mismatch", "the driver library and the kernel module differ in version", _RELOAD),
    19: ("in_use", "the GPU is in use by something that excludes others", None),
    20: ("out_of_memory", "NVML has not enough memory", None),
    21: ("no_data", "the GPU has no data for the query", None),
    22: ("not_supported", "the virtual GPU does not support this with ECC", None),
    23: ("out_of_resources", "the driver has not enough resources", None),
    24: ("not_supported", "this GPU does not support the frequency", None),
    25: ("driver_mismatch", "nvidia-ml-py and the driver differ in the query's version", "upgrade nvidia-ml-py"),
    26: ("deprecated", "the driver no longer has the query", "upgrade nvidia-ml-py"),
    27: ("not_ready", "the GPU is not ready", "try again"),
    28: ("no_gpu", "the driver finds no GPU", None),
    29: ("invalid_state", "the GPU is in a state that does not allow the query", None),
    30: ("not_supported", "the GPU does not support this type of reset", None),
    999: ("nvml_unknown", "NVML reports an unknown error", None),
}
"""NVML's return codes: ours, why, and the cure. Complete for the nvidia-ml-py it was tested with."""

COUNTERS: Final[dict[str, str]] = {
    "sw_power_cap": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP",
    "sync_boost": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST",
    "sw_thermal": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN",
    "hw_thermal": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN",
    "hw_power_brake": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN",
}
"""For how long what held the clocks down: fields in nanoseconds since the driver was loaded, by NVIDIA's names.

Their numbers are those of the wrapper that is installed: releases of NVML have given the last three different ones.
"""

_HOST_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of the kernel (include/linux/proc_ns.h)
_FIELD_UNKNOWN = 2  # NVML_ERROR_INVALID_ARGUMENT, of one field: the driver is older than the field
_LIBRARY_NOT_FOUND = 12  # NVML_ERROR_LIBRARY_NOT_FOUND
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")  # by nvmlValueType_t
_CLONE = (
    "the module pynvml here is not NVIDIA's: an unofficial package of that name hides nvidia-ml-py",
    "pip uninstall pynvml; pip install --force-reinstall nvidia-ml-py",
)


def has_driver_library() -> bool:
    """Say whether the driver's NVML library can be loaded: asked first, since importing its wrapper takes longer."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def load() -> Any:
    """Return the module ``pynvml`` of nvidia-ml-py, or a Missing: ``no_driver``, ``not_installed``, ``wrong_package``.

    Nothing is initialised: call ``nvmlInit``.
    """
    if sys.platform == "linux" and not has_driver_library():
        return reason(_LIBRARY_NOT_FOUND)
    try:
        module = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        why = "nvidia-ml-py is not installed, so an NVIDIA GPU cannot be seen"
        return Missing(code="not_installed", why=why, cure=_INSTALL)
    if not hasattr(module, "_nvmlGetFunctionPointer"):
        return Missing(code="wrong_package", why=_CLONE[0], cure=_CLONE[1])
    return module


def reason(number: int) -> Missing:
    """Return what one of NVML's return codes means."""
    code, why, cure = ERRORS.get(number, ("nvml_unknown", f"NVML reports error {number}, which is new", None))
    return Missing(code=code, why=why, cure=cure)


def sees_host_ids(root: Path) -> bool:
    """Say whether this process is in the PID namespace of the host, whose ids NVML tells; ``root`` is above proc/."""
    with contextlib.suppress(OSError):
        return (root / "proc/self/ns/pid").readlink().name == _HOST_NAMESPACE
    return False


class Nvml:
    """The functions of the module, with reasons in place of exceptions.

    Args:
        module: ``pynvml``, or what stands in for it.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def ask(self, function: str, *arguments: Any) -> Any:
        """Call one function; returns its value, or a Missing in its place."""
        call = getattr(self.module, function, None)
        if call is None:
            why = f"the nvidia-ml-py here has no {function}"
            return Missing(code="library_too_old", why=why, cure="upgrade nvidia-ml-py")
        try:
            return call(*arguments)
        except self.module.NVMLError as error:
            return reason(getattr(error, "value", 999))

    def text(self, function: str, *arguments: Any) -> str | Missing:
        """Call a function that returns text."""
        value = self.ask(function, *arguments)
        if isinstance(value, Missing):
            return value
        # nvidia-ml-py before 11.515 returns bytes.
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def fields(self, handle: Any, wanted: Sequence[tuple[int, int]]) -> list[float | Missing]:
        """Return the values of several (field, scope) in NVML's units, each a value or why there is none."""
        if not wanted:
            return []
        entries = self.ask("nvmlDeviceGetFieldValues", handle, list(wanted))
        if isinstance(entries, Missing):
            return [entries] * len(wanted)
        return [_value(entry, number) for entry, (number, _) in zip(entries, wanted, strict=True)]

    def counter_fields(self) -> dict[str, int | Missing]:
        """Return the field number of each of :data:`COUNTERS`, a Missing where this wrapper does not have its name."""
        return {name: self._constant(constant) for name, constant in COUNTERS.items()}

    def _constant(self, name: str) -> int | Missing:
        why = f"the nvidia-ml-py here has no {name}"
        absent = Missing(code="library_too_old", why=why, cure="upgrade nvidia-ml-py")
        number: int | Missing = getattr(self.module, name, absent)
        return number


def _value(entry: Any, number: int) -> float | Missing:
    if entry.nvmlReturn == _FIELD_UNKNOWN:
        why = f"the NVIDIA driver does not know NVML field {number}, or not on this GPU"
        return Missing(code="field_unknown", why=why, cure="upgrade the NVIDIA driver")
    if entry.nvmlReturn != 0:
        return reason(entry.nvmlReturn)
    if not 0 <= entry.valueType < len(_MEMBERS):
        why = f"NVML field {number} has a value of type {entry.valueType}, which is new"
        return Missing(code="nvml_unknown", why=why, cure="upgrade hwbench")
    return float(getattr(entry.value, _MEMBERS[entry.valueType]))
