"""The state of the GPU that is measured, read before and after: clocks, heat, power, and what held the clocks down.

Of an NVIDIA GPU NVML tells it; of a Jetson's own GPU, which NVML knows little or nothing of, the kernel does
(:mod:`hwbench.measure.jetson_state`). A reader stays connected until its process ends: connecting takes longer than
reading, and would lie next to the timed region.

A MIG instance has neither clocks nor a temperature of its own: those of the whole GPU are read, and said to be.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from hwbench.measure.jetson_state import read_jetson
from hwbench.nvml import Nvml, load
from hwbench.records.base import Missing
from hwbench.records.device import Device
from hwbench.records.gpu import COVERED_BY, NOT_A_GPU, GpuState, Limited

GpuReader = Callable[[], "GpuState | Missing"]

REASONS: Final[dict[int, str]] = {
    0x1: "idle",
    0x2: "set_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
    0x100: "display_clock",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h: nvmlClocksEventReason*), under the names of our channels."""

_VIOLATIONS = {"power": 0, "thermal": 1}  # NVML_PERF_POLICY_POWER, _THERMAL of nvmlDeviceGetViolationStatus, ns
_CLOCK_SM, _CLOCK_MEMORY, _TEMPERATURE_GPU = 1, 2, 0
_HOPELESS = {"not_supported", "field_unknown", "driver_too_old", "library_too_old"}
_UNSET_CLOCKS = Missing(code="not_told", why="NVML does not tell between which clocks a GPU may choose")
_NO_EVENTS = Missing(code="not_applicable", why="NVML counts for how long, not how often")


def gpu_reader(device: Device, *, driver: Any = None, root: Path | None = None) -> GpuReader:
    """Return what reads the state of ``device`` now; it never fails, and where there is no GPU says so.

    Args:
        device: what is measured.
        driver: the module ``pynvml``, or what stands in for it; loaded when not given.
        root: what lies above ``sys/``, for a Jetson; the system's own by default.
    """
    if device.kind == "jetson":
        return lambda: read_jetson(root)
    if device.kind != "nvidia" or device.gpu is None:
        return lambda: NOT_A_GPU
    if isinstance(device.gpu.uuid, Missing):
        why = device.gpu.uuid
        return lambda: why
    return Card(device.gpu.uuid, device.name, driver).read


class Card:
    """One GPU of NVML's, connected to when it is first asked.

    Args:
        uuid: of the GPU or the MIG instance.
        name: ``cuda:0``.
        driver: the module ``pynvml``, or what stands in for it; loaded when not given.
    """

    def __init__(self, uuid: str, name: str, driver: Any = None) -> None:
        self.uuid, self.name, self._driver = uuid, name, driver
        self._api: Nvml | Missing | None = None
        self._handle: Any = None

    def ask(self, function: str, *arguments: Any) -> Any:
        """Ask about this GPU, the whole of it where it is a MIG instance; returns a value or a Missing."""
        api = self.connect()
        return api if isinstance(api, Missing) else api.ask(function, self._handle, *arguments)

    def number(self, function: str, *arguments: Any, unit: float) -> float | Missing:
        """Ask for one number, and bring it to SI."""
        value = self.ask(function, *arguments)
        return value if isinstance(value, Missing) else value * unit

    def connect(self) -> Nvml | Missing:
        """Initialise NVML and find the GPU, once; NVML stays initialised until the process ends."""
        if self._api is None:
            self._api = self._connected()
        return self._api

    def read(self) -> GpuState | Missing:
        """Return the state now."""
        api = self.connect()
        if isinstance(api, Missing):
            return api
        part = self.uuid.startswith("MIG-")
        memory = self.ask("nvmlDeviceGetMemoryInfo")
        state = self.ask("nvmlDeviceGetPerformanceState")
        return GpuState(
            of=f"the whole GPU that {self.name} is a part of" if part else self.name,
            sm_hz=self.number("nvmlDeviceGetClockInfo", _CLOCK_SM, unit=1e6),
            memory_hz=self.number("nvmlDeviceGetClockInfo", _CLOCK_MEMORY, unit=1e6),
            sm_least_hz=_UNSET_CLOCKS,
            sm_most_hz=_UNSET_CLOCKS,
            temperature_c=self.temperature(),
            power_w=self.number("nvmlDeviceGetPowerUsage", unit=1e-3),
            performance_state=state if isinstance(state, Missing) else f"P{state}",
            limited_by=self.limited_by(),
            limited=self._limited(api),
            throttle_events=_NO_EVENTS,
            power_limit_w=self.number("nvmlDeviceGetEnforcedPowerLimit", unit=1e-3),
            default_power_limit_w=self.number("nvmlDeviceGetPowerManagementDefaultLimit", unit=1e-3),
            memory_used_bytes=memory if isinstance(memory, Missing) else int(memory.used),
        )

    def limited_by(self) -> tuple[str, ...] | Missing:
        """Return why the clocks are held down now; a bit that is new keeps its number."""
        mask = self.ask("nvmlDeviceGetCurrentClocksEventReasons")
        if isinstance(mask, Missing) and mask.code in _HOPELESS:  # a driver or wrapper from before the rename
            mask = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        if isinstance(mask, Missing):
            return mask
        bits = [1 << place for place in range(int(mask).bit_length()) if mask & (1 << place)]
        return tuple(REASONS.get(bit, f"reason_{bit:#x}") for bit in bits)

    def _connected(self) -> Nvml | Missing:
        driver = load() if self._driver is None else self._driver
        if isinstance(driver, Missing):
            return driver
        api = Nvml(driver)
        for function, arguments in (("nvmlInit", ()), ("nvmlDeviceGetHandleByUUID", (self.uuid,))):
            answer = api.ask(function, *arguments)
            if isinstance(answer, Missing):
                return answer
            self._handle = answer
        if self.uuid.startswith("MIG-"):
            whole = api.ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", self._handle)
            if isinstance(whole, Missing):
                return whole
            self._handle = whole
        return api

    def temperature(self) -> float | Missing:
        """Return the temperature of the GPU, in degrees Celsius."""
        value = self.number("nvmlDeviceGetTemperatureV", _TEMPERATURE_GPU, unit=1.0)
        if isinstance(value, Missing) and value.code in _HOPELESS:
            value = self.number("nvmlDeviceGetTemperature", _TEMPERATURE_GPU, unit=1.0)
        return value

    def _limited(self, api: Nvml) -> tuple[Limited, ...] | Missing:
        """Return the counters that this driver has, and nvmlDeviceGetViolationStatus for what has none."""
        told = self._counters(api)
        absent = {name: value for name, value in told.items() if isinstance(value, Missing)}
        for name in dict.fromkeys(COVERED_BY[name] for name in absent if name in COVERED_BY):
            status = self.ask("nvmlDeviceGetViolationStatus", _VIOLATIONS[name])
            told[name] = status if isinstance(status, Missing) else float(status.violationTime)
        known = [(name, value) for name, value in told.items() if not isinstance(value, Missing)]
        if not known:
            return next(iter(absent.values()))
        return tuple(Limited(reason=name, held_s=value * 1e-9) for name, value in known)

    def _counters(self, api: Nvml) -> dict[str, float | Missing]:
        """Return each counter in nanoseconds."""
        numbers = api.counter_fields()
        named = {name: number for name, number in numbers.items() if not isinstance(number, Missing)}
        values = api.fields(self._handle, [(number, 0) for number in named.values()])
        return {**numbers, **dict(zip(named, values, strict=True))}
