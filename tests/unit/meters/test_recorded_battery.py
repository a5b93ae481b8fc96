"""The fuel gauge of a real convertible (tests/data/traces/battery_*.csv) through the meter, second by second."""

import csv
from itertools import pairwise
from pathlib import Path

import pytest
from sysfs import Machine

from hwbench.meters.battery import BatteryGauge
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyReading
from hwbench.testing import example_cpu, let, opened

FOLDER = Path(__file__).parents[2] / "data" / "traces"
SUPPLY = "sys/class/power_supply"


def recording(name):
    with (FOLDER / f"{name}.csv").open() as lines:
        return [{key: text for key, text in row.items() if text} for row in csv.DictReader(lines)]


def show(machine, row):
    """Put one line of the recording under the root: what each file held then."""
    machine.put(
        f"{SUPPLY}/BAT0",
        type="Battery",
        status=row["bat0_status"],
        voltage_now=row["bat0_voltage_now_uv"],
        current_now=row["bat0_current_now_ua"],
    )
    if "bat1_voltage_now_uv" in row:  # the log has no status of this one while no current flows
        files = {"voltage_now": row["bat1_voltage_now_uv"], "current_now": row["bat1_current_now_ua"]}
        machine.put(f"{SUPPLY}/BAT1", type="Battery", status="Unknown", **files)


def replay(machine, rows):
    """Return the reading over the rows, each of which holds until the next."""
    show(machine, rows[0])
    with opened(BatteryGauge(machine.root, machine), example_cpu(), machine) as recorder:
        with recorder.window() as window:
            for before, after in pairwise(rows):
                let(recorder, machine, float(after["t_s"]) - float(before["t_s"]))
                show(machine, after)
        return window.reading()


def held_j(rows):
    """The joules of the log itself: volts times amperes, each line until the next."""
    return sum(
        float(row["bat0_voltage_now_uv"])
        * float(row["bat0_current_now_ua"])
        * 1e-12
        * (float(after["t_s"]) - float(row["t_s"]))
        for row, after in pairwise(rows)
    )


def test_five_minutes_on_battery(tmp_path):
    rows = recording("battery_discharging")
    reading = replay(Machine(tmp_path), rows)
    assert isinstance(reading, EnergyReading)
    assert reading.window_s == pytest.approx(float(rows[-1]["t_s"]), abs=1e-6)
    assert reading.energy_j == pytest.approx(held_j(rows), rel=1e-3)
    assert reading.coverage == pytest.approx(1.0, abs=0.01)
    assert reading.flags == ()  # the second battery shows 0 all the time: it rests, and no sensor is stuck
    assert 3 < reading.energy_j / reading.window_s < 8  # a convertible in use


def test_a_battery_that_rests_is_a_part(tmp_path):
    machine = Machine(tmp_path)
    show(machine, recording("battery_discharging")[0])
    instrument = BatteryGauge(machine.root, machine).open(example_cpu())
    gauges = instrument.sources[0]
    assert [(channel.name, channel.role) for channel in gauges.channels] == [
        ("BAT0 + BAT1", "total"),
        ("BAT0", "part"),
        ("BAT1", "part"),
    ]
    total, own, keyboard = gauges.read()
    instrument.close()
    assert total == own == pytest.approx(8.116 * 0.435)
    assert keyboard == 0


def test_the_moment_at_which_the_charger_is_connected(tmp_path):
    """Up to there a reading, over it none: from then on the gauge shows what goes into the cells, sign unchanged."""
    rows = recording("battery_charger_connected")
    charged = next(number for number, row in enumerate(rows) if row["bat0_status"] == "Charging")
    before = replay(Machine(tmp_path / "before"), rows[:charged])
    assert isinstance(before, EnergyReading)
    assert before.energy_j == pytest.approx(held_j(rows[:charged]), rel=0.005)
    over = replay(Machine(tmp_path / "over"), rows)
    assert isinstance(over, Missing)
    assert over.code == "battery_charging"
