from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from hwbench.devices.nvidia import NvidiaFinder
from hwbench.nvml import ERRORS
from hwbench.records.base import Missing


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(value)
        self.value = value


class FakeNvml:
    """The part of pynvml that the finder uses; ``failing`` maps a function's name to an NVML return code."""

    NVMLError = NVMLError

    def __init__(self, count=1, failing=(), mig=(0, 0), without=()):
        self.failing = dict(failing)
        self.without = set(without)
        self.running = 0
        self._answers = {
            "nvmlDeviceGetCount": lambda: count,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda handle: "NVIDIA H100 80GB HBM3",
            "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
            "nvmlDeviceGetCudaComputeCapability": lambda handle: (9, 0),
            "nvmlDeviceGetMigMode": lambda handle: list(mig),
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=85520809984),
            "nvmlSystemGetDriverVersion": lambda: b"580.65.06",
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 13020,
            "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 700000,
            "nvmlDeviceGetMaxClockInfo": lambda handle, clock: {1: 1980}[clock],
        }

    def __getattr__(self, name):
        if name in self.without or name not in self._answers:
            raise AttributeError(name)

        def call(*arguments):
            assert self.running == 1, f"{name} while NVML is not initialised"
            if name in self.failing:
                raise NVMLError(self.failing[name])
            return self._answers[name](*arguments)

        return call

    def nvmlInit(self):  # noqa: N802 - NVML's name
        if "nvmlInit" in self.failing:
            raise NVMLError(self.failing["nvmlInit"])
        self.running += 1

    def nvmlShutdown(self):  # noqa: N802 - NVML's name
        self.running -= 1


def look(root, **settings):
    nvml = FakeNvml(**settings)
    found = NvidiaFinder(nvml, root).find()
    assert nvml.running == 0, "NVML was left initialised"
    return found


def test_one_gpu(tmp_path):
    (device,) = look(tmp_path).devices
    gpu = device.gpu
    assert (device.name, device.kind, device.title) == ("cuda:0", "nvidia", "NVIDIA H100 80GB HBM3")
    assert (gpu.uuid, gpu.compute_capability, gpu.driver_version, gpu.cuda_version) == (
        "GPU-0",
        "9.0",
        "580.65.06",
        "13.2",
    )
    assert gpu.memory_bytes == device.memory_bytes == 85520809984
    assert gpu.power_limit_w == pytest.approx(700)
    assert gpu.sm_max_hz == pytest.approx(1.98e9)
    assert gpu.mig is False


def test_mig_shows_and_changes_the_fingerprint(tmp_path):
    (plain,) = look(tmp_path).devices
    (split,) = look(tmp_path, mig=(1, 1)).devices
    assert split.gpu.mig is True
    assert split.title.endswith("(MIG)")
    assert split.fingerprint != plain.fingerprint


def test_two_equal_gpus_have_one_fingerprint(tmp_path):
    first, second = look(tmp_path, count=2).devices
    assert (first.name, second.name) == ("cuda:0", "cuda:1")
    assert first.gpu.uuid != second.gpu.uuid
    assert first.fingerprint == second.fingerprint


def test_an_integrated_gpu_has_reasons_where_it_has_no_values(tmp_path):
    not_supported = dict.fromkeys(
        ["nvmlDeviceGetMemoryInfo", "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetMigMode"], 3
    )
    (device,) = look(tmp_path, failing=not_supported).devices
    for value in (device.memory_bytes, device.gpu.memory_bytes, device.gpu.power_limit_w, device.gpu.mig):
        assert isinstance(value, Missing)
        assert value.code == "not_supported"
    assert "integrated" in device.memory_bytes.why


def test_functions_that_are_missing_in_the_library_or_the_driver(tmp_path):
    (device,) = look(
        tmp_path, without=["nvmlDeviceGetMigMode"], failing={"nvmlDeviceGetEnforcedPowerLimit": 13}
    ).devices
    assert device.gpu.mig.code == "library_too_old"
    assert device.gpu.power_limit_w.code == "driver_too_old"


@pytest.mark.parametrize(("number", "code"), [(12, "no_driver"), (9, "no_driver"), (18, "driver_mismatch")])
def test_no_driver(tmp_path, number, code):
    found = look(tmp_path, failing={"nvmlInit": number})
    assert found.devices == ()
    assert found.absent.reasons[0].code == code
    assert found.absent.reasons[0].cure


def test_no_gpu(tmp_path):
    assert look(tmp_path, count=0).absent.reasons[0].code == "no_gpu"


def test_a_lost_gpu_is_a_reason(tmp_path):
    found = look(tmp_path, failing={"nvmlDeviceGetHandleByIndex": 15})
    assert found.devices == ()
    assert found.absent.reasons[0].code == "gpu_lost"
    assert "cuda:0" in found.absent.reasons[0].why


def test_an_error_that_is_new_keeps_its_number(tmp_path):
    assert "4711" in look(tmp_path, failing={"nvmlInit": 4711}).absent.reasons[0].why


def test_a_bug_still_shuts_nvml_down(tmp_path):
    nvml = FakeNvml()
    nvml._answers["nvmlDeviceGetMemoryInfo"] = lambda handle: 1 / 0
    with pytest.raises(ZeroDivisionError):
        NvidiaFinder(nvml, tmp_path).find()
    assert nvml.running == 0


def test_no_driver_library_is_told_before_the_wrapper_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("hwbench.nvml.has_driver_library", lambda: False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (reason,) = NvidiaFinder(root=tmp_path).find().absent.reasons
    assert reason.code == "no_driver"


def test_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("hwbench.nvml.has_driver_library", lambda: True)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (reason,) = NvidiaFinder(root=tmp_path).find().absent.reasons
    assert reason.code == "not_installed"
    assert "pip install" in reason.cure


def test_the_table_knows_every_return_code():
    pynvml = pytest.importorskip("pynvml")
    numbers = {value: name for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_")}
    assert numbers
    assert set(numbers) <= set(ERRORS), {numbers[n] for n in set(numbers) - set(ERRORS)}
