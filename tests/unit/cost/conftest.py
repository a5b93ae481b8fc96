"""A CPU to calibrate: two cores, 32 KiB + 1 MiB each, 32 MiB shared."""

from __future__ import annotations

import pytest

from hwbench.records.base import Missing
from hwbench.records.device import Cache, Cpu, Device, Environment

UNKNOWN = Missing(code="test", why="not known in a test")


@pytest.fixture
def caches():
    return (
        Cache(level=1, type="data", size_bytes=32 << 10, shared_by=1, count=2),
        Cache(level=1, type="instruction", size_bytes=8 << 10, shared_by=1, count=2),
        Cache(level=2, type="unified", size_bytes=1 << 20, shared_by=1, count=2),
        Cache(level=3, type="unified", size_bytes=32 << 20, shared_by=2, count=1),
    )


@pytest.fixture
def make_cpu(caches):
    def make(**changes):
        facts = {
            "model_name": "Test",
            "vendor": "Test",
            "architecture": "x86_64",
            "cpuid": UNKNOWN,
            "isa": ("avx2",),
            "sockets": 1,
            "physical_cores": 2,
            "logical_cpus": 2,
            "threads_per_core": 1,
            "usable_cpus": (0, 1),
            "usable_cores": (0, 1),
            "caches": caches,
            "numa_nodes": 1,
            "max_hz": UNKNOWN,
            "governor": UNKNOWN,
            "turbo": UNKNOWN,
            "quota_cpus": UNKNOWN,
        }
        return Cpu(**(facts | changes))

    return make


@pytest.fixture
def make_device(make_cpu):
    def make(kind="cpu", **changes):
        return Device(
            name=kind,
            kind=kind,
            title="Test",
            fingerprint="0123abcd",
            profile=UNKNOWN,
            cpu=make_cpu(**changes) if kind == "cpu" else None,
            memory_bytes=8 << 30,
            memory_limit_bytes=UNKNOWN,
            virtual=UNKNOWN,
            container=UNKNOWN,
            power_mode=UNKNOWN,
        )

    return make


@pytest.fixture
def environment():
    return Environment(hwbench="0", python="3", os="Test", kernel="1", libc=UNKNOWN, packages=())
