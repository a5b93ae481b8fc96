"""What Android phones show: power rails, the fuel gauge, heat. The strings are recorded ones, shortened."""

import pytest

from hwbench.energy.account import energy_between
from hwbench.energy.android.battery import Battery, parse_dumpsys_battery, parse_sysfs_battery, parse_thermalservice
from hwbench.energy.android.fuel_gauge import GaugeReading, gauge_trace
from hwbench.energy.android.odpm import RailReading, parse_energy_value, rails_trace
from hwbench.energy.imports import import_trace
from hwbench.errors import StorageError
from hwbench.records.base import Missing

PIXEL_6 = """t=349894
CH0(T=349894)[S10M_VDD_TPU], 5578756
CH1(T=349894)[VSYS_PWR_MODEM], 29110940
CH2(T=349894)[VSYS_PWR_RFFE], 3166046
CH3(T=349894)[S2M_VDD_CPUCL2], 30203502
"""
DUMPSYS = """Current Battery Service state:
  AC powered: false
  USB powered: false
  Wireless powered: false
  Max charging current: 0
  Charge counter: 2483000
  status: 3
  health: 2
  present: true
  level: 67
  scale: 100
  voltage: 3964
  temperature: 337
  technology: Li-poly
"""
THERMAL = """IsStatusOverride: false
ThermalEventListeners:
Thermal Status: 2
Cached temperatures:
\tTemperature{mValue=999.0, mType=9, mName=nsp0, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{mValue=33.931, mType=3, mName=neutral_therm, mStatus=1}
\tTemperature{mValue=39.674004, mType=-1, mName=charger_skin_therm, mStatus=0}
\tTemperature{mValue=0.5, mType=7, mName=ibat, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
"""
NOT_TOLD = Missing(code="not_told", why="the test says nothing")


def battery(current=NOT_TOLD, status="discharging", plugged=False, volts=4.0, charge=NOT_TOLD):
    return Battery(
        status=status, plugged=plugged, current_raw=current, voltage_v=volts, charge_uah=charge, temperature_c=NOT_TOLD
    )


def gauge(current=-500_000.0, count=121, **facts):
    """A phone that draws 0.5 A at 4 V, read every second; the gauge changes a little each time."""
    return [GaugeReading(float(i), battery(current + (i % 2) * current / 1e4, **facts)) for i in range(count)]


def flags(trace):
    return trace.header.settings["flags"].split()


def test_energy_value_is_read():
    readings = parse_energy_value(PIXEL_6)
    assert readings[0] == RailReading("S10M_VDD_TPU", 349894, 5578756)
    assert len(readings) == 4
    with pytest.raises(StorageError, match="line 2 of energy_value"):
        parse_energy_value("t=1\nCH0(T=1)[X], 5.5\n")


def test_rails_are_parts_and_nothing_is_added_up(tmp_path):
    texts = [
        "".join(
            line if line.startswith("t=") else f"CH{n}(T={1000 * i})[{rail}], {2_000_000 * i * (n + 1)}\n"
            for n, (line, rail) in enumerate([("", "S10M_VDD_TPU"), ("", "VSYS_PWR_MODEM")])
        )
        for i in range(11)
    ]
    log = tmp_path / "rails.txt"
    log.write_text("".join(f"t={1000 * i}\n{text}" for i, text in enumerate(texts)))
    trace = import_trace(log)
    assert (trace.header.meter, trace.header.settings["file"]) == ("odpm", "rails.txt")
    assert {channel.role for channel in trace.header.channels} == {"part"}
    assert energy_between(trace, 0, 10).code == "no_readings"
    named = import_trace(log, "odpm", channel="S10M_VDD_TPU")
    reading = energy_between(named, 0, 10)
    assert reading.energy_j == pytest.approx(20.0)
    assert reading.domains_j["VSYS_PWR_MODEM"] == pytest.approx(40.0)
    with pytest.raises(StorageError, match="there is no rail CPU"):
        import_trace(log, "odpm", channel="CPU")


def test_a_rail_that_is_not_available_has_no_energy():
    trace = rails_trace([RailReading("GPU", 0, -1), RailReading("CPU", 0, 0), RailReading("CPU", 1000, 5)])
    assert trace.samples["GPU"] == []
    assert trace.faults["GPU"][1].code == "energy_unavailable"
    named = rails_trace([RailReading("GPU", 0, -1), RailReading("GPU", 9000, -1)], totals=["GPU"])
    assert energy_between(named, 0, 9).code == "energy_unavailable"


def test_a_consumer_is_context():
    readings = [RailReading("CPU", 1000 * i, 100 * i, consumer=True) for i in range(3)]
    assert rails_trace(readings, totals=["CPU"]).header.channels[0].role == "context"


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (RailReading("CPU", 999, 200), "time of CPU goes back"),
        (RailReading("CPU", 2000, 50), "goes from 100 to 50"),
        (RailReading("CPU", 1000, 101), "goes from 100 to 101"),
    ],
)
def test_rails_that_go_back_are_refused(second, why):
    with pytest.raises(StorageError, match=why):
        rails_trace([RailReading("CPU", 1000, 100), second])


def test_dumpsys_battery():
    state = parse_dumpsys_battery(DUMPSYS)
    assert (state.status, state.plugged) == ("discharging", False)
    assert (state.voltage_v, state.charge_uah, state.temperature_c) == pytest.approx((3.964, 2_483_000, 33.7))
    assert isinstance(state.current_raw, Missing)
    assert parse_dumpsys_battery(DUMPSYS.replace("USB powered: false", "USB powered: true")).plugged is True
    assert parse_dumpsys_battery("no service").code == "battery_unreadable"


def test_an_unplugged_state_that_was_made_up_is_refused():
    faked = DUMPSYS.replace("state:\n", "state:\n  (UPDATES STOPPED -- use 'reset' to restart)\n")
    assert parse_dumpsys_battery(faked).code == "battery_faked"


def test_sysfs_battery():
    files = {"status": "Discharging\n", "current_now": "-512000\n", "voltage_now": "3964000\n", "temp": "337\n"}
    state = parse_sysfs_battery(files)
    assert (state.current_raw, state.voltage_v, state.temperature_c) == pytest.approx((-512_000, 3.964, 33.7))
    assert isinstance(state.charge_uah, Missing)
    assert parse_sysfs_battery({"status": "?"}).code == "battery_unreadable"
    assert isinstance(parse_sysfs_battery({**files, "current_now": "n/a"}).current_raw, Missing)


def test_gauge_power():
    trace = gauge_trace(gauge())
    assert flags(trace) == []
    reading = energy_between(trace, 0, 120)
    assert reading.energy_j == pytest.approx(240, rel=1e-3)
    assert reading.provenance == "measured_onboard"
    assert reading.relative_uncertainty > 0.1  # of a gauge, k=2


def test_k15_a_gauge_in_milliamperes_is_rescaled_and_flagged():
    trace = gauge_trace(gauge(-500.0))
    assert flags(trace) == ["unit_guess"]
    assert energy_between(trace, 0, 120).energy_j == pytest.approx(240, rel=1e-3)
    assert gauge_trace(gauge(-15_000.0)).code == "unit_ambiguous"  # 15 mA or 15 A
    assert gauge_trace(gauge(-5.0)).code == "unit_ambiguous"


def test_k15_a_reversed_sign_is_turned_and_flagged():
    trace = gauge_trace(gauge(500_000.0))
    assert flags(trace) == ["sign_reversed"]
    assert energy_between(trace, 0, 120).energy_j == pytest.approx(240, rel=1e-3)
    mixed = [GaugeReading(float(i), battery(500_000.0 if i % 3 else -500_000.0)) for i in range(60)]
    assert gauge_trace(mixed).code == "current_sign_mixed"


@pytest.mark.parametrize("facts", [{"status": "charging"}, {"status": "full"}, {"plugged": True}])
def test_k15_charging_is_refused(facts):
    readings = gauge()
    assert gauge_trace([*readings[:60], *gauge(**facts)[60:]]).code == "battery_charging"


def test_a_state_that_is_not_known_is_refused():
    assert gauge_trace(gauge(status="unknown")).code == "battery_status_unknown"
    assert gauge_trace([*gauge(count=5), *gauge(count=5)]).code == "time_backwards"


def test_only_distinct_readings_of_a_gauge_count():
    held = [GaugeReading(i / 10, battery(-500_000.0 - (i // 14) % 2)) for i in range(1200)]  # new every 1.4 s
    trace = gauge_trace(held)
    assert trace.header.channels[0].period_s == pytest.approx(1.4)
    assert energy_between(trace, 10, 110).energy_j == pytest.approx(200, rel=1e-3)
    assert gauge_trace([GaugeReading(float(i), battery(-500_000.0)) for i in range(60)]).code == "no_samples"


def test_the_charge_counter_is_the_check():
    drawn_uah = 0.5e6 / 3600  # each second
    readings = [
        GaugeReading(float(i), battery(-500_000.0 - i % 2, charge=3e6 - 1000 * int(drawn_uah * i / 1000)))
        for i in range(601)
    ]
    reading = energy_between(gauge_trace(readings), 0, 600)
    assert reading.energy_j == pytest.approx(1200, rel=1e-3)
    assert reading.crosscheck.ratio == pytest.approx(1.0, abs=0.05)
    assert "counter_power_mismatch" not in reading.flags
    wrong = [GaugeReading(t, battery(b.current_raw / 2, charge=b.charge_uah)) for t, b in readings]
    assert "counter_power_mismatch" in energy_between(gauge_trace(wrong), 0, 600).flags


def test_thermalservice():
    heat = parse_thermalservice(THERMAL)
    assert (heat.status, heat.name) == (2, "moderate")
    assert heat.temperatures_c == {"neutral_therm": 33.931, "charger_skin_therm": 39.674004}
    assert parse_thermalservice("Thermal Status: 9").code == "thermal_unreadable"
    assert parse_thermalservice("").code == "thermal_unreadable"
