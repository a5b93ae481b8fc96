"""What the checks look at: the machine's files, and what the finders and meters of hwbench make of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from hwbench.devices import cpuinfo
from hwbench.devices.cpu import CpuFinder
from hwbench.devices.topology import read_topology
from hwbench.devices.tree import Tree, not_shown
from hwbench.measure.gpu_state import Card
from hwbench.measure.host import read_host
from hwbench.records.base import Missing
from hwbench.records.device import Cpu, Device, HostState
from hwbench.units import Clock, MonotonicClock

CpuSeconds = Mapping[int, float]  # of each logical CPU, busy since boot
Processes = Mapping[tuple[int, float], tuple[str, float]]  # (pid, start) to (name, CPU seconds so far)

_BUSY_FIELDS = (1, 2, 3, 6, 7)  # user, nice, system, irq, softirq


def read_processes() -> Processes:
    """Return every process that can be seen but this one; those that may not be looked into are left out."""
    own = psutil.Process().pid
    found = {}
    for process in psutil.process_iter(["name", "cpu_times", "create_time"]):
        times = process.info["cpu_times"]
        if process.pid != own and times is not None:
            key = (process.pid, process.info["create_time"] or 0.0)
            found[key] = (process.info["name"] or "?", times.user + times.system)
    return found


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One machine, as it was when it was looked at; ``processes`` and ``clock`` are live."""

    tree: Tree
    device: Device | Missing
    host: HostState
    folder: Path  # where results would go
    card: Card | Missing | None = None  # the GPU that was named, live; None where none was
    clock: Clock = field(default_factory=MonotonicClock)
    processes: Callable[[], Processes] = read_processes

    @property
    def cpu(self) -> Cpu | Missing:
        """The CPU, or why it could not be read."""
        if isinstance(self.device, Missing):
            return self.device
        return self.device.cpu if self.device.cpu is not None else _NO_CPU

    @property
    def siblings_of_others(self) -> tuple[int, ...]:
        """The CPUs that share a core with a usable one, and are not usable themselves."""
        cpu = self.cpu
        if isinstance(cpu, Missing):
            return ()
        usable, blocks = set(cpu.usable_cpus), cpuinfo.parse(self.tree.text("proc/cpuinfo") or "")
        cores = read_topology(self.tree, blocks).cores
        return tuple(sorted(other for core in cores if usable & set(core) for other in core if other not in usable))

    def busy_seconds(self) -> CpuSeconds:
        """How long each CPU has been busy since boot, now; empty where it is not told. Fields as in proc_stat(5)."""
        rows = [line.split() for line in (self.tree.text("proc/stat") or "").splitlines()]
        tick_s = 1 / os.sysconf("SC_CLK_TCK")
        return {
            int(row[0][3:]): sum(int(row[field]) for field in _BUSY_FIELDS) * tick_s
            for row in rows
            if len(row) > max(_BUSY_FIELDS) and row[0][:3] == "cpu" and row[0][3:].isdecimal()
        }

    @property
    def virtual(self) -> bool:
        """Whether this is known to be a virtual machine."""
        return not isinstance(self.device, Missing) and isinstance(self.device.virtual, str)

    def not_shown(self, what: str, where: str) -> Missing:
        """Return the reason for something that is not under the root."""
        return not_shown(what, virtual=self.virtual, where=where)


_NO_UUID = Missing(code="no_uuid", why="the device tells no UUID, by which NVML would find it")
_NO_CPU = Missing(code="no_cpu", why="the device that was found has no CPU of its own")


def look(root: Path | None = None, folder: Path | None = None, *, gpu: Device | Missing | None = None) -> Subject:
    """Read the machine under ``root`` (the system's own by default); results would go to ``folder``.

    Args:
        root: what lies above ``proc/`` and ``sys/``.
        folder: where results would go; the current one by default.
        gpu: an NVIDIA GPU to look at, too, or why the one that was wanted is not here.
    """
    tree = Tree(root)
    found = CpuFinder(tree.root).find()
    return Subject(
        tree=tree,
        device=found.devices[0] if found.devices else found.absent.reasons[0],
        host=read_host(tree.root),
        folder=folder if folder is not None else Path.cwd(),
        card=_card(gpu),
    )


def _card(gpu: Device | Missing | None) -> Card | Missing | None:
    if gpu is None or isinstance(gpu, Missing):
        return gpu
    uuid = gpu.gpu.uuid if gpu.gpu is not None else _NO_UUID
    return uuid if isinstance(uuid, Missing) else Card(uuid, gpu.name)
