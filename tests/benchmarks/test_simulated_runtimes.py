"""Real networks simulated in torch, beside what the runtimes make of hwbench's own lowering: same ranges, same images.

make bench PYTEST_ARGS="-k simulated_runtimes -s"
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import real_tasks
import torch
from lowered_onnxruntime import calibration
from openvino_lowering import cpu

from hwbench.compress.simulated import simulated
from hwbench.graph.importer import import_model
from hwbench.protocols import LowerRequest
from hwbench.quantize.collect import Batches, collect
from hwbench.records.model import ImportJob
from hwbench.records.quantization import CalibrationSettings, PrecisionPlan

BATCH = 20
AGREE = {"onnxruntime": 1.0, "openvino": 0.995, "litert": 1.0}  # of decisions, the least
EXACT = {"onnxruntime": 0.99, "openvino": 0.5, "litert": 0.99}  # of outputs equal to the bit, the least


def _onnxruntime(request):
    from hwbench.engines.onnxruntime import OnnxRuntime

    runtime = pytest.importorskip("onnxruntime")
    OnnxRuntime().lower(request)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(request.folder / "model.onnx"), options, ["CPUExecutionProvider"])
    return lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]


def _openvino(request):
    from hwbench.engines.openvino import OpenVino

    runtime = pytest.importorskip("openvino")
    settings = OpenVino().lower(request).settings
    compiled = runtime.Core().compile_model(
        str(request.folder / "model.xml"), "CPU", {"INFERENCE_NUM_THREADS": 1, **settings}
    )
    return lambda x: compiled([x])[0].copy()


def _litert(request):
    pytest.importorskip("litert_torch")
    from ai_edge_litert.interpreter import Interpreter

    from hwbench.engines.litert import LiteRt

    LiteRt().lower(request)
    interpreter = Interpreter(model_path=str(request.folder / "model.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    entry, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(x):
        interpreter.set_tensor(entry, x)
        interpreter.invoke()
        return interpreter.get_tensor(result).copy()

    return run


REAL = {"onnxruntime": _onnxruntime, "openvino": _openvino, "litert": _litert}


@pytest.mark.parametrize("runtime", list(REAL))
@pytest.mark.parametrize("name", ["resnet20", "ds_cnn"])
@pytest.mark.filterwarnings("ignore")
def test_simulated_runtimes(benchmark, name, runtime, tmp_path):
    torch.set_num_threads(1)
    task = real_tasks.task(name, tmp_path)
    job = ImportJob(model=task.spec, batch_size=BATCH, shapes={}, input_data=None, seed=0)
    imported = import_model(job, tmp_path / "imported")
    model = ir.load(tmp_path / "imported" / imported.files.runtime_graph)
    known = Batches(arrays=task.calibration, samples=len(next(iter(task.calibration.values()))), size=BATCH)
    found = collect(model, known, CalibrationSettings(), folder=tmp_path, threads=1, progress=lambda fraction: None)
    layers = [node.name for node in model.graph]
    view = simulated(model, found.ranges, layers, runtime=runtime, bits=8)
    (tmp_path / "lowered").mkdir()
    request = LowerRequest(
        model=imported.model,
        files=imported.files,
        plan=PrecisionPlan(default="int8", floating="fp32"),
        calibration=calibration(found.ranges),
        device=cpu(),
        folder=tmp_path / "lowered",
    )
    run = REAL[runtime](request)
    x = next(iter(task.test.values()))[:1000]
    x = x[: len(x) // BATCH * BATCH]

    def both():
        with torch.no_grad():
            pairs = [(view(torch.from_numpy(x[i : i + BATCH]))[0].numpy(), run(x[i : i + BATCH])) for i in
                     range(0, len(x), BATCH)]  # fmt: skip
        return [np.concatenate(part) for part in zip(*pairs, strict=True)]

    mine, real = benchmark.pedantic(both, rounds=1, iterations=1)
    agree, exact = np.mean(mine.argmax(1) == real.argmax(1)), np.mean(mine == real)
    labels = task.labels[: len(x)]
    print(
        f"\n{name} on {runtime}, {len(x)} samples: {np.mean(mine.argmax(1) == labels):.2%} simulated, "
        f"{np.mean(real.argmax(1) == labels):.2%} real; same decisions {agree:.2%}, equal outputs {exact:.2%}, "
        f"largest difference {np.abs(mine - real).max():.3g} of {np.abs(real).max():.3g}"
    )
    assert agree >= AGREE[runtime]
    assert exact >= EXACT[runtime]
