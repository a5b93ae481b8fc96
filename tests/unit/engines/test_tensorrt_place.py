"""For which device a plan is built, and why one cannot run where it is: each a reason with a cure."""

from types import SimpleNamespace

import msgspec
import pytest

from hwbench import plugins
from hwbench.cuda.driver import DriverFacts, SeenGpu
from hwbench.devices.profiles import load_profiles
from hwbench.engines import tensorrt_api, tensorrt_place
from hwbench.engines.tensorrt import TensorRt, TensorRtRtx
from hwbench.engines.tensorrt_place import attached_place, described_place, is_attached, why_not
from hwbench.errors import DeviceError, EngineError
from hwbench.inventory import cannot_build, find_or_describe, is_news
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device, Gpu
from hwbench.records.model import Artefact, ImportResult, Model, ModelFiles
from hwbench.testing import example_cpu

NO = Missing(code="no", why="not known")


def gpu(capability="8.9", uuid="GPU-1", cuda="13.0"):
    return Gpu(
        name="RTX", uuid=uuid, compute_capability=capability, memory_bytes=1 << 34, driver_version="580.1",
        cuda_version=cuda, power_limit_w=NO, sm_max_hz=NO, mig=False,
    )  # fmt: skip


def device(kind="nvidia", name="cuda:0", found=None):
    return Device(
        name=name, kind=kind, title="a GPU", fingerprint="f", profile=NO, gpu=found, memory_bytes=1 << 34,
        memory_limit_bytes=NO, virtual=NO, container=NO, power_mode=NO,
    )  # fmt: skip


def seen(index, uuid, capability):
    return SeenGpu(
        index=index, name=f"GPU {index}", uuid=uuid, whole=uuid, mig=False, compute_capability=capability,
        integrated=False, memory_bytes=1 << 34, multiprocessors=1, l2_bytes=1, clock_hz=1.0,
    )  # fmt: skip


@pytest.fixture
def driver(monkeypatch):
    """A driver with two GPUs, and both flavours installed."""
    facts = DriverFacts(library="libcuda.so.1", cuda=(13, 0), gpus=(seen(0, "GPU-0", (8, 6)), seen(1, "GPU-1", (8, 9))))
    monkeypatch.setattr(tensorrt_place, "require_driver", lambda minimum: facts)
    monkeypatch.setattr(tensorrt_place, "installed", lambda flavour: Support())
    monkeypatch.setattr(tensorrt_place, "needed_cuda", lambda flavour: (13, 0))
    monkeypatch.setattr(tensorrt_place, "installed_version", lambda flavour: "10.3.0")


def plan(**settings):
    told = {"tensorrt": "10.3.0", "capability": "8.9", "flags": "none", "hardware_compatibility_level": "NONE"}
    named = {key.replace("level", "hardware_compatibility_level"): value for key, value in settings.items()}
    return Artefact(engine="tensorrt", sha256="0", files=("model.engine",), label="fp16", settings=told | named)


def test_the_gpu_of_the_device_is_taken(driver):
    place = attached_place(device(found=gpu(uuid="gpu-1")), "tensorrt")
    assert (place.capability, place.gpu, place.uuid, place.cuda) == ((8, 9), "GPU 1", "GPU-1", (13, 0))
    assert attached_place(device(name="cuda:1"), "tensorrt").uuid == "GPU-1"
    assert attached_place(device(kind="jetson", name="jetson"), "tensorrt").uuid == "GPU-0"
    with pytest.raises(DeviceError, match="does not show 'cuda:0'") as caught:
        attached_place(device(found=gpu(uuid="GPU-9")), "tensorrt")
    assert "CUDA_VISIBLE_DEVICES" in caught.value.hint
    with pytest.raises(EngineError, match="no GPU 4"):
        attached_place(device(name="cuda:4"), "tensorrt")


def test_a_profile_tells_the_capability_or_is_refused():
    described = find_or_describe("nvidia-rtx-4090").device
    assert described_place(described).capability == (8, 9)
    assert not is_attached(described)
    assert is_attached(device())
    bare = msgspec.structs.replace(described, gpu=gpu(capability=NO))
    with pytest.raises(DeviceError, match="no compute capability") as caught:
        described_place(bare)
    assert "profiles/nvidia-rtx-4090.toml" in caught.value.hint


def test_every_profile_of_an_nvidia_gpu_is_built_for_or_refused_with_a_cure():
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    able = set()
    for name, profile in load_profiles().items():
        if profile.kind not in {"gpu", "jetson"}:
            continue
        target = find_or_describe(name).device
        assert TensorRt().builds_for(target).reasons[0].code == "not_attached"
        support = TensorRtRtx().builds_for(target)
        if support.usable:
            able.add(name)
        else:
            assert support.reasons[0].cure
    assert {"nvidia-rtx-4090", "nvidia-rtx-3090", "nvidia-t4", "nvidia-l4", "nvidia-a100-sxm-80gb"} <= able
    assert not {name for name in able if "h200" in name or "b200" in name or name.startswith("jetson")}


def test_a_jetson_is_told_to_build_on_itself():
    support = TensorRt().builds_for(find_or_describe("jetson-orin-nano-8gb").device)
    assert "on the Jetson itself, with JetPack's own TensorRT" in str(support)
    rtx = TensorRtRtx().builds_for(find_or_describe("jetson-orin-nano-8gb").device)
    assert "not on Jetson" in str(rtx)


def test_a_cpu_is_no_device_for_it():
    support = why_not(msgspec.structs.replace(device(), kind="cpu", cpu=example_cpu()), None, "tensorrt")
    assert support.reasons[0].code == "wrong_device"
    assert "--device cuda:0" in support.reasons[0].cure


@pytest.mark.parametrize(
    ("settings", "capability", "code"),
    [
        ({}, "8.9", None),
        ({}, "8.6", "other_gpu"),
        ({"level": "AMPERE_PLUS"}, "12.0", None),
        ({"level": "AMPERE_PLUS"}, "7.5", "other_gpu"),
        ({"level": "SAME_COMPUTE_CAPABILITY"}, "8.6", "other_gpu"),
        ({"tensorrt": "10.2.0"}, "8.9", "other_version"),
        ({"tensorrt": "10.2.0", "flags": "VERSION_COMPATIBLE"}, "8.9", None),
        ({"tensorrt": "8.6.2", "flags": "VERSION_COMPATIBLE"}, "8.9", None),
        ({"tensorrt": "10.9.0", "flags": "VERSION_COMPATIBLE"}, "8.9", "other_version"),
        ({"tensorrt": "11.4.0", "flags": "VERSION_COMPATIBLE"}, "8.9", "other_version"),
    ],
)
def test_a_plan_runs_where_it_was_built_for(driver, settings, capability, code):
    support = why_not(device(found=gpu(capability=capability)), plan(**settings), "tensorrt")
    assert [reason.code for reason in support.reasons] == ([] if code is None else [code])
    assert all("hwbench build" in reason.cure for reason in support.reasons)


def test_ampere_plus_is_not_for_jetson(driver):
    jetson = device(kind="jetson", found=gpu(capability="8.7"))
    assert why_not(jetson, plan(level="AMPERE_PLUS"), "tensorrt").reasons[0].code == "other_gpu"


def test_an_old_driver_is_told_with_both_versions(driver):
    reason = why_not(device(found=gpu(cuda="12.4")), None, "tensorrt").reasons[0]
    assert reason.code == "driver_too_old"
    assert "CUDA 13" in reason.why
    assert "12.4" in reason.why
    assert "tensorrt-cu12" in reason.cure


@pytest.fixture
def packages(monkeypatch):
    """Return a function that says which packages are installed, and that their module can be imported."""
    monkeypatch.setattr(tensorrt_api.importlib.util, "find_spec", lambda name: name)

    def put(**versions):
        told = tuple((name.replace("_", "-"), version) for name, version in versions.items())
        monkeypatch.setattr(tensorrt_api, "_distributions", lambda: told)

    return put


def test_two_tensorrts_at_once_are_refused_and_not_sent_in_a_circle(packages):
    packages(tensorrt="11.4", tensorrt_cu13="11.4", tensorrt_cu12="10.9", tensorrt_cu12_libs="10.9", tensorrt_rtx="1.7")
    (reason,) = tensorrt_api.installed("tensorrt").reasons
    assert reason.code == "two_installed"
    assert "CUDA 12 and CUDA 13" in reason.why
    assert reason.cure.startswith("pip uninstall tensorrt tensorrt-cu12 tensorrt-cu12-libs tensorrt-cu13;")
    found = why_not(device(found=gpu(cuda="12.4")), None, "tensorrt")
    assert [each.code for each in found.reasons] == ["two_installed"]
    assert tensorrt_api.installed("tensorrt-rtx").usable


@pytest.mark.parametrize(
    ("versions", "needed", "version"),
    [
        ({"tensorrt": "11.4", "tensorrt_cu13": "11.4"}, (13, 0), "11.4"),
        ({"tensorrt": "11.4", "tensorrt_cu12": "10.9"}, (12, 0), "10.9"),  # the first brought nothing that is left
        ({"tensorrt": "10.3"}, None, "10.3"),  # JetPack's
        ({"tensorrt_rtx_cu13": "1.7"}, None, None),
    ],
)
def test_version_and_cuda_are_those_of_the_package_that_has_the_module(packages, versions, needed, version):
    packages(**versions)
    assert tensorrt_api.needed_cuda("tensorrt") == needed
    assert tensorrt_api.installed_version("tensorrt") == version
    assert tensorrt_api.installed("tensorrt").usable


def test_an_engine_of_another_make_is_not_taken(driver):
    model = example_model(plan())
    assert TensorRtRtx().supports(model, ModelFiles(folder="x"), device(found=gpu())).reasons[0].code == "other_engine"


def example_model(artefact):
    return Model(
        name="net", source="net", kind="bundle", source_sha256="0", hub_sha256="0", weights="as_given", opset=18,
        inputs=(), outputs=(), input_origin="random", inputs_sha256="0", arithmetic="fp32", batch_size=1, layers=(),
        parameters=0, weight_bytes=0, artefact=artefact,
    )  # fmt: skip


def test_on_a_cpu_engines_for_gpus_are_passed_over_without_a_word():
    cpu = msgspec.structs.replace(device(), kind="cpu", cpu=example_cpu())
    reason = why_not(cpu, None, "tensorrt").reasons[0]
    source = ImportResult(model=example_model(None), files=ModelFiles(folder="x"))
    bundle = ImportResult(model=example_model(plan()), files=ModelFiles(folder="x"))
    assert not is_news(reason, source, cpu)
    assert not is_news(reason, source, device())
    assert is_news(reason, source, msgspec.structs.replace(device(), kind="android"))
    assert is_news(reason, bundle, cpu)  # nothing else could run it
    assert is_news(NO, source, cpu)


def test_an_engine_that_builds_only_where_it_is_says_so():
    away = find_or_describe("nvidia-rtx-4090")
    source = ImportResult(model=example_model(None), files=ModelFiles(folder="x"))
    here = SimpleNamespace(name="here-only", installed=Support, supports=lambda *_: Support())
    assert "builds on the device itself" in cannot_build(here, source, away, {}).why
    missing = SimpleNamespace(name="x", installed=Support, supports=lambda *_: unsupported("not_installed", "no x"))
    assert "builds on the device itself" in cannot_build(missing, source, away, {}).why  # it may be installed there


@pytest.mark.parametrize("name", ["litert", "onnxruntime", "openvino"])
def test_an_engine_for_cpus_is_not_sent_to_a_gpu_that_is_not_here(name):
    away = find_or_describe("nvidia-rtx-4090")
    source = ImportResult(model=example_model(None), files=ModelFiles(folder="x"))
    reason = cannot_build(plugins.load("engines", name), source, away)
    assert reason.code == "wrong_device"
    assert not is_news(reason, source, away.device)


def test_any_engine_is_built_for_with_its_options():
    away = find_or_describe("nvidia-rtx-4090")
    source = ImportResult(model=example_model(None), files=ModelFiles(folder="x"))
    everywhere = SimpleNamespace(name="any", installed=Support, builds_for=lambda device: Support(), options={"a": "x"})
    assert cannot_build(everywhere, source, away, {"a": "1"}) is None
    assert "no option 'b'" in cannot_build(everywhere, source, away, {"a": "1", "b": "2"}).why
