"""The engines as hwbench sees them, on a TensorRT and a CUDA that only pretend: everything but NVIDIA's own code."""

import dataclasses
import gc
import os
import shutil
import subprocess
import sys
import weakref
from types import SimpleNamespace

import msgspec
import numpy as np
import onnx
import pytest
from fake_cuda import FACTS, FakeCuda, show_gpu
from fake_tensorrt_runtime import running_tensorrt

from hwbench.bundles.describe import manifest_of
from hwbench.cuda import driver
from hwbench.devices import environment
from hwbench.engines import tensorrt as engine_module
from hwbench.engines import tensorrt_describe, tensorrt_place, tensorrt_program, tensorrt_save
from hwbench.engines.tensorrt import TensorRt, TensorRtRtx
from hwbench.engines.tensorrt_api import adapt, api
from hwbench.errors import EngineError, ModelError, Unsupported, UsageError
from hwbench.protocols import (
    BringsExample,
    BuildRequest,
    Builds,
    BuildsElsewhere,
    LowerRequest,
    ReadsArtefacts,
    TakesOptions,
)
from hwbench.records.base import Missing, Support
from hwbench.records.device import Device, Gpu
from hwbench.records.model import Artefact
from hwbench.records.quantization import PrecisionPlan
from hwbench.testing import EngineContract, onnx_examples

pytest.importorskip("onnxruntime", reason="ONNX Runtime plays TensorRT here")
NO = Missing(code="no", why="not known")
ORIN = Device(
    name="cuda:0", kind="nvidia", title="a pretended GPU", fingerprint="f", profile=NO, memory_bytes=1 << 33,
    gpu=Gpu(name="Fake GPU", uuid=FACTS.uuid, compute_capability="8.7", memory_bytes=1 << 33, driver_version="580.1",
            cuda_version="13.0", power_limit_w=NO, sm_max_hz=NO, mig=False),
    memory_limit_bytes=NO, virtual=NO, container=NO, power_mode=NO,
)  # fmt: skip


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """Return a function that puts a TensorRT of a version in place, with a driver that shows one GPU."""
    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path / "home"))
    show_gpu(monkeypatch, driver, tensorrt_place)
    monkeypatch.setattr(tensorrt_place, "installed_version", lambda flavour: "10.3.0")
    for module in (engine_module, tensorrt_place):
        monkeypatch.setattr(module, "installed", lambda flavour: Support())

    def put(version="10.3.0"):
        opened = []

        def open_cuda(uuid=None):
            opened.append(FakeCuda())
            return opened[-1]

        trt = running_tensorrt(lambda: opened[-1] if opened else FakeCuda(), version)
        adapted = adapt(trt, "tensorrt")
        for module in (engine_module, tensorrt_program, tensorrt_save, tensorrt_describe):
            monkeypatch.setattr(module, "api", lambda flavour: adapted)
        monkeypatch.setattr(tensorrt_program, "open_cuda", open_cuda)
        monkeypatch.setattr(tensorrt_save, "_open_context", lambda place: open_cuda())
        return trt

    put()
    return put


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    return onnx_examples(tmp_path_factory.mktemp("nets"))


@pytest.fixture
def example(pretend, nets):
    """Two products, with a pretended TensorRT in place."""
    return nets[0]


@pytest.mark.usefixtures("pretend")
class TestContract(EngineContract):
    @pytest.fixture
    def examples(self, nets):
        return nets

    @pytest.fixture
    def device(self):
        return ORIN

    def make(self):
        return TensorRt()


def test_it_offers_what_a_deploying_engine_offers():
    for engine in (TensorRt(), TensorRtRtx()):
        for protocol in (Builds, BuildsElsewhere, ReadsArtefacts, BringsExample, TakesOptions):
            assert isinstance(engine, protocol)


def lowered(example, folder, *, precision="fp16", options=None, engine=None):
    folder.mkdir()
    plan = PrecisionPlan(default="float", floating=precision)
    request = LowerRequest(
        model=example.model, files=example.files, plan=plan, calibration=None, device=ORIN, folder=folder,
        options=options or {},
    )  # fmt: skip
    return (engine or TensorRt()).lower(request)


def as_built(example, found, folder):
    """The model and files that a bundle of it gives."""
    artefact = Artefact(
        engine="tensorrt", sha256="0", files=found.files, label="fp16", settings=found.settings, isa=found.isa
    )
    model = msgspec.structs.replace(example.model, artefact=artefact, arithmetic=found.arithmetic)
    files = msgspec.structs.replace(example.files, folder=str(folder), runtime_graph=found.files[0])
    return model, files


def test_a_plan_that_was_saved_is_run_again(example, tmp_path):
    found = lowered(example, tmp_path / "engine")
    assert found.files == ("model.engine", "model.onnx", "build.log", "layers.json")
    assert found.graph == "model.onnx"
    assert (found.arithmetic, found.settings["capability"]) == ("fp16", "8.7")
    model, files = as_built(example, found, tmp_path / "engine")
    assert TensorRt().supports(model, files, ORIN).usable
    request = BuildRequest(
        model=model, files=files, device=ORIN, precision="auto", threads=1, streams=1, profile_layers=False,
        workdir=tmp_path,
    )  # fmt: skip
    runner = TensorRt().load(request).compile()
    bound = runner.bind(example.inputs)
    bound.run()
    (name,) = example.reference(example.inputs)
    np.testing.assert_allclose(bound.outputs()[name], example.reference(example.inputs)[name], atol=0.05)
    built = runner.built()
    assert (built.precision, built.version) == ("fp16", "10.3.0")
    assert built.settings["flags"] == found.settings["flags"]
    assert {member for layer in built.layers for member in layer.members} == {
        layer.name for layer in example.model.layers
    }
    runner.close()
    with pytest.raises(EngineError, match="cannot run in fp32"):
        TensorRt().load(dataclasses.replace(request, precision="fp32"))


def test_the_timing_cache_lies_in_the_users_folder(example, tmp_path):
    lowered(example, tmp_path / "engine")
    names = [path.name for path in (tmp_path / "home" / "tensorrt").iterdir()]
    assert names == ["fake-gpu-sm87-cuda13.0-trt10.3.0.cache"]


@pytest.mark.parametrize(("version", "weak"), [("8.6.2", True), ("10.3.0", False), ("11.4.0.106", False)])
def test_the_graph_is_written_for_the_version(pretend, example, tmp_path, version, weak):
    trt = pretend(version)
    found = lowered(example, tmp_path / "engine")
    types = {tensor.data_type for tensor in onnx.load(tmp_path / "engine" / "model.onnx").graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in types) != weak
    assert ("FP16" in found.settings["flags"]) == weak
    assert trt.network is not None


def test_what_only_another_version_has_is_refused(pretend, example, tmp_path):
    pretend("8.5.2")
    with pytest.raises(Unsupported, match=r"TensorRT 8\.5\.2 has no BuilderFlag\.STRIP_PLAN"):
        lowered(example, tmp_path / "a", options={"strip": "yes"})
    with pytest.raises(UsageError, match="no option 'speed'"):
        lowered(example, tmp_path / "b", options={"speed": "yes"})


def test_a_damaged_plan_is_an_error_with_tensorrts_words(example, tmp_path):
    found = lowered(example, tmp_path / "engine")
    (tmp_path / "engine" / "model.engine").write_bytes(b"\0\1\2")
    model, files = as_built(example, found, tmp_path / "engine")
    request = BuildRequest(
        model=model, files=files, device=ORIN, precision="auto", threads=1, streams=1, profile_layers=False,
        workdir=tmp_path,
    )  # fmt: skip
    with pytest.raises(EngineError, match="magic tag does not match") as caught:
        TensorRt().load(request)
    assert "build it again" in caught.value.hint


def test_a_plan_of_its_own_is_described_where_there_is_a_driver(example, tmp_path, monkeypatch):
    lowered(example, tmp_path / "engine")
    path = tmp_path / "engine" / "model.engine"
    monkeypatch.setattr(driver, "probe", lambda: Missing(code="no_driver", why="there is no NVIDIA driver here"))
    with pytest.raises(ModelError, match="only a runtime with a GPU can read") as caught:
        TensorRt().describe(path, {}, None)
    assert "source model" in caught.value.hint
    monkeypatch.setattr(driver, "probe", lambda: "a driver")
    facts = TensorRt().describe(path, {"x": (4, 8)}, 4)
    assert [(spec.name, spec.dtype, spec.shape) for spec in (*facts.inputs, *facts.outputs)] == [
        ("x", "float32", (4, 8)), ("y", "float32", (4, 3)),
    ]  # fmt: skip
    assert facts.arithmetic == "fp16"
    assert facts.files == ("model.engine",)
    for shapes, batch in (({"z": (1,)}, None), ({"x": (2, 8)}, None), ({}, 2)):
        with pytest.raises(UsageError):
            TensorRt().describe(path, shapes, batch)


def test_without_a_driver_nothing_of_tensorrt_is_touched(monkeypatch):
    """A runtime that is made without one crashes the process."""
    monkeypatch.setattr(engine_module, "api", lambda flavour: pytest.fail("TensorRT was imported"))
    with pytest.raises(EngineError, match="CUDA cannot be used here") as caught:
        TensorRt().start()
    assert caught.value.hint


def test_the_example_is_a_program_and_tells_what_it_needs(example, tmp_path):
    folder = tmp_path / "engine"
    found = lowered(example, folder)
    request = LowerRequest(
        model=example.model, files=example.files, plan=PrecisionPlan(default="float", floating="fp16"),
        calibration=None, device=ORIN, folder=folder,
    )  # fmt: skip
    manifest = manifest_of('a "name"', "tensorrt", request, found, environment.capture())
    text = TensorRt().run_example(manifest)
    compile(text, "run_example.py", "exec")
    assert "import tensorrt as trt" in text
    assert '"engine/model.engine"' in text
    assert "compute capability 8.7" in text
    assert "off <= 0.02" in text
    assert "off <= 0.1" in TensorRt().run_example(msgspec.structs.replace(manifest, expected="graph"))


FAKE_MODULES = {
    "tensorrt.py": """
import ctypes
import numpy as np
import onnxruntime as ort
WARNING = 1
class Logger:
    WARNING = 1
    def __init__(self, severity): pass
class Runtime:
    def __init__(self, logger): pass
    def deserialize_cuda_engine(self, data):
        return Engine(ort.InferenceSession(data)) if data[:4] != b"junk" else None
class Engine:
    def __init__(self, session):
        self.session = session
        self.io = [*session.get_outputs(), *session.get_inputs()]
    num_io_tensors = property(lambda self: len(self.io))
    def get_tensor_name(self, number): return self.io[number].name
    def get_tensor_dtype(self, name): return np.dtype("float32")
    def create_execution_context(self): return Context(self.session)
def nptype(dtype): return dtype
class Context:
    def __init__(self, session): self.session, self.shapes, self.addresses = session, {}, {}
    def set_input_shape(self, name, shape): self.shapes[name] = shape
    def get_tensor_shape(self, name):
        assert self.shapes, "no shape of an input was set"
        return next(value.shape for value in self.session.get_outputs() if value.name == name)
    def set_tensor_address(self, name, address): self.addresses[name] = address
    def execute_async_v3(self, stream):
        feeds = {}
        for name, shape in self.shapes.items():
            raw = ctypes.string_at(self.addresses[name], int(np.prod(shape)) * 4)
            feeds[name] = np.frombuffer(raw, "f4").reshape(shape)
        names = [value.name for value in self.session.get_outputs()]
        for name, array in zip(names, self.session.run(names, feeds)):
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(array).ctypes.data, array.nbytes)
        return True
""",
    "cuda/__init__.py": "",
    "cuda/bindings/__init__.py": "",
    "cuda/bindings/runtime.py": """
import ctypes
class cudaMemcpyKind: cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost = 1, 2
held = []
def cudaSetDevice(number): return (0,)
def cudaStreamCreate(): return (0, 7)
def cudaStreamSynchronize(stream): return (0,) if stream == 7 else (400,)
def cudaMalloc(size):
    held.append(ctypes.create_string_buffer(size))
    return (0, ctypes.addressof(held[-1]))
def cudaMemcpy(target, source, size, kind):
    ctypes.memmove(target, source, size)
    return (0,)
""",
}


@pytest.mark.parametrize(("fault", "code", "words"), [
    (None, 0, "largest difference"), ("outputs", 1, "largest difference"), ("plan", 1, "built for another GPU"),
])  # fmt: skip
def test_the_example_runs_a_bundle_and_sees_what_is_off(example, tmp_path, fault, code, words):
    """The program itself, on modules that have the faces of TensorRT and cuda-python, and on memory of the host."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc to make a driver library with")
    folder = tmp_path / "engine"
    found = lowered(example, folder, precision="fp32")
    request = LowerRequest(
        model=example.model, files=example.files, plan=PrecisionPlan(default="float", floating="fp32"),
        calibration=None, device=ORIN, folder=folder,
    )  # fmt: skip
    manifest = manifest_of("net", "tensorrt", request, found, environment.capture())
    (tmp_path / "run_example.py").write_text(TensorRt().run_example(manifest))
    expected = example.reference(example.inputs)
    np.savez(tmp_path / "inputs.npz", **example.inputs)
    np.savez(tmp_path / "expected.npz", **{name: array + (fault == "outputs") for name, array in expected.items()})
    if fault == "plan":
        (folder / "model.engine").write_bytes(b"junk")
    for name, text in FAKE_MODULES.items():
        path = tmp_path / "modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "empty.c").write_text("int nothing;")
    subprocess.run(["gcc", "-shared", "-o", "libcuda.so.1", "empty.c"], cwd=tmp_path, check=True)
    told = {"PYTHONPATH": str(tmp_path / "modules"), "LD_LIBRARY_PATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, str(tmp_path / "run_example.py")], env={**os.environ, **told}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == code, run.stderr
    assert words in run.stdout + run.stderr


def test_the_example_without_cuda_python_says_what_to_install(monkeypatch):
    manifest = SimpleNamespace(
        name="net", expected="graph",
        model=SimpleNamespace(artefact=SimpleNamespace(settings={}, files=("model.rtx",)), arithmetic="fp16"),
    )  # fmt: skip
    monkeypatch.setattr("ctypes.CDLL", lambda name: None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(SystemExit, match="pip install cuda-python"):
        exec(TensorRtRtx().run_example(manifest), {"__file__": "run_example.py"})


def test_the_bindings_alone_are_not_an_installation():
    support = TensorRt().installed()
    if support.usable:
        pytest.skip("TensorRT is installed here")
    assert support.reasons[0].code in {"not_installed", "no_libraries"}
    assert "docs/nvidia.md" in support.reasons[0].cure
    with pytest.raises(EngineError):
        api("tensorrt")


def test_a_profile_builds_without_what_earlier_builds_timed(example, tmp_path):
    request = BuildRequest(
        model=example.model, files=example.files, device=ORIN, precision="fp16", threads=1, streams=1,
        profile_layers=False, workdir=tmp_path / "work",
    )  # fmt: skip
    (tmp_path / "work").mkdir()
    runner = TensorRt().load(request).compile()
    built = runner.built()
    assert built.settings["timing_cache"] == "none"
    assert "DISABLE_TIMING_CACHE" not in built.settings["flags"]  # within one build it may use what it has timed
    assert any("the next one may take other kernels" in note for note in built.notes)
    assert not (tmp_path / "home").exists()
    runner.close()


@pytest.mark.parametrize(("version", "strong"), [("8.6.2", False), ("10.3.0", True), ("11.4.0.106", True)])
def test_types_are_read_back_only_where_the_builder_chose_them(
    pretend, example, tmp_path, monkeypatch, version, strong
):
    """The edges of a unit may be fp32 though all it computes is fp16; a weakly typed one may really be fp32."""
    pretend(version)
    inspected = tensorrt_program.inspected
    monkeypatch.setattr(tensorrt_program, "inspected", lambda *asked: inspected(*asked).replace('"Half"', '"Float"'))
    request = BuildRequest(
        model=example.model, files=example.files, device=ORIN, precision="fp16", threads=1, streams=1,
        profile_layers=False, workdir=tmp_path,
    )  # fmt: skip
    program = TensorRt().load(request)
    if strong:
        assert program.compile().built().precision == "fp16"
        return
    with pytest.raises(Unsupported, match="asked for fp16 and built fp32"):
        program.compile()


@pytest.mark.parametrize("saved", [True, False])
def test_closing_frees_the_engine_before_cuda(pretend, example, tmp_path, monkeypatch, saved):
    """TensorRT calls CUDA when an engine goes; the program and what it was asked for outlive the runner."""
    pretend()
    seen = []
    for name in ("open_engine", "open_saved"):
        monkeypatch.setattr(tensorrt_program, name, noting(getattr(tensorrt_program, name), seen))
    monkeypatch.setattr(FakeCuda, "close", lambda self: (gc.collect(), seen.append(seen[0]() is None)))
    found = lowered(example, tmp_path / "engine")
    model, files = as_built(example, found, tmp_path / "engine") if saved else (example.model, example.files)
    request = BuildRequest(
        model=model, files=files, device=ORIN, precision="auto" if saved else "fp16", threads=1, streams=1,
        profile_layers=False, workdir=tmp_path,
    )  # fmt: skip
    program = TensorRt().load(request)
    runner = program.compile()
    runner.bind(example.inputs).run()
    runner.profile_layers(example.inputs, 2)
    assert runner.built().layers
    assert seen[0]() is not None
    runner.close()
    assert seen[1:] == [True]
    assert program.request is request
    with pytest.raises(EngineError, match="closed"):
        runner.built()


def noting(function, seen):
    """Return it with a weak reference to the engine that it returns put into ``seen``."""

    def noted(*asked):
        found = function(*asked)
        seen.append(weakref.ref(found[0] if isinstance(found, tuple) else found))
        return found

    return noted
