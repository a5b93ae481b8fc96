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
from hwbench.devices.machine import read_machine
from hwbench.devices.tree import Tree
from hwbench.records.base import Missing, unsupported
from hwbench.records.device import Device, Found

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
        compatible = tree.text("proc/device-tree/compatible") or tree.text("sys/firmware/devicetree/base/compatible")
        if compatible is None or "nvidia,tegra" not in compatible:
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
        )
        return Found(devices=(device,))


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
    name = power_mode_names(tree.text("etc/nvpmodel.conf") or "").get(number)
    return f"{number}: {name}" if name else str(number)


def power_mode_names(configuration: str) -> dict[int, str]:
    """Return the names of the modes by number, from lines such as ``< POWER_MODEL ID=0 NAME=15W >``."""
    lines = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", configuration, re.MULTILINE)
    return {int(number): name for number, name in lines}
