"""The state of a GPU, through NVIDIA's own wrapper over a pretended driver; of a Jetson, from made-up files."""

import fake_nvml
import msgspec
import pytest
from fake_nvml import FakeDriver, example_gpu
from fixtures_results import make_host, make_measurement, make_settings
from sysfs import Machine

from hwbench.measure.gpu_held import held_down
from hwbench.measure.gpu_state import REASONS, gpu_reader
from hwbench.nvml import COUNTERS, Nvml
from hwbench.records.base import Missing
from hwbench.records.gpu import GpuState, Limited
from hwbench.report.conditions import gpu_rows
from hwbench.testing import FakeClock, example_cpu

pynvml = fake_nvml.pynvml


@pytest.fixture
def state(monkeypatch):
    """Return a function that reads a GPU whose driver is as told."""

    def read(device=None, **settings):
        driver = FakeDriver(FakeClock(), **settings)
        return gpu_reader(device or example_gpu(), driver=driver.install(monkeypatch))()

    return read


def test_what_a_gpu_tells(state):
    found = state(throttled_ns={269: 2_500_000_000}, reasons=0x4 | 0x20)
    assert (found.sm_hz, found.memory_hz, found.temperature_c) == (1.98e9, 2.619e9, 61)
    assert found.power_w == pytest.approx(300)
    assert found.performance_state == "P0"
    assert found.limited_by == ("sw_power_cap", "sw_thermal")
    assert {entry.reason: entry.held_s for entry in found.limited}["sw_thermal"] == pytest.approx(2.5)
    assert (found.power_limit_w, found.default_power_limit_w) == (650, 700)
    assert found.memory_used_bytes == 2 * 2**30 + 600 * 2**20
    assert isinstance(found.sm_least_hz, Missing)


def test_names_of_reasons_are_those_of_nvml():
    names = {
        "idle": "GpuIdle", "set_clocks": "ApplicationsClocksSetting", "sw_power_cap": "SwPowerCap",
        "hw_slowdown": "HwSlowdown", "sync_boost": "SyncBoost", "sw_thermal": "SwThermalSlowdown",
        "hw_thermal": "HwThermalSlowdown", "hw_power_brake": "HwPowerBrakeSlowdown",
        "display_clock": "DisplayClockSetting",
    }  # fmt: skip
    assert {getattr(pynvml, f"nvmlClocksEventReason{names[name]}"): name for name in names} == REASONS


def test_counters_are_those_of_nvml():
    numbers = Nvml(pynvml).counter_fields()
    assert numbers == {name: getattr(pynvml, constant) for name, constant in COUNTERS.items()}
    assert len(set(numbers.values())) == 5


def test_counters_have_the_numbers_of_the_wrapper_that_is_installed(state, monkeypatch):
    monkeypatch.setattr(pynvml, COUNTERS["sw_thermal"], 251)
    monkeypatch.delattr(pynvml, COUNTERS["hw_thermal"])
    assert Nvml(pynvml).counter_fields()["hw_thermal"].code == "library_too_old"
    found = state(throttled_ns={251: 1_500_000_000, 269: 9_000_000_000}, violations_ns={1: 4_000_000_000})
    held = {entry.reason: entry.held_s for entry in found.limited}
    assert held["sw_thermal"] == pytest.approx(1.5)
    assert held["thermal"] == pytest.approx(4)
    assert "hw_thermal" not in held


def test_reasons_without_a_counter_are_told_by_the_coarser_one(state):
    """A driver that has fields 74 and 76, and none of the thermal ones."""
    thermal = {(number, 0): fake_nvml.INVALID_ARGUMENT for number in (269, 270, 271)}
    before, after = (
        state(fields=thermal, throttled_ns={74: 7_000_000_000}, violations_ns={1: held_ns})
        for held_ns in (1_000_000_000, 3_000_000_000)
    )
    assert [entry.reason for entry in after.limited] == ["sw_power_cap", "sync_boost", "thermal"]
    throttled, capped = held_down(before, after, 10.0, 0.01)
    assert throttled == ["thermal for 2.00 s of 10.0 s"]
    assert capped == []
    blind = state(fields=thermal, failing={"nvmlDeviceGetViolationStatus": 3}, reasons=0x40)
    assert held_down(blind, blind, 10.0, 0.01)[0] == ["hw_thermal at the end"]


def test_a_reason_that_is_new_keeps_its_number(state):
    assert state(reasons=0x8000).limited_by == ("reason_0x8000",)


def test_an_older_driver_is_asked_by_the_older_names(state):
    unknown = {(number, 0): fake_nvml.INVALID_ARGUMENT for number in Nvml(pynvml).counter_fields().values()}
    found = state(
        fields=unknown,
        violations_ns={0: 3_000_000_000, 1: 1_000_000_000},
        failing={"nvmlDeviceGetCurrentClocksEventReasons": 13, "nvmlDeviceGetTemperatureV": 13},
        reasons=0x40,
    )
    assert found.limited_by == ("hw_thermal",)
    assert found.limited == (Limited(reason="power", held_s=3.0), Limited(reason="thermal", held_s=1.0))
    assert found.temperature_c == 60


def test_what_a_driver_does_not_tell_is_missing_with_its_reason(state):
    unknown = {(number, 0): fake_nvml.INVALID_ARGUMENT for number in Nvml(pynvml).counter_fields().values()}
    found = state(fields=unknown, failing={"nvmlDeviceGetViolationStatus": 3, "nvmlDeviceGetPowerUsage": 3})
    assert found.limited.code == "field_unknown"
    assert found.power_w.code == "not_supported"


def test_of_a_mig_instance_it_is_the_whole_gpu(state):
    device = example_gpu(uuid="MIG-1")
    found = state(msgspec.structs.replace(device, name="cuda:0/mig:0"), instance_of="MIG-1")
    assert found.of == "the whole GPU that cuda:0/mig:0 is a part of"
    assert found.sm_hz == 1.98e9


def test_a_gpu_that_is_gone_is_a_reason(state):
    assert state(example_gpu(uuid="GPU-other")).code == "not_found"
    assert state(failing={"nvmlInitWithFlags": 9}).code == "no_driver"


def test_it_connects_once(monkeypatch):
    driver = FakeDriver(FakeClock())
    read = gpu_reader(example_gpu(), driver=driver.install(monkeypatch))
    read()
    read()
    assert driver.calls.count("nvmlDeviceGetHandleByUUID") == 1


def test_of_a_cpu_there_is_none():
    assert gpu_reader(example_cpu())().code == "no_gpu"


def test_every_function_of_nvml_that_is_named_exists():
    """Names in the sources, held against NVIDIA's wrapper."""
    import re
    from pathlib import Path

    import hwbench

    folder = Path(hwbench.__file__).parent
    text = "\n".join(path.read_text() for path in folder.rglob("*.py"))
    named = set(re.findall(r'"(nvml[A-Z]\w*)"', text))
    named |= {f"nvmlDeviceGet{kind}RunningProcesses_v3" for kind in ("Compute", "Graphics", "MPSCompute")}
    assert len(named) > 30
    assert {name for name in named if not hasattr(pynvml, name)} == set()


# what held it down

BEFORE = GpuState(
    of="cuda:0", sm_hz=1.98e9, memory_hz=2.6e9, sm_least_hz=0.0, sm_most_hz=0.0, temperature_c=60.0, power_w=300.0,
    performance_state="P0", limited_by=(), limited=(Limited(reason="sw_thermal", held_s=5.0),
    Limited(reason="sw_power_cap", held_s=50.0)), throttle_events=3, power_limit_w=700.0, default_power_limit_w=700.0,
    memory_used_bytes=0,
)  # fmt: skip
UNTOLD = Missing(code="x", why="not told")


def later(thermal_s=0.0, cap_s=0.0, **changes):
    limited = (Limited(reason="sw_thermal", held_s=5 + thermal_s), Limited(reason="sw_power_cap", held_s=50 + cap_s))
    return msgspec.structs.replace(BEFORE, limited=limited, **changes)


@pytest.mark.parametrize(
    ("after", "throttled", "capped"),
    [
        (later(), 0, 0),
        (later(thermal_s=0.05), 0, 0),
        (later(thermal_s=0.5), 1, 0),
        (later(cap_s=9.0), 0, 1),
        (later(cap_s=9.0, power_limit_w=300.0), 0, 0),  # the limit was set on purpose
        (later(cap_s=9.0, power_limit_w=UNTOLD), 0, 1),
        (later(throttle_events=5), 1, 0),
        (later(throttle_events=UNTOLD), 0, 0),
        (msgspec.structs.replace(BEFORE, limited=UNTOLD, limited_by=("hw_thermal",)), 1, 0),
        (msgspec.structs.replace(BEFORE, limited=UNTOLD, limited_by=("sw_power_cap", "idle")), 0, 1),
        (msgspec.structs.replace(BEFORE, limited_by=("sw_thermal", "sw_power_cap")), 0, 0),  # the counters know better
        (msgspec.structs.replace(BEFORE, limited_by=("hw_thermal",)), 1, 0),  # it has none
        (msgspec.structs.replace(BEFORE, limited_by=("hw_slowdown", "hw_power_brake")), 2, 0),
    ],
)
def test_what_held_it_down(after, throttled, capped):
    found = held_down(BEFORE, after, 10.0, 0.01)
    assert (len(found[0]), len(found[1])) == (throttled, capped)


# a Jetson

ORIN = "sys/class/devfreq/17000000.gpu"


@pytest.fixture
def board(tmp_path):
    machine = Machine(tmp_path)
    machine.put(ORIN, cur_freq=612_000_000, min_freq=306_000_000, max_freq=918_000_000)
    machine.put("sys/class/devfreq/15340000.vic", cur_freq=1, min_freq=1, max_freq=1)
    machine.put("sys/class/thermal/thermal_zone1", type="gpu-thermal", temp=48_500)
    machine.put("sys/class/thermal/thermal_zone0", type="cpu-thermal", temp=90_000)
    machine.put("sys/class/hwmon/hwmon2", name="soctherm_oc", oc1_event_cnt=2, oc3_event_cnt=1)
    return machine


def on_board(board):
    return gpu_reader(msgspec.structs.replace(example_cpu(), kind="jetson"), root=board.root)()


def test_what_a_jetson_tells(board):
    board.put("sys/kernel/debug/bpmp/debug/clk/emc", rate=3_199_000_000)
    board.put("sys/kernel/debug/nvmap/iovmm", clients="CLIENT PROCESS PID SIZE\nuser python3 812 1000K\ntotal 264192K")
    found = on_board(board)
    assert (found.sm_hz, found.sm_least_hz, found.sm_most_hz) == (612e6, 306e6, 918e6)
    assert found.memory_hz == 3.199e9
    assert found.temperature_c == 48.5
    assert found.throttle_events == 3
    assert found.memory_used_bytes == 258 * 2**20
    assert found.power_w.code == "not_applicable"


def test_what_is_for_root_alone_says_so(board, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert on_board(board).memory_hz.code == "permission_denied"


def test_a_bare_jetson_has_reasons(tmp_path):
    found = on_board(Machine(tmp_path))
    for name in ("sm_hz", "sm_least_hz", "temperature_c", "throttle_events", "memory_used_bytes"):
        assert isinstance(getattr(found, name), Missing), name


def test_a_gpu_that_is_switched_off_has_no_temperature(board):
    board.put("sys/class/thermal/thermal_zone1", temp=-256_000)
    assert on_board(board).temperature_c.code == "sensor_not_ready"


def test_thor_calls_its_clock_otherwise(tmp_path):
    machine = Machine(tmp_path)
    machine.put("sys/class/devfreq/gpu-gpc-0", cur_freq=1_575_000_000, min_freq=0, max_freq=1_575_000_000)
    assert on_board(machine).sm_hz == 1.575e9


# in the host's state


def test_the_host_is_read_with_the_gpu_that_is_measured(monkeypatch):
    from hwbench.measure import session
    from hwbench.measure.session import host_reader

    driver = FakeDriver(FakeClock())
    module = driver.install(monkeypatch)
    monkeypatch.setattr(session, "gpu_reader", lambda device: gpu_reader(device, driver=module))
    read = host_reader(make_settings(), FakeClock(), example_gpu())
    assert driver.calls.count("nvmlInitWithFlags") == 1  # before anything is timed
    host = read()
    assert host.gpu.sm_hz == 1.98e9
    assert (host.heat_c, host.clock_hz) == (61, 1.98e9)
    plain = msgspec.structs.replace(make_host(10.0), gpu=Missing(code="no_gpu", why="none"))
    assert (plain.heat_c, plain.clock_hz) == (55.0, 3.35e9)
    assert msgspec.structs.replace(plain, cpu_hz=()).clock_hz.code == "no_cpu"
    assert msgspec.structs.replace(plain, cpu_hz=UNTOLD).clock_hz == UNTOLD


def test_the_page_has_the_gpu_of_each_measurement():
    host = make_host(1.0)
    measurement = msgspec.structs.replace(
        make_measurement(),
        host_before=msgspec.structs.replace(host, gpu=BEFORE),
        host_after=msgspec.structs.replace(host, gpu=later(thermal_s=0.5, sm_hz=1.5e9)),
    )
    (row,) = gpu_rows(["a"], [measurement]).rows
    texts = [cell.text for cell in row]
    assert texts[:2] == ["a (cuda:0)", "1.98 GHz → 1.50 GHz"]
    assert texts[-1] == "sw_thermal 500 ms"
    assert gpu_rows(["a"], [make_measurement()]) is None


def test_a_jetsons_clocks_are_held_where_their_limits_are_equal(board):
    from hwbench.measure.modes.energy import _locked

    host = msgspec.structs.replace(make_host(1.0), governor="performance")
    assert _locked(host) is True
    assert _locked(msgspec.structs.replace(host, gpu=on_board(board))) is False
    board.put(ORIN, min_freq=918_000_000)
    assert _locked(msgspec.structs.replace(host, gpu=on_board(board), governor="schedutil")) is True
