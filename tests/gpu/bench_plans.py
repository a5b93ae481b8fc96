"""Steps of ``make gpu-bench`` that plan and optimise on the card, with costs that TensorRT's builds were timed for.

Networks are untrained and samples noise, so what is lost says nothing about a trained network; latencies, what was
built, and whether the guard held are real.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench_run import Bench, Failed, last_line

_SAMPLES, _FEW = 512, 96
_DATA = """
import sys
import numpy as np
from hwbench.models.zoo import create

_, inputs = create(sys.argv[1], batch_size=int(sys.argv[2]))
np.savez(sys.argv[3], **{name: array.numpy() for name, array in inputs.items()})
"""


def planned(bench: Bench, model: str, engine: str = "tensorrt") -> dict[str, Any]:
    """What `hwbench plan` finds for one runtime at batch 1."""
    output = bench.folder / f"plan-{model}"
    short = ["--cost-budget", "2min", "--loss-budget", "1min"] if bench.quick else []
    done = bench.hwbench(
        "plan", model, "--device", bench.device, "--engine", engine, "--batch-size", "1",
        "--data", _data(bench, model), "--max-drop", "5pp", "--output", output, *short,
    )  # fmt: skip
    path = output / "plan.json"
    if not path.exists():
        raise Failed(last_line(done))
    return plan_told(json.loads(path.read_text()))


def plan_told(result: dict[str, Any]) -> dict[str, Any]:
    """Return of a plan what the docs show."""
    (engine,) = result["engines"]
    chosen = engine["front"][engine["chosen"]] if isinstance(engine["chosen"], int) else engine["chosen"]
    return {
        "model": result["model"]["name"],
        "platform": engine["platform"],
        "samples": engine["samples"],
        "baselines": engine["baselines"],
        "chosen": chosen,
        "notes": engine["notes"],
        "took_s": result["took_s"],
    }


def optimised(bench: Bench, model: str) -> dict[str, Any]:
    """What `hwbench optimize` takes of all engines that build on the card, and what it was held against."""
    output = bench.folder / f"optimize-{model}"
    done = bench.hwbench(
        "optimize", model, "--device", bench.device, "--batch-size", "1", "--data", _data(bench, model),
        "--max-drop", "5pp", "--time-budget", "5min" if bench.quick else "30min", "--output", output, "--force",
    )  # fmt: skip
    path = output / "optimization.json"
    if not path.exists():
        raise Failed(last_line(done))
    found = optimization_told(json.loads(path.read_text()))
    slower = found["over_best_uniform"]
    if found["choice"]["word"] == "FASTER" and not (isinstance(slower, list) and slower[1] < 1):
        raise Failed("what was chosen is not faster than the best uniform one, and should not have been", found)
    return found


def optimization_told(result: dict[str, Any]) -> dict[str, Any]:
    """Return of an optimisation what the docs show; ``over_best_uniform``: the joint interval of the chosen one."""
    choice = result["verdicts"]["choice"]
    standings = result["contest"]["standings"]
    mine = next((each for each in standings if each["entrant"] == choice["entrant"]), None)
    joint = None if mine is None else mine["joint"]
    return {
        "model": result["model"]["name"],
        "choice": choice,
        "over_best_uniform": [joint["low"], joint["high"]] if joint is not None and "low" in joint else joint,
        "standings": [{"name": each["entrant"], "median_s": each["value"]} for each in standings],
        "not_built": [
            {"engine": each["engine"], "precision": each["precision"], "why": each["reason"]["why"]}
            for each in result["not_built"]
        ],
        "warnings": result["warnings"],
        "took_s": result["took_s"],
    }


def _data(bench: Bench, model: str) -> Path:
    path = bench.folder / f"{model}.npz"
    if not path.exists():
        done = bench.call(bench.python, "-c", _DATA, model, _FEW if bench.quick else _SAMPLES, path)
        if done.returncode != 0:
            raise Failed(last_line(done))
    return path
