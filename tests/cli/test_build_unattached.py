"""``hwbench build`` for a device that is not attached: TensorRT-RTX really builds, and nothing is claimed of it."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from command import environment, failed, hwbench, tiny_onnx
from sklearn.datasets import load_digits

from hwbench.bundles.reader import check
from hwbench.records.base import Missing

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime runs the graphs")
RTX = ("--device", "nvidia-rtx-4090", "-e", "tensorrt-rtx")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    x = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    np.savez(folder / "train.npz", x=x[:64])
    np.savez(folder / "test.npz", x=x[900:1000], labels=labels[900:1000])
    tiny_onnx(folder / "tiny.onnx")
    return folder


@pytest.fixture(scope="module")
def built(data):
    """One build of two precisions."""
    run = hwbench(
        "build", "digits_cnn", *RTX, "-p", "fp16", "-p", "int8", "--data", "train.npz", "--option", "level=1",
        "-o", "out", "--json", cwd=data,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    return SimpleNamespace(run=run, folder=data / "out", found=found, bundles=found["bundles"])


def test_engines_are_built_and_nothing_is_claimed_of_them(built):
    assert [item["path"] for item in built.bundles] == [
        "digits_cnn-tensorrt-rtx-fp16", "digits_cnn-tensorrt-rtx-int8",
    ]  # fmt: skip
    for item in built.bundles:
        engine = item["engine"]
        for value in (engine["built"], engine["load_s"], item["verified"], item["median_s"], item["result"]):
            assert (value["kind"], value["code"]) == ("missing", "not_attached")
        assert engine["lower_s"] > 0
        settings = engine["artefact"]["settings"]
        assert settings["capability"] == "8.9"
        assert settings["builder_optimization_level"] == "1"
        assert engine["artefact"]["files"] == ["model.rtx", "model.onnx", "build.log", "layers.txt"]
    assert built.found["device"]["name"] == "nvidia-rtx-4090"
    assert built.found["request"]["options"] == {"level": "1"}


def test_the_graph_is_run_in_the_engines_place_and_says_so(built):
    for item, most in zip(built.bundles, (0.005, 0.2), strict=True):
        manifest = check(built.folder / item["path"])
        told = item["engine"]["graph_checked"]
        assert told["graph"] == "model.onnx"
        assert told["runtime"] == "onnxruntime"
        assert 0 < told["max_relative"] < most
        assert told["finite"] is True
        assert manifest.expected == "graph"
        assert manifest.graph_checked.max_relative == told["max_relative"]


def test_what_the_graph_puts_out_is_what_an_independent_run_of_it_does(built):
    """ONNX Runtime is asked here directly, and the reference is the original network's own graph."""
    import onnxruntime as ort

    folder = built.folder / "digits_cnn-tensorrt-rtx-fp16"
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(folder / "engine" / "model.onnx"), options)
    (found,) = session.run(None, dict(np.load(folder / "inputs.npz")))
    (expected,) = dict(np.load(folder / "expected.npz")).values()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_terminal_says_what_was_not_done(built, data):
    run = hwbench("build", "tiny.onnx", *RTX, "-p", "fp16", "-o", "tiny", cwd=data, COLUMNS="200")
    assert run.returncode == 0, run.stderr
    assert "is not attached: nothing was loaded, judged on data or timed" in run.stdout
    assert "graph off by" in run.stdout
    assert "graph: what the engine was built from" in run.stdout
    assert "not timed" not in run.stdout
    assert "hwbench measure tiny/tiny-tensorrt-rtx-fp16 --device cuda:0" in run.stdout


def test_every_next_step_names_the_device(built):
    assert "hwbench compare" not in built.run.stdout
    for item in built.bundles:
        for value in (item["engine"]["built"], item["verified"]):
            assert value["cure"].count("--device cuda:0") == 2


def test_a_graph_that_no_runtime_here_executes_is_not_explained(data):
    run = hwbench(
        "build", "digits_cnn", *RTX, "-p", "bf16", "--option", "level=1", "-o", "bf16", cwd=data, COLUMNS="200"
    )
    assert run.returncode == 0, run.stderr
    assert "was not run: ONNX Runtime's CPU has no bf16 convolution" in run.stdout
    assert "graph: what the engine was built from" not in run.stdout


def test_engines_that_no_gpu_has_are_not_told_of(data):
    run = hwbench("build", "tiny.onnx", *RTX[:2], "-p", "fp16", "-o", "all", cwd=data, COLUMNS="200")
    assert run.returncode == 0, run.stderr
    assert not {"litert", "onnxruntime", "openvino"} & set(run.stdout.replace(":", " ").split())


def test_the_example_says_what_is_wanting(built):
    """Without a driver it ends with a word, and does not crash."""
    run = subprocess.run(
        [sys.executable, str(built.folder / "digits_cnn-tensorrt-rtx-fp16" / "run_example.py")],
        capture_output=True, text=True, check=False, env=environment(built.folder),
    )  # fmt: skip
    if run.returncode == 0:
        pytest.skip("there is a GPU here")
    assert run.returncode == 1
    assert "no NVIDIA driver" in run.stderr or "another GPU" in run.stderr


def test_measuring_it_here_says_why_not(built, data):
    run = hwbench("measure", "out/digits_cnn-tensorrt-rtx-fp16", "--duration", "100ms", "-o", "m", cwd=data)
    failed(run, 3, "runs on NVIDIA GPUs, not on 'cpu'")


def test_an_option_that_is_not_known_is_refused(data):
    asked = ("build", "tiny.onnx", *RTX, "-p", "fp16", "-o", "no", "--option")
    failed(hwbench(*asked, "dla=0", cwd=data), 3, "tensorrt-rtx has no option 'dla'")
    failed(hwbench(*asked, "level", cwd=data), 2, "NAME=VALUE")


@pytest.mark.parametrize(
    ("device", "engine", "words"),
    [
        ("jetson-orin-nano-8gb", "tensorrt", "on the Jetson itself, with JetPack's own TensorRT"),
        ("nvidia-rtx-4090", "onnxruntime", "runs on the CPU, not on 'nvidia-rtx-4090'"),
        ("nvidia-rtx-4090", "torch-aoti", "is not attached"),
    ],
)
def test_what_cannot_be_built_elsewhere_says_where_it_can(data, device, engine, words):
    run = hwbench("build", "tiny.onnx", "--device", device, "-e", engine, "-p", "fp16", "-o", "no", cwd=data)
    failed(run, 3, words)


def test_data_to_judge_on_are_refused_with_the_way_to_do_it(data):
    run = hwbench(
        "build", "digits_cnn", *RTX, "-p", "fp16", "--verify-data", "test.npz", "-o", "no", cwd=data
    )  # fmt: skip
    failed(run, 2, "is not attached", "hwbench verify BUNDLE --data D")


def test_what_overflows_a_half_on_the_data_stays_in_fp32(tmp_path):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    large, small = np.full((8, 8), 4000, np.float32), np.eye(8, dtype=np.float32) * 1e-4
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], "large"),
            helper.make_node("MatMul", ["a", "v"], ["y"], "small"),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        [numpy_helper.from_array(large, "w"), numpy_helper.from_array(small, "v")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "net.onnx"
    )
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).uniform(1, 9, (32, 8)).astype(np.float32))
    arithmetic = {}
    for out, data in {"with": ("--data", "x.npz"), "without": ()}.items():
        run = hwbench("build", "net.onnx", *RTX, "-p", "fp16", *data, "-o", out, "--json", "-q", cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        (folder,) = (tmp_path / out).glob("*/engine")
        written = onnx.load(folder / "model.onnx").graph
        arithmetic[out] = {each.data_type for each in written.initializer}
        manifest = check(folder.parent)
        assert isinstance(manifest.calibration, Missing) == (out == "without")
    assert arithmetic == {"with": {TensorProto.FLOAT}, "without": {TensorProto.FLOAT16}}
