"""What `hwbench optimize` gives beside what NNCF, ONNX Runtime's own tool and Olive make of the same network by hand.

    HWBENCH_OPTIMIZED=out make bench PYTEST_ARGS="-k tuned_baselines"

``out`` is the folder of a run of `optimize` on labelled data, started from the folder that it lies in. Every tool gets
the network as it came in and the samples that `optimize` learnt from, 300 of them at most; NNCF's accuracy control also
1000 labelled ones of those that certify, which is a help to it. Each pair is one run of `hwbench compare`, interleaved,
with A/A control and both scored on all of the data that certify.

Predicted beforehand: uniform int8 of the tools is as fast as hwbench's within 5 %, so the bundle of a planned network
keeps its ratio; ONNX Runtime's by hand is 1.2 times slower on the CIFAR networks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rivals import by_nncf, by_nncf_controlled, by_olive, by_onnxruntime

from hwbench.graph.importer import import_model
from hwbench.records.model import ImportJob

SAMPLES, VALIDATED = 300, 1000
BUDGET = "40s"
pytestmark = pytest.mark.filterwarnings("ignore")  # the tools' own imports warn


@pytest.fixture(scope="module")
def optimized():
    if "HWBENCH_OPTIMIZED" not in os.environ:
        pytest.skip("HWBENCH_OPTIMIZED names the folder of a run of `hwbench optimize`")
    return Path(os.environ["HWBENCH_OPTIMIZED"]).resolve()


@pytest.fixture(scope="module")
def request_of(optimized):
    return json.loads((optimized / "optimization.json").read_text())["request"]


@pytest.fixture(scope="module")
def original(optimized, request_of, tmp_path_factory):
    """The network as it came in, at the batch size that it is deployed with, and the samples."""
    home, folder = optimized.parent, tmp_path_factory.mktemp("rivals")
    os.chdir(home)
    size = request_of["batch_size"] or 1
    imported = import_model(
        ImportJob(model=request_of["model"], batch_size=size, shapes={}, input_data=None, seed=0), folder / "it"
    )
    names = [each.name for each in imported.model.inputs]
    learn, judge = (np.load(home / request_of[name]) for name in ("data", "verify_data"))
    given = [name for name in learn.files if name != "labels"]
    samples, judged = (
        {name: archive[key] for name, key in zip(names, given, strict=True)} for archive in (learn, judge)
    )
    graph = Path(imported.files.folder) / imported.files.runtime_graph
    return graph, {name: array[:SAMPLES] for name, array in samples.items()}, judged, judge["labels"], size


TOOLS = ("nncf", "nncf_controlled", "onnxruntime", "olive")


@pytest.mark.parametrize("tool", TOOLS)
def test_tuned_baselines(benchmark, tmp_path, optimized, request_of, original, tool):
    graph, samples, judged, labels, size = original
    some = {name: array[:VALIDATED] for name, array in judged.items()}
    make = {
        "nncf": lambda: by_nncf(graph, samples, size, tmp_path),
        "nncf_controlled": lambda: by_nncf_controlled(
            graph, samples, size, tmp_path, some, labels[:VALIDATED], request_of["max_drop"]
        ),
        "onnxruntime": lambda: by_onnxruntime(graph, samples, size, tmp_path),
        "olive": lambda: by_olive(graph, samples, size, tmp_path),
    }
    rival = benchmark.pedantic(make[tool], rounds=1)
    engine = "openvino" if rival.suffix == ".xml" else "onnxruntime"
    asked = [
        *("compare", str(rival), str(optimized / "bundle"), "--engine-a", engine, "--budget", BUDGET, "--json"),
        *("--threads", str(request_of["threads"] or 2), "-b", str(size), "--data", request_of["verify_data"]),
    ]
    run = subprocess.run([sys.executable, "-m", "hwbench", *asked], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (pair,) = json.loads(run.stdout)["pairs"]
    speed = next(each for each in pair["verdicts"] if each["metric"] == "latency")
    told = {key: speed[key] for key in ("word", "a", "b", "ratio", "control") if key in speed}
    benchmark.extra_info.update({"tool": tool, "accuracy": pair["accuracy"], **told})
    print(f"\n{tool}: {json.dumps(told)}\n  accuracy {json.dumps(pair['accuracy'])}")
    assert speed["word"] != "SLOWER"
