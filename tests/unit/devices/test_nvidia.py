from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from hwbench.devices.nvidia import NvidiaFinder
from hwbench.devices.profiles import load_profiles, match_profile
from hwbench.nvml import ERRORS
from hwbench.records.base import Missing
from hwbench.records.device import MigInstance


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(value)
        self.value = value


class FakeNvml:
    """The part of pynvml that the finder uses; ``failing`` maps a function's name to an NVML return code."""

    NVMLError = NVMLError

    def __init__(self, count=1, failing=(), mig=(0, 0), without=(), parts=()):
        """``parts``: the memory of each MIG instance in GiB by its place; None for a place that is not taken."""
        self.failing = dict(failing)
        self.parts = parts
        self.without = set(without)
        self.running = 0
        self._answers = {
            "nvmlDeviceGetCount": lambda: count,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda handle: "NVIDIA H100 80GB HBM3" + part(handle, " MIG {}g.{}gb"),
            "nvmlDeviceGetUUID": lambda handle: f"MIG-{handle}" if isinstance(handle, str) else f"GPU-{handle}",
            "nvmlDeviceGetMaxMigDeviceCount": lambda handle: len(parts),
            "nvmlDeviceGetMigDeviceHandleByIndex": self._part,
            "nvmlDeviceGetAttributes_v2": lambda handle: SimpleNamespace(multiprocessorCount=16 * int(handle[0])),
            "nvmlDeviceGetGpuInstanceId": lambda handle: 7,
            "nvmlDeviceGetComputeInstanceId": lambda handle: 0,
            "nvmlDeviceGetCudaComputeCapability": lambda handle: (9, 0),
            "nvmlDeviceGetMigMode": lambda handle: list(mig),
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(
                total=int(handle.split("/")[1]) * 2**30 if isinstance(handle, str) else 85520809984
            ),
            "nvmlSystemGetDriverVersion": lambda: b"580.65.06",
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 13020,
            "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 700000,
            "nvmlDeviceGetMaxClockInfo": lambda handle, clock: {1: 1980}[clock],
        }

    def _part(self, handle, place):
        if self.parts[place] is None:
            raise NVMLError(6)  # NVML_ERROR_NOT_FOUND
        return self.parts[place]

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


def part(handle, text):
    return text.format(*handle.split("/")) if isinstance(handle, str) else ""


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


def test_instances_of_mig_are_devices(tmp_path):
    whole, small, large = look(tmp_path, mig=(1, 1), parts=("1/10", None, "4/40")).devices
    assert [one.name for one in (whole, small, large)] == ["cuda:0", "cuda:0/mig:0", "cuda:0/mig:2"]
    assert small.title == "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    assert (small.gpu.uuid, small.memory_bytes, small.gpu.mig) == ("MIG-1/10", 10 * 2**30, False)
    assert small.gpu.compute_capability == "9.0"
    assert small.gpu.instance == MigInstance(
        parent="cuda:0", parent_uuid="GPU-0", gpu_instance=7, compute_instance=0, sm_count=16
    )
    assert small.gpu.power_limit_w.code == "mig_instance"
    assert whole.gpu.instance is None
    assert len({one.fingerprint for one in (whole, small, large)}) == 3
    assert match_profile(small, load_profiles()).code == "no_profile"


def test_instances_that_cannot_be_asked_are_reasons_beside_the_gpu(tmp_path):
    found = look(tmp_path, mig=(1, 1), failing={"nvmlDeviceGetMaxMigDeviceCount": 4})
    assert [device.name for device in found.devices] == ["cuda:0"]
    assert found.absent.reasons[0].why.startswith("cuda:0/mig: ")
    found = look(tmp_path, mig=(1, 1), parts=("1/10",), failing={"nvmlDeviceGetAttributes_v2": 3})
    assert found.devices[1].gpu.instance.sm_count.code == "not_supported"


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
