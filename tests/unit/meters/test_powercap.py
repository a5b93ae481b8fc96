from pathlib import Path

import pytest

from hwbench.meters.powercap import find_zones, has_hypervisor, read_uj
from hwbench.records.base import Missing


def domains(root, *, counted=None):
    zones = find_zones(root, virtual=False, container=False)
    assert not isinstance(zones, Missing), zones
    return [zone.domain for zone in zones if counted is None or zone.counted == counted]


def code(root, *, virtual=False, container=False):
    missing = find_zones(root, virtual=virtual, container=container)
    assert isinstance(missing, Missing)
    return missing.code


def test_nested_domains_count_once(client_tree):
    assert domains(client_tree.root, counted=True) == ["package-0", "package-0/dram"]
    assert domains(client_tree.root, counted=False) == ["package-0/core", "package-0/uncore", "psys"]


def test_the_msr_zone_is_preferred_to_its_mmio_copy(client_tree):
    package = find_zones(client_tree.root, virtual=False, container=False)[0]
    assert package.counter.parent.name == "intel-rapl:0"


def test_mmio_alone_is_used(tree):
    tree.zone("intel-rapl-mmio:0", "package-0")
    assert domains(tree.root, counted=True) == ["package-0"]


def test_more_than_ten_packages(tree):
    for i in range(12):
        tree.zone(f"intel-rapl:{i}", f"package-{i}")
        tree.zone(f"intel-rapl:{i}:0", "dram")
    assert domains(tree.root)[-2:] == ["package-11", "package-11/dram"]
    assert len(domains(tree.root, counted=True)) == 24


def test_one_name_twice_in_a_driver_is_two_counters(tree):
    tree.zone("intel-rapl:0", "package-0")
    tree.zone("intel-rapl:1", "package-0")
    assert domains(tree.root, counted=True) == ["package-0", "package-0@intel-rapl:1"]


@pytest.mark.parametrize("text", ["0", "", "none", "-1"])
def test_a_useless_range_is_unknown(tree, text):
    tree.zone("intel-rapl:0", "package-0")
    (tree.folder / "intel-rapl:0/max_energy_range_uj").write_text(text)
    assert find_zones(tree.root, virtual=False, container=False)[0].range_uj is None


def test_foreign_control_types_are_not_touched(tree):
    tree.zone("arm-scmi:0", "package-0")
    tree.zone("dtpm:0", "package-0")
    assert code(tree.root) == "no_rapl"


def test_no_tree(tmp_path):
    assert code(tmp_path) == "no_rapl"
    assert code(tmp_path, virtual=True) == "not_exposed_in_vm"
    assert code(tmp_path, container=True) == "masked_by_container"
    assert code(tmp_path, virtual=True, container=True) == "not_exposed_in_vm"


def test_the_cpu_flag_tells_of_a_vm(tree):
    tree.cpuinfo("fpu sse2 hypervisor avx2")
    assert has_hypervisor(tree.root)
    assert code(tree.root) == "not_exposed_in_vm"


def test_a_flag_that_only_looks_like_it(tree):
    tree.cpuinfo("fpu hypervisor_guest")
    assert not has_hypervisor(tree.root)


def test_masked_tree_leaves_dangling_links(tmp_path):
    folder = tmp_path / "sys/class/powercap"
    folder.mkdir(parents=True)
    (tmp_path / "sys/devices/virtual/powercap").mkdir(parents=True)
    (folder / "intel-rapl:0").symlink_to("../../devices/virtual/powercap/intel-rapl/intel-rapl:0")
    assert code(tmp_path) == "masked_by_container"
    assert code(tmp_path, virtual=True) == "masked_by_container"
    assert "HWBENCH_SYSFS_ROOT" in str(find_zones(tmp_path, virtual=False, container=False))


def test_a_platform_without_a_package_is_nothing_to_add(tree):
    tree.zone("intel-rapl:0", "psys")
    assert code(tree.root) == "no_rapl"


def test_permission_denied_has_the_exact_cure(client_tree, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    zone = find_zones(client_tree.root, virtual=False, container=False)[0]
    monkeypatch.setattr(Path, "read_bytes", refuse)
    missing = read_uj(zone)
    assert missing.code == "permission_denied"
    assert "chmod a+r /sys/class/powercap/intel-rapl*/energy_uj" in missing.cure
    assert 'SUBSYSTEM=="powercap"' in missing.cure


def test_unreadable_counter(client_tree):
    zone = find_zones(client_tree.root, virtual=False, container=False)[0]
    zone.counter.write_text("garbage")
    assert read_uj(zone).code == "counter_unreadable"
    zone.counter.unlink()
    assert read_uj(zone).code == "counter_unreadable"
