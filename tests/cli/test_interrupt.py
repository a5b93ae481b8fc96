"""Ctrl-C at any moment: exit 130, what was finished is kept, nothing stays running, ``--resume`` goes on."""

import json
import time

import pytest
from command import QUICK, Running, assert_gone, engines, environment, failed, hwbench, result_of, tiny_onnx

SLEEPY = "import time\ntime.sleep(600)\n"
LONG = ("--warmup", "10ms", "--duration", "60s", "--max-duration", "60s", "--no-layers", "-o", "out", "-v")


@pytest.fixture
def net(tmp_path):
    tiny_onnx(tmp_path / "tiny.onnx")
    return tmp_path


def start(net, stubs, *names, arguments=LONG, model="tiny.onnx", **extra):
    env = environment(net / "home", path=[stubs], **extra)
    return Running("profile", model, *arguments, *engines(*names), cwd=net, env=env)


def stop(running, *, group):
    started = running.descendants()
    assert started, "nothing is at work"
    code, said = running.interrupt(group=group)
    assert code == 130, said
    assert "Traceback" not in said
    assert said.count("error: ") == 1
    assert_gone(started)
    return said[said.index("error: ") :]


def test_while_the_model_is_read(net, stubs):
    (net / "sleepy.py").write_text(SLEEPY)
    running = start(net, stubs, "stub-good", model="sleepy.py:make")
    running.wait_for("model: import")
    time.sleep(0.5)
    said = stop(running, group=True)
    assert "stopped by Ctrl-C" in said
    assert "nothing had been measured yet" in said
    assert not (net / "out" / "result.json").exists()


def test_during_warm_up(net, stubs):
    running = start(net, stubs, "stub-slow", arguments=(*LONG, "--warmup", "60s"))
    running.wait_for("stub-slow fp32: warm-up")
    said = stop(running, group=False)
    assert "nothing had been measured yet" in said
    assert "--resume --output out goes on" in said
    result = result_of(net / "out")
    assert result["status"] == "interrupted"
    assert result["measurements"] == []


@pytest.mark.parametrize("group", [True, False], ids=["group", "alone"])
def test_during_the_second_engine_then_resume(group, net, stubs):
    names = engines("stub-good", "stub-slow")
    arguments = ("--iterations", "40", "--warmup", "10ms", "--no-layers", "-o", "out")
    running = start(net, stubs, arguments=(*arguments, *names, "-v"), STUB_SLOW_S="30")
    running.wait_for("stub-slow fp32: compile")
    said = stop(running, group=group)
    assert "1 measurement is in out/result.json" in said
    assert "--resume --output out" in said
    before = result_of(net / "out")
    assert before["status"] == "interrupted"
    assert [m["engine"] for m in before["measurements"]] == ["stub-good"]
    if not group:  # what follows is the same
        return
    shown = hwbench("report", "out", cwd=net)
    assert "INTERRUPTED" in shown.stdout

    other = hwbench("profile", "tiny.onnx", *arguments, *names, "--resume", "--seed", "9", cwd=net, path=[stubs])
    failed(other, 2, "'out' holds another request: seed was 0, now 9")
    again = hwbench("profile", "tiny.onnx", *arguments, *names, "--resume", cwd=net, path=[stubs], STUB_SLOW_S="0.001")
    assert again.returncode == 0, again.stderr
    after = result_of(net / "out")
    assert after["status"] == "complete"
    assert after["run_id"] == before["run_id"]
    assert after["measurements"][0] == before["measurements"][0]
    assert [m["engine"] for m in after["measurements"]] == ["stub-good", "stub-slow"]


def test_layers_that_were_not_reached_are_done_on_resume_and_the_timing_stays(net, stubs):
    names = engines("stub-good", "stub-slow")
    arguments = ("tiny.onnx", "--iterations", "20", "--warmup", "10ms", "-o", "out", *names)
    assert hwbench("profile", *arguments, cwd=net, path=[stubs], STUB_SLOW_S="0.001").returncode == 0
    path = net / "out" / "result.json"
    before = result_of(net / "out")
    first = before["measurements"][0]
    first["layers"] = {"kind": "missing", "code": "not_reached", "why": "the run ended before the layers were profiled"}
    path.write_text(json.dumps({**before, "status": "interrupted", "measurements": [first]}))
    again = hwbench("profile", *arguments, "--resume", cwd=net, path=[stubs], STUB_SLOW_S="0.001")
    assert again.returncode == 0, again.stderr
    after = result_of(net / "out")["measurements"]
    assert [m["engine"] for m in after] == ["stub-good", "stub-slow"]
    assert after[0]["samples_ns"] == first["samples_ns"]
    assert after[0]["layers"].get("code") != "not_reached"
    assert after[0]["parity"]["code"] == "is_reference"
    assert after[1]["parity"]["reference"] == "stub-good fp32"


def test_what_a_worker_started_ends_with_it(net, stubs):
    running = start(net, stubs, "stub-parent", arguments=(*LONG, "--warmup", "60s"))
    running.wait_for("stub-parent fp32: warm-up")
    assert any(process.name() == "sleep" for process in running.descendants())
    stop(running, group=True)


def test_resume_on_another_model_or_machine_is_refused(net, stubs):
    arguments = ("tiny.onnx", *QUICK, *engines("stub-good"), "-o", "out")
    assert hwbench("profile", *arguments, cwd=net, path=[stubs]).returncode == 0
    path = net / "out" / "result.json"
    whole = path.read_text()
    fingerprint = result_of(net / "out")["device"]["fingerprint"]
    path.write_text(whole.replace(fingerprint, "0" * 16))
    failed(hwbench("profile", *arguments, "--resume", cwd=net, path=[stubs]), 2, "on another machine", fingerprint)
    path.write_text(whole)
    tiny_onnx(net / "tiny.onnx", weight=2.0)
    failed(hwbench("profile", *arguments, "--resume", cwd=net, path=[stubs]), 2, "'tiny.onnx' has changed")
    assert path.read_text() == whole


def test_resume_of_a_torn_result_is_refused(net, stubs):
    (net / "out").mkdir()
    (net / "out" / "result.json").write_text('{"schema_version": 1')
    run = hwbench("profile", "tiny.onnx", *QUICK, *engines("stub-good"), "-o", "out", "--resume", cwd=net, path=[stubs])
    failed(run, 3, "is not JSON")
