"""K15 for batteries: units, signs, and chargers."""

import pytest
from sysfs import Machine, codes, measure

from hwbench.meters.battery import BatteryGauge
from hwbench.records.base import Missing
from hwbench.testing import FakeClock, MeterContract, example_cpu, let, opened

BAT = "sys/class/power_supply/BAT0"
AC = "sys/class/power_supply/AC"


def gauge(machine, *, current_ua=-1_500_000, voltage_uv=12_000_000, status="Discharging", folder=BAT):
    """A battery that updates its current once a second, by a little."""
    machine.put(folder, type="Battery", status=status, present=1, voltage_now=voltage_uv)
    machine.move(f"{folder}/current_now", lambda t: current_ua * (1 + 0.001 * (int(t + 1e-6) % 2)))


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def laptop(machine):
    machine.put(AC, type="Mains", online=0)
    gauge(machine)
    return machine


class TestBatteryContract(MeterContract):
    work_s = 5.0

    @pytest.fixture
    def clock(self, laptop):
        return laptop

    @pytest.fixture
    def meter(self, laptop):
        return BatteryGauge(laptop.root, laptop)


class TestBatteryWithoutATree(MeterContract):
    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def meter(self, tmp_path, clock):
        return BatteryGauge(tmp_path, clock)


class TestBatteryOnThisMachine(MeterContract):
    @pytest.fixture
    def meter(self):
        return BatteryGauge()


def reading_of(machine, seconds=60.0):
    return measure(machine, BatteryGauge(machine.root, machine), example_cpu(), seconds)


def test_current_times_voltage(laptop):
    reading = reading_of(laptop)
    assert reading.energy_j == pytest.approx(18 * 60, rel=0.002)
    assert reading.boundary.startswith("the whole device")
    assert reading.gain_uncertainty == pytest.approx(0.1)
    assert "unit_guess" not in reading.flags


@pytest.mark.parametrize("current_ua", [1_500_000, -1_500_000])
def test_k15_either_sign_is_an_amount(machine, current_ua):
    gauge(machine, current_ua=current_ua)
    assert reading_of(machine).energy_j == pytest.approx(18 * 60, rel=0.002)


def test_k15_milliamperes_are_rescaled_and_flagged(machine):
    gauge(machine, current_ua=-1500)
    reading = reading_of(machine)
    assert reading.energy_j == pytest.approx(18 * 60, rel=0.002)
    assert "unit_guess" in reading.flags


def test_k15_millivolts_are_rescaled_and_flagged(machine):
    gauge(machine, voltage_uv=12_000)
    reading = reading_of(machine)
    assert reading.energy_j == pytest.approx(18 * 60, rel=0.002)
    assert "unit_guess" in reading.flags


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_k15_charging_is_refused(machine, status):
    gauge(machine, status=status)
    meter = BatteryGauge(machine.root, machine)
    assert codes(meter, example_cpu()) == ["battery_charging"]
    assert "unplug" in meter.supports(example_cpu()).reasons[0].cure


@pytest.mark.parametrize(("kind", "online"), [("Mains", 1), ("USB", 1), ("USB", 2)])
def test_k15_a_charger_that_is_connected_is_refused_whatever_the_status(laptop, kind, online):
    laptop.put("sys/class/power_supply/ucsi", type=kind, online=online)
    assert codes(BatteryGauge(laptop.root, laptop), example_cpu()) == ["battery_charging"]


def test_k15_plugging_in_on_the_way_spoils_the_window(laptop):
    with opened(BatteryGauge(laptop.root, laptop), example_cpu(), laptop) as recorder:
        with recorder.window() as before:
            let(recorder, laptop, 20)
        with recorder.window("second") as window:
            let(recorder, laptop, 20)
            laptop.put(AC, online=1)
            let(recorder, laptop, 5)
            laptop.put(AC, online=0)
            let(recorder, laptop, 20)
    assert before.reading().energy_j == pytest.approx(360, rel=0.01)
    assert isinstance(window.reading(), Missing)
    assert window.reading().code == "battery_charging"


def test_k15_a_current_that_turns_round_is_a_charge(machine):
    gauge(machine)
    with opened(BatteryGauge(machine.root, machine), example_cpu(), machine) as recorder, recorder.window() as window:
        let(recorder, machine, 10)
        machine.move(f"{BAT}/current_now", lambda t: 700_000)
        let(recorder, machine, 10)
    assert window.reading().code == "battery_charging"


def test_power_now_is_preferred(laptop):
    laptop.put(BAT, power_now=9_000_000)
    assert reading_of(laptop).energy_j == pytest.approx(540)


def test_two_batteries_add_up(laptop):
    gauge(laptop, current_ua=-500_000, folder="sys/class/power_supply/BAT1")
    assert reading_of(laptop).energy_j == pytest.approx(24 * 60, rel=0.002)


def test_an_idle_second_battery_draws_nothing(laptop):
    gauge(laptop, current_ua=0, status="Not charging", folder="sys/class/power_supply/BAT1")
    assert reading_of(laptop).energy_j == pytest.approx(18 * 60, rel=0.002)


def test_a_mouse_is_no_battery_of_this_machine(machine):
    gauge(machine, folder="sys/class/power_supply/hidpp_battery_0")
    machine.put("sys/class/power_supply/hidpp_battery_0", scope="Device")
    assert codes(BatteryGauge(machine.root, machine), example_cpu()) == ["no_sensor"]


def test_energy_now_is_a_check_by_its_changes(laptop):
    """10 mWh a step, which is 36 J: at 18 W one every two seconds."""
    laptop.move(f"{BAT}/energy_now", lambda t: 40_000_000 - 10_000 * int(t * 18 / 36 + 0.3))
    reading = reading_of(laptop)
    assert reading.crosscheck.channel == "BAT0/energy_now"
    assert reading.crosscheck.ratio == pytest.approx(1, abs=0.01)
    assert "counter_power_mismatch" not in reading.flags


def test_a_gauge_that_contradicts_its_counter_is_flagged(laptop):
    laptop.move(f"{BAT}/energy_now", lambda t: 40_000_000 - 10_000 * int(t * 12 / 36))
    assert "counter_power_mismatch" in reading_of(laptop).flags


def test_the_update_period_comes_from_the_data(laptop):
    channel = BatteryGauge(laptop.root).open(example_cpu()).sources[0].channels[0]
    assert isinstance(channel.period_s, Missing)
    assert reading_of(laptop).update_period_s <= 1.0


def test_reasons(machine):
    meter = BatteryGauge(machine.root, machine)
    assert codes(meter, example_cpu(kind="jetson")) == ["wrong_device"]
    assert codes(meter, example_cpu()) == ["no_sensor"]
    assert codes(meter, example_cpu(virtual="kvm")) == ["not_exposed_in_vm"]
    machine.put(BAT, type="Battery", status="Discharging", capacity=50)
    assert codes(meter, example_cpu()) == ["no_gauge"]


def test_what_the_gauge_is_stands_in_the_settings(laptop):
    laptop.put(BAT, manufacturer="ACME", model_name="45N1111", technology="Li-ion")
    settings = BatteryGauge(laptop.root).open(example_cpu()).settings
    assert "ACME" in settings["BAT0"]
