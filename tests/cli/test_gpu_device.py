"""The command line on a GPU that is pretended: no step may take it for a CPU, fail for want of one, or tell a lie."""

import json
from types import SimpleNamespace

import pytest
from command import environment, failed, hwbench
from stub_gpu import stub_gpu

from hwbench import plugins
from hwbench.devices import search
from hwbench.inventory import Target, cannot_build
from hwbench.records.device import Found
from hwbench.testing import example_cpu


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    return environment(folder / "home", path=(stub_gpu(folder / "stub"),))


@pytest.fixture(scope="module")
def profiled(env, tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiled")
    done = hwbench("profile", "digits_cnn", "--device", "cuda:0", "-e", "gpu-stub", "-o", "r", "--iterations", "30",
               "--warmup", "10ms", cwd=folder, env=env)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, json.loads((folder / "r/result.json").read_text()), (folder / "r/report.html").read_text()


def test_the_host_is_described_and_pinned(profiled):
    _, result, _ = profiled
    device = result["device"]
    assert (device["name"], device["kind"]) == ("cuda:0", "nvidia")
    cpu = device["cpu"]
    assert cpu["usable_cpus"]
    (measured,) = result["measurements"]
    assert measured["settings"]["threads"] == result["request"]["threads"] >= 1
    assert set(measured["settings"]["cpus"]) <= set(cpu["usable_cpus"])
    assert measured["settings"]["cpus"]
    assert measured["host_before"]["busy_s"] is not None


def test_nothing_of_the_host_is_told_of_the_gpu(profiled):
    done, result, page = profiled
    (measured,) = result["measurements"]
    assert measured["energy_estimate"]["code"] == "not_applicable"
    assert result["roofline_source"] == "data sheet of NVIDIA H100 SXM5 80 GB, not measured here"
    assert result["peak_ops_per_s"]["fp16"] > 9e14
    assert "host " in done.stdout
    assert "host cpu" in page
    assert "Peak memory on the GPU" in page


def test_memory_of_the_gpu_is_looked_at_in_both_phases(profiled):
    _, result, _ = profiled
    (measured,) = result["measurements"]
    for phase in ("gpu_memory_loading", "gpu_memory"):
        assert measured[phase]["kind"] == "gpu_memory"
        assert measured[phase]["torch_peak_allocated_bytes"]["code"] == "no_torch"
    assert measured["gpu_memory_loading"]["sampled_every_s"] < measured["gpu_memory"]["sampled_every_s"]


def test_a_gpu_is_not_calibrated_as_a_cpu(env, tmp_path):
    failed(hwbench("calibrate", "--device", "cuda:0", cwd=tmp_path, env=env), 3, "--device cpu")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "litert"])
def test_no_engine_of_the_cpu_is_built_for_a_gpu(name):
    """By `hwbench plan` and `hwbench optimize`, which try every engine that builds."""
    engine = plugins.load("engines", name)
    if not engine.installed().usable:
        pytest.skip(f"{name} is not installed")
    network = SimpleNamespace(
        model=SimpleNamespace(artefact=None), files=SimpleNamespace(no_graph=None, torch_source=None)
    )
    gpu = example_cpu(name="cuda:0", kind="nvidia")
    assert cannot_build(engine, network, Target(device=gpu, profile=None)).code == "wrong_device"
    assert cannot_build(engine, network, Target(device=example_cpu(), profile=None)) is None


def test_a_phone_does_not_get_the_cpu_of_this_machine():
    host = example_cpu()
    phone = example_cpu(name="phone", kind="android", cpu=None)
    gpu = example_cpu(name="cuda:0", kind="nvidia", cpu=None)
    founds = [("cpu", Found(devices=(host,))), ("android", Found(devices=(phone,)))]
    assert search.with_host(phone, founds).cpu is None
    assert search.with_host(gpu, founds).cpu == host.cpu
    assert search.with_host(gpu, []).cpu is None
