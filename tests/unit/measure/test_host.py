from __future__ import annotations

import os
import time

import pytest

from hwbench.measure import host
from hwbench.measure.host import read_host
from hwbench.records.base import Missing

CPU = "sys/devices/system/cpu"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
BASE = {
    "proc/stat": "cpu  100 20 300 9999 50 6 4 70 80 9\ncpu0 1 2 3\nctxt 5\n",
    "proc/loadavg": "0.48 0.20 0.10 1/200 4711\n",
    "proc/meminfo": "MemTotal:       1000 kB\nMemAvailable:    600 kB\n",
    "proc/vmstat": "pswpin 5\npswpout 7\n",
    "proc/cpuinfo": "\n\n".join(
        f"processor : {n}\ncpu MHz : {mhz}\nflags : fpu avx2" for n, mhz in enumerate((2596.142, 800.5))
    ),
}


class FrozenClock:
    def now_ns(self):
        return 1_500_000_000

    def sleep(self, seconds):
        raise AssertionError("a reading must not wait")


@pytest.fixture
def read(tmp_path):
    def make(files=None, cpus=()):
        for path, text in {**BASE, **(files or {})}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return read_host(tmp_path, cpus, clock=FrozenClock())

    host._files.cache_clear()
    return make


def code(value):
    assert isinstance(value, Missing), value
    return value.code


def test_counters(read):
    state = read()
    assert state.monotonic_s == 1.5
    assert state.load_1min == 0.48
    assert state.busy_s == pytest.approx((100 + 20 + 300 + 6 + 4) * TICK_S)
    assert state.steal_s == pytest.approx(70 * TICK_S)
    assert state.memory_available_bytes == 600 * 1024
    assert state.swap_out_bytes == 7 * os.sysconf("SC_PAGE_SIZE")


STAT = """cpu  1110 0 0 0 0 0 0 111 0 0
cpu0 10 20 30 999 50 6 4 1 80 9
cpu1 100 0 0 999 0 0 0 10 0 0
cpu11 1000 0 0 999 0 0 0 100 0 0
intr 5
"""


@pytest.mark.parametrize(
    ("cpus", "busy", "steal"),
    [((), 1110, 111), ((0,), 70, 1), ((1,), 100, 10), ((11, 0), 1070, 101), ({0, 1, 11}, 1170, 111)],
)
def test_times_of_the_cpus_asked_for(read, cpus, busy, steal):
    state = read({"proc/stat": STAT}, cpus)
    assert state.busy_s == pytest.approx(busy * TICK_S)
    assert state.steal_s == pytest.approx(steal * TICK_S)


def test_a_cpu_that_is_not_there_is_no_zero(read):
    state = read({"proc/stat": STAT}, (0, 2))
    assert code(state.busy_s) == code(state.steal_s) == "not_exposed"
    assert "0, 2" in state.busy_s.why


def test_what_a_virtual_machine_does_not_show(read):
    guest = BASE["proc/cpuinfo"].replace("fpu", "fpu hypervisor")
    state = read({"proc/cpuinfo": guest})
    for value in (state.cpu_hz, state.temperature_c, state.throttle_events, state.governor):
        assert code(value) == "not_exposed_in_vm"


def test_what_bare_metal_does_not_show(read):
    state = read()
    for value in (state.cpu_hz, state.temperature_c, state.throttle_events, state.governor):
        assert code(value) == "not_exposed"


def test_clocks_from_cpufreq_in_the_order_of_the_cpus(read):
    clocks = {f"{CPU}/cpu{n}/cpufreq/scaling_cur_freq": f"{1000 + n}000\n" for n in range(12)}
    assert read(clocks).cpu_hz == tuple((1000 + n) * 1e6 for n in range(12))


def test_nominal_megahertz_are_no_clock_and_live_ones_are(read):
    live = BASE["proc/cpuinfo"].replace("fpu", "fpu aperfmperf")
    assert read({"proc/cpuinfo": live}).cpu_hz == (2596.142e6, 800.5e6)


def test_governors(read):
    files = {
        f"{CPU}/cpufreq/policy{n}/scaling_governor": f"{name}\n" for n, name in enumerate(("schedutil", "ondemand"))
    }
    assert read(files).governor == "ondemand+schedutil"


def test_throttle_counts_add_up(read):
    files = {
        f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3\n",
        f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "4\n",
        f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "0\n",
        f"{CPU}/cpu1/thermal_throttle/core_throttle_total_time_ms": "999\n",
    }
    assert read(files).throttle_events == 7


def test_cpus_that_share_a_core_or_package_count_once(read):
    files = {
        f"{CPU}/cpu{n}/{name}": text
        for n in range(4)
        for name, text in {
            "thermal_throttle/core_throttle_count": f"{1 + n % 2}\n",
            "thermal_throttle/package_throttle_count": "5\n",
            "topology/thread_siblings_list": f"{n % 2},{n % 2 + 2}\n",
            "topology/physical_package_id": "0\n",
        }.items()
    }
    assert read(files).throttle_events == 1 + 2 + 5


def test_the_hottest_cpu_sensor_counts_and_others_do_not(read):
    files = {
        "sys/class/hwmon/hwmon0/name": "nvme\n",
        "sys/class/hwmon/hwmon0/temp1_input": "90000\n",
        "sys/class/hwmon/hwmon1/name": "coretemp\n",
        "sys/class/hwmon/hwmon1/temp1_input": "51000\n",
        "sys/class/hwmon/hwmon1/temp2_input": "55500\n",
        "sys/class/hwmon/hwmon1/temp2_crit": "100000\n",
        "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
        "sys/class/thermal/thermal_zone0/temp": "70000\n",
    }
    assert read(files).temperature_c == 55.5


def test_amd_tctl_gives_way_to_tdie(read):
    files = {
        "sys/class/hwmon/hwmon2/name": "k10temp\n",
        "sys/class/hwmon/hwmon2/temp1_input": "87000\n",
        "sys/class/hwmon/hwmon2/temp1_label": "Tctl\n",
        "sys/class/hwmon/hwmon2/temp2_input": "60000\n",
        "sys/class/hwmon/hwmon2/temp2_label": "Tdie\n",
    }
    assert read(files).temperature_c == 60.0


def test_thermal_zones_of_a_board(read):
    files = {
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "48312\n",
        "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "77000\n",
    }
    assert read(files).temperature_c == pytest.approx(48.312)


def test_a_sensor_that_says_again_is_passed_over(read, tmp_path, monkeypatch):
    gated = f"{tmp_path}/sys/class/thermal/thermal_zone0/temp"
    really = os.open

    def refusing(path, *arguments):
        if path == gated:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return really(path, *arguments)

    monkeypatch.setattr(os, "open", refusing)
    zone = {"sys/class/thermal/thermal_zone0/type": "cpu-thermal\n", "sys/class/thermal/thermal_zone0/temp": "1\n"}
    assert code(read(zone).temperature_c) == "sensor_not_ready"
    host._files.cache_clear()
    other = {"sys/class/thermal/thermal_zone1/type": "tj-thermal\n", "sys/class/thermal/thermal_zone1/temp": "42000\n"}
    assert read({**zone, **other}).temperature_c == 42.0


def test_a_system_without_proc_is_asked_through_psutil(tmp_path):
    state = read_host(tmp_path, clock=FrozenClock())
    assert state.memory_available_bytes > 0
    assert state.busy_s > 0
    one = read_host(tmp_path, (0,), clock=FrozenClock()).busy_s
    assert 0 < one <= read_host(tmp_path, clock=FrozenClock()).busy_s
    assert code(read_host(tmp_path, (99_999,), clock=FrozenClock()).busy_s) == "not_exposed"
    assert code(state.governor) == "not_on_this_os"


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="reads /proc")  # noqa: PTH110 - at import
def test_this_machine_is_read_quickly(monkeypatch):
    monkeypatch.delenv("HWBENCH_SYSFS_ROOT", raising=False)
    first = read_host()
    times = []
    for _ in range(20):
        started = time.perf_counter()
        state = read_host()
        times.append(time.perf_counter() - started)
    assert min(times) < 2e-3
    assert state.monotonic_s > first.monotonic_s
    assert state.busy_s >= first.busy_s
