"""A driver that is not there: NVML's C functions in Python, below NVIDIA's own wrapper.

The real module ``pynvml`` runs on top of it, so what hwbench calls, the structures it reads and the constants it uses
are those of nvidia-ml-py. Only the C library is pretended.
"""

from __future__ import annotations

import math

import msgspec
import pytest

from hwbench.records.base import Missing
from hwbench.records.device import Gpu
from hwbench.testing import example_cpu

pynvml = pytest.importorskip("pynvml")

UUID = "GPU-5c0f6a4e-0000-0000-0000-000000000001"
NOT_SUPPORTED, NO_PERMISSION, INVALID_ARGUMENT = 3, 4, 2
ENERGY, AVERAGE, INSTANT = 83, 185, 186
MEMORY_GB = 80 * 2**30


def example_gpu(**changes):
    unknown = Missing(code="example", why="an example device does not know")
    gpu = Gpu(
        name="NVIDIA H100 80GB HBM3", uuid=changes.pop("uuid", UUID), compute_capability="9.0", memory_bytes=MEMORY_GB,
        driver_version=unknown, cuda_version=unknown, power_limit_w=unknown, sm_max_hz=unknown, mig=False,
    )  # fmt: skip
    return msgspec.structs.replace(example_cpu(), name="cuda:0", kind="nvidia", cpu=None, gpu=gpu, **changes)


class FakeDriver:
    """One GPU, whose sensors follow ``clock`` and ``power_w(t_s)``.

    ``instant``: the sensor looks at ``sensed_s`` of every ``period_s``. The counter adds up ``counted`` times the
    energy, in steps of ``counter_period_s``. ``failing``: return codes by function; ``fields``: by (field, scope).
    """

    def __init__(self, clock, power_w=lambda t_s: 300.0, **settings):
        self.clock, self.power_w = clock, power_w
        self.began_ns = clock.now_ns()
        self.running = self._summed = 0
        self._joules, self._shown = 0.0, (-1, 0.0)
        self.calls = []
        self.failing = {"nvmlDeviceGetC2cModeInfoV": NOT_SUPPORTED}
        self.fields = {(INSTANT, 1): NOT_SUPPORTED, (AVERAGE, 1): NOT_SUPPORTED}
        self.period_s, self.sensed_s, self.counter_period_s, self.counted = 0.1, 0.025, 0.1, 1.0
        self.capability, self.mig, self.c2c, self.counter_mj = (9, 0), (0, 0), 0, 5_000_000
        self.memory_w, self.module_w, self.throttled_ns = 60.0, 0.0, dict.fromkeys((74, 76, 269, 270, 271), 0)
        self.used, self.processes, self.reserved = 2 * 2**30, {}, 600 * 2**20
        self.sm_mhz, self.reasons, self.violations_ns = 1980, 0, {0: 0, 1: 0}
        self.locked, self.memory_locked, self.limit_mw, self.persistence = None, None, 700_000, 0
        self.memory_mhz, self.graphics_mhz = (2619, 1593), tuple(range(1980, 195, -15))
        self.drawing, self.served, self.compute_mode = {}, {}, 0
        self.ecc, self.ecc_errors, self.rows, self.margin_c = (1, 1), {0: 0, 1: 0}, (0, 0, 0, 0), 26
        self.enforced_mw = 650_000  # another limiter's
        self.instance_of = None  # the UUID of a MIG instance
        for name, value in settings.items():
            assert hasattr(self, name), name
            current = getattr(self, name)
            setattr(self, name, {**current, **value} if isinstance(current, dict) else value)

    def install(self, monkeypatch):
        """Put this driver below the real wrapper and return the module."""
        monkeypatch.setattr(pynvml, "_LoadNvmlLibrary", lambda: None)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", self.pointer)
        return pynvml

    def pointer(self, name):
        function = getattr(self, f"c_{name}", None)
        if function is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

        def call(*arguments):
            self.calls.append(name)
            assert self.running or name in {"nvmlInitWithFlags", "nvmlInit_v2"}, f"{name} without nvmlInit"
            if self.failing.get(name):
                return self.failing[name]
            return function(*arguments) or 0

        return call

    def now_s(self):
        return (self.clock.now_ns() - self.began_ns) / 1e9

    def mean_w(self, start_s, end_s, steps=50):
        width = (end_s - start_s) / steps
        return math.fsum(self.power_w(start_s + (i + 0.5) * width) for i in range(steps)) / steps

    def instant_w(self):
        number = math.floor(self.now_s() / self.period_s + 1e-9)
        if self._shown[0] != number:
            update_s = number * self.period_s
            self._shown = (number, self.mean_w(update_s - self.sensed_s, update_s))
        return self._shown[1]

    def energy_mj(self):
        updates = math.floor(self.now_s() / self.counter_period_s + 1e-9)
        while self._summed < updates:
            edges = (self._summed * self.counter_period_s, (self._summed + 1) * self.counter_period_s)
            self._joules += self.mean_w(*edges) * self.counter_period_s
            self._summed += 1
        return self.counter_mj + round(1000 * self.counted * self._joules)

    # the C functions

    def c_nvmlInitWithFlags(self, flags):  # noqa: N802 - NVML's names
        self.running += 1

    def c_nvmlShutdown(self):  # noqa: N802
        self.running -= 1

    def c_nvmlDeviceGetHandleByUUID(self, uuid, device):  # noqa: N802
        return 0 if uuid.value.decode() in {UUID, self.instance_of} else pynvml.NVML_ERROR_NOT_FOUND

    def c_nvmlDeviceGetName(self, handle, text, size):  # noqa: N802
        text.value = b"NVIDIA H100 80GB HBM3"

    def c_nvmlSystemGetDriverVersion(self, text, size):  # noqa: N802
        text.value = b"580.65.06"

    def c_nvmlDeviceGetCudaComputeCapability(self, handle, major, minor):  # noqa: N802
        major._obj.value, minor._obj.value = self.capability

    def c_nvmlDeviceGetMigMode(self, handle, current, pending):  # noqa: N802
        current._obj.value, pending._obj.value = self.mig

    def c_nvmlDeviceGetC2cModeInfoV(self, handle, info):  # noqa: N802
        info._obj.isC2cEnabled = self.c2c

    def c_nvmlDeviceGetPowerUsage(self, handle, milliwatts):  # noqa: N802
        milliwatts._obj.value = round(1000 * self.instant_w())

    def c_nvmlDeviceGetEnforcedPowerLimit(self, handle, milliwatts):  # noqa: N802
        milliwatts._obj.value = min(self.limit_mw, self.enforced_mw)

    def c_nvmlDeviceGetPowerManagementLimit(self, handle, milliwatts):  # noqa: N802
        milliwatts._obj.value = self.limit_mw

    def c_nvmlDeviceGetPowerManagementDefaultLimit(self, handle, milliwatts):  # noqa: N802
        milliwatts._obj.value = 700_000

    def c_nvmlDeviceGetTemperatureV(self, handle, temperature):  # noqa: N802
        assert temperature._obj.sensorType == pynvml.NVML_TEMPERATURE_GPU
        temperature._obj.temperature = 61

    def c_nvmlDeviceGetTemperature(self, handle, sensor, temperature):  # noqa: N802
        temperature._obj.value = 60

    def c_nvmlDeviceGetClockInfo(self, handle, kind, megahertz):  # noqa: N802
        megahertz._obj.value = {pynvml.NVML_CLOCK_SM: self.sm_mhz, pynvml.NVML_CLOCK_MEM: 2619}[kind.value]

    def c_nvmlDeviceGetMaxClockInfo(self, handle, kind, megahertz):  # noqa: N802
        megahertz._obj.value = {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619}[kind.value]

    def c_nvmlDeviceGetFieldValues(self, handle, count, values):  # noqa: N802
        for entry in values._obj:
            code = self.fields.get((entry.fieldId, entry.scopeId), 0)
            entry.nvmlReturn = code
            if code == 0:
                self.fill(entry)

    def fill(self, entry):
        field, scope = entry.fieldId, entry.scopeId
        if field == ENERGY:
            entry.valueType, entry.value.ullVal = pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, self.energy_mj()
        elif field in self.throttled_ns:
            entry.valueType, entry.value.ullVal = pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, self.throttled_ns[field]
        elif field in {INSTANT, AVERAGE}:
            now_s = self.now_s()
            own_w = self.instant_w() if field == INSTANT else self.mean_w(now_s - 1, now_s)
            watts = {0: own_w, 1: own_w + self.module_w, 2: self.memory_w}[scope]
            entry.valueType, entry.value.uiVal = pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, round(1000 * watts)
        elif field == pynvml.NVML_FI_DEV_MEMORY_TEMP:
            entry.valueType, entry.value.uiVal = pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, 72
        else:
            entry.nvmlReturn = INVALID_ARGUMENT

    def c_nvmlDeviceGetMemoryInfo(self, handle, memory):  # noqa: N802
        memory._obj.total, memory._obj.used = MEMORY_GB, self.used + self.reserved

    def c_nvmlDeviceGetMemoryInfo_v2(self, handle, memory):  # noqa: N802
        assert memory._obj.version == pynvml.nvmlMemory_v2
        memory._obj.total, memory._obj.used, memory._obj.reserved = MEMORY_GB, self.used, self.reserved

    def c_nvmlDeviceGetComputeRunningProcesses_v3(self, handle, count, processes):  # noqa: N802
        return listed(self.processes, count, processes)

    def c_nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle, count, processes):  # noqa: N802
        return listed(self.drawing, count, processes)

    def c_nvmlDeviceGetMPSComputeRunningProcesses_v3(self, handle, count, processes):  # noqa: N802
        return listed(self.served, count, processes)

    # its state, and what can be set

    def c_nvmlDeviceGetPerformanceState(self, handle, state):  # noqa: N802
        state._obj.value = 0

    def c_nvmlDeviceGetCurrentClocksEventReasons(self, handle, mask):  # noqa: N802
        mask._obj.value = self.reasons

    def c_nvmlDeviceGetCurrentClocksThrottleReasons(self, handle, mask):  # noqa: N802
        mask._obj.value = self.reasons

    def c_nvmlDeviceGetViolationStatus(self, handle, policy, status):  # noqa: N802
        status._obj.violationTime = self.violations_ns[policy.value]

    def c_nvmlDeviceGetSupportedMemoryClocks(self, handle, count, clocks):  # noqa: N802
        return filled(self.memory_mhz, count, clocks)

    def c_nvmlDeviceGetSupportedGraphicsClocks(self, handle, memory_mhz, count, clocks):  # noqa: N802
        assert memory_mhz.value in self.memory_mhz
        return filled(self.graphics_mhz, count, clocks)

    def c_nvmlDeviceSetGpuLockedClocks(self, handle, least, most):  # noqa: N802
        self.locked = (least.value, most.value)

    def c_nvmlDeviceResetGpuLockedClocks(self, handle):  # noqa: N802
        self.locked = None

    def c_nvmlDeviceSetMemoryLockedClocks(self, handle, least, most):  # noqa: N802
        self.memory_locked = (least.value, most.value)

    def c_nvmlDeviceResetMemoryLockedClocks(self, handle):  # noqa: N802
        self.memory_locked = None

    def c_nvmlDeviceGetPowerManagementLimitConstraints(self, handle, least, most):  # noqa: N802
        least._obj.value, most._obj.value = 200_000, 700_000

    def c_nvmlDeviceSetPowerManagementLimit(self, handle, milliwatts):  # noqa: N802
        if not 200_000 <= milliwatts.value <= 700_000:
            return INVALID_ARGUMENT
        self.limit_mw = milliwatts.value
        return 0

    def c_nvmlDeviceGetPersistenceMode(self, handle, mode):  # noqa: N802
        mode._obj.value = self.persistence

    def c_nvmlDeviceSetPersistenceMode(self, handle, mode):  # noqa: N802
        self.persistence = mode.value

    # its health

    def c_nvmlDeviceGetComputeMode(self, handle, mode):  # noqa: N802
        mode._obj.value = self.compute_mode

    def c_nvmlDeviceGetEccMode(self, handle, current, pending):  # noqa: N802
        current._obj.value, pending._obj.value = self.ecc

    def c_nvmlDeviceGetTotalEccErrors(self, handle, kind, since, count):  # noqa: N802
        assert since.value == pynvml.NVML_VOLATILE_ECC
        count._obj.value = self.ecc_errors[kind.value]

    def c_nvmlDeviceGetRemappedRows(self, handle, corrected, uncorrected, pending, failed):  # noqa: N802
        for place, value in zip((corrected, uncorrected, pending, failed), self.rows, strict=True):
            place._obj.value = value

    def c_nvmlDeviceGetMarginTemperature(self, handle, margin):  # noqa: N802
        margin._obj.marginTemperature = self.margin_c

    def c_nvmlDeviceGetTemperatureThreshold(self, handle, kind, celsius):  # noqa: N802
        celsius._obj.value = {pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN: 87}[kind.value]

    def c_nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, instance, device):  # noqa: N802
        assert self.instance_of is not None


def filled(values, count, clocks):
    """Answer a call for a list of clocks: first for its length, then for it."""
    if clocks is None:
        count._obj.value = len(values)
        return pynvml.NVML_ERROR_INSUFFICIENT_SIZE if values else 0
    for place, value in enumerate(values):
        clocks[place] = value
    return 0


def listed(running, count, processes):
    """Answer a call for processes: first for their number, then for them."""
    if processes is None:
        count._obj.value = len(running)
        return pynvml.NVML_ERROR_INSUFFICIENT_SIZE if running else 0
    for entry, (pid, used) in zip(processes, running.items(), strict=False):
        entry.pid = pid
        entry.usedGpuMemory = pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value if used is None else used
    count._obj.value = len(running)
    return 0
