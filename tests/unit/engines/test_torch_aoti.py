import json
import platform
import zipfile

import msgspec
import numpy as np
import onnx_graphs as graphs
import pytest
from onnx import helper

from hwbench.engines import torch_compile
from hwbench.engines.torch_aoti import TorchAoti
from hwbench.engines.torch_aoti_build import arithmetic_for, lower
from hwbench.engines.torch_aoti_check import require_same_machine
from hwbench.engines.torch_place import OnHost
from hwbench.errors import EngineError, Unsupported
from hwbench.graph.importer import import_model
from hwbench.protocols import BuildRequest, LowerRequest
from hwbench.records.base import Missing, Support
from hwbench.records.model import Artefact, ImportJob
from hwbench.records.quantization import PrecisionPlan
from hwbench.testing import example_cpu

BF16 = ("avx2", "avx512f", "avx512_bf16")


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Two convolutions, a softmax and a product: enough to tell bf16 from fp32."""
    node = helper.make_node
    made = graphs.model(
        [
            node("Conv", ["x", "w"], ["c"], name="first", pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"], name="relu"),
            node("Conv", ["r", "v"], ["d"], name="second", pads=[1, 1, 1, 1]),
            node("Flatten", ["d"], ["f"], name="flat"),
            node("Softmax", ["f"], ["s"], name="soft"),
            node("Gemm", ["f", "m"], ["y"], name="last"),
        ],
        [graphs.tensor("x", [1, 8, 8, 8])],
        [graphs.tensor("y", [1, 10]), graphs.tensor("s", [1, 512])],
        [
            graphs.weight("w", graphs.random_array(8, 8, 3, 3, seed=1) / 8),
            graphs.weight("v", graphs.random_array(8, 8, 3, 3, seed=2) / 8),
            graphs.weight("m", graphs.random_array(512, 10, seed=3) / 20),
        ],
    )
    folder = tmp_path_factory.mktemp("aoti")
    path = graphs.save(made, folder)
    job = ImportJob(model=str(path), batch_size=None, shapes={}, input_data=None, seed=0)
    return import_model(job, folder / "model")


def request(imported, folder, *, isa=BF16, **plan):
    device = example_cpu()
    device = msgspec.structs.replace(device, cpu=msgspec.structs.replace(device.cpu, isa=isa))
    return LowerRequest(
        model=imported.model,
        files=imported.files,
        plan=PrecisionPlan(**{"default": "float", **plan}),
        calibration=None,
        device=device,
        folder=folder,
    )


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        ({"default": "int8"}, "torch-aoti builds no int8"),
        ({"layers": {"first": "int4-weights"}}, "torch-aoti builds no int4-weights"),
        ({"layers": {"first": "fp8"}}, "torch-aoti builds no fp8"),
        ({"floating": "fp16"}, "torch-aoti cannot run in fp16 here\n  it offers: fp32, auto, bf16"),
        ({"floating": "bf16", "isa": ("avx2", "avx512f")}, "has no bf16 arithmetic"),
    ],
)
def test_what_it_cannot_build_is_refused_before_anything_is_written(imported, tmp_path, plan, why):
    with pytest.raises(Unsupported, match=why):
        lower(request(imported, tmp_path, **plan))
    assert not list(tmp_path.iterdir())


def test_auto_is_what_the_graph_is_written_in(imported):
    assert arithmetic_for("auto", imported.model, example_cpu()) == "fp32"
    half = msgspec.structs.replace(imported.model, arithmetic="fp16")
    assert arithmetic_for("auto", half, example_cpu()) == "fp16"
    with pytest.raises(Unsupported, match="cannot run in fp32"):
        arithmetic_for("fp32", half, example_cpu())


def test_an_onnx_file_will_do_and_compiling_needs_a_compiler(imported, monkeypatch):
    pytest.importorskip("torch", reason="torch is what would be supported")
    engine, cpu = TorchAoti(), example_cpu()
    assert imported.files.torch_source is None
    monkeypatch.setenv("CXX", "/opt/bin/c++")
    assert engine.supports(imported.model, imported.files, cpu) == Support()
    monkeypatch.setattr(torch_compile.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX")
    assert [r.code for r in engine.supports(imported.model, imported.files, cpu).reasons] == ["no_compiler"]
    built = msgspec.structs.replace(
        imported.model, artefact=Artefact(engine="torch-aoti", sha256="0" * 64, files=("model.pt2",), label="fp32")
    )
    assert engine.supports(built, imported.files, cpu).usable
    other = msgspec.structs.replace(built, artefact=msgspec.structs.replace(built.artefact, engine="openvino"))
    assert [r.code for r in engine.supports(other, imported.files, cpu).reasons] == ["other_engine"]


def test_a_network_that_could_not_be_exported_is_refused(imported):
    files = msgspec.structs.replace(imported.files, no_graph=Missing(code="not_exported", why="it has a loop"))
    assert TorchAoti().supports(imported.model, files, example_cpu()).reasons[0].why == "it has a loop"


@pytest.mark.parametrize(
    ("machine", "isa", "fits"),
    [
        (platform.machine(), "", True),
        (platform.machine(), "AVX512 AVX999_DREAM", False),
        ("pdp11", "", False),
    ],
)
def test_a_package_for_another_cpu_is_refused(tmp_path, machine, isa, fits):
    pytest.importorskip("torch", reason="torch tells what the CPU can")
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as package:
        facts = {"AOTI_MACHINE": machine, "AOTI_CPU_ISA": isa}
        package.writestr("model/data/aotinductor/model/x.wrapper_metadata.json", json.dumps(facts))
    if fits:
        require_same_machine(path, OnHost())
    else:
        with pytest.raises(EngineError, match=r"was compiled for .*, and this is"):
            require_same_machine(path, OnHost())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's own
@pytest.mark.parametrize("floating", ["fp32", "bf16"])
def test_a_package_runs_as_it_was_built(imported, tmp_path, floating):
    pytest.importorskip("torch", reason="AOTInductor is torch's")
    ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is the truth here")
    engine = TorchAoti()
    if not engine.installed().usable:
        pytest.skip(str(engine.installed()))
    engine.start()
    built, work = tmp_path / "built", tmp_path / "work"
    built.mkdir()
    work.mkdir()
    lowered = engine.lower(request(imported, built, floating=floating))
    assert [path.name for path in built.iterdir()] == list(lowered.files) == ["model.pt2"]
    assert lowered.arithmetic == floating
    assert isinstance(lowered.same_bytes, Missing)
    with zipfile.ZipFile(built / "model.pt2") as package:
        code = "".join(package.read(name).decode() for name in package.namelist() if name.endswith(".cpp"))
    assert "#pragma omp" in code
    assert "num_threads" not in code, "the threads of building would be those of running"

    artefact = Artefact(engine="torch-aoti", sha256="0" * 64, files=lowered.files, label=floating)
    model = msgspec.structs.replace(imported.model, artefact=artefact, arithmetic=lowered.arithmetic)
    files = msgspec.structs.replace(imported.files, folder=str(built), runtime_graph="model.pt2")
    asked = BuildRequest(
        model=model,
        files=files,
        device=example_cpu(),
        precision="auto",
        threads=1,
        streams=1,
        profile_layers=False,
        workdir=work,
    )
    program = engine.load(asked)
    assert program.compile_phase is not None
    runner = program.compile()
    assert runner.built().precision == floating
    inputs = dict(np.load(f"{imported.files.folder}/inputs.npz"))
    found = runner.bind(inputs).outputs()
    path = f"{imported.files.folder}/{imported.files.runtime_graph}"
    expected = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)
    for spec, array in zip(model.outputs, expected, strict=True):
        off = np.abs(found[spec.name] - array).max() / np.abs(array).max()
        assert found[spec.name].dtype == np.float32
        low, high = (0, 1e-5) if floating == "fp32" else (1e-4, 5e-2)
        assert low <= off <= high, spec.name
