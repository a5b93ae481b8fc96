"""Accuracy of int8 bundles of real networks, on every runtime, by ``hwbench build`` as it is by default.

What docs/quantization.md tells is what this prints. Calibration and test data are disjoint.

    make bench PYTEST_ARGS="-k real_models"
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import real_tasks
from command import hwbench

ENGINES = ("onnxruntime", "openvino", "litert")


def points(row):
    score = row["scores"][0]
    scale = 100
    told = f"{scale * score['value']:.2f} [{scale * score['low']:.2f}, {scale * score['high']:.2f}]"
    drop = row["certificate"]
    if drop.get("kind") != "certificate":
        return told
    return f"{told}, lost {100 * drop['drop']:+.2f} [{100 * drop['low']:+.2f}, {100 * drop['high']:+.2f}]"


@pytest.mark.parametrize("name", real_tasks.NAMES)
def test_real_models(benchmark, capsys, tmp_path, name):
    task = real_tasks.task(name, tmp_path)
    np.savez(tmp_path / "calibration.npz", **task.calibration)
    np.savez(tmp_path / "test.npz", **task.test, labels=task.labels)

    def build():
        return hwbench(
            "build", task.spec, "-p", "int8", "--data", "calibration.npz", "--verify-data", "test.npz", "--task",
            task.kind, "--max-drop", task.allowed, *(part for engine in ENGINES for part in ("-e", engine)),
            *("-b", "25", "--no-measure", "--json", "-q", "-o", "built"), cwd=tmp_path,
        )  # fmt: skip

    run = benchmark.pedantic(build, rounds=1, iterations=1)
    assert run.returncode in {0, 1}, run.stderr
    found = json.loads(run.stdout)
    with capsys.disabled():
        print(f"\n{task.name}: n = {found['reference']['scores'][0]['n']}, {found['reference']['scores'][0]['name']}")
        print(f"  float: {points(found['reference'])}")
        for item in found["bundles"]:
            layers = item["engine"]["lowered"]["layers"]
            as_asked = sum(layer["got"] == layer["asked"] for layer in layers)
            engine = item["engine"]["artefact"]["engine"]
            print(f"  {engine} int8 ({as_asked} of {len(layers)} layers): {points(item['verified'])}")
        for item in found["not_built"]:
            print(f"  {item['engine']}: {item['reason']['why']}")
