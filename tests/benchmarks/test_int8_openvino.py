"""Uniform int8 for OpenVINO: is hwbench's lowering as fast as NNCF's own, and as accurate?

Speed: infer requests of both in one process, in random order within each round; NNCF's against itself is the control.
Accuracy: both calibrated on the same samples, both tested on others. The four large networks have no trained weights,
so they tell speed alone. NNCF as its documentation advises: the ``mixed`` preset, and the transformer model type for
encoders. All else in fp32, one thread.

    make bench PYTEST_ARGS="-k int8_openvino"
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from real_tasks import NAMES, Arrays, task
from rivals import by_nncf

from hwbench.engines.openvino import OpenVino
from hwbench.graph.importer import import_model
from hwbench.graph.parts import write_graph
from hwbench.protocols import LowerRequest
from hwbench.quantize.collect import Batches
from hwbench.quantize.repairs import Calibrating
from hwbench.records.model import DataFacts, ImportJob
from hwbench.records.quantization import CALIBRATION_SCHEMA, Calibration, CalibrationSettings, PrecisionPlan

ov = pytest.importorskip("openvino", reason="compares on OpenVINO")
pytest.importorskip("nncf", reason="compares with NNCF: pip install nncf")
pytest.importorskip("onnxruntime", reason="calibrates")

ROUNDS = 80
PLAN = PrecisionPlan(default="int8", floating="fp32")
SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
pytestmark = pytest.mark.filterwarnings("ignore")  # NNCF's own imports warn


def imported(spec: str, folder: Path, sample: Arrays | None = None):
    data = None
    if sample is not None:
        data = str(folder / "sample.npz")
        np.savez(data, **sample)
    return import_model(ImportJob(model=spec, batch_size=None, shapes={}, input_data=data, seed=0), folder / "hub")


def ours(result, samples: Arrays, folder: Path, device):
    """Calibrate with the default settings and lower, as ``hwbench build`` does."""
    home = Path(result.files.folder)
    model = ir.load(home / result.files.runtime_graph)
    count = len(next(iter(samples.values())))
    settings = CalibrationSettings()
    (folder / "scratch").mkdir()
    calibrating = Calibrating(
        model=model, plan=PLAN, settings=settings, batches=Batches(arrays=samples, samples=count, size=1),
        folder=folder / "scratch", threads=os.cpu_count() or 1, progress=lambda _: None,
    )  # fmt: skip
    ranges = calibrating.run().ranges
    write_graph(calibrating.model, home / "repaired.onnx")
    calibration = Calibration(
        schema_version=CALIBRATION_SCHEMA,
        settings=settings,
        data=DataFacts(source="benchmark", sha256="0", samples=count, labels=False),
        graph_sha256="0",
        tensors=ranges,
    )
    into = folder / "ours"
    into.mkdir()
    files = type(result.files)(folder=str(home), runtime_graph="repaired.onnx", merged=result.files.merged)
    request = LowerRequest(
        model=result.model, files=files, plan=PLAN, calibration=calibration, device=device, folder=into
    )
    OpenVino().lower(request)
    return into / "model.xml"


def theirs(result, samples: Arrays, folder: Path, *, transformer: bool):
    """``nncf.quantize`` as documented."""
    return by_nncf(Path(result.files.folder) / result.files.runtime_graph, samples, 1, folder, transformer=transformer)


def requests(paths, sample: Arrays):
    made = []
    for path in paths:
        compiled = ov.Core().compile_model(path, "CPU", SETTINGS)
        request = compiled.create_infer_request()
        for port in compiled.inputs:
            name = next(name for name in port.get_names() if name in sample)
            request.set_tensor(port, ov.Tensor(sample[name]))
        for _ in range(5):
            request.infer()
        made.append(request)
    return made


def race(paths, sample: Arrays):
    """Return for each path the median over rounds of its time over the first's in the same round."""
    made = requests(paths, sample)
    times = np.empty((ROUNDS, len(made)))
    shuffled = random.Random(0)
    for line in times:
        for index in shuffled.sample(range(len(made)), len(made)):
            start = time.perf_counter()
            made[index].infer()
            line[index] = time.perf_counter() - start
    return np.median(times / times[:, :1], axis=0)


@pytest.fixture
def this_cpu():
    from hwbench.devices.cpu import CpuFinder

    return CpuFinder().find().devices[0]


@pytest.mark.benchmark(group="int8_openvino")
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "bert_small", "vit_tiny"])
def test_int8_openvino_speed(benchmark, capsys, tmp_path, this_cpu, name):
    result = imported(name, tmp_path)
    sample = dict(np.load(Path(result.files.folder) / result.files.inputs))
    rival = theirs(result, sample, tmp_path, transformer=name in {"bert_small", "vit_tiny"})
    mine = ours(result, sample, tmp_path, this_cpu)
    _, control, ratio = benchmark.pedantic(race, args=([rival, rival, mine], sample), rounds=1)
    with capsys.disabled():
        print(f"\n{name:14} hwbench / NNCF {ratio:.3f}   NNCF / NNCF {control:.3f}")
    assert ratio < 1.03 + abs(control - 1)


def answers(path, samples: Arrays):
    request = ov.Core().compile_model(path, "CPU", SETTINGS).create_infer_request()
    count = len(next(iter(samples.values())))
    found = []
    for index in range(count):
        request.infer({name: array[index : index + 1] for name, array in samples.items()})
        found.append(request.get_output_tensor(0).data.copy())
    return found


@pytest.mark.benchmark(group="int8_openvino")
@pytest.mark.parametrize("name", NAMES)
def test_int8_openvino_accuracy(benchmark, capsys, tmp_path, this_cpu, name):
    todo = task(name, tmp_path)
    result = imported(todo.spec, tmp_path, {key: array[:1] for key, array in todo.calibration.items()})
    paths = {"float": Path(result.files.folder) / result.files.runtime_graph}
    start = time.perf_counter()
    paths["NNCF"] = theirs(result, todo.calibration, tmp_path, transformer=todo.transformer)
    middle = time.perf_counter()
    paths["hwbench"] = ours(result, todo.calibration, tmp_path, this_cpu)
    took = middle - start, time.perf_counter() - middle
    found = {key: answers(path, todo.test) for key, path in paths.items()}
    scores = benchmark.pedantic(lambda: {key: todo.score(outputs) for key, outputs in found.items()}, rounds=1)
    ratio = race([paths["NNCF"], paths["NNCF"], paths["hwbench"]], {k: a[:1] for k, a in todo.test.items()})
    count = len(next(iter(todo.test.values())))
    drops = {key: scores["float"] - score for key, score in scores.items()}
    with capsys.disabled():
        print(
            f"\n{todo.name:20} {todo.unit}, N {count}: float {scores['float']:.2f}, drop of NNCF {drops['NNCF']:+.2f},"
            f" of hwbench {drops['hwbench']:+.2f}; time hwbench / NNCF {ratio[2]:.3f} (control {ratio[1]:.3f});"
            f" quantised in {took[0]:.1f} s by NNCF, {took[1]:.1f} s by hwbench"
        )
    assert drops["hwbench"] <= max(drops["NNCF"], 0) + 1
