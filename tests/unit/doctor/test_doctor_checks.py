import os
import shutil
from collections import namedtuple

import pytest

from hwbench.doctor import clocks, cores, counters, heat, load, memory
from hwbench.doctor.subject import look
from hwbench.records.base import Missing

POLICY = "sys/devices/system/cpu/cpufreq/policy0"
SOURCE = "sys/devices/system/clocksource/clocksource0"
SUPPLY = "sys/class/power_supply"
CPUFREQ = {f"{POLICY}/cpuinfo_max_freq": 3_000_000, f"{POLICY}/scaling_min_freq": 800_000}


@pytest.mark.parametrize(
    ("check", "files", "severity", "part"),
    [
        (clocks.governor, {f"{POLICY}/scaling_governor": "performance"}, "ok", "performance"),
        (clocks.governor, {f"{POLICY}/scaling_governor": "schedutil"}, "warning", "schedutil"),
        (clocks.governor, {}, "cannot_tell", "governor"),
        (clocks.turbo, {"sys/devices/system/cpu/intel_pstate/no_turbo": 1}, "ok", "off"),
        (clocks.turbo, {"sys/devices/system/cpu/intel_pstate/no_turbo": 0}, "warning", "on"),
        (clocks.turbo, {"sys/devices/system/cpu/cpufreq/boost": 1}, "warning", "on"),
        (clocks.turbo, {}, "cannot_tell", "turbo"),
        (clocks.clock_range, {**CPUFREQ, f"{POLICY}/scaling_max_freq": 3_000_000}, "info", "800 MHz to 3.00 GHz"),
        (clocks.clock_range, {**CPUFREQ, f"{POLICY}/scaling_max_freq": 2_000_000}, "warning", "goes up to 3.00 GHz"),
        (
            clocks.clock_range,
            {**CPUFREQ, f"{POLICY}/scaling_min_freq": 3_000_000, f"{POLICY}/scaling_max_freq": 3_000_000},
            "ok",
            "fixed",
        ),
        (clocks.clock_range, {}, "cannot_tell", "clocks"),
        (clocks.clock_source, {f"{SOURCE}/current_clocksource": "tsc"}, "ok", "tsc"),
        (clocks.clock_source, {f"{SOURCE}/current_clocksource": "hpet"}, "warning", "hpet"),
        (clocks.clock_source, {}, "cannot_tell", "clock source"),
        (cores.isolated, {"sys/devices/system/cpu/isolated": ""}, "info", "no CPUs"),
        (cores.isolated, {"sys/devices/system/cpu/isolated": "2-3"}, "info", "2-3"),
        (cores.isolated, {}, "cannot_tell", "isolated"),
        (cores.numa, {"sys/devices/system/node/has_cpu": "0"}, "ok", "one"),
        (cores.numa, {"sys/devices/system/node/has_cpu": "0-1"}, "warning", "2 NUMA nodes"),
        (cores.numa, {}, "cannot_tell", "NUMA"),
        (load.load_average, {"proc/loadavg": "0.10 0.2 0.3 1/200 5"}, "ok", "0.10"),
        (load.load_average, {"proc/loadavg": "1.70 0.2 0.3 1/200 5"}, "warning", "1.70"),
        (load.load_average, {}, "cannot_tell", "load"),
        (heat.power_supply, {}, "cannot_tell", "power supplies"),
        (heat.power_supply, {f"{SUPPLY}/AC/type": "Mains"}, "ok", "no battery"),
        (heat.power_supply, {f"{SUPPLY}/B/type": "Battery", f"{SUPPLY}/B/status": "Charging"}, "ok", "charging"),
        (heat.power_supply, {f"{SUPPLY}/B/type": "Battery", f"{SUPPLY}/B/status": "Discharging"}, "warning", "battery"),
        (
            heat.power_supply,
            {f"{SUPPLY}/M/type": "Battery", f"{SUPPLY}/M/scope": "Device", f"{SUPPLY}/M/status": "Discharging"},
            "ok",
            "no battery",
        ),
        (memory.swap, {"proc/meminfo": "SwapTotal: 0 kB\nSwapFree: 0 kB"}, "ok", "no swap"),
        (memory.swap, {"proc/meminfo": "SwapTotal: 2048 kB\nSwapFree: 2048 kB"}, "ok", "no swap in use"),
        (memory.swap, {"proc/meminfo": "SwapTotal: 4096 kB\nSwapFree: 2048 kB"}, "warning", "2.00 MiB"),
        (memory.swap, {}, "cannot_tell", "swap"),
        (memory.memory_available, {"proc/meminfo": "MemAvailable: 8388608 kB"}, "ok", "8.00 GiB"),
        (memory.memory_available, {"proc/meminfo": "MemAvailable: 1048576 kB"}, "warning", "1.00 GiB"),
        (memory.huge_pages, {"sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never"}, "warning", "alw"),
        (memory.huge_pages, {"sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never"}, "ok", "madvise"),
        (memory.huge_pages, {}, "cannot_tell", "pages"),
        (memory.address_randomisation, {"proc/sys/kernel/randomize_va_space": 2}, "info", "on"),
        (memory.address_randomisation, {"proc/sys/kernel/randomize_va_space": 0}, "info", "off"),
        (counters.perf_events, {"proc/sys/kernel/perf_event_paranoid": 4}, "info", "nothing"),
        (counters.perf_events, {"proc/sys/kernel/perf_event_paranoid": -1}, "info", "everything"),
        (counters.perf_events, {}, "cannot_tell", "counters"),
    ],
)
def test_what_each_check_says(machine, check, files, severity, part):
    found = check(machine(files))
    assert found.severity == severity
    assert part in (found.found.why if isinstance(found.found, Missing) else found.found)


def test_a_virtual_machine_is_the_reason_where_it_is(machine):
    found = clocks.governor(machine(flags=" hypervisor"))
    assert found.found.code == "not_exposed_in_vm"


def test_no_cpuinfo_is_a_reason_for_every_check_of_the_cpu(tmp_path):
    (tmp_path / "proc").mkdir()
    subject = look(tmp_path, tmp_path)
    for check in (
        clocks.governor,
        clocks.turbo,
        cores.smt,
        cores.numa,
        cores.cpu_quota,
        load.hypervisor,
        counters.rapl,
    ):
        assert "cpuinfo" in check(subject).found.why


def test_siblings_among_the_usable_cpus(machine):
    assert cores.smt(machine()).severity == "ok"
    found = cores.smt(machine(core=0))
    assert (found.severity, found.found) == ("warning", "2 usable CPUs on 1 cores (SMT)")


CGROUP2 = {
    "proc/self/cgroup": "0::/job",
    "proc/self/mountinfo": "35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
}


@pytest.mark.parametrize(
    ("limit", "severity"), [("max 100000", "ok"), ("400000 100000", "ok"), ("150000 100000", "warning")]
)
def test_cpu_quota(machine, limit, severity):
    found = cores.cpu_quota(machine({**CGROUP2, "sys/fs/cgroup/job/cpu.max": limit}))
    assert found.severity == severity


def test_no_control_group_cannot_tell_a_quota(machine):
    assert cores.cpu_quota(machine()).severity == "cannot_tell"
    assert cores.cpu_throttling(machine()).severity == "cannot_tell"


@pytest.mark.parametrize(
    ("stat", "severity", "part"),
    [
        ("usage_usec 5\nnr_periods 9\nnr_throttled 0\nthrottled_usec 0", "ok", "never"),
        ("nr_periods 9\nnr_throttled 7\nthrottled_usec 2500000", "warning", "7 times, 2.50 s"),
        ("nr_periods 9\nnr_throttled 7\nthrottled_time 2500000000", "warning", "7 times, 2.50 s"),
        ("usage_usec 5", "cannot_tell", "cpu.stat"),
    ],
)
def test_throttling_by_the_quota(machine, stat, severity, part):
    found = cores.cpu_throttling(machine({**CGROUP2, "sys/fs/cgroup/job/cpu.stat": stat}))
    assert found.severity == severity
    assert part in str(found.found)


def test_a_group_above_throttles_too(machine):
    files = {**CGROUP2, "sys/fs/cgroup/cpu.stat": "nr_throttled 3\nthrottled_usec 1000"}
    files["sys/fs/cgroup/job/cpu.stat"] = "nr_throttled 0\nthrottled_usec 0"
    assert cores.cpu_throttling(machine(files)).figures["throttled_count"] == 3


def chip(now, crit, name="coretemp", number=0):
    folder = f"sys/class/hwmon/hwmon{number}"
    files = {f"{folder}/name": name, f"{folder}/temp1_input": now, f"{folder}/temp1_label": "Package id 0"}
    return files if crit is None else {**files, f"{folder}/temp1_crit": crit}


@pytest.mark.parametrize(
    ("files", "severity", "part"),
    [
        (chip(45_000, 100_000), "ok", "coretemp Package id 0: 45 °C of 100 °C"),
        (chip(91_000, 100_000), "warning", "91 °C of 100 °C"),
        ({**chip(45_000, 100_000), **chip(80_000, 84_000, "nvme", 1)}, "warning", "nvme"),
        (chip(45_000, None), "cannot_tell", "none tells its limit"),
        (chip(45_000, 65_261_850), "cannot_tell", "none tells its limit"),
        (
            {
                "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
                "sys/class/thermal/thermal_zone0/temp": 70_000,
                "sys/class/thermal/thermal_zone0/trip_point_0_type": "active",
                "sys/class/thermal/thermal_zone0/trip_point_0_temp": 50_000,
                "sys/class/thermal/thermal_zone0/trip_point_1_type": "critical",
                "sys/class/thermal/thermal_zone0/trip_point_1_temp": 110_000,
                "sys/class/thermal/thermal_zone0/trip_point_2_type": "passive",
                "sys/class/thermal/thermal_zone0/trip_point_2_temp": 80_000,
            },
            "warning",
            "70 °C of 80 °C",
        ),
        ({}, "cannot_tell", "temperature"),
    ],
)
def test_thermal_headroom(machine, files, severity, part):
    found = heat.headroom(machine(files))
    assert found.severity == severity
    assert part in str(found.found)


def test_throttle_counters(machine):
    path = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    assert heat.throttling(machine({path: 0})).severity == "ok"


def test_throttle_counters_that_counted(machine):
    path = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    found = heat.throttling(machine({path: 12}))
    assert (found.severity, found.figures) == ("warning", {"throttle_events": 12})


def test_jetson_mode_is_asked_on_a_jetson_only(machine):
    assert heat.jetson_mode(machine()) is None


@pytest.mark.parametrize(("number", "severity"), [(0, "warning"), (2, "info")])
def test_jetson_mode(machine, number, severity):
    files = {
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234",
        "var/lib/nvpmodel/status": f"pmode:{number}",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >",
    }
    assert heat.jetson_mode(machine(files)).severity == severity


def test_jetson_mode_that_is_not_told(machine):
    found = heat.jetson_mode(machine({"proc/device-tree/compatible": "nvidia,tegra234"}))
    assert found.severity == "cannot_tell"
    assert found.cure is not None


@pytest.mark.parametrize(
    ("flags", "stat", "severity", "part"),
    [
        ("", "cpu 1000 0 1000 5000 0 0 0 0 0 0", "ok", "hypervisor"),
        (" hypervisor", "cpu 1000 0 1000 5000 0 0 0 0 0 0", "info", "0.00%"),
        (" hypervisor", "cpu 1000 0 900 5000 0 0 0 100 0 0", "warning", "5.00%"),
        (" hypervisor", "cpu 1", "cannot_tell", "virtual machine"),
    ],
)
def test_steal(machine, flags, stat, severity, part):
    found = load.hypervisor(machine({"proc/stat": stat}, flags=flags))
    assert found.severity == severity
    assert part in str(found.found)


def test_what_a_container_covers(machine):
    covered = machine(
        {
            "proc/self/mountinfo": "90 1 0:5 / /sys/devices/virtual/powercap ro - tmpfs tmpfs ro\n"
            "91 1 0:5 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
            "92 1 0:5 / /tmp rw - tmpfs tmpfs rw",
            ".dockerenv": "",
        }
    )
    found = load.container(covered)
    assert (found.severity, found.found) == ("warning", "docker container; covered: /sys/devices/virtual/powercap")
    assert "HWBENCH_SYSFS_ROOT" in found.cure


def test_a_container_that_covers_nothing(machine):
    assert load.container(machine({".dockerenv": ""})).found.startswith("docker container")
    assert load.container(machine()).severity == "ok"


def test_energy_counters_behind_a_permission(machine, monkeypatch):
    zone = "sys/class/powercap/intel-rapl:0"
    subject = machine({f"{zone}/name": "package-0", f"{zone}/energy_uj": 5, f"{zone}/max_energy_range_uj": 100})
    (subject.tree.root / zone / "energy_uj").chmod(0)
    if os.geteuid() == 0:  # root reads everything
        from hwbench.meters import rapl
        from hwbench.meters.powercap import _CURE_PERMISSION

        denied = Missing(code="permission_denied", why="may not be read", cure=_CURE_PERMISSION)
        monkeypatch.setattr(rapl, "_read_counted", lambda zones: denied)
    found = counters.rapl(subject)
    assert found.severity == "warning"
    assert "udev" in found.cure
    assert "chmod" in found.cure


def test_no_energy_counters_cannot_be_told(machine):
    found = counters.rapl(machine())
    assert (found.severity, found.found.code) == ("cannot_tell", "no_rapl")
    assert found.cure == found.found.cure


def test_disk(machine, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 5, 2**20))
    assert memory.disk(machine()).severity == "warning"
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 5, 2**40))
    assert memory.disk(machine()).severity == "ok"


def test_disk_of_a_folder_that_is_not_there_yet(machine, tmp_path):
    assert str(tmp_path) in memory.disk(look(machine().tree.root, tmp_path / "new" / "er")).found


def seen(**shares):
    return {(number, 0.0): (name, share) for number, (name, share) in enumerate(shares.items())}


def test_busiest_processes():
    found = load.busiest(seen(a=10, b=5, c=1), seen(a=10.8, b=5, c=1.3), 1.0)
    assert found.severity == "warning"
    assert found.found.index("a (process 0) 80%") < found.found.index("c (process 2) 30%")
    assert "b (" not in found.found
    assert found.figures["busy_cpus"] == pytest.approx(1.1)


def test_nobody_busy_and_a_process_that_came_and_one_that_went():
    assert load.busiest(seen(a=10), seen(a=10.01), 1.0).severity == "ok"
    new = {(7, 3.0): ("new", 0.5)}
    assert "new (process 7) 50%" in load.busiest(seen(a=10), new, 1.0).found
    assert load.busiest({}, {}, 0.0).severity == "cannot_tell"


CHOICES = {"sys/firmware/acpi/platform_profile_choices": "low-power balanced performance"}


@pytest.mark.parametrize(
    ("files", "severity", "part"),
    [
        ({"sys/firmware/acpi/platform_profile": "low-power", **CHOICES}, "warning", "low-power"),
        ({"sys/firmware/acpi/platform_profile": "balanced", **CHOICES}, "ok", "balanced"),
        ({f"{POLICY}/energy_performance_preference": "power"}, "warning", "energy hint power"),
        ({f"{POLICY}/energy_performance_preference": "performance"}, "ok", "performance"),
    ],
)
def test_power_profile(machine, files, severity, part):
    found = clocks.power_profile(machine(files))
    assert (found.severity, part in found.found) == (severity, True)


def test_no_power_profile_is_no_question(machine):
    assert clocks.power_profile(machine()) is None


PINNED = {"proc/self/status": "Cpus_allowed_list:\t0"}
STAT = "cpu 0 0 0 0 0 0 0 0 0 0\ncpu0 {0} 0 0 0 0 0 0 0 0 0\ncpu1 {1} 0 0 0 0 0 0 0 0 0"


def test_a_sibling_that_this_process_may_not_use_still_shares_the_core(machine):
    found = cores.smt(machine(PINNED, core=0))
    assert found.severity == "warning"
    assert "CPU 1 may not be used here" in found.found
    assert cores.smt(machine(PINNED, core=1)).severity == "ok"


@pytest.mark.parametrize(("spent", "severity"), [(0, "ok"), (90, "warning")])
def test_load_on_the_sibling_of_a_pinned_cpu(machine, spent, severity):
    subject = machine({**PINNED, "proc/stat": STAT.format(500, 100)}, core=0)
    before = subject.busy_seconds()
    (subject.tree.root / "proc/stat").write_text(STAT.format(600, 100 + spent))
    ticks = os.sysconf("SC_CLK_TCK")
    found = cores.sibling_load(subject, before, subject.busy_seconds(), 100 / ticks)
    assert found.severity == severity
    assert found.figures["busy_share"] == pytest.approx(spent / 100)


def test_siblings_that_are_usable_are_no_separate_question(machine):
    subject = machine(core=0)
    assert cores.sibling_load(subject, {}, {}, 1.0) is None


def test_a_sibling_whose_load_is_not_shown(machine):
    assert cores.sibling_load(machine(PINNED, core=0), {}, {}, 1.0).severity == "cannot_tell"
