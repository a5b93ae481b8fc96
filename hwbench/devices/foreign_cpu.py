"""The CPU on macOS and Windows, through psutil and one system call of each.

Neither has a place where all of it can be read, so much is Missing here. ``isa`` holds those extensions
that the system can be asked about: on Windows that is ``avx2`` and ``avx512f`` (or ``neon`` and ``dotprod``) only.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Callable
from typing import Any, Final

from hwbench.devices.machine import Machine
from hwbench.errors import DeviceError
from hwbench.records.base import Missing
from hwbench.records.device import Cpu

Ask = Callable[[str], "bytes | None"]

_MAC_ISA: Final = {
    "avx2": "hw.optional.avx2_0",
    "avx512f": "hw.optional.avx512f",
    "neon": "hw.optional.AdvSIMD",
    "fp16": "hw.optional.arm.FEAT_FP16",
    "dotprod": "hw.optional.arm.FEAT_DotProd",
    "i8mm": "hw.optional.arm.FEAT_I8MM",
    "bf16": "hw.optional.arm.FEAT_BF16",
}
# PF_* numbers of IsProcessorFeaturePresent (winnt.h).
_WINDOWS_ISA: Final = {"avx2": 40, "avx512f": 41, "neon": 19, "dotprod": 43}


def read_foreign() -> tuple[Cpu, Machine]:
    """Read the CPU of a system that is not Linux.

    Raises:
        DeviceError: the system does not even tell the number of cores.
    """
    import psutil

    if platform.system() == "Darwin":
        model_name, isa = _mac(_sysctl)
    else:
        model_name, isa = _windows()
    memory = Machine(
        memory_bytes=int(psutil.virtual_memory().total),
        memory_limit_bytes=_untold("a memory limit"),
        virtual=_untold("a hypervisor"),
        container=_untold("a container"),
        board=None,
    )
    return as_cpu(psutil, model_name, isa), memory


def as_cpu(psutil: Any, model_name: str, isa: tuple[str, ...]) -> Cpu:
    """Put the record together from what ``psutil`` counts.

    psutil does not tell which logical CPUs share a core; both systems number them side by side.
    """
    physical, logical = psutil.cpu_count(logical=False), psutil.cpu_count(logical=True)
    if not physical or not logical:
        msg = f"{platform.system()} does not tell how many cores this machine has"
        raise DeviceError(msg)
    process = psutil.Process()
    usable = tuple(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else tuple(range(logical))
    return Cpu(
        model_name=model_name,
        vendor=_vendor(model_name),
        architecture={"AMD64": "x86_64", "ARM64": "aarch64", "arm64": "aarch64"}.get(
            platform.machine(), platform.machine()
        ),
        cpuid=_cpuid(os.environ.get("PROCESSOR_IDENTIFIER", "")),
        isa=isa,
        sockets=_untold("the number of sockets"),
        physical_cores=physical,
        logical_cpus=logical,
        threads_per_core=logical // physical if logical % physical == 0 else _untold("which CPUs share a core"),
        usable_cpus=usable,
        usable_cores=usable[:: max(1, logical // physical)],
        caches=(),
        numa_nodes=_untold("NUMA nodes"),
        max_hz=_max_hz(psutil),
        governor=_untold("a governor"),
        turbo=_untold("whether turbo is on"),
        quota_cpus=_untold("a CPU quota"),
    )


def _untold(what: str) -> Missing:
    return Missing(code="not_on_this_os", why=f"hwbench cannot read {what} on {platform.system()}")


def _vendor(model_name: str) -> str:
    known = (("Apple", "Apple"), ("Intel", "GenuineIntel"), ("AMD", "AuthenticAMD"), ("Snapdragon", "Qualcomm"))
    return next((vendor for word, vendor in known if word in model_name), "not told")


def _cpuid(identifier: str) -> str | Missing:
    """Read what Windows keeps in PROCESSOR_IDENTIFIER, ``Intel64 Family 6 Model 151 Stepping 2, GenuineIntel``."""
    match = re.search(r"Family (\d+) Model (\d+) Stepping (\d+), (\w+)", identifier)
    return "-".join((match[4], match[1], match[2], match[3])) if match else _untold("the CPU's numbers")


def _max_hz(psutil: Any) -> float | Missing:
    try:
        clock = psutil.cpu_freq()
    except (AttributeError, NotImplementedError, OSError, RuntimeError):  # psutil on some Apple silicon
        clock = None
    return clock.max * 1e6 if clock is not None and clock.max else _untold("the maximum clock")


def _mac(ask: Ask) -> tuple[str, tuple[str, ...]]:
    brand = ask("machdep.cpu.brand_string") or b""
    isa = tuple(name for name, key in _MAC_ISA.items() if any(ask(key) or b""))
    return brand.rstrip(b"\0").decode("utf-8", "replace") or "unnamed Mac CPU", isa


def _sysctl(name: str) -> bytes | None:
    """Return the raw value of a sysctl, None when there is none of that name; sysctlbyname(3)."""
    if sys.platform == "darwin":
        buffer, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
        failed = ctypes.CDLL(None).sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, ctypes.c_size_t(0))
        return None if failed else buffer.raw[: size.value]
    return None


def _windows() -> tuple[str, tuple[str, ...]]:
    if sys.platform == "win32":
        import winreg

        key = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as handle:
            name = str(winreg.QueryValueEx(handle, "ProcessorNameString")[0]).strip()
        has = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return name, tuple(feature for feature, number in _WINDOWS_ISA.items() if has(number))
    return platform.processor() or "unnamed CPU", ()
