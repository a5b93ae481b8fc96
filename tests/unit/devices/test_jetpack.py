import re
from pathlib import Path

import pytest

from hwbench.devices.jetpack import _LINES, shipped
from hwbench.devices.jetson import JetsonFinder
from hwbench.devices.jetson_clocks import gpu_max_hz, held, limits, power_modes
from hwbench.devices.profiles import load_profiles
from hwbench.devices.tree import Tree
from hwbench.inventory import _here
from hwbench.records.base import Missing

CONF = """# nvpmodel of an Orin NX, as NVIDIA writes it
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1
CPU_ONLINE CORE_1 1
TPC_POWER_GATING TPC_PG_MASK 240
CPU_A78_0 MIN_FREQ 729600
CPU_A78_0 MAX_FREQ -1
CPU_A78_1 MAX_FREQ -1
GPU MIN_FREQ 0
GPU MAX_FREQ -1
EMC MAX_FREQ 0

< POWER_MODEL ID=1 NAME=10W >
CPU_ONLINE CORE_0 1
CPU_ONLINE CORE_1 0
# GPU MAX_FREQ 1
CPU_A78_0 MAX_FREQ 1190400
CPU_A78_1 MAX_FREQ 1113600
GPU MAX_FREQ 612000000
EMC MAX_FREQ 2133000000
< PM_CONFIG DEFAULT=1 >
"""


@pytest.mark.parametrize(
    ("l4t", "version", "cuda", "tensorrt", "python"),
    [
        ("32.7.4", "4.6.4", "10.2", "8.2.1", "3.6"),
        ("35.4.1", "5.1.2", "11.4", "8.5.2", "3.8"),
        ("36.3.0", "6.0", "12.2", "8.6.2", "3.10"),
        ("36.4.3", "6.2", "12.6", "10.3.0", "3.10"),
        ("36.4.7", "6.2.1", "12.6", "10.3.0", "3.10"),
        ("38.2.1", "7.0", "13.0", "10.13", "3.12"),
        ("39.2.0", "7.2", "13.2", "10.16.2", "3.12"),
        ("39.2.1", "7.2.1", "13.2", "10.16.2", "3.12"),
    ],
)
def test_what_ships_with_a_release(l4t, version, cuda, tensorrt, python):
    found = shipped(l4t)
    assert (found.version, found.cuda, found.tensorrt, found.python) == (version, cuda, tensorrt, python)


@pytest.mark.parametrize("l4t", ["35.1", "36.30", "36.4", "37.0.0", "39.2", "39.2.2", "39.3.0", "3", ""])
def test_a_release_that_is_not_in_the_table_is_said(l4t):
    found = shipped(l4t)
    assert found.code == "unknown_release"
    assert "dpkg" in found.cure


def test_what_nobody_looked_up_says_so():
    for line in _LINES:
        assert (line.basis == "memory") == (line.source == "not looked up")
        assert line.releases
        assert all(re.fullmatch(r"\d+\.\d+(\.\d+)?", release) for release in line.releases)


def test_the_page_has_the_same_table():
    text = (Path(__file__).parents[3] / "docs" / "jetson.md").read_text(encoding="utf-8")
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    rows = {(cuda, trt, python, told) for _, l4t, cuda, trt, python, told in (r for r in table if len(r) == 6) if l4t}
    in_words = {"read": "yes", "memory": "no"}
    assert {(one.cuda, one.tensorrt, one.python, in_words[one.basis]) for one in _LINES} == rows - {
        ("CUDA", "TensorRT", "Python", "looked up")
    }


def test_a_board_tells_its_jetpack_and_its_gpu(host):
    (device,) = JetsonFinder(host("jetson-orin-nano"), affinity={0}).find().devices
    assert (device.jetpack.version, device.jetpack.tensorrt) == ("6.2", "10.3.0")
    assert (device.gpu.compute_capability, device.gpu.mig) == ("8.7", False)
    assert device.gpu.memory_bytes.code == "unified_memory"
    facts = " | ".join(_here(device, "jetson-orin-nano-8gb").facts)
    assert "JetPack: 6.2, with CUDA 12.6, TensorRT 10.3.0, Python 3.10" in facts
    assert "power mode: 2: MAXN_SUPER" in facts


def test_capabilities_are_those_of_the_profiles(host):
    root = host("jetson-orin-nano")
    by_chip = {"tegra210": "jetson-nano", "tegra194": "jetson-xavier-nx", "tegra234": "jetson-orin-nx-16gb",
               "tegra264": "jetson-t5000"}  # fmt: skip
    profiles = load_profiles()
    for chip, name in by_chip.items():
        (root / "proc/device-tree/compatible").write_text(f"nvidia,board\0nvidia,{chip}\0")
        (device,) = JetsonFinder(root, affinity={0}).find().devices
        assert device.gpu.compute_capability == profiles[name].compute_capability


def test_a_chip_that_is_new_has_no_gpu_yet(host):
    root = host("jetson-orin-nano")
    (root / "proc/device-tree/compatible").write_text("nvidia,board\0nvidia,tegra999\0")
    (root / "etc/nv_tegra_release").unlink()
    (device,) = JetsonFinder(root, affinity={0}).find().devices
    assert device.gpu is None
    assert isinstance(device.jetpack, Missing)


def test_modes_with_their_caps():
    full, small = power_modes(CONF)
    assert full.words == "0: MAXN (2 cores)"
    assert small.words == "1: 10W (1 cores, CPU to 1190 MHz, GPU to 612 MHz, memory to 2133 MHz)"
    assert power_modes("") == ()


def test_clocks_that_are_held_are_seen_by_their_limits(tmp_path):
    tree = Tree(tmp_path)
    assert held(tree).code == "not_exposed"
    assert gpu_max_hz(tree).code == "not_exposed"
    files = {
        "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": 1_510_400,
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": 1_510_400,
        "sys/class/devfreq/17000000.gpu/min_freq": 306_000_000,
        "sys/class/devfreq/17000000.gpu/max_freq": 918_000_000,
        "sys/class/devfreq/bwmgr/min_freq": 1,
        "sys/class/devfreq/bwmgr/max_freq": 2,
    }
    for name, value in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    assert limits(tree) == {"policy0": (1_510_400_000, 1_510_400_000), "gpu": (306_000_000, 918_000_000)}
    assert held(tree) is False
    (tmp_path / "sys/class/devfreq/17000000.gpu/min_freq").write_text("918000000")
    assert held(tree) is True
    assert gpu_max_hz(tree) == 918e6
