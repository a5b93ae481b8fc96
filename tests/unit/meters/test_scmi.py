import pytest
from sysfs import Machine, codes, measure

from hwbench.meters.scmi import Scmi
from hwbench.testing import FakeClock, MeterContract, example_cpu


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def zone(machine, entry, name, power_w=None, window_us=100_000):
    machine.put(f"sys/class/powercap/{entry}", name=name, constraint_0_time_window_us=window_us, enabled=1)
    if power_w is not None:
        machine.put(f"sys/class/powercap/{entry}", power_uw=round(power_w * 1e6), max_power_range_uw=2**32 - 1)


@pytest.fixture
def board(machine):
    machine.put("sys/class/powercap/arm-scmi")  # the control type itself
    zone(machine, "arm-scmi:0", "SOC", 12)
    zone(machine, "arm-scmi:0:0", "BIG", 6)
    zone(machine, "arm-scmi:0:1", "LITTLE", 2)
    zone(machine, "arm-scmi:0:1:0", "L2")  # not monitored
    return machine


class TestScmiContract(MeterContract):
    work_s = 1.0

    @pytest.fixture
    def clock(self, board):
        return board

    @pytest.fixture
    def meter(self, board):
        return Scmi(board.root, board)


class TestScmiWithoutATree(MeterContract):
    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def meter(self, tmp_path, clock):
        return Scmi(tmp_path, clock)


def test_the_zone_on_top_is_the_total(board):
    reading = measure(board, Scmi(board.root, board), example_cpu(), 10.0)
    assert reading.energy_j == pytest.approx(120.0)
    assert reading.domains_j == pytest.approx({"SOC": 120, "SOC/BIG": 60, "SOC/LITTLE": 20})


def test_the_averaging_interval_is_the_zones(board):
    channel = Scmi(board.root).open(example_cpu()).sources[0].channels[0]
    assert channel.averaging_s == pytest.approx(0.1)


def test_zones_side_by_side_are_not_added(machine):
    zone(machine, "arm-scmi:0", "CPU", 12)
    zone(machine, "arm-scmi:1", "SOC", 20)
    reason = Scmi(machine.root, machine).supports(example_cpu()).reasons[0]
    assert reason.code == "no_total"
    assert "CPU, SOC" in reason.why


def test_reasons(machine, tmp_path):
    meter = Scmi(machine.root, machine)
    assert codes(meter, example_cpu(kind="nvidia")) == ["wrong_device"]
    assert codes(meter, example_cpu()) == ["no_sensor"]
    assert codes(meter, example_cpu(virtual="kvm")) == ["not_exposed_in_vm"]
    zone(machine, "intel-rapl:0", "package-0", 10)
    assert codes(meter, example_cpu()) == ["no_sensor"]
    zone(machine, "arm-scmi:0", "SOC")
    assert codes(meter, example_cpu()) == ["not_monitored"]


def test_a_firmware_that_refuses_to_tell(board, monkeypatch):
    import os

    def refuse(*args):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "pread", refuse)
    assert codes(Scmi(board.root, board), example_cpu()) == ["sensor_unreadable"]
