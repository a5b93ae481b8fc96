"""An NVIDIA Jetson board, by its device tree; its power mode, by the files that ``nvpmodel`` leaves.

Nothing is started and no privilege is needed. In a container those files must be mounted; what is not there is a
reason in the record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hwbench.devices import cpuinfo
from hwbench.devices.cpu import NOT_LOOKED_UP, read_cpu
from hwbench.devices.fingerprint import fingerprint, rounded_gib
from hwbench.devices.jetpack import shipped
from hwbench.devices.jetson_clocks import gpu_max_hz, power_modes
from hwbench.devices.machine import read_machine
from hwbench.devices.tree import Tree
from hwbench.records.base import Missing, unsupported
from hwbench.records.device import Device, Found, Gpu

_GPUS = {  # by chip: the GPU's name and its compute capability (developer.nvidia.com/cuda-gpus)
    "tegra210": ("Tegra X1 GPU (Maxwell)", "5.3"),
    "tegra186": ("Tegra X2 GPU (Pascal)", "6.2"),
    "tegra194": ("Xavier GPU (Volta)", "7.2"),
    "tegra234": ("Orin GPU (Ampere)", "8.7"),
    "tegra264": ("Thor GPU (Blackwell)", "11.0"),
}
_INTEGRATED = Missing(code="not_told", why="the device tree does not tell it, and NVML does not know a Jetson's GPU")
_MOUNT = "in a container, mount /var/lib/nvpmodel/status and /etc/nvpmodel.conf read-only"


class JetsonFinder:
    """Finds the Jetson that this process runs on, under the name ``jetson``."""

    name = "jetson"

    def __init__(self, root: Path | None = None, affinity: Iterable[int] | None = None) -> None:
        """Read below ``root``; ``affinity`` as for :class:`~hwbench.devices.cpu.CpuFinder`."""
        self._tree = Tree(root)
        self._affinity = frozenset(affinity) if affinity is not None else None

    def find(self) -> Found:
        tree = self._tree
        compatible = _compatible(tree)
        if not is_jetson(tree):
            return Found(absent=unsupported("not_a_jetson", "the device tree does not name an NVIDIA Tegra board"))
        text = tree.text("proc/cpuinfo") or ""
        blocks = cpuinfo.parse(text)
        if not blocks:
            return Found(absent=unsupported("not_exposed", "/proc/cpuinfo cannot be read", "mount /proc"))
        machine = read_machine(tree, text)
        cpu = read_cpu(tree, blocks, virtual=isinstance(machine.virtual, str), affinity=self._affinity)
        board, module, release, mode = machine.board, _module(compatible), l4t_release(tree), power_mode(tree)
        details = ", ".join([*([module] if module else []), *([f"L4T {release}"] if isinstance(release, str) else [])])
        name = board or "NVIDIA Jetson"
        device = Device(
            name="jetson",
            kind="jetson",
            title=f"{name} ({details})" if details else name,
            fingerprint=fingerprint(
                name, module, release, mode, cpu.cpuid, cpu.logical_cpus, rounded_gib(machine.memory_bytes)
            ),
            profile=NOT_LOOKED_UP,
            cpu=cpu,
            memory_bytes=machine.memory_bytes,
            memory_limit_bytes=machine.memory_limit_bytes,
            virtual=machine.virtual,
            container=machine.container,
            power_mode=mode,
            jetpack=release if isinstance(release, Missing) else shipped(release),
            gpu=_gpu(tree, compatible),
        )
        return Found(devices=(device,))


def _gpu(tree: Tree, compatible: str) -> Gpu | None:
    """Return the GPU on the chip, as far as the device tree and the kernel tell; None for a chip that is not known."""
    known = next((gpu for chip, gpu in _GPUS.items() if chip in compatible), None)
    if known is None:
        return None
    name, capability = known
    return Gpu(
        name=name,
        uuid=_INTEGRATED,
        compute_capability=capability,
        memory_bytes=Missing(code="unified_memory", why="CPU and GPU share one memory: see that of the device"),
        driver_version=_INTEGRATED,
        cuda_version=_INTEGRATED,
        power_limit_w=Missing(code="not_applicable", why="a Jetson has power modes; see the power mode"),
        sm_max_hz=gpu_max_hz(tree),
        mig=False,
    )


def is_jetson(tree: Tree) -> bool:
    """Say whether the device tree names a Tegra."""
    return "nvidia,tegra" in _compatible(tree)


def _compatible(tree: Tree) -> str:
    return tree.text("proc/device-tree/compatible") or tree.text("sys/firmware/devicetree/base/compatible") or ""


def _module(compatible: str) -> str | None:
    """Return the module's part number, ``p3767-0005``.

    An entry is ``nvidia,MODULE`` or ``nvidia,CARRIER+MODULE``, and the module stands last in each.
    """
    numbers = re.findall(r"p\d{4}-\d{4}", compatible.split("\0", maxsplit=1)[0])
    return numbers[-1] if numbers else None


def l4t_release(tree: Tree) -> str | Missing:
    """Return the L4T version, ``36.4.3``.

    The file begins with ``# R36 (release), REVISION: 4.3, ...``.
    """
    text = tree.text("etc/nv_tegra_release")
    match = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text or "")
    if match is None:
        return Missing(code="not_found", why="/etc/nv_tegra_release does not tell the L4T version")
    return f"{match[1]}.{match[2]}"


def power_mode(tree: Tree) -> str | Missing:
    """Return the active power mode as ``2: MAXN_SUPER``, number and name.

    Numbers mean different modes from one module and JetPack to the next, and names do not tell them all apart. A mode
    that the configuration does not name is given by number alone.
    """
    match = re.search(r"pmode:(\d+)", tree.text("var/lib/nvpmodel/status") or "")
    if match is None:
        return Missing(code="not_found", why="/var/lib/nvpmodel/status does not tell the power mode", cure=_MOUNT)
    number = int(match[1])
    modes = power_modes(tree.text("etc/nvpmodel.conf") or "")
    name = next((mode.name for mode in modes if mode.number == number), None)
    return f"{number}: {name}" if name else str(number)
