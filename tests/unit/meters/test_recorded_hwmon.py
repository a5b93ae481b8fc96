"""Real hardware monitors at one moment (tests/data/traces/hwmon_moments.csv) through the meter."""

import csv
from pathlib import Path

import pytest
from sysfs import Machine, codes, measure

from hwbench.meters.hwmon import Hwmon
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyReading
from hwbench.testing import example_cpu

RECORDED = Path(__file__).parents[2] / "data" / "traces" / "hwmon_moments.csv"
CHIP = "sys/class/hwmon/hwmon0"


def moment(root, name):
    """Return a machine whose hardware monitor shows what that of the recorded machine did."""
    machine = Machine(root)
    with RECORDED.open() as lines:
        for row in csv.DictReader(lines):
            if row["machine"] == name:
                machine.put(CHIP, **{"name": row["chip"], row["attribute"]: row["value"]})
                if row["label"]:
                    machine.put(CHIP, **{row["attribute"].replace("_input", "_label"): row["label"]})
    return machine


def test_two_sockets_are_the_total_and_cores_are_not(tmp_path):
    machine = moment(tmp_path, "epyc")
    instrument = Hwmon(machine.root, machine).open(example_cpu())
    total, *others = instrument.sources
    assert [channel.role for channel in total.channels] == ["total", "total"]
    assert list(total.read()) == pytest.approx([4.03e6, 4.14e6])
    cores = [value for source in others for value in source.read()]
    instrument.close()
    assert cores == pytest.approx([118.78, 142.94])
    assert all(channel.role == "part" for source in others for channel in source.channels)


def test_a_counter_that_stands_still_has_no_reading(tmp_path):
    """One moment of a counter is no energy: the two sockets' 8.17 MJ since boot are not the window's."""
    machine = moment(tmp_path, "epyc")
    reading = measure(machine, Hwmon(machine.root, machine), example_cpu(), 5.0)
    assert isinstance(reading, Missing)
    assert reading.code == "counter_constant"


def test_the_power_of_the_package_held_for_ten_seconds(tmp_path):
    machine = moment(tmp_path, "family15h")
    reading = measure(machine, Hwmon(machine.root, machine), example_cpu(), 10.0)
    assert isinstance(reading, EnergyReading)
    assert reading.energy_j == pytest.approx(1145.2, rel=1e-3)
    assert reading.provenance == "vendor_modelled"


def test_cpu_and_io_of_an_x_gene_are_listed_and_not_added(tmp_path):
    machine = moment(tmp_path, "xgene")
    meter = Hwmon(machine.root, machine)
    assert codes(meter, example_cpu()) == ["no_known_total"]
    why = meter.supports(example_cpu()).reasons[0].why
    assert "CPU power" in why
    assert "IO power" in why
