"""How the logical CPUs sit on cores, sockets, caches and NUMA nodes: ``/sys/devices/system/{cpu,node}``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hwbench.devices.tree import Tree, as_integer, cpu_list, not_shown
from hwbench.records.base import Missing
from hwbench.records.device import Cache

_CPU = "sys/devices/system/cpu"
_CACHE_TYPES: Final[dict[str, Literal["data", "instruction", "unified"]]] = {
    "Data": "data",
    "Instruction": "instruction",
    "Unified": "unified",
}
_SIZE_FACTORS: Final = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, kw_only=True)
class Topology:
    """The online CPUs; ``cores`` holds the logical CPUs of each physical core, lowest first.

    ``threads_per_core`` is that of the core with most, where cores differ.
    """

    online: tuple[int, ...]
    cores: tuple[tuple[int, ...], ...]
    sockets: int | Missing
    threads_per_core: int | Missing
    numa_nodes: int | Missing

    def usable_cores(self, usable: Sequence[int]) -> tuple[int, ...]:
        """Return the lowest usable logical CPU of each physical core that has one."""
        allowed = frozenset(usable)
        firsts = (next((cpu for cpu in core if cpu in allowed), None) for core in self.cores)
        return tuple(sorted(cpu for cpu in firsts if cpu is not None))


def read_topology(tree: Tree, blocks: Sequence[Mapping[str, str]]) -> Topology:
    """Read the topology from sysfs, or from ``/proc/cpuinfo`` (``blocks``) where sysfs is masked."""
    listed = tuple(int(block["processor"]) for block in blocks)
    online = cpu_list(tree.text(f"{_CPU}/online")) or listed
    cores = _cores_from_sysfs(tree, online) or _cores_from_cpuinfo(blocks)
    hidden = Missing(code="not_exposed", why="neither sysfs nor /proc/cpuinfo tells which CPUs share a core")
    return Topology(
        online=online,
        cores=cores or tuple((cpu,) for cpu in online),
        sockets=_sockets(tree, online, blocks),
        threads_per_core=max(len(core) for core in cores) if cores else hidden,
        numa_nodes=_numa_nodes(tree),
    )


def _cores_from_sysfs(tree: Tree, online: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    cores: set[tuple[int, ...]] = set()
    for cpu in online:
        siblings = cpu_list(tree.text(f"{_CPU}/cpu{cpu}/topology/thread_siblings_list"))
        if not siblings:
            return ()
        cores.add(siblings)
    return tuple(sorted(cores))


def _cores_from_cpuinfo(blocks: Sequence[Mapping[str, str]]) -> tuple[tuple[int, ...], ...]:
    cores: dict[tuple[str, str], list[int]] = {}
    for block in blocks:
        if "core id" not in block or "physical id" not in block:
            return ()
        cores.setdefault((block["physical id"], block["core id"]), []).append(int(block["processor"]))
    return tuple(sorted(tuple(sorted(core)) for core in cores.values()))


def _sockets(tree: Tree, online: Sequence[int], blocks: Sequence[Mapping[str, str]]) -> int | Missing:
    packages = {tree.integer(f"{_CPU}/cpu{cpu}/topology/physical_package_id") for cpu in online}
    if None in packages:
        packages = {as_integer(block.get("physical id")) for block in blocks}
    known = {package for package in packages if package is not None and package >= 0}
    if not known or len(known) < len(packages):
        # An Arm kernel says -1 where the firmware does not describe packages.
        return Missing(code="not_exposed", why="the firmware does not tell which CPUs share a socket")
    return len(known)


def _numa_nodes(tree: Tree) -> int | Missing:
    nodes = cpu_list(tree.text("sys/devices/system/node/has_cpu")) or cpu_list(
        tree.text("sys/devices/system/node/online")
    )
    return len(nodes) if nodes else not_shown("NUMA nodes", virtual=False, where="/sys/devices/system/node")


def read_caches(tree: Tree, online: Sequence[int]) -> tuple[Cache, ...]:
    """Return the caches by level and type; a cache whose size the firmware does not tell is left out."""
    counts: Counter[tuple[int, str, int, int]] = Counter()
    seen: dict[str, set[int]] = {}
    for cpu in online:
        for folder in tree.glob(f"{_CPU}/cpu{cpu}/cache", "index*"):
            covered = seen.setdefault(folder.rpartition("/")[2], set())
            if cpu in covered:  # another CPU has shown this instance
                continue
            shared = cpu_list(tree.text(f"{folder}/shared_cpu_list")) or (cpu,)
            covered.update(shared)
            level, kind = tree.integer(f"{folder}/level"), tree.text(f"{folder}/type")
            size = _size_bytes(tree.text(f"{folder}/size"))
            if level is not None and kind in _CACHE_TYPES and size:
                counts[level, kind, size, len(shared)] += 1
    return tuple(
        Cache(level=level, type=_CACHE_TYPES[kind], size_bytes=size, shared_by=shared_by, count=count)
        for (level, kind, size, shared_by), count in sorted(counts.items())
    )


def _size_bytes(text: str | None) -> int | None:
    if not text:
        return None
    factor = _SIZE_FACTORS.get(text[-1])
    number = as_integer(text[:-1] if factor else text)
    return number * (factor or 1) if number is not None else None
