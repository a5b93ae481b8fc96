"""What all contracts share: a clock, a device, and what a reason must look like."""

from __future__ import annotations

from typing import Any

import msgspec

from hwbench.records.base import Missing, Support
from hwbench.records.device import Cpu, Device


class FakeClock:
    """A :class:`hwbench.units.Clock` that moves only when told to, or by what is slept."""

    def __init__(self, start_ns: int = 1_000_000_000) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        return self._now_ns

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass; never backwards."""
        assert seconds >= 0, f"a monotonic clock does not go back, got {seconds} s"
        self._now_ns += round(seconds * 1e9)


def example_cpu(**changes: Any) -> Device:
    """Return a plain four-core CPU device on bare metal, with ``changes`` to the fields of :class:`Device`."""
    unknown = Missing(code="example", why="an example device does not know")
    cpu = Cpu(
        model_name="Example CPU",
        vendor="Example",
        architecture="x86_64",
        cpuid=unknown,
        isa=("avx2",),
        sockets=1,
        physical_cores=4,
        logical_cpus=4,
        threads_per_core=1,
        usable_cpus=(0, 1, 2, 3),
        usable_cores=(0, 1, 2, 3),
        caches=(),
        numa_nodes=1,
        max_hz=unknown,
        governor=unknown,
        turbo=unknown,
        quota_cpus=unknown,
    )
    device = Device(
        name="cpu",
        kind="cpu",
        title="Example CPU",
        fingerprint="example",
        profile=unknown,
        cpu=cpu,
        memory_bytes=8 * 2**30,
        memory_limit_bytes=unknown,
        virtual=unknown,
        container=unknown,
        power_mode=unknown,
    )
    return msgspec.structs.replace(device, **changes)


def assert_explained(reason: object) -> None:
    """Check that ``reason`` is a :class:`Missing` with a code for programs and words for people."""
    assert isinstance(reason, Missing), f"a value or a Missing, got {reason!r}"
    assert reason.code.replace("_", "").isalnum(), f"a code is a word, got {reason.code!r}"
    assert reason.why.strip()


def assert_support(support: object) -> None:
    """Check that ``support`` is a yes, or a no with its reasons explained."""
    assert isinstance(support, Support), f"a Support, got {support!r}"
    for reason in support.reasons:
        assert_explained(reason)


def assert_name(name: str) -> None:
    """Check that ``name`` can be typed after a flag."""
    assert name
    assert name == name.lower().strip()
    assert not set(name) & set(" /\\\"'"), f"a name is typed on a command line, got {name!r}"
