"""NVIDIA GPUs, through NVML (the package ``nvidia-ml-py``, module ``pynvml``).

``cuda:N`` counts as ``nvidia-smi`` does: in PCI order, whatever ``CUDA_VISIBLE_DEVICES`` says. CUDA itself may count
in another order, so an engine selects by ``gpu.uuid``. NVML is initialised only while the finder looks.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from pathlib import Path
from typing import Any, Final

from hwbench.devices.fingerprint import fingerprint, rounded_gib
from hwbench.devices.machine import Machine, read_machine
from hwbench.devices.tree import Tree
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device, Found, Gpu

_LIBRARY_NOT_FOUND = 12  # NVML_ERROR_LIBRARY_NOT_FOUND
_CLOCK_SM = 1  # nvmlClockType_t NVML_CLOCK_SM

_INSTALL = "pip install '.[nvidia]' from the checkout"
_DRIVER = "install the NVIDIA driver, or start the container with access to the GPU"
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
    9: ("no_driver", "the NVIDIA driver is not loaded", _DRIVER),
    10: ("timeout", "the NVIDIA driver does not answer in time", _RELOAD),
    11: ("interrupt_problem", "the driver has a problem with the GPU's interrupt", _RELOAD),
    12: ("no_driver", "there is no NVIDIA driver library here (libnvidia-ml)", _DRIVER),
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


def _has_driver_library() -> bool:
    """Say whether the driver's NVML library can be loaded: asked first, since importing its wrapper takes longer."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


class NvidiaFinder:
    """Finds the GPUs of this machine, under the names ``cuda:0``, ``cuda:1``..."""

    name = "nvidia"

    def __init__(self, nvml: Any = None, root: Path | None = None) -> None:
        """Ask ``nvml`` (the module ``pynvml`` by default); what is not the GPU's is read below ``root``."""
        self._nvml = nvml
        self._tree = Tree(root)

    def find(self) -> Found:
        nvml = self._nvml
        if nvml is None:
            if sys.platform == "linux" and not _has_driver_library():
                code, why, cure = ERRORS[_LIBRARY_NOT_FOUND]
                return Found(absent=unsupported(code, why, cure))
            try:
                nvml = importlib.import_module("pynvml")
            except ModuleNotFoundError:
                why = "nvidia-ml-py is not installed, so an NVIDIA GPU cannot be seen"
                return Found(absent=unsupported("not_installed", why, _INSTALL))
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            return Found(absent=Support(reasons=(_reason(error),)))
        try:
            return _Search(nvml, read_machine(self._tree)).found()
        finally:
            nvml.nvmlShutdown()


class _Search:
    """One look at all GPUs, while NVML is initialised."""

    def __init__(self, nvml: Any, machine: Machine) -> None:
        self._nvml = nvml
        self._machine = machine

    def found(self) -> Found:
        count = self._ask("nvmlDeviceGetCount")
        if isinstance(count, Missing):
            return Found(absent=Support(reasons=(count,)))
        if count == 0:
            return Found(absent=unsupported("no_gpu", "the NVIDIA driver is here, but it sees no GPU", _DRIVER))
        results = [self._device(index) for index in range(count)]
        return Found(
            devices=tuple(result for result in results if isinstance(result, Device)),
            absent=Support(reasons=tuple(result for result in results if isinstance(result, Missing))),
        )

    def _device(self, index: int) -> Device | Missing:
        handle = self._ask("nvmlDeviceGetHandleByIndex", index)
        gpu = handle if isinstance(handle, Missing) else self._gpu(handle)
        if isinstance(gpu, Missing):
            return Missing(code=gpu.code, why=f"cuda:{index}: {gpu.why}", cure=gpu.cure)
        return Device(
            name=f"cuda:{index}",
            kind="nvidia",
            title=f"{gpu.name} (MIG)" if gpu.mig is True else gpu.name,
            fingerprint=fingerprint(
                gpu.name,
                gpu.compute_capability,
                rounded_gib(gpu.memory_bytes),
                gpu.power_limit_w,
                gpu.sm_max_hz,
                gpu.mig,
                self._machine.virtual,
            ),
            profile=Missing(code="not_looked_up", why="the finder reads the machine and looks nothing up"),
            gpu=gpu,
            memory_bytes=gpu.memory_bytes,
            memory_limit_bytes=Missing(code="not_applicable", why="control groups do not limit GPU memory"),
            virtual=self._machine.virtual,
            container=self._machine.container,
            power_mode=Missing(code="not_applicable", why="nvpmodel is for Jetson; see the power limit"),
        )

    def _gpu(self, handle: Any) -> Gpu | Missing:
        name, uuid = self._text("nvmlDeviceGetName", handle), self._text("nvmlDeviceGetUUID", handle)
        if isinstance(name, Missing):
            return name
        if isinstance(uuid, Missing):
            return uuid
        capability = self._ask("nvmlDeviceGetCudaComputeCapability", handle)
        mig = self._ask("nvmlDeviceGetMigMode", handle)
        return Gpu(
            name=name,
            uuid=uuid,
            compute_capability=capability if isinstance(capability, Missing) else f"{capability[0]}.{capability[1]}",
            memory_bytes=self._memory_bytes(handle),
            driver_version=self._text("nvmlSystemGetDriverVersion"),
            cuda_version=self._cuda_version(),
            power_limit_w=self._number("nvmlDeviceGetEnforcedPowerLimit", handle, unit=1e-3),
            sm_max_hz=self._number("nvmlDeviceGetMaxClockInfo", handle, _CLOCK_SM, unit=1e6),
            mig=mig if isinstance(mig, Missing) else bool(mig[0]),
        )

    def _memory_bytes(self, handle: Any) -> int | Missing:
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        if isinstance(memory, Missing):
            shared = "an integrated GPU has no memory of its own" if memory.code == "not_supported" else None
            return Missing(code=memory.code, why=memory.why + (f": {shared}" if shared else ""), cure=memory.cure)
        return int(memory.total)

    def _cuda_version(self) -> str | Missing:
        version = self._ask("nvmlSystemGetCudaDriverVersion_v2")
        # NVML gives 12040 for 12.4.
        return version if isinstance(version, Missing) else f"{version // 1000}.{version % 1000 // 10}"

    def _text(self, function: str, *arguments: Any) -> str | Missing:
        value = self._ask(function, *arguments)
        if isinstance(value, Missing):
            return value
        # nvidia-ml-py before 11.515 returns bytes.
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def _number(self, function: str, *arguments: Any, unit: float) -> float | Missing:
        value = self._ask(function, *arguments)
        return value if isinstance(value, Missing) else value * unit

    def _ask(self, function: str, *arguments: Any) -> Any:
        """Call one NVML function; returns its value, or a Missing in its place."""
        call = getattr(self._nvml, function, None)
        if call is None:
            return Missing(
                code="library_too_old", why=f"the nvidia-ml-py here has no {function}", cure="upgrade nvidia-ml-py"
            )
        try:
            return call(*arguments)
        except self._nvml.NVMLError as error:
            return _reason(error)


def _reason(error: Any) -> Missing:
    """Translate an ``NVMLError`` by its number."""
    number = getattr(error, "value", 999)
    code, why, cure = ERRORS.get(number, ("nvml_unknown", f"NVML reports error {number}, which is new", None))
    return Missing(code=code, why=why, cure=cure)
