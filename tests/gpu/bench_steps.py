"""What ``make gpu-bench`` does: each step a function of the bench that returns what goes into the file.

Verification comes first, and what it finds wrong ends the run before anything is timed.
"""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench_plans import optimised, planned
from bench_run import ROOT, Bench, Failed, NotRun, NotSettled, Step, last_line

MODELS = ("resnet50", "bert_small")
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ENGINES = (
    "torch-eager", "torch-cuda-graph", "torch-compile", "torch-compile-cuda-graph", "torch-aoti",
    "torch-aoti-cuda-graph", "tensorrt", "tensorrt-rtx",
)  # fmt: skip
TENSORRT = ("tensorrt", "tensorrt-rtx")
SWEPT = ("fp16", "fp32")
_SANITIZER = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")
_KERNEL_TESTS = ROOT / "tests/gpu/test_sparse_kernels_gpu.py"


def _module(bench: Bench, name: str, what: str) -> None:
    """Raise NotRun where a package is not here."""
    if bench.call(bench.python, "-c", f"import {name}").returncode != 0:
        raise NotRun(f"{what} needs the package {name}, which is not installed")


_ASK = """
import sys
from hwbench import plugins
from hwbench.inventory import find_target

name, device = sys.argv[1:]
engine = plugins.load("engines", name)
reasons = engine.installed().reasons
if not reasons and name == "tensorrt-rtx":  # not for every GPU
    reasons = engine.builds_for(find_target(device).device).reasons
print(*reasons)
"""


def _engine(bench: Bench, name: str) -> None:
    """Raise NotRun where the runtime of an engine is not here, or is not for this GPU."""
    done = bench.call(bench.python, "-c", _ASK, name, bench.device)
    if done.returncode != 0 or done.stdout.strip():
        raise NotRun(done.stdout.strip() or last_line(done))


def run_tests(bench: Bench, pattern: str, *more: str, only: str = "", marked: str = "") -> dict[str, Any]:
    """Run tests and return how many passed, and why others were skipped.

    Args:
        bench: what there is to work with.
        pattern: of the files, in the folder of all tests.
        more: a program to run them under, with its arguments.
        only: tests with this word in their names.
        marked: tests with this mark.
    """
    _module(bench, "pytest", "verification")
    files = sorted(str(path) for path in (ROOT / "tests").glob(pattern))
    if not files:
        raise NotRun(f"there are no tests {pattern} in this checkout")
    report = bench.folder / "tests.xml"
    report.unlink(missing_ok=True)
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    if bench.call(bench.python, "-c", "import pytest_benchmark").returncode != 0:
        options += ["-o", "addopts="]  # which names options of a plugin that is not here
    options += [*(["-k", only] if only else []), *(["-m", marked] if marked else [])]
    done = bench.call(*more, bench.python, "-m", "pytest", *options, f"--junitxml={report}", *files)
    if not report.exists():
        raise Failed(last_line(done))
    counts = counted(report)
    if more and done.returncode != 0 and not counts["failed"]:
        raise Failed(f"{Path(more[0]).name} found errors: {last_line(done)}", counts)
    if counts["failed"]:
        raise Failed(f"{len(counts['failed'])} tests failed", counts)
    if not counts["passed"]:
        raise NotRun("; ".join(counts["skipped"]) or "no test ran")
    return counts


def counted(report: Path) -> dict[str, Any]:
    """Return passed tests, names of failed ones with their messages, and skips by reason, of a JUnit file."""
    passed, failed, skipped = 0, {}, {}
    for case in ET.parse(report).iter("testcase"):
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        left = case.find("skipped")
        if bad is not None:
            failed[f"{case.get('classname')}::{case.get('name')}"] = (bad.get("message") or "")[:300]
        elif left is not None:
            reason = (left.get("message") or "no reason")[:200]
            skipped[reason] = skipped.get(reason, 0) + 1
        else:
            passed += 1
    return {"passed": passed, "failed": failed, "skipped": skipped}


def sanitized(bench: Bench, tool: str) -> dict[str, Any]:
    """Run the kernels' tests under compute-sanitizer."""
    program = next((found for name in _SANITIZER if (found := shutil.which(name))), None)
    if program is None:
        raise NotRun("compute-sanitizer is not on this machine (it comes with the CUDA toolkit)")
    if not _KERNEL_TESTS.exists():
        raise NotRun(f"there is no {_KERNEL_TESTS.name} in this checkout")
    return run_tests(
        bench,
        f"gpu/{_KERNEL_TESTS.name}",
        program,
        "--tool",
        tool,
        "--error-exitcode",
        "86",
        "--target-processes",
        "all",
        only="small",
    )


def overhead(bench: Bench, model: str, engine: str = "torch-cuda-graph") -> dict[str, Any]:
    """A CUDA-graph engine of hwbench's against a bare CUDA-graph loop, in a process of its own."""
    _module(bench, "torch", "the built-in model")
    _engine(bench, engine)
    target = bench.folder / f"overhead-{engine}-{model}.json"
    rounds = 10 if bench.quick else 60
    program = str(ROOT / "tests/gpu/bench_overhead.py")
    done = bench.call(bench.python, program, bench.device, model, rounds, target, engine)
    if done.returncode == 3:
        raise NotRun(last_line(done))
    if done.returncode != 0:
        raise Failed(last_line(done))
    return settled(json.loads(target.read_text()))


def settled(found: dict[str, Any]) -> dict[str, Any]:
    """Return what was found where it shows that hwbench is as fast as a bare loop; else raise, with the numbers."""
    if found["verdict"] == "within":
        return found
    low, high = found["ratio_interval"]
    told = f"hwbench's loop takes {found['ratio']:.4f} of a bare one ({low:.4f} to {high:.4f}); 2 % were allowed"
    resolved = f"bare against bare is off by up to {found['resolves']:.2%}"
    if found["verdict"] == "not settled":
        raise NotSettled(f"not settled: {told}, and {resolved}", found)
    raise Failed(f"{told}; {resolved}", found)


def selftest(bench: Bench) -> dict[str, Any]:
    """The self-test of the NVML meter."""
    done = bench.hwbench("energy", "selftest", "--device", bench.device, "--json")
    try:
        found = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise Failed(last_line(done)) from None
    if isinstance(found.get("meter"), dict):  # why there is none
        raise NotRun(found["meter"]["why"])
    if found["status"] == "failed":
        raise Failed("the meter failed its self-test", found)
    return found


def profiles(bench: Bench, model: str) -> dict[str, Any]:
    """Latency, energy and the four numbers of memory of every engine in its own precisions, at batch 1."""
    output = bench.folder / f"profile-{model}"
    options = ["--duration", "1s" if bench.quick else "5s", "--no-layers", "--output", output, "--force"]
    engines = [part for name in ENGINES for part in ("--engine", name)]
    done = bench.hwbench("profile", model, "--device", bench.device, *engines, *options)
    path = output / "result.json"
    if not path.exists():
        raise Failed(last_line(done))
    found = profiled(json.loads(path.read_text()))
    if not found["measured"]:
        raise NotRun("; ".join(f"{each['engine']}: {each['why']}" for each in found["not_measured"]))
    return found


def profiled(result: dict[str, Any]) -> dict[str, Any]:
    """Return of a profile result what the docs show."""
    rows = []
    for item in result["measurements"]:
        latency = item["latency"]
        rows.append(
            {
                "engine": item["engine"],
                "precision": item["built"]["precision"],
                "version": item["built"]["version"],
                "settings": item["built"]["settings"],
                "median_s": latency.get("median_s"),
                "interval_s": [latency.get("median_low_s"), latency.get("median_high_s")],
                "n": latency.get("n"),
                "energy_per_inference_j": item["energy_per_inference_j"],
                "parity": item["parity"],
                "memory_loading": item["gpu_memory_loading"],
                "memory_running": item["gpu_memory"],
                "validity": item["validity"],
            }
        )
    left = [
        {"engine": each["engine"], "precision": each["precision"], "why": each["reason"]["why"]}
        for each in result["not_measured"]
    ]
    return {"model": result["model"]["name"], "measured": rows, "not_measured": left}


def sweep(bench: Bench, model: str, precision: str, engine: str = "torch-cuda-graph") -> dict[str, Any]:
    """Items per second and per joule over batch sizes, by `hwbench energy sweep`."""
    _engine(bench, engine)
    output = bench.folder / f"sweep-{model}-{engine}-{precision}"
    short = ["--energy-repeats", "3", "--energy-window", "3s", "--max-warmup", "20s"] if bench.quick else []
    done = bench.hwbench(
        "energy", "sweep", model, "--device", bench.device, "--engine", engine, "--precision", precision,
        "--batch-size", ",".join(map(str, BATCHES)), "--output", output, "--json", *short,
    )  # fmt: skip
    path = output / "sweep.json"
    if done.returncode not in {0, 4} or not path.exists():
        raise (NotRun if "no energy can be measured" in done.stderr else Failed)(last_line(done))
    return dict(json.loads(path.read_text()))


def kernels(bench: Bench) -> dict[str, Any]:
    """The crossover table of the sparse kernels, by `hwbench kernels`."""
    output = bench.folder / "kernels.json"
    rounds = ["--rounds", "5"] if bench.quick else []
    done = bench.hwbench("kernels", "--device", bench.device, "--output", output, *rounds)
    if not output.exists():
        raise Failed(last_line(done))
    return dict(json.loads(output.read_text()))


def _with_tensorrt(bench: Bench, step: Callable[[Bench, str], dict[str, Any]], model: str) -> dict[str, Any]:
    """Run a step that plans; losses go through torch, and costs are those of TensorRT."""
    _module(bench, "torch", "the built-in model")
    _engine(bench, "tensorrt")
    return step(bench, model)


STEPS: dict[str, Step] = {
    "parity": partial(run_tests, pattern="gpu/test_torch_*_gpu.py"),
    "kernel-tests": partial(run_tests, pattern=f"gpu/{_KERNEL_TESTS.name}"),
    "sanitizer-memcheck": partial(sanitized, tool="memcheck"),
    "sanitizer-racecheck": partial(sanitized, tool="racecheck"),
    "cuda-contract": partial(run_tests, pattern="contracts/test_cuda.py", marked="gpu"),
    "tensorrt-tests": partial(run_tests, pattern="gpu/test_tensorrt_*_gpu.py"),
    "rtx-tests": partial(run_tests, pattern="gpu/test_rtx_*_gpu.py"),
    **{f"overhead-{model}": partial(overhead, model=model) for model in ("resnet8", *MODELS)},
    **{f"overhead-tensorrt-{m}": partial(overhead, model=m, engine="tensorrt") for m in ("resnet8", *MODELS)},
    "selftest": selftest,
    **{f"profile-{model}": partial(profiles, model=model) for model in MODELS},
    **{f"sweep-{m}-{p}": partial(sweep, model=m, precision=p) for m in MODELS for p in SWEPT},
    **{f"sweep-{e}-{m}": partial(sweep, model=m, precision="fp16", engine=e) for e in TENSORRT for m in MODELS},
    "kernels": kernels,
    **{f"plan-{model}": partial(_with_tensorrt, step=planned, model=model) for model in MODELS},
    **{f"optimize-{model}": partial(_with_tensorrt, step=optimised, model=model) for model in MODELS},
}
MEASURES = frozenset(
    name
    for name in STEPS
    if name.startswith(("overhead", "selftest", "profile", "sweep", "plan", "optimize")) or name == "kernels"
)
