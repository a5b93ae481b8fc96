"""What tells the costs of one GPU from another's, or of the same one run otherwise."""

from __future__ import annotations

import msgspec
import pytest

from hwbench.bundles import runtimes
from hwbench.errors import EngineError
from hwbench.records.base import Missing
from hwbench.records.device import Device, Gpu
from hwbench.store.costs import platform_key
from hwbench.tables.platform import platform_of
from hwbench.tables.quantum import quantum
from hwbench.testing import example_cpu

NO = Missing(code="no", why="not known")
H200 = Device(
    name="cuda:0", kind="nvidia", title="NVIDIA H200", fingerprint="f", profile=NO, memory_bytes=1,
    cpu=example_cpu().cpu,
    gpu=Gpu(name="NVIDIA H200", uuid="GPU-1", compute_capability="9.0", memory_bytes=1, driver_version="580.65.06",
            cuda_version="13.0", power_limit_w=700.0, sm_max_hz=1.98e9, mig=False),
    memory_limit_bytes=NO, virtual=NO, container=NO, power_mode=NO,
)  # fmt: skip


@pytest.fixture
def versions(monkeypatch):
    """Packages that are here; those of the test's machine are not."""
    here = {"tensorrt-cu13": "10.16.2", "onnxruntime": "1.32"}
    monkeypatch.setattr(runtimes, "_version", here.get)
    return here


class Model:
    batch_size = 4


def of(device, engine="tensorrt", threads=8):
    return platform_of(device, engine, Model(), threads=threads, floating="auto")


def test_a_gpu_is_told_by_architecture_driver_power_limit_and_tensorrt(versions):
    found = of(H200)
    assert found.isa == ("sm_90", "driver 580.65.06")
    assert (found.version, found.power_mode, found.threads, found.batch_size) == ("10.16.2", "power limit 700 W", 1, 4)
    keys = {platform_key(found)}
    for change in ({"driver_version": "581.1"}, {"power_limit_w": 400.0}, {"compute_capability": "10.0"}):
        keys.add(platform_key(of(msgspec.structs.replace(H200, gpu=msgspec.structs.replace(H200.gpu, **change)))))
    versions["tensorrt-cu13"] = "10.17.0"
    keys.add(platform_key(of(H200)))
    assert len(keys) == 5
    assert platform_key(of(H200, threads=2)) == platform_key(of(H200)), "one thread launches, whatever was asked for"


def test_a_jetson_goes_by_its_power_mode(versions):
    gpu = msgspec.structs.replace(H200.gpu, driver_version=NO, power_limit_w=NO, compute_capability="8.7")
    found = of(msgspec.structs.replace(H200, kind="jetson", gpu=gpu, power_mode="MAXN"))
    assert (found.isa, found.power_mode) == (("sm_87",), "MAXN")


def test_a_cpu_is_told_as_before(versions):
    device = example_cpu()
    found = of(device, "onnxruntime", threads=3)
    assert (found.isa, found.threads, found.power_mode) == (device.cpu.isa, 3, device.cpu.governor)


@pytest.mark.parametrize("package", ["tensorrt-cu13", "tensorrt-cu12", "tensorrt"])
def test_tensorrt_may_come_in_any_of_its_packages(versions, package):
    del versions["tensorrt-cu13"]
    versions[package] = "8.6.2"
    assert of(H200).version == "8.6.2"


def test_a_runtime_that_is_not_here_has_no_costs(versions):
    versions.clear()
    with pytest.raises(EngineError, match=r"tensorrt-cu13 or tensorrt-cu12 or .* is not installed"):
        of(H200)


@pytest.mark.parametrize(
    ("floating", "scheme", "channels"),
    [("auto", "float", 8), ("fp16", "float", 8), ("bf16", "float", 8), ("tf32", "float", 4), ("fp32", "float", 1),
     ("auto", "int8", 16), ("fp32", "fp8", 16), ("auto", "int4-weights", 8)],
)  # fmt: skip
def test_tensor_cores_read_sixteen_bytes_of_a_row(versions, floating, scheme, channels):
    assert quantum(msgspec.structs.replace(of(H200), floating=floating), scheme) == channels
