"""Does the whole command agree with the runtimes' own tools, each in a process of its own?

OpenVINO's ``benchmark_app`` and a plain ONNX Runtime script in the manner of ``onnxruntime_perf_test``, against
``hwbench profile`` on the same ONNX file, same threads and precision, in turn; the tool against itself is the control.

    make bench PYTEST_ARGS="-k agreement"
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from hwbench.graph.importer import import_model
from hwbench.records.model import ImportJob

ROUNDS = 5
THREADS = 2
SCRIPT = """
import statistics, sys, time
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = {i.name: np.random.default_rng(0).standard_normal(i.shape, dtype=np.float32) for i in session.get_inputs()}
end = time.perf_counter() + 1
while time.perf_counter() < end:
    session.run(None, feeds)
times, end = [], time.perf_counter() + 3
while time.perf_counter() < end:
    start = time.perf_counter()
    session.run(None, feeds)
    times.append(time.perf_counter() - start)
print(statistics.median(times))
"""


def run(command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def benchmark_app(model):
    tool = shutil.which("benchmark_app", path=str(Path(sys.executable).parent))
    text = run(
        [tool, "-m", model, "-d", "CPU", "-hint", "none", "-nstreams", "1", "-nthreads", str(THREADS), "-api", "sync",
         "-infer_precision", "f32", "-t", "3"]
    )  # fmt: skip
    value, unit = re.search(r"Median:\s+([\d.]+) (us|ms)", text).groups()
    return float(value) / {"us": 1e6, "ms": 1e3}[unit]


def onnxruntime_script(model):
    return float(run([sys.executable, "-c", SCRIPT, model, str(THREADS)]))


def hwbench(model, engine, folder):
    text = run(
        [sys.executable, "-m", "hwbench", "profile", model, "-e", engine, "-p", "fp32", "--no-layers", "-q", "--json",
         "--threads", str(THREADS), "--duration", "3s", "--max-duration", "3s", "-o", folder, "--force"]
    )  # fmt: skip
    return json.loads(text)["measurements"][0]["latency"]["median_s"]


@pytest.mark.benchmark(group="agreement")
@pytest.mark.parametrize("model_name", ["resnet8", "resnet50"])
@pytest.mark.parametrize(("engine", "tool"), [("openvino", benchmark_app), ("onnxruntime", onnxruntime_script)])
def test_agreement(benchmark, capsys, tmp_path, model_name, engine, tool):
    import_model(ImportJob(model=model_name, batch_size=None, shapes={}, input_data=None, seed=0), tmp_path)
    model = str(tmp_path / "model.onnx")

    def interleaved():
        ratios, control = [], []
        for _ in range(ROUNDS):
            first = tool(model)
            ours = hwbench(model, engine, str(tmp_path / "out"))
            second = tool(model)
            ratios.append(ours / statistics.mean((first, second)))
            control.append(second / first)
        return statistics.median(ratios), statistics.median(control), control

    ratio, control, controls = benchmark.pedantic(interleaved, rounds=1, iterations=1)
    benchmark.extra_info.update(ratio=ratio, control=control)
    with capsys.disabled():
        print(
            f"\n{model_name} on {engine}: hwbench / {tool.__name__} = {ratio:.3f}; {tool.__name__} / itself = "
            f"{control:.3f} (from {min(controls):.3f} to {max(controls):.3f} over {ROUNDS} rounds)"
        )
    assert abs(ratio - 1) < 0.05 + max(abs(value - 1) for value in controls)
