"""K14: INA3221 trees of every JetPack, and which rails are the total of which board."""

import math
import os

import pytest
from sysfs import Machine, codes, measure

from hwbench.meters.ina3221 import Jetson
from hwbench.meters.jetson_rails import RULES, connected, rule_for
from hwbench.records.base import Missing
from hwbench.testing import FakeClock, MeterContract, example_cpu

ORIN_NANO = {"VDD_IN": (5000, 1200), "VDD_CPU_GPU_CV": (5000, 400), "VDD_SOC": (5000, 304)}
AGX_ORIN = (
    ({"VDD_GPU_SOC": (19720, 400), "VDD_CPU_CV": (19720, 200), "VIN_SYS_5V0": (4968, 1000)}, 2000),
    ({"NC": (0, 0), "VDDQ_VDD2_1V8AO": (4960, 220), "NC ": (0, 0)}, 2000),
)


def jetson(**changes):
    return example_cpu(name="jetson", kind="jetson", **changes)


def hwmon(machine, number, address, rails, shunt_uohm=5000, **chip):
    """A chip as JetPack 5 and 6 show it: mV and mA, shunt voltages on channels 4 to 6, their sum on channel 7."""
    folder = f"sys/class/hwmon/hwmon{number}"
    machine.put(f"sys/devices/platform/c240000.i2c/i2c-1/{address}", name="ina3221")
    (machine.root / folder).mkdir(parents=True)
    (machine.root / folder / "device").symlink_to(
        machine.root / f"sys/devices/platform/c240000.i2c/i2c-1/{address}", target_is_directory=True
    )
    machine.put(folder, **({"name": "ina3221", "samples": 1, "update_interval": 7} | chip))
    for n, (label, (mv, ma)) in enumerate(rails.items(), start=1):
        machine.put(folder, **{f"in{n}_label": label, f"in{n}_input": mv, f"curr{n}_input": ma})
        machine.put(folder, **{f"shunt{n}_resistor": shunt_uohm, f"in{n + 3}_input": 40, f"in{n}_enable": 1})
    machine.put(folder, in7_label="sum of shunt voltages", in7_input=120, curr4_input=99999)
    return folder


def iio(machine, address, rails, folder="iio:device0"):
    """A chip as JetPack 4 shows it: mW."""
    path = f"sys/bus/i2c/drivers/ina3221x/{address}/{folder}"
    for n, (label, (mv, ma, mw)) in enumerate(rails.items()):
        machine.put(path, **{f"rail_name_{n}": label, f"in_power{n}_input": mw, f"in_voltage{n}_input": mv})
        machine.put(path, **{f"in_current{n}_input": ma})


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def orin_nano(machine):
    hwmon(machine, 1, "1-0040", ORIN_NANO)
    return machine


@pytest.fixture
def agx_orin(machine):
    for number, (rails, shunt) in enumerate(AGX_ORIN):
        hwmon(machine, 3 + number, f"1-004{number}", rails, shunt)
    return machine


class TestJetsonContract(MeterContract):
    @pytest.fixture
    def clock(self, orin_nano):
        return orin_nano

    @pytest.fixture
    def meter(self, orin_nano):
        return Jetson(orin_nano.root, orin_nano)

    @pytest.fixture
    def device(self):
        return jetson()


class TestJetsonWithoutATree(MeterContract):
    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def meter(self, tmp_path, clock):
        return Jetson(tmp_path, clock)

    @pytest.fixture
    def device(self):
        return jetson()


def total(machine, seconds=2.0):
    return measure(machine, Jetson(machine.root, machine), jetson(), seconds)


def test_k14_jetpack_6_orin_nano_is_vdd_in_alone(orin_nano):
    reading = total(orin_nano)
    assert reading.energy_j == pytest.approx(12.0)  # 5 V x 1.2 A x 2 s; the other rails are inside
    assert reading.domains_j == pytest.approx({"VDD_IN": 12.0, "VDD_CPU_GPU_CV": 4.0, "VDD_SOC": 3.04})
    assert reading.meter == "jetson"
    assert reading.provenance == "measured_onboard"
    assert "jetson: VDD_IN" in reading.boundary


def test_k14_jetpack_4_nano_gives_milliwatts(machine):
    iio(machine, "6-0040", {"POM_5V_IN": (5000, 480, 2400), "POM_5V_GPU": (5000, 40, 200), "POM_5V_CPU": (5000, 1, 5)})
    reading = total(machine)
    assert reading.energy_j == pytest.approx(4.8)
    assert reading.domains_j == pytest.approx({"POM_5V_IN": 4.8, "POM_5V_GPU": 0.4, "POM_5V_CPU": 0.01})
    assert "offset_unknown" in reading.flags


def test_k14_jetpack_4_folder_without_a_number(machine):
    iio(machine, "6-0040", {"POM_5V_IN": (5000, 480, 2400)}, folder="iio_device")
    assert total(machine).energy_j == pytest.approx(4.8)


def test_k14_tx2_two_chips_vdd_in(machine):
    iio(machine, "0-0040", {"VDD_SYS_GPU": (19000, 10, 190), "VDD_SYS_SOC": (19000, 10, 190), "NC": (0, 0, 0)})
    iio(machine, "0-0041", {"VDD_IN": (19000, 200, 3800), "VDD_SYS_CPU": (19000, 10, 190)}, folder="iio:device1")
    reading = total(machine)
    assert reading.energy_j == pytest.approx(7.6)
    assert "NC" not in reading.domains_j


def test_k14_agx_xavier_is_the_sum_of_six(machine):
    iio(machine, "1-0040", {"GPU": (19000, 10, 1000), "CPU": (19000, 10, 2000), "SOC": (19000, 10, 3000)})
    iio(machine, "1-0041", {"CV": (19000, 0, 0), "VDDRQ": (19000, 10, 500), "SYS5V": (5000, 9, 4000)}, "iio:device1")
    assert total(machine).energy_j == pytest.approx(21.0)


def test_k14_agx_xavier_with_a_chip_missing_is_refused(machine):
    iio(machine, "1-0040", {"GPU": (19000, 10, 1000), "CPU": (19000, 10, 2000), "SOC": (19000, 10, 3000)})
    assert codes(Jetson(machine.root, machine), jetson()) == ["no_total"]


def test_k14_agx_orin_without_and_with_vddq(agx_orin):
    reading = total(agx_orin)
    three = (19.72 * 0.4 + 19.72 * 0.2 + 4.968) * 2
    assert reading.energy_j == pytest.approx(three)
    assert reading.domains_j["sum_of_all_rails"] == pytest.approx(three + 4.96 * 0.22 * 2)
    assert "VDDQ_VDD2_1V8AO" not in reading.boundary
    settings = Jetson(agx_orin.root).open(jetson()).settings
    assert "upper bound" in settings["headline"]


def test_k14_thor_vin_replaces_the_rails(machine):
    hwmon(machine, 2, "1-0040", {"VDD_GPU": (19000, 500), "VDD_CPU_SOC_MSS": (19000, 500), "VIN_SYS_5V0": (5000, 900)})
    machine.put("sys/class/hwmon/hwmon5", name="ina238", power1_input=45_000_000, in1_input=19500, curr1_input=2307)
    reading = total(machine, 5.0)
    assert reading.energy_j == pytest.approx(225.0)  # 45 W in µW
    assert "jetson: VIN)" in reading.boundary
    assert reading.domains_j["VDD_GPU"] == pytest.approx(47.5)


def test_k14_thor_without_vin_is_the_module(machine):
    hwmon(machine, 2, "1-0040", {"VDD_GPU": (19000, 500), "VDD_CPU_SOC_MSS": (19000, 500), "VIN_SYS_5V0": (5000, 900)})
    assert total(machine).energy_j == pytest.approx(2 * (9.5 + 9.5 + 4.5))


def test_k14_channel_seven_and_disconnected_channels_are_no_rails(agx_orin):
    instrument = Jetson(agx_orin.root).open(jetson())
    names = [channel.name for channel in instrument.sources[0].channels]
    assert sorted(names) == sorted(
        ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO", "sum_of_all_rails"],
    )
    instrument.close()


@pytest.mark.parametrize(
    ("label", "is_rail"),
    [("NC", False), ("NC ", False), ("RAIL_NC", False), ("", False), (None, False), ("sum of shunt voltages", False),
     ("SYNC", True), ("VDD_IN", True)],
)  # fmt: skip
def test_k14_not_connected(label, is_rail):
    assert connected(label) is is_rail


def test_k14_a_switched_off_channel_is_left_out(machine):
    folder = hwmon(machine, 1, "1-0040", ORIN_NANO)
    machine.put(folder, in3_enable=0)
    assert "VDD_SOC" not in total(machine).domains_j


def test_k14_numbers_of_the_monitors_do_not_matter(machine):
    hwmon(machine, 12, "1-0040", ORIN_NANO)
    machine.put("sys/class/hwmon/hwmon0", name="pwmfan", pwm1=0)
    assert total(machine).energy_j == pytest.approx(12.0)


def test_a_chip_that_is_only_found_on_its_bus(machine):
    folder = "sys/bus/i2c/devices/1-0040/hwmon/hwmon3"
    machine.put(folder, name="ina3221", in1_label="VDD_IN", in1_input=5000, curr1_input=1000)
    assert total(machine).energy_j == pytest.approx(10.0)


def test_a_copied_tree_that_shows_a_chip_twice_counts_it_once(machine):
    for folder in ("sys/class/hwmon/hwmon3", "sys/bus/i2c/devices/1-0040/hwmon/hwmon3"):
        machine.put(folder, name="ina3221", in1_label="VDD_IN", in1_input=5000, curr1_input=1000)
    assert total(machine).energy_j == pytest.approx(10.0)


def channel(machine, name):
    instrument = Jetson(machine.root).open(jetson())
    instrument.close()
    return next(c for c in instrument.sources[0].channels if c.name == name)


def test_resolution_and_offset_follow_from_the_shunt(agx_orin):
    """Energy.md 3.2: at 2 mΩ and 19.7 V a step is 0.39 W, and the offset is up to 0.8 W on a rail."""
    gpu = channel(agx_orin, "VDD_GPU_SOC")
    assert gpu.lsb == pytest.approx(0.394, rel=0.06)
    assert gpu.offset * math.sqrt(3) == pytest.approx(0.79, rel=0.01)
    assert gpu.period_s == pytest.approx(0.007)
    assert gpu.sensed_s == pytest.approx(0.0011, rel=0.1)  # of three channels, half the time the current


def test_offset_is_in_the_uncertainty(agx_orin):
    """Three rails whose offsets may all point one way: 0.45 + 0.45 + 0.11 W (k=1) on 16.8 W."""
    reading = total(agx_orin, 20.0)
    assert reading.relative_uncertainty == pytest.approx(2 * 1.026 / 16.8, rel=0.03)
    assert reading.gain_uncertainty == pytest.approx(0.02)


def test_chip_averaging_is_told(machine):
    hwmon(machine, 1, "1-0040", ORIN_NANO, samples=16, update_interval=106)
    vdd_in = channel(machine, "VDD_IN")
    assert vdd_in.averaging_s == pytest.approx(0.106)
    assert "samples 16" in Jetson(machine.root).open(jetson()).settings["ina3221 1-0040"]


def test_settings_of_the_chip_are_kept(orin_nano):
    settings = Jetson(orin_nano.root).open(jetson()).settings
    assert settings["ina3221 1-0040"] == (
        "samples 1, update_interval 7 ms, shunts 5000/5000/5000 µΩ, channels enabled 1,2,3"
    )
    assert settings["headline"].startswith("VDD_IN: ")
    assert "flags" not in settings


def test_a_step_below_zero_is_kept_and_averages_out(machine):
    """-392 mW at idle, as seen in the field: one step of the current, and as real as the step above."""
    hwmon(machine, 1, "1-0040", {"VDD_IN": (19600, 20)}, shunt_uohm=2000)
    machine.move("sys/class/hwmon/hwmon1/curr1_input", lambda t: -20 if int(t * 10 + 1e-6) % 2 else 60)
    reading = total(machine, 20.0)
    assert reading.energy_j == pytest.approx(19.6 * 0.02 * 20, rel=0.05)
    assert "negative_power" not in reading.flags


def test_files_are_opened_once(orin_nano, monkeypatch):
    instrument = Jetson(orin_nano.root).open(jetson())
    instrument.sources[0].read()
    monkeypatch.setattr(os, "open", lambda *args: pytest.fail("a file was opened again"))
    assert instrument.sources[0].read()[0] == pytest.approx(6.0)
    instrument.close()


def test_reasons(machine, tmp_path):
    meter = Jetson(tmp_path, FakeClock())
    assert codes(meter, example_cpu()) == ["wrong_device"]
    assert codes(meter, jetson()) == ["no_sensor"]
    assert codes(meter, jetson(container="docker")) == ["masked_by_container"]
    hwmon(machine, 1, "1-0040", {"VDD_MYSTERY": (5000, 10)})
    reason = meter.supports(jetson()).reasons[0]
    assert reason.code == "no_total"
    assert "VDD_MYSTERY" in reason.why


def test_the_cpu_of_a_jetson_is_measured_with_the_board(orin_nano):
    assert measure(orin_nano, Jetson(orin_nano.root), example_cpu(), 2.0).energy_j == pytest.approx(12.0)
    assert codes(Jetson(orin_nano.root), example_cpu(name="gpu0", kind="nvidia")) == ["wrong_device"]


def test_permission_denied_names_the_file(orin_nano, monkeypatch):
    def refuse(path, *flags):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    reason = Jetson(orin_nano.root).supports(jetson()).reasons[0]
    assert reason.code == "permission_denied"
    assert "chmod a+r" in reason.cure


def test_a_rail_that_fails_on_the_way_has_no_reading(orin_nano):
    from hwbench.testing import let, opened

    with opened(Jetson(orin_nano.root), jetson(), orin_nano) as recorder, recorder.window() as window:
        let(recorder, orin_nano, 1.0)
        (orin_nano.root / "sys/class/hwmon/hwmon1/in1_input").write_text("nonsense")
        let(recorder, orin_nano, 1.0)
    assert isinstance(window.reading(), Missing)
    assert window.reading().code == "sensor_unreadable"


def test_every_rule_is_reachable():
    for rule in RULES:
        assert rule_for(set(rule.total)) is rule
        assert rule.why
