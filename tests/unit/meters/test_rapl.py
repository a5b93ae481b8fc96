import time
from pathlib import Path

import pytest

from hwbench.meters import rapl
from hwbench.meters.rapl import Rapl
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyReading
from hwbench.testing import FakeClock, MeterContract, example_cpu, let, opened


def recorder(tree, meter=None):
    return opened(meter or Rapl(tree.root, tree), example_cpu(), tree)


def measure(tree, seconds, meter=None):
    with recorder(tree, meter) as record, record.window() as window:
        tree.advance(seconds)
    return window.reading()


def reasons(meter, device=None):
    return [reason.code for reason in meter.supports(device or example_cpu()).reasons]


class TestRaplContract(MeterContract):
    @pytest.fixture
    def clock(self, client_tree):
        return client_tree

    @pytest.fixture
    def meter(self, client_tree):
        return Rapl(client_tree.root, client_tree)


class TestRaplWithoutATree(MeterContract):
    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def meter(self, tmp_path, clock):
        return Rapl(tmp_path, clock)


class TestRaplOnThisMachine(MeterContract):
    @pytest.fixture
    def meter(self):
        return Rapl()


def test_total_is_packages_and_dram_and_nothing_else(client_tree):
    reading = measure(client_tree, 10)
    assert isinstance(reading, EnergyReading)
    assert reading.energy_j == pytest.approx(340.0)  # 30 W + 4 W; not psys, core, uncore or the MMIO copy
    assert reading.domains_j == pytest.approx(
        {"package-0": 300, "package-0/core": 200, "package-0/uncore": 30, "package-0/dram": 40, "psys": 500}
    )
    assert reading.window_s == pytest.approx(10)
    assert reading.provenance == "vendor_modelled"
    assert "package-0 + package-0/dram" in reading.boundary
    assert reading.clock == "RaplTree"
    assert reading.flags == ()
    assert reading.relative_uncertainty == pytest.approx(0.10, abs=1e-4)


def test_boundary_names_what_is_in_it(tree):
    tree.zone("intel-rapl:0", "package-0")
    assert measure(tree, 1).boundary.endswith("(rapl: package-0)")


def test_two_sockets_add_up(tree):
    tree.zone("intel-rapl:0", "package-0", watts=100, start_uj=5e9)
    tree.zone("intel-rapl:0:0", "dram", watts=10)
    tree.zone("intel-rapl:1", "package-1", watts=80, start_uj=9e9)
    tree.zone("intel-rapl:1:0", "dram", watts=20)
    assert measure(tree, 10).energy_j == pytest.approx(2100)


def test_mirrored_dies_count_once(tree):
    for die in range(4):
        tree.zone(f"intel-rapl:{die}", f"package-0-die-{die}", watts=120, start_uj=7_000_000_000 + 300 * die)
    tree.zone("intel-rapl:4", "package-1-die-0", watts=110, start_uj=20_000_000_000)
    reading = measure(tree, 10)
    assert reading.energy_j == pytest.approx(2300)
    assert reading.flags == ("mirrored_dies",)
    assert "package-0-die-1" not in reading.boundary


def test_mirrored_dies_across_a_wrap(tree):
    tree.zone("intel-rapl:0", "package-0-die-0", watts=100, start_uj=65e9 - 500e6, range_uj=65_000_000_000)
    tree.zone("intel-rapl:1", "package-0-die-1", watts=100, start_uj=65e9 - 500e6 - 100, range_uj=65_000_000_000)
    assert measure(tree, 5.000001).energy_j == pytest.approx(500, rel=1e-4)


def test_sockets_that_start_alike_are_not_mirrors(tree):
    tree.zone("intel-rapl:0", "package-0", watts=100)
    tree.zone("intel-rapl:1", "package-1", watts=90)
    reading = measure(tree, 10)
    assert reading.energy_j == pytest.approx(1900)
    assert reading.flags == ()


def test_a_wrap_within_the_window(tree):
    tree.zone("intel-rapl:0", "package-0", watts=50, start_uj=65e9 - 100e6, range_uj=65_000_000_000)
    reading = measure(tree, 10)
    assert reading.energy_j == pytest.approx(500)


def test_backwards_without_a_range(tree):
    tree.zone("intel-rapl:0", "package-0", range_uj=None)
    with recorder(tree) as record, record.window() as window:
        tree.advance(1)
        tree.set("intel-rapl:0", uj=5)
    assert window.reading().code == "counter_backwards"


def test_backwards_in_a_part_spoils_only_the_breakdown(tree):
    tree.zone("intel-rapl:0", "package-0", watts=10)
    tree.zone("intel-rapl:0:0", "core", range_uj=None)
    with recorder(tree) as record, record.window() as window:
        tree.advance(1)
        tree.set("intel-rapl:0:0", uj=5)
    reading = window.reading()
    assert reading.domains_j == pytest.approx({"package-0": 10})
    assert reading.flags == ("breakdown_incomplete",)


def test_a_counter_that_restarts_is_not_a_wrap(tree):
    """After a suspend the counter is at zero again: taken for a wrap it would be 261 kJ in a second."""
    tree.zone("intel-rapl:0", "package-0")
    with recorder(tree) as record, record.window() as window:
        tree.advance(1)
        tree.set("intel-rapl:0", uj=5)
    assert window.reading().code == "counter_jumped"


def test_too_long_without_a_reading(tree):
    tree.zone("intel-rapl:0", "package-0", range_uj=65_000_000_000)
    assert measure(tree, 66).code == "wrap_ambiguous"


@pytest.mark.parametrize("start_uj", [0, 123_456_789])
def test_constant_counter(tree, start_uj):
    tree.zone("intel-rapl:0", "package-0", watts=0, start_uj=start_uj)
    meter = Rapl(tree.root, tree)
    assert reasons(meter) == ["counter_constant"]
    assert measure(tree, 1, meter).code == "counter_constant"


def test_constant_dram_is_left_out_of_the_boundary(tree):
    tree.zone("intel-rapl:0", "package-0", watts=10)
    tree.zone("intel-rapl:0:0", "dram", watts=0, start_uj=0)
    reading = measure(tree, 1)
    assert reading.energy_j == pytest.approx(10)
    assert "dram" not in reading.boundary
    assert reading.flags == ("counter_constant:package-0/dram",)
    assert "package-0/dram" not in reading.domains_j


def test_short_windows(tree):
    tree.zone("intel-rapl:0", "package-0", watts=10)
    short = measure(tree, 0.005)
    assert short.flags == ("window_too_short",)
    assert short.relative_uncertainty == pytest.approx(2 * 0.0965, rel=0.01)  # 5 % gain, 8.2 % edges, k=2
    assert measure(tree, 0.01).flags == ()
    tree.set("intel-rapl:0", watts=0)
    assert measure(tree, 0.0005).code == "window_too_short"


def test_the_flag_of_a_vm_that_has_counters(tree):
    tree.cpuinfo("hypervisor")
    tree.zone("intel-rapl:0", "package-0")
    assert measure(tree, 1).flags == ("vm",)


def test_support(client_tree, tmp_path_factory):
    assert Rapl(client_tree.root, client_tree).supports(example_cpu()).usable
    assert reasons(Rapl(client_tree.root, client_tree), example_cpu(name="gpu0", kind="nvidia")) == ["wrong_device"]
    empty = Rapl(tmp_path_factory.mktemp("empty"), FakeClock())
    assert reasons(empty) == ["no_rapl"]
    assert reasons(empty, example_cpu(virtual="kvm")) == ["not_exposed_in_vm"]
    assert reasons(empty, example_cpu(container="docker")) == ["masked_by_container"]


def test_permission_denied(client_tree, monkeypatch):
    read = Path.read_bytes

    def refuse(path):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    meter = Rapl(client_tree.root, client_tree)
    assert reasons(meter) == ["permission_denied"]
    reading = measure(client_tree, 1, meter)
    assert isinstance(reading, Missing)
    assert reading.code == "permission_denied"
    assert reading.cure


def test_root_comes_from_the_environment(client_tree, monkeypatch):
    monkeypatch.setenv("HWBENCH_SYSFS_ROOT", str(client_tree.root))
    assert measure(client_tree, 1, Rapl(clock=client_tree)).energy_j == pytest.approx(34)


def test_wall_clock_steps_do_not_matter(client_tree, monkeypatch):
    def forbidden():
        raise AssertionError("a duration was read from the wall clock")

    monkeypatch.setattr(time, "time", forbidden)
    monkeypatch.setattr(time, "time_ns", forbidden)
    assert measure(client_tree, 10).window_s == pytest.approx(10)


def test_nested_windows(client_tree):
    with recorder(client_tree) as record, record.window() as outer:
        client_tree.advance(1)
        with record.window("inner") as inner:
            client_tree.advance(2)
    assert inner.reading().energy_j == pytest.approx(68)
    assert outer.reading().energy_j == pytest.approx(102)


def count_reads(monkeypatch):
    reads = []
    read_uj = rapl.read_uj
    monkeypatch.setattr(rapl, "read_uj", lambda zone: reads.append(zone) or read_uj(zone))
    return reads


def test_a_short_window_runs_undisturbed(tree, monkeypatch):
    tree.zone("intel-rapl:0", "package-0")
    reads = count_reads(monkeypatch)
    with recorder(tree) as record, record.window():
        tree.advance(10)
        time.sleep(0.02)
    assert len(reads) == 2


def test_a_long_window_is_read_on_the_way(tree):
    """Six times round the counter, each seen because the recorder reads it in time."""
    tree.zone("intel-rapl:0", "package-0", start_uj=0, watts=900, range_uj=100_000_000)
    with recorder(tree) as record, record.window() as window:
        let(record, tree, 0.72)
    assert window.reading().energy_j == pytest.approx(648)


def test_temperature_and_throttling_go_along_and_are_no_energy(client_tree):
    chip = client_tree.root / "sys/class/hwmon/hwmon4"
    chip.mkdir(parents=True)
    for name, text in {"name": "coretemp", "temp1_label": "Package id 0", "temp1_input": "61500"}.items():
        (chip / name).write_text(text)
    with recorder(client_tree) as record, record.window() as window:
        client_tree.advance(10)
    assert window.reading().energy_j == pytest.approx(340)
    assert [sample.value for sample in record.trace.samples["coretemp:Package id 0"]] == pytest.approx([61.5, 61.5])
