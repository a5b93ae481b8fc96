"""What drives ``make gpu-bench``, without a GPU: what is missing is named, a failed check ends the timing."""

import importlib.metadata
import json
import os
import random
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
from cuda_library import driver_library
from fixtures_results import full_result

from hwbench import inventory
from hwbench.files import encode

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/gpu"))

import bench  # noqa: E402 - the folder of scripts is no package
import bench_overhead  # noqa: E402
import bench_run  # noqa: E402
import bench_steps  # noqa: E402


def test_without_a_gpu_one_line_and_no_file(tmp_path):
    command = [sys.executable, str(ROOT / "tests/gpu/bench.py"), "--output", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    if done.returncode != 3:
        pytest.skip("there is a GPU here")
    assert done.stderr.startswith("gpu-bench: device 'cuda:0' is not here")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_packages_that_hwbench_needs_are_named(monkeypatch, capsys):
    found = bench.importlib.util.find_spec
    monkeypatch.setattr(
        bench.importlib.util, "find_spec", lambda name: None if name in {"typer", "onnx"} else found(name)
    )
    assert bench.main([]) == 3
    said = capsys.readouterr().err
    assert "packages typer, onnx" in said
    assert "PYTHON=.venv/bin/python" in said


def test_python_3_10_reads_toml_by_tomli(monkeypatch):
    asked = []
    monkeypatch.setattr(bench.importlib, "import_module", lambda name: asked.append(name) or tomli)
    tomli = SimpleNamespace(loads=lambda text: {"text": text})
    assert bench.read_toml("a = 1", (3, 10)) == {"text": "a = 1"}
    bench.read_toml("", (3, 11))
    assert asked == ["tomli", "tomllib"]
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None if name == "tomli" else name)
    assert bench.missing_packages((3, 10)) == ["tomli"]
    assert bench.missing_packages((3, 11)) == []


def test_a_checkout_that_is_not_installed_has_its_plugins(tmp_path):
    folder = bench.write_metadata(tmp_path)
    (made,) = importlib.metadata.distributions(path=[str(folder)])
    engines = {point.name: point.value for point in made.entry_points if point.group == "hwbench.engines"}
    assert engines["torch-cuda-graph"] == "hwbench.engines.torch_graph:TorchCudaGraph"
    assert made.metadata["Name"] == "hwbench-nn"


def wanted(tmp_path, **changes):
    return Namespace(
        **{"device": "cuda:0", "output": tmp_path / "out.json", "only": [], "quick": False, "step_timeout": 60.0,
           **changes}
    )  # fmt: skip


def about(fingerprint="abc", driver="580.1"):
    return {"device": {"title": "a GPU", "fingerprint": fingerprint, "gpu": {"driver_version": driver}}}


def passing(bench):
    return {"n": 3}


def refusing(bench):
    raise bench_run.NotRun("the package x is not installed")


def failing(bench):
    raise bench_run.Failed("2 tests failed", {"failed": ["a", "b"]})


def breaking(bench):
    raise KeyError("a bug")


def steps_of(path):
    return {step["name"]: step for step in json.loads(path.read_text())["steps"]}


def test_every_step_ends_as_what_it_was(tmp_path):
    steps = {"check": passing, "absent": refusing, "times": passing, "wrong": failing, "bug": breaking}
    measures = frozenset({"times", "wrong", "bug"})
    assert bench_run._all(wanted(tmp_path), about(), [], steps, measures) == 1
    found = steps_of(tmp_path / "out.json")
    assert {name: step["status"] for name, step in found.items()} == {
        "check": "done", "absent": "not_run", "times": "done", "wrong": "failed", "bug": "failed",
    }  # fmt: skip
    assert found["absent"]["why"] == "the package x is not installed"
    assert found["times"]["result"] == {"n": 3}
    assert found["wrong"]["result"] == {"failed": ["a", "b"]}
    assert found["bug"]["why"] == "KeyError: 'a bug'"


def test_nothing_is_timed_after_a_check_that_failed(tmp_path):
    steps = {"check": failing, "second": passing, "times": passing}
    assert bench_run._all(wanted(tmp_path), about(), [], steps, frozenset({"times"})) == 1
    found = steps_of(tmp_path / "out.json")
    assert found["second"]["status"] == "done"
    assert found["times"]["status"] == "not_run"
    assert found["times"]["why"] == "verification failed: check"


def test_a_part_is_run_again_and_the_rest_kept(tmp_path):
    steps = {"check": passing, "times": passing}
    bench_run._all(wanted(tmp_path), about(), [], steps, frozenset({"times"}))
    before = bench_run.kept(tmp_path / "out.json", about())
    steps["times"] = lambda bench: {"n": 5}
    assert bench_run._all(wanted(tmp_path, only=["ti"]), about(), before, steps, frozenset({"times"})) == 0
    found = steps_of(tmp_path / "out.json")
    assert list(found) == ["check", "times"]
    assert found["times"]["result"] == {"n": 5}
    with pytest.raises(bench_run.Failed, match="another GPU or driver"):
        bench_run.kept(tmp_path / "out.json", about(driver="590.2"))


def test_tests_are_counted_with_the_reasons_of_skips(tmp_path):
    (tmp_path / "r.xml").write_text(
        '<testsuites><testsuite><testcase classname="a" name="b"/>'
        '<testcase classname="a" name="c"><skipped message="no GPU"/></testcase>'
        '<testcase classname="a" name="d"><skipped message="no GPU"/></testcase>'
        '<testcase classname="a" name="e"><failure message="off by 1"/></testcase>'
        '<testcase classname="a" name="f"><error message="no fixture"/></testcase></testsuite></testsuites>'
    )
    assert bench_steps.counted(tmp_path / "r.xml") == {
        "passed": 1, "failed": {"a::e": "off by 1", "a::f": "no fixture"}, "skipped": {"no GPU": 2},
    }  # fmt: skip


def test_a_profile_gives_its_rows():
    told = bench_steps.profiled(json.loads(encode(full_result())))
    assert told["measured"]
    row = told["measured"][0]
    assert row["interval_s"][0] <= row["median_s"] <= row["interval_s"][1]
    assert row["memory_running"]["code"] == "not_recorded"
    assert {"engine", "precision", "why"} == set(told["not_measured"][0])


def test_a_step_without_its_command_says_so(monkeypatch, tmp_path):
    one = bench_run.Bench(device="cuda:0", quick=True, folder=tmp_path, timeout_s=60)
    answer = SimpleNamespace(returncode=2, stdout="", stderr="No such command 'sweep'.")
    monkeypatch.setattr(bench_run.subprocess, "run", lambda *arguments, **named: answer)
    with pytest.raises(bench_run.NotRun, match="no command `energy sweep`"):
        one.hwbench("energy", "sweep", "resnet50", "--device", "cuda:0")


def test_a_step_that_hangs_has_failed(tmp_path):
    one = bench_run.Bench(device="cuda:0", quick=True, folder=tmp_path, timeout_s=0.2)
    with pytest.raises(bench_run.Failed, match="longer than"):
        one.call(sys.executable, "-c", "import time; time.sleep(30)")


def test_checks_come_before_measurements():
    names = list(bench_steps.STEPS)
    first = min(names.index(name) for name in bench_steps.MEASURES)
    assert not set(names[:first]) & bench_steps.MEASURES
    assert set(names[first:]) == bench_steps.MEASURES
    assert bench_run.chosen(["sweep-bert", "par"], names) == [
        "parity",
        "sweep-bert_small-fp16",
        "sweep-bert_small-fp32",
    ]


def test_the_loops_are_compared_block_by_block():
    calls = {"ours": 0, "bare": 0}

    def work(which):
        calls[which] += 1
        time.sleep(0)

    found = bench_overhead.interleaved(lambda: work("ours"), lambda: work("bare"), rounds=8, inferences=5)
    assert calls == {"ours": 40, "bare": 80}
    low, high = found["ratio_interval"]
    assert low <= found["ratio"] <= high
    assert found["verdict"] in {"within", "outside", "not settled"}


def simulated(monkeypatch, centre, noise, rounds=60):
    """The verdict on ratios about ``centre``, of which one round's has a standard deviation of ``noise``."""
    chance = random.Random(7)
    monkeypatch.setattr(bench_overhead, "reported", lambda call, n: centre * chance.gauss(1, noise / 2**0.5))
    monkeypatch.setattr(bench_overhead, "bare", lambda call, n: chance.gauss(1, noise / 2**0.5))
    return bench_overhead.interleaved(lambda: None, lambda: None, rounds, 1)


@pytest.mark.parametrize(
    ("centre", "noise", "verdict"),
    [
        (1.003, 0.004, "within"),
        (0.995, 0.004, "within"),
        (1.06, 0.004, "outside"),
        (0.9, 0.02, "outside"),
        (1.019, 0.03, "not settled"),  # its interval reaches over the bound
        (1.0, 0.3, "not settled"),  # noise is no proof
        (1.03, 0.3, "not settled"),
    ],
)
def test_the_whole_interval_must_lie_within_the_bound(monkeypatch, centre, noise, verdict):
    found = simulated(monkeypatch, centre, noise)
    assert found["verdict"] == verdict, found
    assert found["resolves"] == max(abs(each - 1) for each in found["control_interval"])


def test_a_machine_that_resolves_less_than_the_bound_settles_nothing():
    assert bench_overhead.judged((0.999, 1.001), (0.999, 1.001))["verdict"] == "within"
    assert bench_overhead.judged((0.999, 1.001), (0.97, 1.001))["verdict"] == "not settled"
    assert bench_overhead.judged((1.03, 1.04), (0.97, 1.001))["verdict"] == "not settled"
    assert bench_overhead.judged((1.06, 1.08), (0.97, 1.001))["verdict"] == "outside"


def test_what_is_not_settled_has_its_numbers_and_is_no_pass(monkeypatch, tmp_path):
    noisy = simulated(monkeypatch, 1.0, 0.3)
    steps = {"times": lambda bench: bench_steps.settled(noisy)}
    assert bench_run._all(wanted(tmp_path), about(), [], steps, frozenset(steps)) == 1
    found = steps_of(tmp_path / "out.json")["times"]
    assert (found["status"], found["result"]) == ("not_settled", noisy)
    assert "not settled: hwbench's loop takes" in found["why"]
    assert "bare against bare is off by up to" in found["why"]
    with pytest.raises(bench_run.Failed, match="2 % were allowed") as caught:
        bench_steps.settled(simulated(monkeypatch, 1.06, 0.004))
    assert not isinstance(caught.value, bench_run.NotSettled)


@pytest.mark.parametrize(("gpu", "said"), [("nvidia-h200", "TensorRT-RTX builds for"), ("nvidia-rtx-4090", None)])
def test_a_gpu_that_an_engine_is_not_for_is_no_failure(monkeypatch, tmp_path, capsys, gpu, said):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    monkeypatch.setattr(inventory, "find_target", lambda name: inventory.find_or_describe(gpu))
    one = bench_run.Bench(device="cuda:0", quick=True, folder=tmp_path, timeout_s=60)

    def here(*command):
        monkeypatch.setattr(sys, "argv", ["-c", *map(str, command[3:])])
        exec(command[2], {})
        return SimpleNamespace(returncode=0, stdout=capsys.readouterr().out, stderr="")

    monkeypatch.setattr(one, "call", here)
    if said is None:
        bench_steps._engine(one, "tensorrt-rtx")
    else:
        with pytest.raises(bench_run.NotRun, match=said):
            bench_steps._engine(one, "tensorrt-rtx")


def test_what_is_measured_is_verified_before():
    names = list(bench_steps.STEPS)
    assert {"cuda-contract", "tensorrt-tests", "rtx-tests"} <= set(names) - bench_steps.MEASURES
    assert {"tensorrt", "tensorrt-rtx"} <= set(bench_steps.ENGINES)
    for step in bench_steps.STEPS.values():
        pattern = getattr(step, "keywords", {}).get("pattern")
        assert pattern is None or list((ROOT / "tests").glob(pattern)), pattern
    assert "overhead-tensorrt-resnet50" in names


BARE = """
import ctypes, sys
import numpy as np
from bare_tensorrt import bare_plan

driver = ctypes.CDLL("libcuda.so.1")
context = ctypes.c_void_p()
assert driver.cuInit(0) == 0
assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert driver.cuCtxSetCurrent(context) == 0


class Plan:
    num_io_tensors, enqueued, told = 2, 0, {}
    create_execution_context = lambda self: self
    get_tensor_name = lambda self, index: ["y", "x"][index]
    get_tensor_shape = lambda self, name: (2, 3)
    set_input_shape = lambda self, name, shape: True
    set_tensor_address = lambda self, name, address: self.told.update({name: address})

    def execute_async_v3(self, stream):
        assert isinstance(stream, int) and list(self.told) == ["x", "y"] and all(self.told.values())
        self.enqueued += 1
        return True


plan = Plan()
run = bare_plan(plan, {"x": np.ones((2, 3), np.float32)})
for _ in range(5):
    run()
print(plan.enqueued)
"""


def test_the_bare_loop_over_a_plan_launches_a_graph():
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver_library().parent), "PYTHONPATH": str(ROOT / "tests/gpu")}
    done = subprocess.run(
        [sys.executable, "-c", BARE], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["3"], done.stderr  # twice before, once captured, then the graph alone


PLAN = {
    "model": {"name": "resnet50"}, "took_s": {"costs": 9.0},
    "engines": [{"platform": {"engine": "tensorrt"}, "samples": 40, "baselines": {"auto": {"value": 1e-3}},
                 "front": [{"n": 0}, {"n": 1}], "chosen": 1, "notes": []}],
}  # fmt: skip


def optimization(word, high):
    joint = {"kind": "ratio", "low": 0.8, "high": high}
    return {
        "model": {"name": "resnet50"}, "warnings": [], "took_s": 9.0,
        "verdicts": {"choice": {"entrant": "tensorrt plan 1.1", "word": word, "best_uniform": "tensorrt fp16"}},
        "contest": {"standings": [{"entrant": "tensorrt plan 1.1", "value": 9e-4, "joint": joint},
                                  {"entrant": "tensorrt fp16", "value": 1e-3, "joint": {"code": "best"}}]},
        "not_built": [{"engine": "tensorrt", "precision": "fp8", "reason": {"why": "no such arithmetic"}}],
    }  # fmt: skip


@pytest.fixture
def card(monkeypatch, tmp_path):
    """A bench whose commands write what they are told to, and note what they were asked."""
    asked, made = [], {}

    def command(self, *arguments):
        asked.append([str(each) for each in arguments])
        if "--output" in asked[-1]:
            folder = Path(asked[-1][asked[-1].index("--output") + 1])
            folder.mkdir(exist_ok=True)
            for name, text in made.items():
                (folder / name).write_text(json.dumps(text))
        return SimpleNamespace(returncode=0, stdout="", stderr="error: it was not to be")

    monkeypatch.setattr(bench_run.Bench, "call", command)
    return bench_run.Bench(device="cuda:0", quick=True, folder=tmp_path, timeout_s=60), made, asked


def test_a_plan_gives_its_chosen_design_and_what_it_is_of(card):
    one, made, asked = card
    made["plan.json"] = PLAN
    found = bench_steps.STEPS["plan-resnet50"](one)
    assert (found["chosen"], found["samples"], found["platform"]) == ({"n": 1}, 40, {"engine": "tensorrt"})
    command = next(each for each in asked if "plan" in each)
    assert command[command.index("--engine") + 1] == "tensorrt"
    made.clear()
    with pytest.raises(bench_run.Failed, match="it was not to be"):
        bench_steps.STEPS["plan-bert_small"](one)


def test_an_optimisation_that_broke_its_guard_has_failed(card):
    one, made, _ = card
    made["optimization.json"] = optimization("FASTER", 0.95)
    found = bench_steps.STEPS["optimize-resnet50"](one)
    assert found["over_best_uniform"] == [0.8, 0.95]
    assert found["not_built"] == [{"engine": "tensorrt", "precision": "fp8", "why": "no such arithmetic"}]
    made["optimization.json"] = optimization("FASTER", 1.02)
    with pytest.raises(bench_run.Failed, match="not faster than the best uniform"):
        bench_steps.STEPS["optimize-resnet50"](one)


def test_options_of_the_planning_steps_are_those_of_the_commands():
    import inspect

    import bench_plans

    from hwbench.cli.optimize import optimize
    from hwbench.cli.plan import plan

    for step, command in ((bench_plans.planned, plan), (bench_plans.optimised, optimize)):
        told = inspect.getsource(inspect.getmodule(inspect.unwrap(command)))
        options = [word for word in inspect.getsource(step).replace('"', " ").split() if word.startswith("--")]
        assert options
        for option in options:
            assert option in told or option in {"--batch-size", "--device"}, option
