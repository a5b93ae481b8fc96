from __future__ import annotations

from hwbench.devices.jetson import JetsonFinder
from hwbench.devices.jetson_clocks import power_modes
from hwbench.records.base import Missing


def test_orin_nano(host):
    (device,) = JetsonFinder(host("jetson-orin-nano"), affinity={0, 1}).find().devices
    assert (device.name, device.kind) == ("jetson", "jetson")
    assert device.title.startswith("NVIDIA Jetson Orin Nano")
    assert device.title.endswith("(p3767-0005, L4T 36.4.3)")
    assert device.power_mode == "2: MAXN_SUPER"
    assert device.cpu.model_name == "Cortex-A78AE"
    assert device.memory_bytes == 7802256 * 1024


def test_the_power_mode_is_in_the_fingerprint(host):
    root = host("jetson-orin-nano")
    (before,) = JetsonFinder(root, affinity={0}).find().devices
    (root / "var/lib/nvpmodel/status").write_text("pmode:0001 fmode:fanNull\n")
    (after,) = JetsonFinder(root, affinity={0}).find().devices
    assert after.power_mode == "1: 25W"
    assert after.fingerprint != before.fingerprint


def test_in_a_container_the_power_mode_is_a_reason_with_a_cure(host):
    root = host("jetson-orin-nano")
    (root / "var/lib/nvpmodel/status").unlink()
    (root / "etc/nv_tegra_release").unlink()
    (device,) = JetsonFinder(root, affinity={0}).find().devices
    assert isinstance(device.power_mode, Missing)
    assert "/var/lib/nvpmodel/status" in device.power_mode.cure
    assert "L4T" not in device.title


def test_a_mode_without_a_name_keeps_its_number(host):
    root = host("jetson-orin-nano")
    (root / "etc/nvpmodel.conf").unlink()
    (device,) = JetsonFinder(root, affinity={0}).find().devices
    assert device.power_mode == "2"


def test_other_boards_are_no_jetson(host):
    for name in ("raspberry-pi-5", "amd-epyc-kvm"):
        found = JetsonFinder(host(name)).find()
        assert found.devices == ()
        assert found.absent.reasons[0].code == "not_a_jetson"


def test_mode_names_leave_comments_and_parameters_out():
    text = "# < POWER_MODEL ID=9 NAME=OLD >\n< PARAM TYPE=FILE NAME=GPU >\n  < POWER_MODEL ID=0 NAME=MAXN >\n"
    assert [(mode.number, mode.name) for mode in power_modes(text)] == [(0, "MAXN")]
