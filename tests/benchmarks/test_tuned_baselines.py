"""What `hwbench optimize` gives beside what NNCF, ONNX Runtime's own tool and Olive make of the same network by hand.

    HWBENCH_OPTIMIZED=out make bench PYTEST_ARGS="-k tuned_baselines"

``out`` is the folder of a run of `optimize` with labelled `--verify-data`, started from the folder that it lies in.
Every tool gets the network as it came in and the samples that `optimize` learnt from, 300 of them at most; NNCF's
accuracy control also 1000 labelled ones. Each pair is one run of `hwbench compare`, interleaved, with A/A control. Both
are scored on all of `--verify-data`: a third of them has selected the bundle, those 1000 what NNCF's control leaves in
float; the certificate of the bundle, on the other two thirds, is in its own result.

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
import onnx
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
    found = json.loads((optimized / "optimization.json").read_text())["request"]
    if found["verify_data"] is None or found["preprocess"] is not None:
        pytest.skip("needs a run with --verify-data, and without --preprocess")
    return found


@pytest.fixture(scope="module")
def original(optimized, request_of, tmp_path_factory):
    """The network as it came in, at the batch size that it is deployed with, and the samples."""
    home, folder = optimized.parent, tmp_path_factory.mktemp("rivals")
    size = request_of["batch_size"] or 1
    job = ImportJob(model=request_of["model"], batch_size=size, shapes={}, input_data=None, seed=0)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(home)
        imported = import_model(job, folder / "it")
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
    transformer = any(node.op_type == "LayerNormalization" for node in onnx.load(graph).graph.node)
    some = {name: array[:VALIDATED] for name, array in judged.items()}
    make = {
        "nncf": lambda: by_nncf(graph, samples, size, tmp_path, transformer=transformer),
        "nncf_controlled": lambda: by_nncf_controlled(
            graph, samples, size, tmp_path, some, labels[:VALIDATED], request_of["max_drop"], transformer=transformer
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
    run = subprocess.run(
        [sys.executable, "-m", "hwbench", *asked], cwd=optimized.parent, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    (pair,) = json.loads(run.stdout)["pairs"]
    speed = next(each for each in pair["verdicts"] if each["metric"] == "latency")
    told = {key: speed[key] for key in ("word", "a", "b", "ratio", "control") if key in speed}
    benchmark.extra_info.update({"tool": tool, "accuracy": pair["accuracy"], **told})
    print(f"\n{tool}: {json.dumps(told)}\n  accuracy {json.dumps(pair['accuracy'])}")
    assert speed["word"] != "SLOWER"
    assert pair["accuracy"]["high"] >= -request_of["max_drop"], "not surely worse than what was allowed"
