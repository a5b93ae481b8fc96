"""This machine's CPU: the device that is always here.

On Linux everything is read from ``/proc`` and ``/sys`` (:mod:`cpuinfo`, :mod:`topology`, :mod:`clocks`, :mod:`cgroup`,
:mod:`machine`, all in this folder); macOS and Windows tell less, and :mod:`foreign_cpu` says what is missing.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path

from hwbench.devices import cgroup, clocks, cpuinfo
from hwbench.devices.fingerprint import fingerprint, rounded_gib
from hwbench.devices.machine import Machine, read_machine
from hwbench.devices.topology import read_caches, read_topology
from hwbench.devices.tree import Tree, cpu_list
from hwbench.records.base import Missing, unsupported
from hwbench.records.device import Cpu, Device, Found

NOT_LOOKED_UP = Missing(code="not_looked_up", why="the finder reads the machine and looks nothing up")


class CpuFinder:
    """Finds the CPU that this process runs on, under the name ``cpu``."""

    name = "cpu"

    def __init__(self, root: Path | None = None, affinity: Iterable[int] | None = None) -> None:
        """Read below ``root``; ``affinity`` are the logical CPUs to take as allowed, this process's by default."""
        self._tree = Tree(root)
        self._affinity = frozenset(affinity) if affinity is not None else None

    def find(self) -> Found:
        text = self._tree.text("proc/cpuinfo")
        if text is not None:
            return _found(self._tree, text, self._affinity)
        if platform.system() == "Linux":
            return Found(absent=unsupported("not_exposed", "/proc/cpuinfo cannot be read", "mount /proc"))
        from hwbench.devices.foreign_cpu import read_foreign

        return Found(devices=(as_device(*read_foreign()),))


def _found(tree: Tree, text: str, affinity: frozenset[int] | None) -> Found:
    blocks = cpuinfo.parse(text)
    if not blocks:
        return Found(absent=unsupported("not_exposed", "/proc/cpuinfo lists no processor"))
    machine = read_machine(tree, text)
    cpu = read_cpu(tree, blocks, virtual=isinstance(machine.virtual, str), affinity=affinity)
    return Found(devices=(as_device(cpu, machine),))


def read_cpu(tree: Tree, blocks: list[dict[str, str]], *, virtual: bool, affinity: frozenset[int] | None = None) -> Cpu:
    """Read the CPU; ``blocks`` is ``/proc/cpuinfo`` as :func:`cpuinfo.parse` returns it."""
    identity = cpuinfo.identify(blocks)
    topology = read_topology(tree, blocks)
    allowed = affinity if affinity is not None else _own_affinity(tree)
    usable = tuple(cpu for cpu in topology.online if cpu in allowed)
    return Cpu(
        model_name=identity.model_name,
        vendor=identity.vendor,
        architecture=identity.architecture,
        cpuid=identity.cpuid,
        isa=identity.isa,
        sockets=topology.sockets,
        physical_cores=len(topology.cores),
        logical_cpus=len(topology.online),
        threads_per_core=topology.threads_per_core,
        usable_cpus=usable,
        usable_cores=topology.usable_cores(usable),
        caches=read_caches(tree, topology.online),
        numa_nodes=topology.numa_nodes,
        max_hz=clocks.max_hz(tree, virtual=virtual),
        governor=clocks.governor(tree, virtual=virtual),
        turbo=clocks.turbo(tree, virtual=virtual),
        quota_cpus=cgroup.quota_cpus(tree),
    )


def _own_affinity(tree: Tree) -> frozenset[int]:
    """Return the CPUs this process may run on: the kernel's own answer, or that of a recorded tree."""
    if tree.root == Path("/"):
        return frozenset(os.sched_getaffinity(0))
    status = tree.text("proc/self/status") or ""
    lines = (line.partition(":") for line in status.splitlines())
    listed = next((value for key, _, value in lines if key == "Cpus_allowed_list"), None)
    recorded = cpu_list(listed.strip() if listed is not None else None)
    return frozenset(recorded if recorded is not None else os.sched_getaffinity(0))


def as_device(cpu: Cpu, machine: Machine) -> Device:
    """Return the device ``cpu``.

    Its title names the board too where there is one. The fingerprint leaves out what changes from one start to the
    next (governor, affinity): that is part of a measurement, not of the device.
    """
    title = f"{machine.board} ({cpu.model_name})" if machine.board else cpu.model_name
    return Device(
        name="cpu",
        kind="cpu",
        title=title,
        fingerprint=fingerprint(
            title,
            cpu.cpuid,
            cpu.isa,
            cpu.sockets,
            cpu.physical_cores,
            cpu.logical_cpus,
            cpu.quota_cpus,
            rounded_gib(machine.memory_bytes),
            machine.virtual,
        ),
        profile=NOT_LOOKED_UP,
        cpu=cpu,
        memory_bytes=machine.memory_bytes,
        memory_limit_bytes=machine.memory_limit_bytes,
        virtual=machine.virtual,
        container=machine.container,
        power_mode=Missing(code="not_applicable", why="a CPU has no nvpmodel power mode"),
    )
