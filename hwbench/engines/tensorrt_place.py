"""For which GPU a plan is built, and why one that was built cannot run where it is to.

A plan is tied to the compute capability, the operating system and the version of TensorRT; what loosens that
(``hardware``, ``versions`` of :mod:`hwbench.engines.tensorrt_options`) is in its settings. Sources: "Engine
Compatibility" and the support matrix of TensorRT 11.4 (docs.nvidia.com/deeplearning/tensorrt).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hwbench.cuda.driver import DriverFacts, SeenGpu, require_driver
from hwbench.engines.tensorrt_api import installed, installed_version, needed_cuda, version_of
from hwbench.errors import DeviceError, EngineError
from hwbench.quantize.nvidia import Flavour, capability_of, named
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.model import Artefact

_KINDS = ("nvidia", "jetson")
_NEWER_MAJORS = {(8, 10), (10, 11)}  # version-compatible plans of the first run on the second
_REBUILD = "build it again on this device: hwbench build MODEL --device {device} -e {engine}"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a plan is to run. ``cuda``: the version that the driver there implements, None without a driver."""

    capability: tuple[int, int]
    gpu: str
    uuid: str | None
    cuda: tuple[int, int] | None


def attached_place(device: Device, flavour: Flavour) -> Place:
    """Return where a plan for a device that is here runs.

    Raises:
        EngineError: no driver, or one that is too old.
        DeviceError: CUDA does not show that GPU.
    """
    facts = require_driver(needed_cuda(flavour))
    gpu = _gpu(device, facts)
    return Place(capability=gpu.compute_capability, gpu=gpu.name, uuid=gpu.uuid, cuda=facts.cuda)


def described_place(device: Device) -> Place:
    """Return where a plan for a device that is known from its profile runs.

    Raises:
        DeviceError: the profile tells no compute capability.
    """
    gpu = device.gpu
    capability = gpu.compute_capability if gpu is not None else None
    if not isinstance(capability, str):
        raise DeviceError(
            f"'{device.name}' has no compute capability in its profile, and a plan is built for one",
            hint=f"add compute_capability to profiles/{device.name}.toml",
        )
    return Place(capability=capability_of(capability), gpu=device.title, uuid=None, cuda=None)


def is_attached(device: Device) -> bool:
    """Say whether a device is here: what is known from a profile alone has no memory that was read."""
    memory = device.memory_limit_bytes
    return not (isinstance(memory, Missing) and memory.code == "not_attached")


def why_not(device: Device, artefact: Artefact | None, flavour: Flavour) -> Support:
    """Say whether a flavour can run on a device, and a plan it has built, from what is known without loading it."""
    if device.kind not in _KINDS:
        why = f"this engine runs on NVIDIA GPUs, not on '{device.name}'"
        return unsupported("wrong_device", why, "--device cuda:0; on a Jetson --device jetson")
    if flavour == "tensorrt-rtx" and device.kind == "jetson":
        why = "TensorRT-RTX runs on GeForce RTX and RTX PRO cards, not on Jetson"
        return unsupported("wrong_device", why, "-e tensorrt, with JetPack's own TensorRT")
    support = installed(flavour)
    if not support.usable:
        return support
    old = _old_driver(device, flavour)
    if old is not None:
        return Support(reasons=(old,))
    reason = None if artefact is None else _misfit(artefact, device, flavour)
    return Support() if reason is None else Support(reasons=(reason,))


def _old_driver(device: Device, flavour: Flavour) -> Missing | None:
    needed, told = needed_cuda(flavour), None if device.gpu is None else device.gpu.cuda_version
    if needed is None or not isinstance(told, str) or capability_of(told) >= needed:
        return None
    return Missing(
        code="driver_too_old",
        why=f"the installed {flavour} is for CUDA {needed[0]}, and the driver here implements CUDA {told}",
        cure=f"upgrade the NVIDIA driver; or pip uninstall the packages {flavour}-cu{needed[0]}*, then install "
        f"{flavour}-cu{capability_of(told)[0]}",
    )


def _misfit(artefact: Artefact, device: Device, flavour: Flavour) -> Missing | None:
    """Return why a plan that was built cannot run on a device, by its settings."""
    settings = artefact.settings
    cure = _REBUILD.format(device=device.name, engine=flavour)
    built_with, here = settings.get(flavour), installed_version(flavour)
    if built_with and here and not _runs(built_with, here, versions="VERSION_COMPATIBLE" in settings.get("flags", "")):
        why = f"it was built with {flavour} {built_with}, and {here} is installed here"
        return Missing(code="other_version", why=why, cure=f"install that version, or {cure}")
    built_for = settings.get("capability")
    capability = None if device.gpu is None else device.gpu.compute_capability
    if built_for is None or not isinstance(capability, str):
        return None  # on a Jetson the runtime itself has to tell
    level = settings.get("hardware_compatibility_level", "NONE")
    ampere_plus = level == "AMPERE_PLUS" and capability_of(capability) >= (8, 0) and device.kind != "jetson"
    if capability_of(capability) == capability_of(built_for) or ampere_plus:
        return None
    why = f"it was built for compute capability {built_for}, and '{device.name}' has {capability}"
    return Missing(code="other_gpu", why=why, cure=cure)


def _runs(built_with: str, here: str, *, versions: bool) -> bool:
    old, new = version_of(built_with)[:3], version_of(here)[:3]
    if old == new:
        return True
    return versions and new >= old and (old[0] == new[0] or (old[0], new[0]) in _NEWER_MAJORS)


def _gpu(device: Device, facts: DriverFacts) -> SeenGpu:
    uuid = device.gpu.uuid if device.gpu is not None else None
    if isinstance(uuid, str):
        found = facts.gpu(uuid)
        if found is not None:
            return found
        there = ", ".join(f"{gpu.name} ({named(gpu.compute_capability)})" for gpu in facts.gpus)
        raise DeviceError(
            f"CUDA does not show '{device.name}' ({uuid}) to this process; it shows {there}",
            hint="see whether CUDA_VISIBLE_DEVICES hides it",
        )
    index = re.fullmatch(r"cuda:(\d+)", device.name)
    number = int(index[1]) if index else 0
    if number >= len(facts.gpus):
        raise EngineError(f"there is no GPU {number}: CUDA shows {len(facts.gpus)}", hint="hwbench devices")
    return facts.gpus[number]
