"""Clocks and limits of a GPU, set by a command and put back on every way out of it; sweeps over them."""

import ast
import inspect
import json
import signal
import sys

import jsonschema
import pytest
from command import Running, environment, failed, hwbench, result_of, tiny_onnx
from fake_gpu_package import MODULE, START, GpuState, gpu_package

from hwbench.energy_sweep import Axes

WAIT = "import sys, time; print('at work', file=sys.stderr, flush=True); time.sleep(600)"
APPLY = ("doctor", "--apply", "gpu-clocks=1500MHz,gpu_power=300W,gpu_persistence", "--")
SET = {"locked": [1500, 1500], "limit_mw": 300_000, "persistence": 1}
FILES = {
    "proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Test CPU\nflags\t\t: fpu avx2\n",
    "proc/self/status": "Cpus_allowed_list:\t0\n",
}


@pytest.fixture
def gpu(tmp_path):
    """The state of a GPU; ``gpu.env`` is for commands that see it."""
    for name, text in FILES.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    state = GpuState(tmp_path / "gpu.json")
    packages = [gpu_package(tmp_path / "packages")]
    state.env = environment(
        tmp_path / "home", path=packages, FAKE_GPU=str(state.path), HWBENCH_SYSFS_ROOT=str(tmp_path / "root")
    )
    state.cwd = tmp_path
    return state


def run(gpu, *arguments):
    return hwbench(*arguments, cwd=gpu.cwd, env=gpu.env)


def start(gpu, program=WAIT):
    running = Running(*APPLY, sys.executable, "-c", program, cwd=gpu.cwd, env=gpu.env)
    running.wait_for("at work")
    assert gpu.now() == SET
    return running


def finish(running):
    code = running.process.wait(60)
    running._reader.join(60)
    running.process.stdout.close()
    running.process.stderr.close()
    return code


def said(running):
    return " ".join("".join(running.lines).split())


def test_the_pretended_module_is_like_nvidias():
    pynvml = pytest.importorskip("pynvml")
    pretended = [node for node in ast.parse(MODULE).body if isinstance(node, ast.FunctionDef) and node.name != "_state"]
    for function in pretended:
        real = inspect.signature(getattr(pynvml, function.name)).parameters
        assert len(real) == len(function.args.args), function.name


def test_set_while_the_command_runs(gpu):
    ended = run(gpu, *APPLY, sys.executable, "-c", "print(open('gpu.json').read())")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == SET
    assert "changed: gpu_power: 700 W to 300 W in the power limit of GPU-5c0f6a4e" in " ".join(ended.stderr.split())
    assert gpu.now() == START


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_puts_it_back(gpu, number):
    running = start(gpu)
    running.process.send_signal(number)
    assert finish(running) in {128 + number, 1}
    assert gpu.now() == START


def test_killed_then_restored(gpu):
    running = start(gpu)
    started = running.descendants()
    running.process.kill()
    running.process.wait(60)
    for process in started:
        process.kill()
    finish(running)
    assert gpu.now() == SET
    failed(run(gpu, *APPLY, "true"), 3, "an earlier hwbench doctor --apply was killed", "--restore")
    ended = run(gpu, "doctor", "--restore")
    assert ended.returncode == 0, ended.stderr
    assert "put back: gpu_power: the power limit of GPU-5c0f6a4e" in " ".join(ended.stderr.split())
    assert gpu.now() == START


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("--apply", "gpu_power=100W", "--", "true"), 2, ("100W", "200 W to 700 W")),
        (("--apply", "gpu_clocks=1501MHz", "--", "true"), 2, ("1500 MHz and 1515 MHz",)),
        (("--apply", "gpu_power=300W", "-d", "cuda:7", "--", "true"), 3, ("'cuda:7' is not here",)),
        (("--apply", "perf_events", "-d", "cuda:0", "--", "true"), 2, ("which GPU is changed",)),
        (("--device", "cpu"), 2, ("is no GPU",)),
        (("--restore", "--device", "cuda:0"), 2, ("leave --device out",)),
        (("--apply", "power_mode=0", "--", "true"), 3, ("this is no Jetson",)),
    ],
)
def test_refusals_change_nothing(gpu, arguments, code, parts):
    failed(run(gpu, "doctor", *arguments), code, *parts)
    assert gpu.now() == START


def test_the_doctor_looks_at_a_gpu_that_is_named(gpu):
    told = json.loads(run(gpu, "doctor", "--device", "cuda:0", "--json").stdout)
    names = {check["name"]: check["severity"] for check in told["checks"]}
    assert names["gpu_persistence"] == "warning"
    assert names["gpu_power_limit"] == "ok"
    assert not any(name.startswith("gpu") for name in names_of(run(gpu, "doctor", "--json")))


def names_of(ended):
    return [check["name"] for check in json.loads(ended.stdout)["checks"]]


# sweeps

QUICK = ("--meter", "replay", "--energy-window", "300ms", "--energy-repeats", "2", "--max-warmup", "300ms")


@pytest.fixture
def bench(gpu, stubs):
    """The same with a stub engine, a tiny model and a recording to play."""
    lines = [json.dumps({"t_s": i * 0.02, "power_w": 50 + (i * 7919 % 13) * 0.1}) for i in range(20_000)]
    (gpu.cwd / "tape.jsonl").write_text("\n".join(lines))
    tiny_onnx(gpu.cwd / "tiny.onnx", weight=0.0)
    gpu.env["HWBENCH_REPLAY_TRACE"] = str(gpu.cwd / "tape.jsonl")
    gpu.env["PYTHONPATH"] += f":{stubs}"
    return gpu


def sweep(*arguments):
    return ("energy", "sweep", "tiny.onnx", "-e", "stub-good", *QUICK, "-o", "out", *arguments)


@pytest.mark.slow
def test_a_sweep_over_limits_and_its_resumption(bench):
    ended = run(bench, *sweep("-d", "cuda:0", "-b", "2", "--power-limit", "300W,700W"))
    assert ended.returncode == 0, ended.stderr
    assert bench.now() == START
    out = bench.cwd / "out"
    found = json.loads((out / "sweep.json").read_text())
    assert [point["setting"]["power_limit_w"] for point in found["points"]] == [300, 700]
    schema = hwbench("schema", "sweep", cwd=bench.cwd).stdout
    jsonschema.Draft202012Validator(json.loads(schema)).validate(found)
    steps = [line for line in ended.stderr.splitlines() if "stub-good fp32" in line and line.startswith("[")]
    assert [line[:5] for line in steps] == ["[1/2]", "[2/2]"]
    assert {line[6:] for line in steps} == {f"batch 2, limit {limit} W: stub-good fp32" for limit in (300, 700)}
    for point, limit_w in zip(found["points"], (300, 700), strict=True):
        figures = point["figures"]
        assert figures["items_per_j"] * figures["item_j"] == pytest.approx(1)
        assert figures["front"] is False  # a recording says nothing of this GPU
        saved = result_of(out / point["folder"])
        assert saved["device"]["gpu"]["power_limit_w"] == limit_w
        host = saved["measurements"][0]["host_before"]["gpu"]
        assert (host["power_limit_w"], host["sm_hz"]) == (limit_w, 1.98e9)
        assert saved["model"]["batch_size"] == 2
        energy = saved["measurements"][0]["energy_run"]
        assert figures["item_j"] == pytest.approx(energy["total_j"]["value"] / 2)
        assert figures["items_per_s"] == pytest.approx(2 / energy["time_per_inference_s"])
    assert "played a recording" in " ".join(ended.stdout.split())
    assert "energy sweep" in (out / "sweep.html").read_text()
    assert (out / "sweep.csv").read_text().count("\n") == 3
    failed(run(bench, *sweep("-b", "2")), 2, "already holds a sweep", "--resume")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    again = run(bench, *sweep("-d", "cuda:0", "-b", "2", "--power-limit", "300.0W", "--resume", "--json"))
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("result.json")} == before
    assert json.loads(again.stdout)["points"] == found["points"]  # that of 700 W, too
    failed(run(bench, *sweep("-d", "cpu", "-b", "2", "--resume")), 2, "holds a sweep of", "another folder")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_puts_the_limit_back(bench, number):
    arguments = sweep("-d", "cuda:0", "-b", "1", "--power-limit", "300W", "--clocks", "1500MHz")
    arguments = ["1min" if word == "300ms" else word for word in arguments]
    running = Running(*arguments, cwd=bench.cwd, env=bench.env)
    running.wait_for("stub-good fp32")
    assert bench.now() == SET | {"persistence": 0}
    running.process.send_signal(number)
    assert finish(running) == 130
    assert bench.now() == START
    assert "0 of 1 points are in out; the same command with --resume --output out goes on" in said(running)


def test_a_sweep_of_batch_sizes_that_the_model_cannot_have(bench):
    tiny_onnx(bench.cwd / "tiny.onnx", weight=0.0, batch=1)
    failed(run(bench, *sweep("-b", "2,3")), 2, "axis 0 fixed at 1")
    assert (bench.cwd / "out/sweep.csv").read_text().count("\n") == 3


def test_a_refused_point_takes_no_other_along_and_a_stopped_sweep_shows_what_it_has(bench):
    tiny_onnx(bench.cwd / "tiny.onnx", weight=0.0, batch=1)
    seed = next(seed for seed in range(99) if Axes(batch_sizes=(1, 2)).order(seed)[0][1] == [2, 1])
    arguments = ["1min" if word == "300ms" else word for word in sweep("-b", "1,2", "--seed", str(seed))]
    running = Running(*arguments, cwd=bench.cwd, env=bench.env)
    running.wait_for("[2/2] batch 1: stub-good fp32")  # after 2, which cannot be
    running.process.send_signal(signal.SIGINT)
    assert finish(running) == 130
    (point,) = json.loads((bench.cwd / "out/sweep.json").read_text())["points"]
    assert "axis 0 fixed at 1" in point["figures"]["why"]
    assert (bench.cwd / "out/sweep.csv").read_text().count("\n") == 2
    assert (bench.cwd / "out/sweep.html").exists()


def test_without_the_rights_for_one_setting_none_is_measured(bench):
    bench.env["FAKE_EUID"] = "1000"
    failed(run(bench, *sweep("-d", "cuda:0", "-b", "1", "--power-limit", "700W,300W")), 3, "root alone", "sudo")
    assert not list(bench.cwd.glob("out/*"))


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("-b", "1,x"), 2, ("--batch-size 1,x",)),
        (("-b", "1,,2"), 2, ("missing or given twice",)),
        (("-b", "1,01"), 2, ("given twice",)),
        (("-b", "1", "--power-limit", "200W,200W"), 2, ("given twice",)),
        (("-b", "1", "--power-limit", "300W,300.0W"), 2, ("given twice",)),
        (("-b", "1", "--power-limit", "300"), 2, ("no list of power limits",)),
        (("-b", "1", "--clocks", "1500MHz-1200MHz"), 2, ("no list of clocks",)),
        (("-d", "cuda:0", "-b", "1", "--clocks", "1500MHz,1501MHz"), 2, ("1501 MHz", "1500 MHz and 1515 MHz")),
        (("-b", "1", "--power-limit", "300W"), 2, ("'cpu' is none", "--device cuda:0")),
        (("-d", "cuda:0", "-b", "1", "--power-limit", "300W,900W"), 2, ("900W", "200 W to 700 W")),
    ],
)
def test_sweeps_that_cannot_be(bench, arguments, code, parts):
    failed(run(bench, *sweep(*arguments)), code, *parts)
    assert bench.now() == START
    assert not list((bench.cwd).glob("out/*/result.json"))
