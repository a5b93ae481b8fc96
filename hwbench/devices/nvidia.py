"""NVIDIA GPUs, through NVML (the package ``nvidia-ml-py``, module ``pynvml``).

Of a GPU that is cut into MIG instances, each is a device of its own, ``cuda:0/mig:1``, numbered as ``nvidia-smi -L``
does. CUDA programs run on an instance, not on the GPU around it.

``cuda:N`` counts as ``nvidia-smi`` does: in PCI order, whatever ``CUDA_VISIBLE_DEVICES`` says. CUDA itself may count
in another order, so an engine selects by ``gpu.uuid``. NVML is initialised only while the finder looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from hwbench.devices.fingerprint import fingerprint, rounded_gib
from hwbench.devices.machine import Machine, read_machine
from hwbench.devices.tree import Tree
from hwbench.nvml import DRIVER_CURE, Nvml, load
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device, Found, Gpu, MigInstance

_CLOCK_SM = 1  # nvmlClockType_t NVML_CLOCK_SM


class NvidiaFinder:
    """Finds the GPUs of this machine, under the names ``cuda:0``, ``cuda:1``..."""

    name = "nvidia"

    def __init__(self, nvml: Any = None, root: Path | None = None) -> None:
        """Ask ``nvml`` (the module ``pynvml`` by default); what is not the GPU's is read below ``root``."""
        self._nvml = nvml
        self._tree = Tree(root)

    def find(self) -> Found:
        module = load() if self._nvml is None else self._nvml
        if isinstance(module, Missing):
            return Found(absent=Support(reasons=(module,)))
        nvml = Nvml(module)
        started = nvml.ask("nvmlInit")
        if isinstance(started, Missing):
            return Found(absent=Support(reasons=(started,)))
        try:
            return _Search(nvml, read_machine(self._tree)).found()
        finally:
            nvml.ask("nvmlShutdown")


class _Search:
    """One look at all GPUs, while NVML is initialised."""

    def __init__(self, nvml: Nvml, machine: Machine) -> None:
        self._nvml = nvml
        self._machine = machine

    def found(self) -> Found:
        count = self._nvml.ask("nvmlDeviceGetCount")
        if isinstance(count, Missing):
            return Found(absent=Support(reasons=(count,)))
        if count == 0:
            return Found(absent=unsupported("no_gpu", "the NVIDIA driver is here, but it sees no GPU", DRIVER_CURE))
        results = [found for index in range(count) for found in self._devices(index)]
        return Found(
            devices=tuple(result for result in results if isinstance(result, Device)),
            absent=Support(reasons=tuple(result for result in results if isinstance(result, Missing))),
        )

    def _devices(self, index: int) -> Iterator[Device | Missing]:
        """Yield a GPU, and after it the MIG instances that it is cut into."""
        handle, name = self._nvml.ask("nvmlDeviceGetHandleByIndex", index), f"cuda:{index}"
        gpu = handle if isinstance(handle, Missing) else self._gpu(handle)
        if isinstance(gpu, Missing):
            yield _named(name, gpu)
            return
        yield self._described(name, gpu)
        if gpu.mig is not True:
            return
        count = self._nvml.ask("nvmlDeviceGetMaxMigDeviceCount", handle)
        if isinstance(count, Missing):
            yield _named(f"{name}/mig", count)
            return
        for place in range(count):
            part = self._nvml.ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, place)
            if isinstance(part, Missing) and part.code == "not_found":
                continue  # a place that is not taken
            found = part if isinstance(part, Missing) else self._part(part, gpu, name)
            where = f"{name}/mig:{place}"
            yield _named(where, found) if isinstance(found, Missing) else self._described(where, found)

    def _described(self, name: str, gpu: Gpu) -> Device:
        sm_count = gpu.instance.sm_count if gpu.instance is not None else None
        return Device(
            name=name,
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
                *([] if sm_count is None else ["instance", sm_count]),
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
        name, uuid = self._nvml.text("nvmlDeviceGetName", handle), self._nvml.text("nvmlDeviceGetUUID", handle)
        if isinstance(name, Missing):
            return name
        if isinstance(uuid, Missing):
            return uuid
        capability = self._nvml.ask("nvmlDeviceGetCudaComputeCapability", handle)
        mig = self._nvml.ask("nvmlDeviceGetMigMode", handle)
        return Gpu(
            name=name,
            uuid=uuid,
            compute_capability=capability if isinstance(capability, Missing) else f"{capability[0]}.{capability[1]}",
            memory_bytes=self._memory_bytes(handle),
            driver_version=self._nvml.text("nvmlSystemGetDriverVersion"),
            cuda_version=self._cuda_version(),
            power_limit_w=self._number("nvmlDeviceGetEnforcedPowerLimit", handle, unit=1e-3),
            sm_max_hz=self._number("nvmlDeviceGetMaxClockInfo", handle, _CLOCK_SM, unit=1e6),
            mig=mig if isinstance(mig, Missing) else bool(mig[0]),
        )

    def _part(self, handle: Any, whole: Gpu, parent: str) -> Gpu | Missing:
        """Return a MIG instance: its own name, UUID and memory; what it has not of its own is its GPU's, or missing."""
        name, uuid = self._nvml.text("nvmlDeviceGetName", handle), self._nvml.text("nvmlDeviceGetUUID", handle)
        if isinstance(name, Missing):
            return name
        if isinstance(uuid, Missing):
            return uuid
        attributes = self._nvml.ask("nvmlDeviceGetAttributes_v2", handle)
        return msgspec.structs.replace(
            whole,
            name=name if "MIG" in name else f"{name} MIG",
            uuid=uuid,
            memory_bytes=self._memory_bytes(handle),
            power_limit_w=Missing(code="mig_instance", why=f"the power limit is that of all of {parent}"),
            mig=False,
            instance=MigInstance(
                parent=parent,
                parent_uuid=str(whole.uuid),
                gpu_instance=self._nvml.ask("nvmlDeviceGetGpuInstanceId", handle),
                compute_instance=self._nvml.ask("nvmlDeviceGetComputeInstanceId", handle),
                sm_count=attributes if isinstance(attributes, Missing) else int(attributes.multiprocessorCount),
            ),
        )

    def _memory_bytes(self, handle: Any) -> int | Missing:
        memory = self._nvml.ask("nvmlDeviceGetMemoryInfo", handle)
        if isinstance(memory, Missing):
            shared = "an integrated GPU has no memory of its own" if memory.code == "not_supported" else None
            return Missing(code=memory.code, why=memory.why + (f": {shared}" if shared else ""), cure=memory.cure)
        return int(memory.total)

    def _cuda_version(self) -> str | Missing:
        version = self._nvml.ask("nvmlSystemGetCudaDriverVersion_v2")
        # NVML gives 12040 for 12.4.
        return version if isinstance(version, Missing) else f"{version // 1000}.{version % 1000 // 10}"

    def _number(self, function: str, *arguments: Any, unit: float) -> float | Missing:
        value = self._nvml.ask(function, *arguments)
        return value if isinstance(value, Missing) else value * unit


def _named(name: str, reason: Missing) -> Missing:
    return Missing(code=reason.code, why=f"{name}: {reason.why}", cure=reason.cure)
