"""NVML, the sensors on the boards of NVIDIA GPUs.

The energy counter is the total, and the integral of the instantaneous power is held against it; on GPUs without a
counter that moves, the integral is the total. Which sensors there are is in :mod:`hwbench.meters.nvml_channels`.

Power is that of the whole GPU. A MIG instance has none of its own: its device is refused, and where MIG is on, the
reading says that all instances are in it (``mig_whole_gpu``). On a Grace superchip the boundary is the module.

Asking NVML wakes a GPU that sleeps (some laptops), so what a cold idle draws cannot be seen with it.

Written against nvidia-ml-py and tested with the wrapper over a simulated driver: nothing here has been verified on a
GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwbench.energy.integrate import Sample, update_period_s
from hwbench.energy.update_period import DetectedPeriod, Timing, detect, keep, kept, nvidia_timing
from hwbench.meters.nvml_channels import (
    COUNTER,
    COUNTER_PERIOD_S,
    MODULE_POWER,
    Gpu,
    NvmlSource,
    counter_j,
    find_sources,
    instant_w,
)
from hwbench.nvml import Nvml as Api
from hwbench.nvml import load
from hwbench.records.base import Missing, Support
from hwbench.records.device import Device
from hwbench.records.energy import Provenance
from hwbench.units import Clock, MonotonicClock

_WATCH_S = 0.6  # several updates of the counter, at the longest that is told of
_WATCH_EVERY_S = 2e-3
_WATCH_CHANGES = 5
_MIG = "MIG instances have no power sensor: NVML tells the power of the whole GPU only"


class Nvml:
    """The meter.

    Args:
        driver: the module ``pynvml``, or what stands in for it; imported when not given.
        clock: tests pass a fake.
    """

    name = "nvml"
    priority = 60

    def __init__(self, driver: Any = None, clock: Clock | None = None) -> None:
        self._driver = driver
        self.clock = MonotonicClock() if clock is None else clock

    def supports(self, device: Device) -> Support:
        """Say whether the GPU tells energy or power; takes up to half a second.

        Codes: ``wrong_device``, ``no_uuid``, ``mig_instance``, ``not_installed``, ``wrong_package``, ``no_reading``,
        ``unit_guess``, and those of NVML's errors in :mod:`hwbench.nvml`.
        """
        gpu = self._start(device)
        if isinstance(gpu, Missing):
            return Support(reasons=(gpu,))
        try:
            sources = self._sources(gpu, nvidia_timing(gpu.capability), self._watch(gpu, changes=1))
            return Support(reasons=(sources,)) if isinstance(sources, Missing) else Support()
        finally:
            gpu.api.ask("nvmlShutdown")

    def open(self, device: Device) -> NvmlInstrument | Missing:
        """Find the sensors; see :meth:`supports` for the codes.

        Raises:
            StorageError: what :meth:`find_period` kept cannot be read.
        """
        gpu = self._start(device)
        if isinstance(gpu, Missing):
            return gpu
        try:
            timing = nvidia_timing(gpu.capability, kept(gpu.name, gpu.driver))
            watched = self._watch(gpu, changes=_WATCH_CHANGES)
            sources = self._sources(gpu, timing, watched)
        except BaseException:
            gpu.api.ask("nvmlShutdown")
            raise
        if isinstance(sources, Missing):
            gpu.api.ask("nvmlShutdown")
            return sources
        return NvmlInstrument(
            boundary=_boundary(gpu, sources),
            sources=sources,
            settings=_settings(gpu, timing, watched),
            gpu=gpu,
        )

    def find_period(self, device: Device, seconds: float = 3.0) -> DetectedPeriod | Missing:
        """Detect how often the instantaneous power changes, and keep that for this model of GPU and driver.

        To be called while the load on the GPU varies, or nothing changes. What is found holds from the next
        :meth:`open` on.

        Raises:
            StorageError: it cannot be kept.
        """
        gpu = self._start(device)
        if isinstance(gpu, Missing):
            return gpu
        try:
            samples: list[Sample] = []
            began_ns = self.clock.now_ns()
            while (now_s := (self.clock.now_ns() - began_ns) / 1e9) < seconds:
                power_w = instant_w(gpu)
                if isinstance(power_w, Missing):
                    return power_w
                samples.append(Sample(now_s, power_w))
                self.clock.sleep(_WATCH_EVERY_S / 2)
        finally:
            gpu.api.ask("nvmlShutdown")
        found = detect(samples)
        return found if isinstance(found, Missing) else keep(gpu.name, gpu.driver, found)

    def _start(self, device: Device) -> Gpu | Missing:
        """Initialise NVML and find the GPU; NVML stays initialised only where there is one to measure."""
        uuid = _uuid(device)
        if isinstance(uuid, Missing):
            return uuid
        driver = load() if self._driver is None else self._driver
        if isinstance(driver, Missing):
            return driver
        api = Api(driver)
        started = api.ask("nvmlInit")
        if isinstance(started, Missing):
            return started
        gpu = _gpu(api, uuid)
        if isinstance(gpu, Missing):
            api.ask("nvmlShutdown")
        return gpu

    def _watch(self, gpu: Gpu, *, changes: int) -> float | Missing:
        """Return how often the energy counter moves, seen over so many changes; or why it cannot be used."""
        samples: list[Sample] = []
        began_ns = self.clock.now_ns()
        while (now_s := (self.clock.now_ns() - began_ns) / 1e9) < _WATCH_S:
            value = counter_j(gpu)
            if isinstance(value, Missing):
                return value
            if samples and value < samples[-1].value:
                return Missing(code="counter_backwards", why="NVML's energy counter goes backwards")
            if not samples or value != samples[-1].value:
                samples.append(Sample(now_s, value))
            if len(samples) > changes:
                break
            self.clock.sleep(_WATCH_EVERY_S)
        if len(samples) < 2:
            return Missing(code="counter_constant", why=f"NVML's energy counter stood still for {_WATCH_S:g} s")
        # The first reading fell somewhere within an update.
        period_s = update_period_s(samples[1:], counter=True) if len(samples) > _WATCH_CHANGES else None
        return COUNTER_PERIOD_S if period_s is None else period_s

    @staticmethod
    def _sources(gpu: Gpu, timing: Timing, watched: float | Missing) -> tuple[NvmlSource, ...] | Missing:
        return find_sources(gpu, timing, None if isinstance(watched, Missing) else watched)


@dataclass(kw_only=True)
class NvmlInstrument:
    """The sensors of one GPU; NVML stays initialised until it is closed."""

    boundary: str
    sources: tuple[NvmlSource, ...]
    settings: Mapping[str, str]
    gpu: Gpu
    meter: str = Nvml.name
    provenance: Provenance = "measured_onboard"
    closed: bool = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.gpu.api.ask("nvmlShutdown")


def _uuid(device: Device) -> str | Missing:
    """Return by what NVML finds the GPU, or why it cannot be measured."""
    if device.kind != "nvidia":
        return Missing(code="wrong_device", why=f"nvml measures NVIDIA GPUs, not {device.name}")
    if device.gpu is None or isinstance(device.gpu.uuid, Missing):
        return Missing(code="no_uuid", why=f"{device.name} tells no UUID, by which NVML would find it")
    if device.gpu.uuid.startswith("MIG-"):
        return Missing(code="mig_instance", why=_MIG, cure="measure the whole GPU, with MIG off or all else idle")
    return device.gpu.uuid


def _gpu(api: Api, uuid: str) -> Gpu | Missing:
    handle = api.ask("nvmlDeviceGetHandleByUUID", uuid)
    if isinstance(handle, Missing):
        return handle
    name, driver = api.text("nvmlDeviceGetName", handle), api.text("nvmlSystemGetDriverVersion")
    if isinstance(name, Missing):
        return name
    if isinstance(driver, Missing):
        return driver
    capability = api.ask("nvmlDeviceGetCudaComputeCapability", handle)
    mig = api.ask("nvmlDeviceGetMigMode", handle)  # (now, after the next reset)
    linked = api.ask("nvmlDeviceGetC2cModeInfoV", handle)
    return Gpu(
        api=api,
        handle=handle,
        name=name,
        driver=driver,
        capability=capability if isinstance(capability, Missing) else f"{capability[0]}.{capability[1]}",
        mig=not isinstance(mig, Missing) and bool(mig[0]),
        superchip=not isinstance(linked, Missing) and bool(linked.isC2cEnabled),
    )


def _boundary(gpu: Gpu, sources: tuple[NvmlSource, ...]) -> str:
    names = {channel.name for source in sources for channel in source.channels}
    if MODULE_POWER in names:
        what = "superchip module, GPU and Grace CPU and the memory of both (NVML, scope MODULE)"
    elif gpu.superchip and COUNTER in names:
        what = "superchip module, GPU and Grace CPU and the memory of both (NVML's energy counter)"
    else:
        what = "GPU board (NVML, scope GPU), host not included"
    return f"{what}, all MIG instances together" if gpu.mig else what


def _settings(gpu: Gpu, timing: Timing, watched: float | Missing) -> dict[str, str]:
    """Return what the reader of a result must know about the instrument."""
    settings = {
        "gpu": gpu.name,
        "driver": gpu.driver,
        "update_period": _told(timing.period_s, timing.period_basis),
        "sensed": _told(timing.sensed_s, timing.sensed_basis),
        "energy_counter": f"not used: {watched.why}"
        if isinstance(watched, Missing)
        else f"moves every {watched:.3g} s",
    }
    limits = {
        "enforced": "nvmlDeviceGetEnforcedPowerLimit",
        "requested": "nvmlDeviceGetPowerManagementLimit",
        "default": "nvmlDeviceGetPowerManagementDefaultLimit",
    }
    for name, function in limits.items():
        limit = gpu.api.ask(function, gpu.handle)
        settings[f"power_limit_{name}"] = limit.why if isinstance(limit, Missing) else f"{limit / 1e3:g} W"
    if gpu.mig:
        settings["flags"] = "mig_whole_gpu"
    return settings


def _told(value_s: float | Missing, basis: str) -> str:
    return f"{value_s.why} ({basis})" if isinstance(value_s, Missing) else f"{value_s:.3g} s ({basis})"
