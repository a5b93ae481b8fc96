"""Trained networks, simulated and run in ONNX Runtime: equal to the bit, shortcuts that pad channels included."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from command import shared_data
from lowered_onnxruntime import calibration, cpu

from hwbench.compress.simulated import simulated
from hwbench.engines.onnxruntime import OnnxRuntime
from hwbench.graph.importer import import_model
from hwbench.protocols import LowerRequest
from hwbench.quantize.collect import Batches, collect
from hwbench.records.model import ImportJob
from hwbench.records.quantization import CalibrationSettings, PrecisionPlan


@pytest.mark.parametrize(
    ("path", "shape"), [("cifar10/resnet20.onnx", (24, 3, 32, 32)), ("kws/kws_dscnn.onnx", (24, 1, 49, 10))]
)
def test_trained_networks(path, shape, tmp_path):
    x = np.random.default_rng(0).normal(size=shape).astype("f4")
    job = ImportJob(model=str(shared_data(path)), batch_size=8, shapes={}, input_data=None, seed=0)
    imported = import_model(job, tmp_path / "imported")
    model = ir.load(tmp_path / "imported" / imported.files.runtime_graph)
    entry = model.graph.inputs[0].name
    batches = Batches(arrays={entry: x}, samples=len(x), size=8)
    ranges = collect(
        model, batches, CalibrationSettings(), folder=tmp_path, threads=1, progress=lambda fraction: None
    ).ranges
    (tmp_path / "lowered").mkdir()
    OnnxRuntime().lower(
        LowerRequest(
            model=imported.model,
            files=imported.files,
            plan=PrecisionPlan(default="int8"),
            calibration=calibration(ranges),
            device=cpu(),
            folder=tmp_path / "lowered",
        )
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(tmp_path / "lowered" / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    view = simulated(model, ranges, [node.name for node in model.graph], runtime="onnxruntime", bits=8)
    with torch.no_grad():
        found = view(torch.from_numpy(x[:8]))[0].numpy()
    np.testing.assert_array_equal(found, session.run(None, {entry: x[:8]})[0])
