from __future__ import annotations

import os
import platform

import pytest

from hwbench.devices import cpuinfo
from hwbench.devices.cpu import CpuFinder
from hwbench.devices.tree import Tree, cpu_list
from hwbench.records.base import Missing


def code(value):
    assert isinstance(value, Missing), value
    return value.code


def only(found):
    (device,) = found.devices
    assert found.absent.usable
    return device


def test_amd_guest(host):
    device = only(CpuFinder(host("amd-epyc-kvm"), affinity={0, 1}).find())
    cpu = device.cpu
    assert (device.name, device.kind, device.title) == ("cpu", "cpu", "AMD EPYC")
    assert cpu.cpuid == "AuthenticAMD-25-17-1"
    assert cpu.architecture == "x86_64"
    assert cpu.isa == ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")
    assert (cpu.sockets, cpu.physical_cores, cpu.logical_cpus, cpu.threads_per_core) == (1, 2, 2, 1)
    assert [(c.level, c.size_bytes, c.shared_by, c.count) for c in cpu.caches] == [(1, 2**15, 1, 2), (3, 2**25, 2, 1)]
    assert device.virtual == "KVM"
    assert device.memory_bytes == 24684084 * 1024
    assert code(device.memory_limit_bytes) == "no_limit"
    assert code(cpu.quota_cpus) == "no_limit"
    assert {code(cpu.max_hz), code(cpu.governor), code(cpu.turbo)} == {"not_exposed_in_vm"}
    assert code(device.profile) == "not_looked_up"


def test_intel_two_sockets(host):
    device = only(CpuFinder(host("intel-spr-2s"), affinity=range(8)).find())
    cpu = device.cpu
    assert cpu.isa == (
        "avx2",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "avx_vnni",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
    )
    assert (cpu.sockets, cpu.physical_cores, cpu.logical_cpus, cpu.threads_per_core) == (2, 4, 8, 2)
    assert cpu.usable_cores == (0, 1, 2, 3)
    assert cpu.numa_nodes == 2
    assert [(c.level, c.shared_by, c.count) for c in cpu.caches] == [(2, 2, 4), (3, 4, 2)]
    assert cpu.max_hz == 3.8e9
    assert cpu.governor == "powersave"
    assert cpu.turbo is False
    assert code(device.virtual) == "bare_metal"
    assert code(device.container) == "no_container"  # although containers run beside it


def test_usable_cores_follow_the_affinity(host):
    cpu = only(CpuFinder(host("intel-spr-2s"), affinity={1, 4, 5, 99}).find()).cpu
    assert cpu.usable_cpus == (1, 4, 5)
    assert cpu.usable_cores == (1, 4)  # 5 shares a core with 1; 4 is what is left of core 0


def test_a_recorded_tree_brings_its_own_affinity(host):
    root = host("intel-spr-2s")
    (root / "proc/self/status").write_text("Name:\tx\nCpus_allowed_list:\t2-3,6\n")
    assert only(CpuFinder(root).find()).cpu.usable_cpus == (2, 3, 6)


def test_graviton_in_a_pod(host):
    device = only(CpuFinder(host("graviton3"), affinity={0, 1}).find())
    cpu = device.cpu
    assert cpu.model_name == "Neoverse-V1"
    assert device.title == "Amazon EC2 c7g.large (Neoverse-V1)"
    assert cpu.cpuid == "0x41-0xd40"
    assert cpu.architecture == "aarch64"
    assert cpu.isa == ("neon", "fp16", "dotprod", "i8mm", "bf16", "sve")
    assert cpu.quota_cpus == 1.5
    assert device.memory_limit_bytes == 2**31
    assert (device.virtual, device.container) == ("KVM", "kubernetes")


def test_graviton_metal_is_bare_metal(host):
    root = host("graviton3")
    (root / "sys/class/dmi/id/product_name").write_text("c7g.metal\n")
    assert code(only(CpuFinder(root, affinity={0}).find()).virtual) == "bare_metal"


def test_raspberry_pi(host):
    device = only(CpuFinder(host("raspberry-pi-5"), affinity={0, 1}).find())
    assert device.title == "Raspberry Pi 5 Model B Rev 1.0 (Cortex-A76)"
    assert device.cpu.cpuid == "0x41-0xd0b"
    assert code(device.cpu.sockets) == "not_exposed"
    assert device.cpu.max_hz == 2.4e9
    assert code(device.cpu.turbo) == "not_exposed"
    assert code(device.virtual) == "bare_metal"


def test_clusters_are_named_in_order_and_share_only_common_extensions():
    big = {"CPU implementer": "0x41", "CPU part": "0xd0b", "Features": "asimd asimddp"}
    little = {"CPU implementer": "0x41", "CPU part": "0xd05", "Features": "asimd"}
    blocks = [{"processor": str(n), **block} for n, block in enumerate([little, little, big, big])]
    identity = cpuinfo.identify(blocks)
    assert identity.model_name == "Cortex-A55 + Cortex-A76"
    assert identity.cpuid == "0x41-0xd05+0x41-0xd0b"
    assert identity.isa == ("neon",)


def test_an_unknown_arm_core_shows_its_numbers():
    block = {"processor": "0", "CPU implementer": "0x41", "CPU part": "0xfff", "Features": "asimd"}
    assert cpuinfo.identify([block]).model_name == "unknown Arm core 0x41-0xfff"


def test_x86_without_stepping_has_no_cpuid():
    block = {"processor": "0", "vendor_id": "GenuineIntel", "cpu family": "6", "model": "1", "stepping": "unknown"}
    assert code(cpuinfo.identify([{**block, "flags": "lm"}]).cpuid) == "not_exposed"


def test_masked_sys_leaves_cpuinfo(host, tmp_path):
    text = (host("amd-epyc-kvm") / "proc/cpuinfo").read_text()
    root = tmp_path / "masked"
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(text)
    device = only(CpuFinder(root, affinity={0, 1}).find())
    assert (device.cpu.physical_cores, device.cpu.sockets) == (2, 1)
    assert code(device.memory_bytes) == "not_exposed"
    assert code(device.cpu.numa_nodes) == "not_exposed"
    assert code(device.cpu.quota_cpus) == "not_exposed"
    assert device.virtual == "unnamed"


@pytest.mark.skipif(platform.system() != "Linux", reason="elsewhere psutil answers")
def test_no_proc_is_a_reason(tmp_path):
    found = CpuFinder(tmp_path).find()
    assert found.devices == ()
    assert code(found.absent.reasons[0]) == "not_exposed"


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("proc/cpuinfo", "amx_int8", ""),
        ("proc/cpuinfo", "stepping	: 8", "stepping	: 9"),
        ("proc/cpuinfo", "fpu lm", "fpu lm hypervisor"),
        ("proc/meminfo", "527951104", "263951104"),
        ("sys/devices/system/cpu/online", "0-7", "0-5"),
        ("sys/fs/cgroup/user.slice/cpu.max", "max", "400000"),
    ],
)
def test_fingerprint_changes_with_what_makes_measurements_incomparable(host, path, old, new):
    root = host("intel-spr-2s")
    before = only(CpuFinder(root, affinity={0}).find()).fingerprint
    text = (root / path).read_text()
    assert old in text
    (root / path).write_text(text.replace(old, new))
    assert only(CpuFinder(root, affinity={0}).find()).fingerprint != before


def test_fingerprint_stays_over_governor_affinity_and_some_kib(host):
    root = host("intel-spr-2s")
    before = only(CpuFinder(root, affinity={0}).find()).fingerprint
    (root / "sys/devices/system/cpu/cpufreq/policy0/scaling_governor").write_text("performance\n")
    (root / "proc/meminfo").write_text("MemTotal:       527951000 kB\n")
    after = only(CpuFinder(root, affinity=range(8)).find())
    assert after.cpu.governor == "performance+powersave"
    assert after.fingerprint == before


def test_cpu_list():
    assert cpu_list("0-2,8,10-11") == (0, 1, 2, 8, 10, 11)
    assert cpu_list("") == ()
    assert cpu_list("0-x") is None


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_this_machine(monkeypatch):
    monkeypatch.delenv("HWBENCH_SYSFS_ROOT", raising=False)
    cpu = only(CpuFinder().find()).cpu
    assert set(cpu.usable_cpus) == os.sched_getaffinity(0)
    assert set(cpu.usable_cores) <= set(cpu.usable_cpus)
    assert 0 < len(cpu.usable_cores) <= cpu.physical_cores <= cpu.logical_cpus


def test_tree_reads_nothing_as_none(tmp_path):
    tree = Tree(tmp_path)
    (tmp_path / "dt").write_bytes(b"Board\0")
    (tmp_path / "word").write_text("max\n")
    assert tree.text("dt") == "Board"
    assert tree.text("nothing") is None
    assert tree.integer("word") is None
    assert tree.glob("nothing", "*") == []
