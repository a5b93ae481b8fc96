"""An engine that crashes, is killed, starves or is not there takes nothing with it, not even its own past."""

import json

import pytest
from command import QUICK, engines, failed, hwbench, result_of, tiny_onnx

HIDE_OPENVINO = """
import importlib.metadata as metadata

class Hidden(metadata.MetadataPathFinder):
    pass

_from_name = metadata.Distribution.from_name.__func__
_discover = metadata.Distribution.discover.__func__

def from_name(cls, name):
    if name == "openvino":
        raise metadata.PackageNotFoundError(name)
    return _from_name(cls, name)

metadata.Distribution.from_name = classmethod(from_name)
"""


@pytest.fixture
def net(tmp_path):
    tiny_onnx(tmp_path / "tiny.onnx")
    return tmp_path


def profile(net, stubs, *names, layers=False, options=(), **env):
    quick = QUICK[:-1] if layers else QUICK
    arguments = (*quick, *engines(*names), *options, "-o", "out")
    return hwbench("profile", "tiny.onnx", *arguments, cwd=net, path=[stubs], **env)


def test_workers_that_die(net, stubs):
    deaths = {
        "stub-killed": "the process was killed (SIGKILL)",
        "stub-crashed": "the process crashed with SIGSEGV",
        "stub-hungry": "memory",
    }
    run = profile(net, stubs, "stub-good", *deaths, "stub-slow")
    assert run.returncode == 3
    assert "Traceback" not in run.stderr
    result = result_of(net / "out")
    assert result["status"] == "complete"
    assert [m["engine"] for m in result["measurements"]] == ["stub-good", "stub-slow"]
    assert [lost["engine"] for lost in result["not_measured"]] == list(deaths)
    shown = "".join(run.stdout.split())
    for lost in result["not_measured"]:
        assert lost["failed"] is True
        assert deaths[lost["engine"]].lower() in lost["reason"]["why"].lower()
        assert (net / lost["log"]).name == "log.txt"
        assert f"{lost['engine']}fp32:{''.join(lost['reason']['why'].split())}" in shown
        assert f"itslogis{lost['log']}" in shown
    assert "about to touch address 0" in (net / "out" / "runs" / "stub-crashed-fp32" / "log.txt").read_text()


def test_a_layer_profile_that_dies_keeps_the_timing(net, stubs):
    run = profile(net, stubs, "stub-layerless", layers=True)
    assert run.returncode == 3
    (measurement,) = result_of(net / "out")["measurements"]
    assert len(measurement["samples_ns"]) >= 20
    assert measurement["layers"]["code"] == "engine_failed"
    assert "Per-layer times failed:" in run.stdout


def test_no_engine_left_is_an_error(net, stubs):
    run = profile(net, stubs, "stub-killed")
    failed(run, 3, "no engine could measure 'tiny.onnx'", "stub-killed: ", "SIGKILL", "runs/stub-killed-fp32/log.txt")
    assert result_of(net / "out")["status"] == "complete"


def test_a_plugin_with_a_bug_is_one_failed_engine(net, stubs):
    run = profile(net, stubs, "stub-broken", "stub-good")
    assert run.returncode == 3
    result = result_of(net / "out")
    assert [m["engine"] for m in result["measurements"]] == ["stub-good"]
    assert "KeyError" in result["not_measured"][0]["reason"]["why"]


def test_a_plugin_that_does_not_import_is_listed(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugin")
    meta = folder / "torn-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: torn\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text("[hwbench.engines]\ntorn = torn:Engine\n")
    (folder / "torn.py").write_text("import nothing_like_this\n")
    listed = hwbench("plugins", cwd=net, path=[folder], COLUMNS="200")
    assert listed.returncode == 0
    (line,) = (line for line in listed.stdout.splitlines() if " torn " in line)
    assert "nothing_like_this" in line
    assert "Traceback" in hwbench("plugins", "-v", cwd=net, path=[folder]).stderr
    run = hwbench("profile", "tiny.onnx", *QUICK, *engines("torn"), cwd=net, path=[folder])
    failed(run, 3, "no engine could measure", "nothing_like_this")


def test_a_silent_worker_is_stopped(net, stubs):
    run = profile(net, stubs, "stub-good", "stub-slow", options=["--timeout", "2s"], STUB_SLOW_S="60")
    assert run.returncode == 3
    result = result_of(net / "out")
    assert [m["engine"] for m in result["measurements"]] == ["stub-good"]
    assert "no sign of life for 2 s" in result["not_measured"][0]["reason"]["why"]


def test_an_engine_that_is_not_installed(net, stubs, tmp_path_factory):
    shim = tmp_path_factory.mktemp("shim")
    (shim / "sitecustomize.py").write_text(HIDE_OPENVINO)
    named = hwbench("profile", "tiny.onnx", *QUICK, *engines("stub-good", "openvino"), cwd=net, path=[shim, stubs])
    assert named.returncode == 3
    assert "Failed:\n  openvino: openvino is not installed; pip install" in named.stdout
    listed = hwbench("devices", "--json", cwd=net, path=[shim])
    why = {item["name"]: item["why"] for item in json.loads(listed.stdout)["engines"]}
    assert "openvino is not installed" in why["openvino"]
    assert why["onnxruntime"] is None


def test_not_installed_and_not_asked_for_is_no_failure(net, tmp_path_factory):
    """Every engine but ONNX Runtime is hidden, and none is named."""
    shim = tmp_path_factory.mktemp("shim")
    hidden = HIDE_OPENVINO.replace('name == "openvino"', 'name in {"openvino", "torch"}')
    (shim / "sitecustomize.py").write_text(hidden)
    run = hwbench("profile", "tiny.onnx", *QUICK, "-o", "out", cwd=net, path=[shim])
    assert run.returncode == 0, run.stderr
    assert "Not measured:\n  openvino: openvino is not installed" in run.stdout
    result = result_of(net / "out")
    assert [m["engine"] for m in result["measurements"]] == ["onnxruntime"]
    assert {entry["failed"] for entry in result["not_measured"]} == {False}
