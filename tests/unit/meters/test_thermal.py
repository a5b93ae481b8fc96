import errno
import os
from itertools import pairwise

import pytest
from sysfs import Machine

from hwbench.energy.recorder import Recorder
from hwbench.meters.hwmon_tree import SensorInstrument
from hwbench.meters.thermal import context_sources
from hwbench.testing import let

CPU = "sys/devices/system/cpu"


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def channels(machine):
    return {channel.name: channel for source in context_sources(machine.root) for channel in source.channels}


def values(machine):
    found = {}
    for source in context_sources(machine.root):
        found |= {channel.name: value for channel, value in zip(source.channels, source.read(), strict=True)}
        source.close()
    return found


def coretemp(machine, number=2, package=0, millidegrees=61500):
    folder = machine.put(f"sys/class/hwmon/hwmon{number}", name="coretemp", temp1_label=f"Package id {package}")
    machine.put(f"sys/class/hwmon/{folder.name}", temp1_input=millidegrees, temp2_label="Core 0", temp2_input=59000)


def test_degrees_of_the_package_and_not_of_each_core(machine):
    coretemp(machine)
    assert values(machine) == {"coretemp:Package id 0": pytest.approx(61.5)}
    assert channels(machine)["coretemp:Package id 0"].role == "context"


def test_tdie_rather_than_tctl(machine):
    machine.put("sys/class/hwmon/hwmon0", name="k10temp", temp1_label="Tctl", temp1_input=80000)
    assert list(values(machine)) == ["k10temp:Tctl"]
    machine.put("sys/class/hwmon/hwmon0", temp2_label="Tdie", temp2_input=60000)
    assert values(machine) == {"k10temp:Tdie": pytest.approx(60.0)}


def test_zones_where_there_is_no_chip(machine):
    for number, (kind, temp) in enumerate([("cpu-thermal", 48000), ("gpu-thermal", 47500), ("battery", 30000)]):
        machine.put(f"sys/class/thermal/thermal_zone{number}", type=kind, temp=temp)
    assert values(machine) == {"zone:cpu-thermal": pytest.approx(48.0), "zone:gpu-thermal": pytest.approx(47.5)}


def test_a_zone_that_sleeps_has_no_reading_and_did_not_fail(machine, monkeypatch):
    machine.put("sys/class/thermal/thermal_zone0", type="gpu-thermal", temp=47500)
    pread, asleep = os.pread, [False]

    def read(*args):
        if asleep[0]:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return pread(*args)

    monkeypatch.setattr(os, "pread", read)
    instrument = SensorInstrument(
        meter="context", boundary="none", provenance="measured_onboard", sources=context_sources(machine.root)
    )
    with Recorder(instrument, clock=machine) as recorder:
        let(recorder, machine, 3.5)
        asleep[0] = True
        let(recorder, machine, 5)
        asleep[0] = False
        let(recorder, machine, 3)
    assert recorder.trace.faults == {}
    times = [sample.t_s for sample in recorder.trace.samples["zone:gpu-thermal"]]
    assert max(b - a for a, b in pairwise(times)) > 4
    assert len(times) >= 6


def test_the_clock_is_the_fastest_of_each_kind_of_core(machine):
    for number, (highest, now) in enumerate([(2_000_000, 600_000), (2_000_000, 1_900_000), (1_400_000, 408_000)]):
        machine.put(f"{CPU}/cpufreq/policy{number}", cpuinfo_max_freq=highest, scaling_cur_freq=now)
    assert values(machine) == {
        "clock:cores up to 2 GHz": pytest.approx(1.9e9),
        "clock:cores up to 1.4 GHz": pytest.approx(408e6),
    }


def test_throttling_is_counted_once_a_package_and_lands_in_the_reading(machine):
    for cpu in range(4):
        machine.put(f"{CPU}/cpu{cpu}/topology", physical_package_id=cpu // 2)
        machine.put(f"{CPU}/cpu{cpu}/thermal_throttle", package_throttle_total_time_ms=5000)
    found = channels(machine)
    assert list(found) == ["cpu_thermal:package-0", "cpu_thermal:package-1"]
    assert found["cpu_thermal:package-0"].quantity == "throttled"
    assert context_sources(machine.root)[0].every_s is None  # at the edges of windows alone


def test_throttle_seconds_of_a_window(machine):
    from sysfs import measure

    from hwbench.meters.hwmon import Hwmon
    from hwbench.testing import example_cpu

    machine.put("sys/class/hwmon/hwmon0", name="amd_energy", energy1_label="Esocket0")
    machine.move("sys/class/hwmon/hwmon0/energy1_input", lambda t: 1e6 + 50e6 * t)
    machine.put(f"{CPU}/cpu0/topology", physical_package_id=0)
    machine.move(f"{CPU}/cpu0/thermal_throttle/package_throttle_total_time_ms", lambda t: 7000 + 300 * t)
    reading = measure(machine, Hwmon(machine.root, machine), example_cpu(), 10.0)
    assert reading.throttled_s == pytest.approx({"cpu_thermal:package-0": 3.0})
    assert "throttled:cpu_thermal:package-0" in reading.flags


def test_nothing_to_see(machine):
    assert context_sources(machine.root) == ()
