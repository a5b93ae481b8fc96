"""The NVML meter, through NVIDIA's own wrapper on a driver that is pretended (tests/fake_nvml.py)."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
from fake_nvml import (
    AVERAGE,
    ENERGY,
    INSTANT,
    INVALID_ARGUMENT,
    NO_PERMISSION,
    NOT_SUPPORTED,
    FakeDriver,
    example_gpu,
    pynvml,
)

from hwbench import nvml as shared
from hwbench.energy.account import energy_between
from hwbench.energy.update_period import UpdatePeriod, keep, kept
from hwbench.meters import nvml_channels
from hwbench.meters.nvml import Nvml
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyReading
from hwbench.testing import FakeClock, MeterContract, assert_explained, example_cpu, let, opened

POWER_FIELDS = {(INSTANT, 0): NOT_SUPPORTED, (AVERAGE, 0): NOT_SUPPORTED, (AVERAGE, 2): NOT_SUPPORTED,
                (INSTANT, 2): NOT_SUPPORTED}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path))


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make(clock, monkeypatch):
    """Return (driver, meter) with the driver's settings changed."""

    def make(power_w=lambda t_s: 300.0, **settings):
        driver = FakeDriver(clock, power_w, **settings)
        return driver, Nvml(driver.install(monkeypatch), clock)

    return make


def measure(meter, clock, seconds=12.0, device=None, before=lambda: None):
    with opened(meter, device or example_gpu(), clock) as recorder:
        let(recorder, clock, 1.5)
        before()
        with recorder.window() as window:
            let(recorder, clock, seconds)
        let(recorder, clock, 1.5)
    return window.reading(), recorder.trace


def channels(meter):
    instrument = meter.open(example_gpu())
    try:
        return {channel.name: channel for source in instrument.sources for channel in source.channels}
    finally:
        instrument.close()


class Simulated(MeterContract):
    work_s = 2.0
    __test__ = False

    @pytest.fixture
    def clock(self):
        return FakeClock()


class TestContract(Simulated):
    __test__ = True

    @pytest.fixture
    def device(self):
        return example_gpu()

    @pytest.fixture
    def meter(self, make):
        return make()[1]


class TestContractWithoutADriver(Simulated):
    __test__ = True

    @pytest.fixture
    def device(self):
        return example_gpu()

    @pytest.fixture
    def meter(self, make):
        return make(failing={"nvmlInitWithFlags": 9})[1]


class TestContractOfACpu(Simulated):
    __test__ = True

    @pytest.fixture
    def meter(self, make):
        return make()[1]


def test_every_constant_is_that_of_nvidia_ml_py():
    ours = nvml_channels
    assert ours.FIELD_ENERGY == pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION
    assert (ours.FIELD_AVERAGE, ours.FIELD_INSTANT) == (
        pynvml.NVML_FI_DEV_POWER_AVERAGE,
        pynvml.NVML_FI_DEV_POWER_INSTANT,
    )
    assert (ours.SCOPE_GPU, ours.SCOPE_MODULE, ours.SCOPE_MEMORY) == (
        pynvml.NVML_POWER_SCOPE_GPU,
        pynvml.NVML_POWER_SCOPE_MODULE,
        pynvml.NVML_POWER_SCOPE_MEMORY,
    )
    assert shared.Nvml(pynvml).counter_fields() == {
        "sw_power_cap": pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP,
        "sync_boost": pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST,
        "sw_thermal": pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN,
        "hw_thermal": pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN,
        "hw_power_brake": pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN,
    }
    assert ours._FIELD_MEMORY_TEMPERATURE == pynvml.NVML_FI_DEV_MEMORY_TEMP
    assert (ours._TEMPERATURE_GPU, ours._CLOCK_SM, ours._CLOCK_MEMORY) == (
        pynvml.NVML_TEMPERATURE_GPU,
        pynvml.NVML_CLOCK_SM,
        pynvml.NVML_CLOCK_MEM,
    )
    assert pynvml.NVML_ERROR_INVALID_ARGUMENT == shared._FIELD_UNKNOWN
    numbers = {value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_")}
    assert numbers <= set(shared.ERRORS)


def test_the_union_is_read_by_its_type():
    names = ["DOUBLE", "UNSIGNED_INT", "UNSIGNED_LONG", "UNSIGNED_LONG_LONG", "SIGNED_LONG_LONG", "SIGNED_INT",
             "UNSIGNED_SHORT"]  # fmt: skip
    assert len(shared._MEMBERS) == pynvml.NVML_VALUE_TYPE_COUNT
    for name, member in zip(names, shared._MEMBERS, strict=True):
        entry = pynvml.c_nvmlFieldValue_t()
        entry.valueType = getattr(pynvml, f"NVML_VALUE_TYPE_{name}")
        entry.value.ullVal = 2**64 - 1  # whatever lay in the union before
        setattr(entry.value, member, 7)
        assert shared._value(entry, 186) == 7, name
    entry.valueType = pynvml.NVML_VALUE_TYPE_COUNT
    assert shared._value(entry, 186).code == "nvml_unknown"


class TestReading:
    def test_counter_and_power_agree(self, make, clock):
        driver, meter = make()
        reading, trace = measure(meter, clock)
        assert reading.energy_j == pytest.approx(300 * 12, rel=0.01)
        assert reading.crosscheck.channel == "power_instant"
        assert reading.crosscheck.ratio == pytest.approx(1.0, abs=0.01)
        assert reading.provenance == "measured_onboard"
        assert reading.boundary.startswith("GPU board (NVML, scope GPU)")
        assert reading.domains_j["memory_power"] == pytest.approx(60 * 12, rel=0.02)
        assert reading.flags == ()
        assert driver.running == 0, "NVML was left initialised"
        assert trace.header.settings["power_limit_enforced"] == "650 W"
        assert trace.header.settings["power_limit_default"] == "700 W"

    def test_the_uncertainty_is_the_gain_unless_the_window_is_short(self, make, clock):
        reading, _ = measure(make()[1], clock, seconds=60)
        assert reading.relative_uncertainty == pytest.approx(2 * 0.05 / 3**0.5, rel=0.01)

    def test_how_often_each_is_read(self, make, clock):
        _, trace = measure(make()[1], clock)
        count = {name: len(samples) for name, samples in trace.samples.items()}
        assert count["energy_counter"] == pytest.approx(15, abs=3), "faster reading loses energy on some cards"
        assert count["power_instant"] == pytest.approx(15 / 0.05, abs=5), "twice an update"

    def test_throttling_is_a_difference_of_durations(self, make, clock):
        driver, meter = make(throttled_ns={74: 9_000_000_000})

        def throttle():
            driver.throttled_ns[269] = 0
            clock_power = driver.power_w
            driver.power_w = lambda t_s: (
                driver.throttled_ns.update({74: 9_000_000_000 + round(t_s * 2e8)}) or clock_power(t_s)
            )

        reading, _ = measure(meter, clock, before=throttle)
        assert reading.throttled_s["sw_power_cap"] == pytest.approx(0.2 * 12, abs=0.5)
        assert reading.throttled_s["sw_thermal"] == 0.0
        assert "throttled:sw_power_cap" in reading.flags

    def test_temperature_and_clocks_are_context(self, make, clock):
        _, trace = measure(make()[1], clock)
        last = {name: samples[-1].value for name, samples in trace.samples.items()}
        assert last["temperature"] == 61.0
        assert last["memory_temperature"] == 72.0
        assert (last["sm_clock"], last["memory_clock"]) == (1.98e9, 2.619e9)

    def test_an_older_driver_tells_the_temperature_by_the_older_call(self, make, clock):
        _, trace = measure(make(failing={"nvmlDeviceGetTemperatureV": 13})[1], clock)
        assert trace.samples["temperature"][-1].value == 60.0

    def test_a_counter_that_falls_short_is_flagged_and_the_power_shown(self, make, clock):
        meter = make(lambda t_s: 300 + math.sin(7 * t_s), counted=0.57)[1]  # 187 J of 327 J, ml-energy/zeus#181
        reading, _ = measure(meter, clock)
        assert "counter_power_mismatch" in reading.flags
        assert reading.energy_j == pytest.approx(300 * 12, rel=0.01)
        assert "power_instant" in reading.boundary


class TestWhichSensors:
    def test_hopper(self, make):
        found = channels(make()[1])
        assert {name: channel.role for name, channel in found.items() if channel.role != "context"} == {
            "energy_counter": "total",
            "power_instant": "check",
            "memory_power": "part",
        }
        assert found["power_instant"].sensed_s == found["power_instant"].averaging_s == 0.025
        assert found["power_average"].averaging_s == 1.0
        assert found["energy_counter"].sensed_s == pytest.approx(0.25 * found["energy_counter"].period_s)

    def test_a_counter_that_moves_faster_than_its_sensor_is_no_better(self, make):
        """It moves every 20 ms, and what it adds up is still 25 of every 100 ms."""
        driver, meter = make(counter_period_s=0.02)
        counter = channels(meter)["energy_counter"]
        assert (counter.period_s, counter.sensed_s) == (0.1, 0.025)
        assert driver.running == 0

    def test_a_card_without_memory_power_has_no_such_part(self, make):
        found = channels(make(memory_w=0.0)[1])
        assert "memory_power" not in found

    def test_memory_power_only_as_an_average(self, make):
        found = channels(make(fields={(INSTANT, 2): NOT_SUPPORTED})[1])
        assert found["memory_power"].averaging_s == 1.0

    @pytest.mark.parametrize("code", [NOT_SUPPORTED, INVALID_ARGUMENT, NO_PERMISSION])
    def test_without_a_counter_power_is_the_total(self, make, clock, code):
        meter = make(fields={(ENERGY, 0): code}, capability=(6, 0), period_s=0.02, sensed_s=0.01)[1]
        assert channels(meter)["power_instant"].role == "total"
        reading, trace = measure(meter, clock)
        assert reading.energy_j == pytest.approx(300 * 12, rel=0.01)
        assert isinstance(reading.crosscheck, Missing)
        assert trace.header.settings["energy_counter"].startswith("not used: ")

    @pytest.mark.parametrize("counted", [0.0, -1.0])
    def test_a_counter_that_stands_or_falls_is_not_used(self, make, counted):
        meter = make(counted=counted)[1]
        assert channels(meter)["power_instant"].role == "total"

    def test_a_counter_of_zero_is_not_used(self, make):
        assert "energy_counter" not in channels(make(counter_mj=0, counted=0.0)[1])

    @pytest.mark.parametrize(
        ("capability", "averaging_s"), [((9, 0), 1.0), ((8, 6), 1.0), ((8, 0), 0.025), ((7, 0), 0.01)]
    )
    def test_the_legacy_call_means_what_it_means_on_the_architecture(self, make, capability, averaging_s):
        found = channels(make(fields=POWER_FIELDS, capability=capability)[1])
        assert found["power_usage"].averaging_s == averaging_s
        assert "power_instant" not in found
        assert "power_average" not in found

    def test_the_legacy_call_is_not_guessed_at(self, make):
        meter = make(fields={**POWER_FIELDS, (ENERGY, 0): NOT_SUPPORTED},
                     failing={"nvmlDeviceGetCudaComputeCapability": 13})[1]  # fmt: skip
        assert meter.open(example_gpu()).code == "unit_guess"

    def test_nothing_at_all(self, make):
        driver, meter = make(
            fields={**POWER_FIELDS, (ENERGY, 0): NOT_SUPPORTED}, failing={"nvmlDeviceGetPowerUsage": NOT_SUPPORTED}
        )
        (why,) = meter.supports(example_gpu()).reasons
        assert why.code == "not_supported"
        assert "external meter" in why.cure
        assert isinstance(meter.open(example_gpu()), Missing)
        assert driver.running == 0

    def test_an_unknown_architecture_has_no_timing_from_the_table(self, make):
        found = channels(make(capability=(10, 0))[1])
        assert_explained(found["power_instant"].period_s)
        assert_explained(found["power_instant"].sensed_s)

    def test_a_superchip_is_a_module(self, make, clock):
        settings = {"c2c": 1, "module_w": 200.0, "counted": 500 / 300}
        meter = make(failing={"nvmlDeviceGetC2cModeInfoV": 0}, fields={(INSTANT, 1): 0}, **settings)[1]
        reading, _ = measure(meter, clock)
        assert "superchip module" in reading.boundary
        assert "scope MODULE" in reading.boundary
        assert reading.energy_j == pytest.approx(500 * 12, rel=0.01)
        assert reading.crosscheck.channel == "module_power_instant"
        assert reading.crosscheck.ratio == pytest.approx(1.0, abs=0.01)
        assert reading.domains_j["power_instant"] == pytest.approx(300 * 12, rel=0.01)

    def test_a_superchip_whose_module_power_is_silent(self, make):
        meter = make(failing={"nvmlDeviceGetC2cModeInfoV": 0}, c2c=1)[1]
        assert channels(meter)["power_instant"].role == "part", "the GPU's power is no check of the module's counter"

    def test_no_module_is_asked_for_where_there_is_none(self, make):
        meter = make(fields={(INSTANT, 1): 0}, module_w=50.0)[1]
        assert "module_power_instant" not in channels(meter)


class TestTrouble:
    @pytest.mark.parametrize(("number", "code"), [(15, "gpu_lost"), (16, "gpu_needs_reset"), (4, "permission_denied")])
    def test_a_gpu_that_goes_away_while_it_works(self, make, clock, number, code):
        driver, meter = make()
        with opened(meter, example_gpu(), clock) as recorder, recorder.window() as window:
            let(recorder, clock, 5.0)
            driver.failing["nvmlDeviceGetFieldValues"] = number
            let(recorder, clock, 7.0)
        assert window.reading().code == code
        assert_explained(window.reading())

    def test_a_counter_that_is_set_back(self, make, clock):
        driver, meter = make()
        with opened(meter, example_gpu(), clock) as recorder, recorder.window() as window:
            let(recorder, clock, 5.0)
            driver.counter_mj = 10  # the driver was loaded again
            driver._joules = 0.0
            let(recorder, clock, 7.0)
        assert window.reading().code == "counter_backwards"

    def test_a_counter_that_freezes(self, make, clock):
        driver, meter = make()
        with opened(meter, example_gpu(), clock) as recorder:
            let(recorder, clock, 2.0)
            frozen = driver.energy_mj()
            driver.energy_mj = lambda: frozen
            with recorder.window() as window:
                let(recorder, clock, 12.0)
        assert window.reading().code == "counter_constant"

    def test_a_field_that_an_old_driver_does_not_know(self, make):
        meter = make(fields={(269, 0): INVALID_ARGUMENT, (270, 0): INVALID_ARGUMENT, (271, 0): NOT_SUPPORTED})[1]
        assert {"sw_power_cap", "sync_boost"} <= set(channels(meter))
        assert not {"sw_thermal", "hw_thermal", "hw_power_brake"} & set(channels(meter))

    def test_a_field_that_the_wrapper_does_not_name(self, make, monkeypatch):
        meter = make()[1]
        monkeypatch.setattr(pynvml, shared.COUNTERS["sw_thermal"], 251)
        monkeypatch.delattr(pynvml, shared.COUNTERS["hw_thermal"])
        assert not {"sw_thermal", "hw_thermal"} & set(channels(meter))
        assert "hw_power_brake" in channels(meter)

    def test_mig_instance(self, make):
        driver, meter = make()
        (why,) = meter.supports(example_gpu(uuid="MIG-1234")).reasons
        assert why.code == "mig_instance"
        assert why.cure
        assert driver.calls == []

    def test_mig_on_is_said(self, make, clock):
        reading, _ = measure(make(mig=(1, 1))[1], clock)
        assert "mig_whole_gpu" in reading.flags
        assert "all MIG instances together" in reading.boundary

    def test_another_gpu(self, make):
        assert make()[1].open(example_gpu(uuid="GPU-other")).code == "not_found"

    def test_a_cpu(self, make):
        assert make()[1].supports(example_cpu()).reasons[0].code == "wrong_device"


class TestLoading:
    def test_an_unofficial_clone_is_refused(self, monkeypatch):
        monkeypatch.setattr(shared, "has_driver_library", lambda: True)
        monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=lambda: None))
        why = Nvml().open(example_gpu())
        assert why.code == "wrong_package"
        assert "pip uninstall pynvml" in why.cure

    def test_the_real_wrapper_is_taken(self, monkeypatch):
        monkeypatch.setattr(shared, "has_driver_library", lambda: True)
        assert shared.load() is pynvml

    def test_not_installed(self, monkeypatch):
        monkeypatch.setattr(shared, "has_driver_library", lambda: True)
        monkeypatch.setitem(sys.modules, "pynvml", None)
        assert shared.load().code == "not_installed"

    def test_no_driver(self, monkeypatch):
        monkeypatch.setattr(shared, "has_driver_library", lambda: False)
        monkeypatch.setattr("sys.platform", "linux")
        assert shared.load().code == "no_driver"

    def test_a_function_that_the_wrapper_lacks(self):
        module = SimpleNamespace(NVMLError=pynvml.NVMLError)
        assert shared.Nvml(module).ask("nvmlDeviceGetNew").code == "library_too_old"


class TestPeriod:
    def test_it_is_found_under_load_and_kept_for_this_gpu_and_driver(self, make):
        driver, meter = make(lambda t_s: 200 + 100 * (t_s % 0.37), period_s=0.098)
        found = meter.find_period(example_gpu())
        assert found.period_s == pytest.approx(0.098, rel=0.01)
        assert kept("NVIDIA H100 80GB HBM3", "580.65.06") == found
        assert driver.running == 0
        channel = channels(meter)["power_instant"]
        assert channel.period_s == found.period_s
        assert channel.sensed_s == 0.025, "the part that is looked at comes from the table"

    def test_at_a_steady_load_nothing_is_found(self, make):
        meter = make()[1]
        why = meter.find_period(example_gpu())
        assert why.code == "no_variation"
        assert kept("NVIDIA H100 80GB HBM3", "580.65.06") is None

    def test_where_it_comes_from_is_said(self, make, clock):
        meter = make()[1]
        _, trace = measure(meter, clock)
        assert "table, compute capability 9.0" in trace.header.settings["update_period"]
        keep("NVIDIA H100 80GB HBM3", "580.65.06", UpdatePeriod(period_s=0.1, changes=29, polled_s=0.001))
        _, trace = measure(meter, clock)
        assert "detected: 29 changes" in trace.header.settings["update_period"]
        assert "table" in trace.header.settings["sensed"]

    def test_another_driver_has_another(self, make):
        keep("NVIDIA H100 80GB HBM3", "1.0", UpdatePeriod(period_s=0.5, changes=29, polled_s=0.001))
        assert channels(make()[1])["power_instant"].period_s == 0.1


def test_an_aliasing_load_is_flagged(make, clock):
    """A load of the sensor's own period: it sees one quarter of it."""
    _, meter = make(lambda t_s: 300.0 if (t_s % 0.1) < 0.05 else 0.0)
    _, trace = measure(meter, clock)
    start, end = trace.windows("window")[0]
    reading = energy_between(trace, start.t_s, end.t_s, load_period_s=0.1)
    assert isinstance(reading, EnergyReading)
    assert "aliasing_risk" in reading.flags
