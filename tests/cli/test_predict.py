"""``hwbench predict`` and ``hwbench probe`` as they are typed."""

import json

from command import failed, hwbench, tiny_onnx


def test_a_device_that_is_not_here(tmp_path):
    tiny_onnx(tmp_path / "net.onnx")
    run = hwbench("predict", "net.onnx", "-d", "jetson-orin-nano-super", "--power-mode", "15w", "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["latency"]["low"] < found["latency"]["value"] < found["latency"]["high"]
    assert (found["latency"]["tier"], found["power_mode"], found["engine"]) == ("C", "15W", "tensorrt")
    assert found["probe"]["code"] == "no_probe"
    assert [unit["layers"] for unit in found["units"]] == [["conv", "last"]]


def test_a_device_that_nobody_knows(tmp_path):
    tiny_onnx(tmp_path / "net.onnx")
    failed(hwbench("predict", "net.onnx", "-d", "jetson-orin-nano", cwd=tmp_path), 2, "did you mean jetson-orin-nano-")
    (tmp_path / "probe.json").write_text("{}")
    run = hwbench("predict", "net.onnx", "-d", "raspberry-pi-5", "--probe", "probe.json", cwd=tmp_path)
    failed(run, 3, "it is not a Probe file")


def test_a_pack(tmp_path):
    run = hwbench("probe", "pack", "-o", "pack", "--for", "torch", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert {path.name for path in (tmp_path / "pack").iterdir()} == {
        "README.md",
        "anchors",
        "pack.json",
        "run_probe.py",
    }
    failed(hwbench("probe", "pack", "-o", "pack", cwd=tmp_path), 3, "not empty")
    failed(hwbench("probe", "read", "pack/pack.json", cwd=tmp_path), 3, "no schema_version")
