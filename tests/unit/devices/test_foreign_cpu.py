from __future__ import annotations

from types import SimpleNamespace

import pytest

from hwbench.devices import foreign_cpu
from hwbench.errors import DeviceError
from hwbench.records.base import Missing


class FakePsutil:
    def __init__(self, physical, logical, affinity=None, max_mhz=None):
        self._counts = {False: physical, True: logical}
        self._affinity, self._max_mhz = affinity, max_mhz

    def cpu_count(self, logical):
        return self._counts[logical]

    def cpu_freq(self):
        if self._max_mhz is None:
            raise RuntimeError("no frequency here")
        return SimpleNamespace(max=self._max_mhz)

    def Process(self):  # noqa: N802 - psutil's name
        return SimpleNamespace(cpu_affinity=lambda: self._affinity) if self._affinity else SimpleNamespace()


def test_a_mac_without_smt():
    cpu = foreign_cpu.as_cpu(FakePsutil(8, 8), "Apple M2", ("neon",))
    assert (cpu.vendor, cpu.threads_per_core) == ("Apple", 1)
    assert cpu.usable_cores == tuple(range(8))
    assert {cpu.max_hz.code, cpu.governor.code, cpu.sockets.code} == {"not_on_this_os"}


def test_windows_with_smt_and_an_affinity(monkeypatch):
    monkeypatch.setenv("PROCESSOR_IDENTIFIER", "Intel64 Family 6 Model 151 Stepping 2, GenuineIntel")
    psutil = FakePsutil(4, 8, affinity=[0, 1, 2, 3], max_mhz=3200.0)
    cpu = foreign_cpu.as_cpu(psutil, "12th Gen Intel(R) Core(TM) i3-12100", ("avx2",))
    assert cpu.cpuid == "GenuineIntel-6-151-2"
    assert cpu.usable_cores == (0, 2)
    assert cpu.max_hz == 3.2e9


def test_unequal_cores_do_not_get_a_thread_count():
    assert isinstance(foreign_cpu.as_cpu(FakePsutil(14, 20), "Intel", ()).threads_per_core, Missing)


def test_no_core_count_is_an_error():
    with pytest.raises(DeviceError, match="how many cores"):
        foreign_cpu.as_cpu(FakePsutil(None, 8), "x", ())


def test_mac_extensions_come_from_sysctl():
    values = {
        "machdep.cpu.brand_string": b"Apple M2\0",
        "hw.optional.AdvSIMD": b"\1\0\0\0",
        "hw.optional.arm.FEAT_BF16": b"\1\0\0\0",
        "hw.optional.arm.FEAT_FP16": b"\0\0\0\0",
    }
    assert foreign_cpu._mac(values.get) == ("Apple M2", ("neon", "bf16"))
