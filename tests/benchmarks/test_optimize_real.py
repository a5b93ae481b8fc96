"""`hwbench optimize` on trained networks: how much faster than the best uniform precision of any runtime, certified.

    HWBENCH_SHARED_DATA=... make bench PYTEST_ARGS="-k optimize_real"

HWBENCH_TASKS names networks (with commas), HWBENCH_MINUTES the time budget of each, HWBENCH_BATCH the batch size,
HWBENCH_RECOVER epochs of training after a cut. All candidates are timed in one interleaved run beside all uniform
precisions, the best of these twice (A/A). Predicted before the first run: a ratio of 0.85 on EfficientNet-Lite0 and
SqueezeNet, 0.9 on the CIFAR networks at batch 1, where launches count, and 1 (the uniform one) on DS-CNN.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from real_tasks import task

TASKS = os.environ.get("HWBENCH_TASKS", "resnet20,resnet56,resnet8,ds_cnn,squeezenet,efficientnet").split(",")
MINUTES = os.environ.get("HWBENCH_MINUTES", "8")
DROP = "1pp"


@pytest.mark.parametrize("name", TASKS)
def test_optimize_real_networks(benchmark, tmp_path, name):
    wanted = task(name, tmp_path)
    np.savez(tmp_path / "learn.npz", **wanted.calibration)
    np.savez(tmp_path / "judge.npz", **wanted.test, labels=wanted.labels)
    asked = [
        *("optimize", wanted.spec, "--data", "learn.npz", "--verify-data", "judge.npz", "--max-drop", DROP),
        *("-e", "onnxruntime", "-e", "openvino", "--time-budget", f"{MINUTES}min", "-o", "out", "-q"),
        *("--threads", os.environ.get("OMP_NUM_THREADS", "2"), "-b", os.environ.get("HWBENCH_BATCH", "1")),
        *("--recover", os.environ.get("HWBENCH_RECOVER", "0")),
    ]
    run = benchmark.pedantic(
        lambda: subprocess.run(
            [sys.executable, "-m", "hwbench", *asked], cwd=tmp_path, capture_output=True, text=True, check=False
        ),
        rounds=1,
    )
    assert run.returncode in {0, 1}, run.stderr
    found = json.loads((tmp_path / "out" / "optimization.json").read_text())
    print(run.stdout)
    told = summary(name, found)
    benchmark.extra_info.update(told)
    print("; ".join(f"{key} {value}" for key, value in told.items()))
    assert told["ratio_high"] <= 1 or told["chosen"] == told["best_uniform"], "never slower than the best uniform one"


def summary(name, found):
    """What the results page says of one network."""
    contest = found["contest"]
    chosen = found["verdicts"]["choice"]["entrant"]
    standing = next(each for each in contest["standings"] if each["entrant"] == chosen)
    ratio = standing["ratio"] if chosen != contest["best_uniform"] else {"value": 1.0, "low": 1.0, "high": 1.0}
    control = contest.get("control") or {}
    certified = found["verdicts"]["certified"][-1]
    drop = certified["found"]["drop"]
    versions = {each["name"]: each["version"] for each in found["environment"]["packages"]}
    return {
        "network": name,
        "chosen": chosen,
        "best_uniform": contest["best_uniform"],
        "ratio": round(ratio["value"], 3),
        "ratio_low": round(ratio["low"], 3),
        "ratio_high": round(ratio["high"], 3),
        "a_a": json.dumps(control)[:120],
        "word": certified["word"],
        "drop": drop.get("drop"),
        "n": drop.get("n"),
        "planned": sum(each["precision"] is None for each in found["candidates"]),
        "onnxruntime": versions.get("onnxruntime"),
        "openvino": versions.get("openvino"),
    }
