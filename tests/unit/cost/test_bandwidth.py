"""What is copied for each level, and that copying really copies."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from hwbench.cost.bandwidth import REPEATS, Copier, measure_copy
from hwbench.cost.levels import LEVELS, Footprint, footprint
from hwbench.errors import DeviceError
from hwbench.records.base import Missing
from hwbench.records.device import Cache

PLENTY = 64 << 30
FIRST_CPU = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


@pytest.mark.parametrize(
    ("level", "buffer_bytes"), [("l1", 8 << 10), ("l2", 256 << 10), ("l3", 4 << 20), ("dram", 64 << 20)]
)
def test_a_pair_takes_half_of_its_cache_share(make_cpu, level, buffer_bytes):
    assert footprint(level, make_cpu(), 2, PLENTY).buffer_bytes == buffer_bytes


def test_hyperthreads_of_one_core_do_not_halve_its_cache(make_cpu, caches):
    doubled = tuple(
        Cache(level=cache.level, type=cache.type, size_bytes=cache.size_bytes, shared_by=2 * cache.shared_by, count=1)
        for cache in caches
    )
    cpu = make_cpu(caches=doubled, threads_per_core=2, logical_cpus=4)
    assert footprint("l1", cpu, 2, PLENTY).buffer_bytes == 8 << 10


def test_a_share_little_larger_than_the_cache_below_cannot_be_measured(make_cpu, caches):
    """As on server CPUs with 2 MiB of L2 and less than that of L3 a core."""
    tight = (*caches[:3], Cache(level=3, type="unified", size_bytes=30 << 20, shared_by=16, count=1))
    plan = footprint("l3", make_cpu(caches=tight), 2, PLENTY)
    assert isinstance(plan, Missing)
    assert plan.code == "hidden_cache"


def test_a_pair_is_kept_out_of_the_cache_below(make_cpu, caches):
    tight = (*caches[:3], Cache(level=3, type="unified", size_bytes=24 << 20, shared_by=8, count=1))
    plan = footprint("l3", make_cpu(caches=tight), 2, PLENTY)
    assert 2 * plan.buffer_bytes == 2 * (1 << 20)  # not half of the 3 MiB share


def test_a_level_that_is_not_there_is_missing(make_cpu, caches):
    plan = footprint("l3", make_cpu(caches=caches[:3]), 2, PLENTY)
    assert isinstance(plan, Missing)
    assert plan.code == "no_cache"


def test_memory_is_measured_past_every_last_level_cache(make_cpu):
    big = (Cache(level=3, type="unified", size_bytes=100 << 20, shared_by=1, count=2),)
    plan = footprint("dram", make_cpu(caches=big), 4, PLENTY)
    assert 4 * 2 * plan.buffer_bytes == 4 * (200 << 20)


def test_too_little_memory_is_a_reason_not_a_smaller_buffer(make_cpu):
    plan = footprint("dram", make_cpu(), 2, 512 << 20)
    assert isinstance(plan, Missing)
    assert plan.code == "too_little_memory"


@pytest.mark.parametrize("size", [4096, 8192, 1 << 20])
def test_one_call_copies_the_whole_buffer(size):
    copier = Copier(size)
    rng = np.random.default_rng(0)
    copier._source[:] = rng.integers(0, 256, size)
    copier.check()


def test_a_copy_that_does_nothing_is_found_out(monkeypatch):
    monkeypatch.setattr(np, "copyto", lambda *_: None)
    with pytest.raises(RuntimeError, match="did not copy"):
        Copier(4096).check()


def test_buffers_start_on_a_page():
    copier = Copier(8192)
    assert copier._source.ctypes.data % 4096 == 0
    assert copier._target.ctypes.data % 4096 == 0


def test_time_grows_with_the_repeats():
    """Every repeat is a copy: neither numpy nor libc may skip any."""
    copier = Copier(64 << 10)

    def least_s(repeats):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            copier.copy(repeats)
            times.append(time.perf_counter() - start)
        return min(times)

    assert least_s(8000) > 3 * least_s(1000)


def test_other_threads_run_during_a_copy():
    """The copy must not hold the interpreter's lock, or the cores would take turns."""
    copier = Copier(64 << 10)
    done = threading.Event()
    seen = []

    def work():
        copier.copy(20_000)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        seen.append(1)
    thread.join()
    assert len(seen) > 1000


def test_point():
    plan = Footprint(level="l1", buffer_bytes=8192, why="test")
    point = measure_copy(plan, [FIRST_CPU], seconds=0.05)
    assert point.key == "l1"
    assert point.quantity == "bandwidth_bytes_per_s"
    assert point.threads == 1
    assert len(point.samples) == REPEATS
    assert point.value == max(point.samples)
    assert 1e8 < point.value < 1e13  # slower than a disk, or faster than any cache: the arithmetic is wrong
    assert "write-allocate" in point.method


def test_the_calling_thread_keeps_its_cpus():
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system cannot pin")
    before = os.sched_getaffinity(0)
    measure_copy(Footprint(level="l1", buffer_bytes=4096, why="test"), [FIRST_CPU], seconds=0.01)
    assert os.sched_getaffinity(0) == before


def test_a_cpu_that_is_not_ours_is_an_error_not_a_hang():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot pin")
    with pytest.raises(DeviceError, match="could not be set up"):
        measure_copy(Footprint(level="l1", buffer_bytes=4096, why="test"), [FIRST_CPU, 4000], seconds=0.01)


def test_levels_go_from_near_to_far():
    assert LEVELS == ("l1", "l2", "l3", "dram")
