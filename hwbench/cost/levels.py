"""How much memory a copy must touch to be served by one level of the memory hierarchy: arithmetic on a :class:`Cpu`.

Each thread copies between two buffers of its own, so the *pair* must fit. In a cache it takes half of the thread's
share of that cache, and at least twice the next smaller cache, which would serve it otherwise. For DRAM the pairs
of all threads together take four times the last cache, and 256 MiB at least.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwbench.records.base import Missing
from hwbench.records.device import Cache, Cpu

LEVELS = ("l1", "l2", "l3", "dram")
_PAGE_BYTES = 4096
_DRAM_LEAST_BYTES = 256 << 20
_DRAM_CACHES = 4
_MEMORY_SHARE = 0.25  # of what is available
_BUFFER_MOST_BYTES = 1 << 30  # numpy's limit on an element is 2 GiB


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """One thread's buffers: a source and a destination of ``buffer_bytes`` each."""

    level: str
    buffer_bytes: int
    why: str


def footprint(level: str, cpu: Cpu, threads: int, available_bytes: int) -> Footprint | Missing:
    """Return what each of ``threads`` threads, one a core, must copy to measure ``level``, or why none can."""
    if level == "dram":
        return _dram(cpu, threads, available_bytes)
    number = int(level[1:])
    cache = _cache(cpu, number)
    if cache is None:
        return Missing(code="no_cache", why=f"the system reports no {level.upper()} data cache")
    share = _share_bytes(cache, cpu)
    lower = _cache(cpu, number - 1)
    least = 2 * _share_bytes(lower, cpu) if lower is not None else 0
    pair = max(share // 2, least)
    if pair > 0.75 * share:
        return Missing(
            code="hidden_cache",
            why=f"one core's share of {level.upper()} ({share} bytes) is too near to the size of the cache below it: "
            "a copy that fits the one would be served by the other",
        )
    return Footprint(level=level, buffer_bytes=_whole_pages(pair // 2), why=f"{pair} of {share} bytes a core")


def _dram(cpu: Cpu, threads: int, available_bytes: int) -> Footprint | Missing:
    last = max((cache.size_bytes * cache.count for cache in cpu.caches if cache.type != "instruction"), default=0)
    wanted = max(_DRAM_CACHES * last, _DRAM_LEAST_BYTES)
    room = min(int(available_bytes * _MEMORY_SHARE), 2 * threads * _BUFFER_MOST_BYTES)
    if room < wanted:
        return Missing(
            code="too_little_memory",
            why=f"measuring memory past a cache of {last} bytes takes {wanted} bytes, and {room} may be used",
            cure="free some memory",
        )
    return Footprint(level="dram", buffer_bytes=_whole_pages(wanted // (2 * threads)), why=f"{wanted} bytes in all")


def _cache(cpu: Cpu, level: int) -> Cache | None:
    """Return the data cache of a level; on a mixed CPU the smallest, which fits every core."""
    found = [cache for cache in cpu.caches if cache.level == level and cache.type != "instruction"]
    return min(found, key=lambda cache: _share_bytes(cache, cpu), default=None)


def _share_bytes(cache: Cache, cpu: Cpu) -> int:
    """Return one core's part of a cache if all cores that share it are busy."""
    siblings = cpu.threads_per_core if isinstance(cpu.threads_per_core, int) else 1
    return cache.size_bytes // max(1, cache.shared_by // siblings)


def _whole_pages(size: int) -> int:
    return max(_PAGE_BYTES, size // _PAGE_BYTES * _PAGE_BYTES)
