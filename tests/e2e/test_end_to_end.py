"""The whole way, as a newcomer goes it: a model in, numbers, tables and files out."""

import json

import numpy as np
import pytest
from command import QUICK, engines, failed, hwbench, result_of, shared_data, stub_package, tiny_onnx

FACTORY = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(8, 16)
        self.second = torch.nn.Linear(16, 4)

    def forward(self, features):
        return self.second(torch.relu(self.first(features)))

def make():
    return Net(), torch.randn(1, 8)
"""


@pytest.fixture
def net(tmp_path):
    tiny_onnx(tmp_path / "tiny.onnx", weight=0.5)
    return tmp_path


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    return stub_package(tmp_path_factory.mktemp("stubs"), "good", "slow")


def profile(cwd, *arguments, **options):
    run = hwbench("profile", *arguments, "-o", "out", cwd=cwd, **options)
    assert run.returncode == 0, run.stderr + run.stdout
    return result_of(cwd / "out"), run


@pytest.mark.slow
def test_a_built_in_model_with_layers(tmp_path):
    names = ("onnxruntime", "torch-eager")
    arguments = (*engines(*names), "-p", "fp32", "--iterations", "100", "--warmup", "100ms")
    result, run = profile(tmp_path, "digits_cnn", *arguments)
    assert result["model"]["weights"] == "trained"
    assert [m["engine"] for m in result["measurements"]] == list(names)
    for measurement in result["measurements"]:
        assert measurement["built"]["precision"] == "fp32"
        assert len(measurement["samples_ns"]) >= 100
    first, second = result["measurements"]
    accounted = sum(row["scaled_s"] for row in first["layers"]["rows"]) + first["layers"]["unattributed_s"]
    assert accounted == pytest.approx(first["latency"]["median_s"])
    assert second["parity"]["max_relative"] < 1e-4
    assert "fastest" in run.stdout or "tied" in run.stdout
    shown = hwbench("report", "out", "--layers", cwd=tmp_path)
    assert shown.stdout.count("layers by time") == 1
    assert "torch-eager fp32: no per-layer times" in shown.stdout


@pytest.mark.slow
def test_a_factory_in_a_folder_with_spaces_from_another_folder(tmp_path):
    folder = tmp_path / "Größe 模型 ß"
    folder.mkdir()
    (folder / "my net.py").write_text(FACTORY)
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    model = "../Größe 模型 ß/my net.py:make"
    result, run = profile(elsewhere, model, *QUICK, *engines("onnxruntime", "torch-eager"))
    assert result["model"]["source"] == model
    assert result["model"]["input_origin"] == "example"
    assert result["measurements"][1]["parity"]["max_relative"] < 1e-4
    assert "Größe" in run.stdout
    page = hwbench("report", "out", "-o", "Größe ß.html", cwd=elsewhere)
    assert page.returncode == 0
    assert "Größe 模型" in (elsewhere / "Größe ß.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "macs"),
    [
        ("cifar10/resnet20.onnx", 40e6),
        ("imagenet/efficientnet_lite0.onnx", 385e6),
        ("kws/kws_dscnn.onnx", 2.6e6),
    ],
)
def test_real_files_agree_between_two_runtimes(path, macs, tmp_path):
    model = shared_data(path)
    result, _ = profile(tmp_path, model, *QUICK, *engines("onnxruntime", "openvino"), "-p", "fp32")
    counted = sum(layer["macs"] for layer in result["model"]["layers"] if isinstance(layer["macs"], int))
    assert counted == pytest.approx(macs, rel=0.05)
    assert result["measurements"][1]["parity"]["max_relative"] < 1e-3


def test_batch_size_reaches_the_measurement(net, stubs):
    result, run = profile(net, "tiny.onnx", *QUICK, *engines("stub-good"), "--batch-size", "4", path=[stubs])
    assert result["model"]["inputs"][0]["shape"] == [4, 3, 8, 8]
    assert result["model"]["fixed_axes"] == {"N": 4}
    assert result["model"]["batch_size"] == 4
    assert np.load(net / "out" / "runs" / "stub-good-fp32" / "outputs.npz")["y"].shape == (4, 4, 6, 6)
    assert "4x3x8x8" in run.stdout


def test_inputs_from_a_file_reach_the_engine(net):
    given = np.arange(2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
    np.savez(net / "my data.npz", x=given)
    result, run = profile(net, "tiny.onnx", *QUICK, *engines("onnxruntime"), "--input-data", "my data.npz")
    assert result["model"]["input_origin"] == "file"
    assert "values from a file" in " ".join(run.stdout.split())
    windows = np.lib.stride_tricks.sliding_window_view(given, (3, 3), axis=(2, 3)).sum(axis=(1, 4, 5)) * 0.5
    answered = np.load(net / "out" / "runs" / "onnxruntime-fp32" / "outputs.npz")["y"]
    np.testing.assert_allclose(answered[:, 0], windows, rtol=1e-5)


def test_shapes_and_seed_reach_the_inputs(net, stubs):
    inputs = []
    for seed in ("1", "2"):
        arguments = ("--shapes", "x:3x3x8x8", "--seed", seed, "--force")
        profile(net, "tiny.onnx", *QUICK, *engines("stub-good"), *arguments, path=[stubs])
        inputs.append(np.load(net / "out" / "model" / "inputs.npz")["x"])
    assert inputs[0].shape == (3, 3, 8, 8)
    assert not np.array_equal(*inputs)


def test_threads_reach_the_engine(net):
    result, _ = profile(net, "tiny.onnx", *QUICK, *engines("onnxruntime"), "--threads", "1")
    (measurement,) = result["measurements"]
    assert measurement["settings"]["threads"] == measurement["built"]["threads"] == 1
    assert len(measurement["settings"]["cpus"]) == 1


def test_throughput_with_two_streams(net, stubs):
    tiny_onnx(net / "tiny.onnx", weight=0.0)  # the stub answers zeros
    arguments = ("--mode", "throughput", "--streams", "2", "--threads", "2", "--duration", "300ms", "--warmup", "50ms")
    result, run = profile(
        net, "tiny.onnx", *arguments, *engines("onnxruntime", "stub-slow"), path=[stubs], STUB_SLOW_S="0.01"
    )
    for measurement in result["measurements"]:
        assert measurement["settings"]["streams"] == measurement["throughput"]["streams"] == 2
        assert measurement["latency"]["code"] == measurement["layers"]["code"] == "other_mode"
    slow = result["measurements"][1]["throughput"]
    assert 100 < slow["inferences_per_s"] <= 201  # two at a time, 10 ms each
    assert "throughput of" in run.stdout
    assert "latency of" not in run.stdout


def test_a_replayed_trace_gives_joules_marked_as_replayed(net, stubs):
    with (net / "trace.jsonl").open("w") as stream:
        stream.writelines(json.dumps({"t_s": index / 100, "power_w": 10.0}) + "\n" for index in range(3001))
    result, run = profile(
        net, "tiny.onnx", "--iterations", "50", "--warmup", "10ms", "--no-layers", *engines("stub-slow"),
        "--meter", "replay", path=[stubs], HWBENCH_REPLAY_TRACE=str(net / "trace.jsonl"), STUB_SLOW_S="0.01",
    )  # fmt: skip
    (measurement,) = result["measurements"]
    assert measurement["energy"]["provenance"] == "replayed"
    seconds = measurement["window_s"] / len(measurement["samples_ns"])
    assert measurement["energy_per_inference_j"] == pytest.approx(10.0 * seconds, rel=0.01)
    assert "REPLAYED" in run.stdout
    assert " mJ ±" in run.stdout


def test_a_meter_that_cannot_measure_says_why(net, stubs):
    result, run = profile(net, "tiny.onnx", *QUICK, *engines("stub-good"), "--meter", "replay", path=[stubs])
    assert result["measurements"][0]["energy"]["code"] == "no_trace"
    assert "no trace was given to replay" in " ".join(run.stdout.split())


@pytest.mark.slow
def test_a_calibration_is_the_roofline_of_later_profiles(net, stubs):
    before, _ = profile(net, "tiny.onnx", *QUICK, *engines("stub-good"), path=[stubs])
    calibrated = hwbench("calibrate", "--duration", "2s", "--json", cwd=net)
    assert calibrated.returncode == 0, calibrated.stderr
    overlay = json.loads(calibrated.stdout)
    after, _ = profile(net, "tiny.onnx", *QUICK, *engines("stub-good"), "--force", path=[stubs])
    assert not str(before["roofline_source"]).startswith("measured on this machine")
    assert after["roofline_source"].startswith("measured on this machine")
    dram = next(point["value"] for point in overlay["points"] if point["key"] == "dram")
    assert after["bandwidth_bytes_per_s"]["dram"] == dram
    (saved,) = (net / "home" / "calibrations").iterdir()
    assert json.loads(saved.read_text()) == overlay


def test_resume_needs_the_same_model_path(net, stubs):
    arguments = (*QUICK, *engines("stub-good"))
    result, _ = profile(net, "tiny.onnx", *arguments, path=[stubs])
    again, _ = profile(net, "tiny.onnx", *arguments, "--resume", path=[stubs])
    assert again["measurements"] == result["measurements"]
    elsewhere = net / "elsewhere"
    elsewhere.mkdir()
    run = hwbench("profile", "../tiny.onnx", *arguments, "--resume", "-o", "../out", cwd=elsewhere, path=[stubs])
    failed(run, 2, "model was 'tiny.onnx', now '../tiny.onnx'")
