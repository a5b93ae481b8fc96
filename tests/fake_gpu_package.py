"""A GPU for commands in processes of their own: a module ``pynvml`` whose state is a file, in a folder for PYTHONPATH.

What hwbench reads of NVML is tested with NVIDIA's own wrapper (``fake_nvml``); here it matters who changes the state,
and that it is put back whichever process does it.
"""

from __future__ import annotations

import json

UUID = "GPU-5c0f6a4e-0000-0000-0000-000000000001"
START = {"locked": None, "limit_mw": 700_000, "persistence": 0}
MODULE = """
import json, os, pathlib
from types import SimpleNamespace

STATE = pathlib.Path(os.environ["FAKE_GPU"])


class NVMLError(Exception):
    value = 3


def _nvmlGetFunctionPointer(name):
    raise NVMLError


def _state(**changes):
    state = json.loads(STATE.read_text()) | changes
    if changes:
        STATE.write_text(json.dumps(state))
    return state


def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return 0
def nvmlDeviceGetHandleByUUID(uuid): return 0
def nvmlDeviceGetName(handle): return "Fake GPU"
def nvmlDeviceGetUUID(handle): return "UUID-HERE"
def nvmlSystemGetDriverVersion(): return "580.1"
def nvmlSystemGetCudaDriverVersion_v2(): return 13000
def nvmlDeviceGetCudaComputeCapability(handle): return 9, 0
def nvmlDeviceGetMigMode(handle): return 0, 0
def nvmlDeviceGetComputeRunningProcesses_v3(handle): return []
def nvmlDeviceGetMemoryInfo(handle, version=None): return SimpleNamespace(total=1 << 34, used=3 << 30)
def nvmlDeviceGetClockInfo(handle, kind): return (_state()["locked"] or [1980])[-1]
def nvmlDeviceGetMaxClockInfo(handle, kind): return 1980
def nvmlDeviceGetEnforcedPowerLimit(handle): return _state()["limit_mw"]
def nvmlDeviceGetPowerManagementDefaultLimit(handle): return 700000
def nvmlDeviceGetPowerManagementLimit(handle): return _state()["limit_mw"]
def nvmlDeviceGetPowerManagementLimitConstraints(handle): return [200000, 700000]
def nvmlDeviceSetPowerManagementLimit(handle, limit): _state(limit_mw=limit)
def nvmlDeviceGetPersistenceMode(handle): return _state()["persistence"]
def nvmlDeviceSetPersistenceMode(handle, mode): _state(persistence=mode)
def nvmlDeviceGetSupportedMemoryClocks(handle): return [2619]
def nvmlDeviceGetSupportedGraphicsClocks(handle, memory): return list(range(1980, 195, -15))
def nvmlDeviceSetGpuLockedClocks(handle, least, most): _state(locked=[least, most])
def nvmlDeviceResetGpuLockedClocks(handle): _state(locked=None)
""".replace("UUID-HERE", UUID)
SITE = """
import os
import hwbench.nvml
hwbench.nvml.has_driver_library = lambda: True
os.geteuid = lambda: int(os.environ.get("FAKE_EUID", "0"))
"""


def gpu_package(folder):
    """Write the module into ``folder``; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pynvml.py").write_text(MODULE)
    (folder / "sitecustomize.py").write_text(SITE)
    return folder


class GpuState:
    """The GPU's state, as a file that every process of a test reads and writes."""

    def __init__(self, path):
        self.path = path
        path.write_text(json.dumps(START))

    def now(self):
        return json.loads(self.path.read_text())
