import json
import xml.etree.ElementTree as ET

import msgspec
import numpy as np
import onnx
import pytest
from command import failed, hwbench
from fixtures_results import STOLEN, make_measurement, make_result
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from hwbench.cli.main import main
from hwbench.files import read_record, write_record
from hwbench.records.comparison import COMPARISON_SCHEMA, Comparison


@pytest.fixture
def results(tmp_path):
    """Folders: ``a``, ``slow`` (10 % slower), ``near`` (2 %), ``other`` (other threads), ``invalid``, ``openvino``."""
    a = make_measurement(n=1000, seed=1)
    made = {
        "a": a,
        "slow": make_measurement(n=1000, seed=2, median_s=4.95e-3),
        "near": make_measurement(n=1000, seed=3, median_s=4.59e-3),
        "other": msgspec.structs.replace(a, settings=msgspec.structs.replace(a.settings, threads=1)),
        "invalid": make_measurement(n=1000, findings=(STOLEN,)),
        "openvino": make_measurement("openvino", "fp32", n=1000),
    }
    for name, measurement in made.items():
        write_record(tmp_path / name / "result.json", make_result(measurement))
    return tmp_path


def run(capsysbinary, *arguments):
    code = main(["compare", *map(str, arguments)])
    out, err = capsysbinary.readouterr()
    return code, out.decode(), err.decode()


@pytest.mark.parametrize(
    ("b", "options", "code"),
    [
        ("a", (), 0),
        ("slow", (), 0),
        ("near", (), 0),
        ("near", ("--strict",), 5),
        ("slow", ("--fail-if", "latency>3%"), 1),
        ("slow", ("--fail-if", "latency>20%"), 0),
        ("slow", ("--fail-if", "latency>20%", "--fail-if", "latency>5%"), 1),
        ("near", ("--fail-if", "latency>2%"), 0),
        ("near", ("--fail-if", "latency>2%", "--strict"), 5),
        ("near", ("--fail-if", "latency>20%", "--strict"), 0),
        ("slow", ("--fail-if", "latency>3"), 2),
        ("slow", ("--fail-if", "beauty>3%"), 2),
        ("slow", ("--fail-if", "energy>3%"), 4),
        ("slow", ("--fail-if", "accuracy<-1pp"), 4),
        ("slow", ("--fail-if", "accuracy<-1%"), 2),
        ("other", (), 4),
        ("other", ("--ignore", "threads"), 0),
        ("other", ("--ignore", "weather"), 2),
        ("other", ("--force",), 0),
        ("invalid", ("--force",), 4),
        ("openvino", (), 2),
        ("openvino", ("--engine-a", "onnxruntime", "--engine-b", "openvino"), 0),
        ("openvino", ("--engine", "onnxruntime", "--engine-b", "openvino"), 2),
        ("a", ("--min-effect", "lots"), 2),
        ("a", ("--between-runs", "150%"), 2),
    ],
)
def test_exit_codes(results, capsysbinary, b, options, code):
    assert run(capsysbinary, results / "a", results / b / "result.json", *options)[0] == code


def test_the_text(results, capsysbinary):
    code, out, err = run(capsysbinary, results / "a", results / "slow")
    assert (code, err) == (0, "")
    assert "B is SLOWER than A" in out


def test_json_and_all_files(results, capsysbinary, tmp_path):
    paths = [tmp_path / name for name in ("c.json", "c.md", "c.xml")]
    files = ("-o", paths[0], "--markdown", paths[1], "--junit", paths[2])
    _, out, err = run(capsysbinary, results / "a", results / "slow", "--json", *files)
    assert "SLOWER" in err
    saved = read_record(paths[0], Comparison, schema=COMPARISON_SCHEMA)
    assert msgspec.json.decode(out.encode(), type=Comparison) == saved
    assert json.loads(out)["schema_version"] == 1
    assert "SLOWER" in paths[1].read_text()
    assert ET.parse(paths[2]).getroot()[0].get("failures") == "0"


def test_a_result_and_a_model_are_not_compared(results, capsysbinary):
    code, _, err = run(capsysbinary, results / "a", "resnet8")
    assert code == 2
    assert "is a saved result and 'resnet8' is not" in err


def test_a_refusal_names_what_differs_and_how_to_go_on(results, capsysbinary):
    _, _, err = run(capsysbinary, results / "a", results / "other")
    assert "threads: 2 in A, 1 in B" in err
    assert "--ignore threads" in err


def make_net(path, layers, rows=64, width=128, scale=1.0):
    chance = np.random.default_rng(0)
    weights = [(scale * chance.normal(size=(width, width)) / 12).astype(np.float32) for _ in range(layers)]
    nodes = [helper.make_node("MatMul", [f"t{i}", f"w{i}"], [f"t{i + 1}"], name=f"m{i}") for i in range(layers)]
    shape = [rows, width]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"t{layers}", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


QUICK = ("--engine", "onnxruntime", "--threads", "1", "--budget", "4s", "--meter", "none", "--json")


@pytest.mark.slow
def test_the_same_model_measured_now_is_neither_faster_nor_slower(capsysbinary, tmp_path):
    net = make_net(tmp_path / "net.onnx", 4)
    code, out, _ = run(capsysbinary, net, net, *QUICK, "--quiet", "--fail-if", "peak_memory>50%")
    comparison = msgspec.json.decode(out, type=Comparison)
    assert code == 0
    assert comparison.pairs[0].verdict("latency").word in {"SAME", "INCONCLUSIVE"}
    roles = {(item.restart, item.process) for item in comparison.source.processes}
    assert {name for _, name in roles} == {"a", "control", "b"}
    assert comparison.pairs[0].absent["energy"].code == "not_asked"
    assert comparison.pairs[0].goals[0].goal.metric == "peak_memory"
    outputs = comparison.pairs[0].outputs
    assert outputs.b.max_absolute == outputs.control.max_absolute == 0
    assert not any("deterministic" in warning for warning in comparison.warnings)


@pytest.mark.slow
def test_other_and_broken_outputs_are_told_and_decide_nothing(capsysbinary, tmp_path):
    net, other, broken = (tmp_path / f"{name}.onnx" for name in ("net", "other", "broken"))
    make_net(net, 2)
    make_net(other, 2, scale=1.5)
    make_net(broken, 2, scale=float("nan"))
    *quick, _ = QUICK
    code, out, _ = run(capsysbinary, net, other, *quick, "--quiet")
    assert code == 0
    assert "outputs (no verdict): B's differ from A's by" in out
    code, out, _ = run(capsysbinary, net, broken, *quick, "--quiet")
    assert code == 0
    assert "those of B hold NaN or infinity" in out
    assert "B: outputs_not_finite" in out


@pytest.mark.slow
def test_outputs_that_differ_from_process_to_process_are_told(capsysbinary, tmp_path):
    net = tmp_path / "random.onnx"
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["noise"]), helper.make_node("Add", ["x", "noise"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "random", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), net)
    _, out, _ = run(capsysbinary, net, net, *QUICK, "--quiet")
    comparison = msgspec.json.decode(out, type=Comparison)
    assert comparison.pairs[0].outputs.control.max_absolute > 0
    assert any("not deterministic" in warning for warning in comparison.warnings)


@pytest.mark.parametrize(
    ("goal", "why"),
    [("accuracy<-1pp", "accuracy needs labelled data"), ("throughput<-5%", "one request at a time")],
)
def test_a_goal_that_no_measured_comparison_has_is_refused_before_anything_runs(capsysbinary, tmp_path, goal, why):
    net = make_net(tmp_path / "net.onnx", 1)
    code, out, err = run(capsysbinary, net, net, "--engine", "onnxruntime", "--fail-if", goal)
    assert (code, out) == (4, "")
    assert why in err
    assert "reading" not in err


@pytest.mark.slow
def test_a_goal_without_its_metric_ends_a_measurement_at_the_first_look(capsysbinary, tmp_path):
    net = make_net(tmp_path / "net.onnx", 4)
    code, _, err = run(capsysbinary, net, net, *QUICK, "--fail-if", "energy>5%")
    assert code == 4
    assert "energy was not asked for" in err
    assert "restart 2" not in err


@pytest.mark.slow
def test_a_model_with_more_work_measured_now_is_slower(capsysbinary, tmp_path):
    small, large = make_net(tmp_path / "small.onnx", 4), make_net(tmp_path / "large.onnx", 16)
    code, out, _ = run(capsysbinary, small, large, *QUICK, "--quiet", "--fail-if", "latency>3%")
    comparison = msgspec.json.decode(out, type=Comparison)
    assert comparison.pairs[0].verdict("latency").word == "SLOWER"
    assert code == 1


@pytest.mark.parametrize(
    ("options", "code"), [(("--engine", "nobody"), 2), (("--budget", "0s"), 2), (("--meter", "nobody"), 2)]
)
def test_bad_requests_are_refused_before_anything_runs(capsysbinary, tmp_path, options, code):
    net = make_net(tmp_path / "net.onnx", 1)
    assert run(capsysbinary, net, net, *options)[0] == code


def test_models_with_other_inputs_are_refused(capsysbinary, tmp_path):
    nets = [make_net(tmp_path / f"{rows}.onnx", 1, rows=rows) for rows in (8, 16)]
    code, _, err = run(capsysbinary, *nets, "--engine", "onnxruntime")
    assert code == 4
    assert "--ignore inputs" in err


def test_accuracy_is_compared_on_the_same_samples(tmp_path):
    """Real digits; bf16 against fp32 of one trained network: the goal holds; without data it is refused."""
    images, labels = load_digits(return_X_y=True)
    np.savez(tmp_path / "d.npz", x=(images[:400].reshape(-1, 1, 8, 8) / 16).astype(np.float32), labels=labels[:400])
    quick = ("--budget", "1s", "--restarts", "1", "-b", "16", "--engine", "onnxruntime")
    run = hwbench("compare", "digits_cnn", "digits_cnn", *quick, "--data", "d.npz", "--fail-if", "accuracy<-1pp",
                  "-o", "c.json", cwd=tmp_path)  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    pair = json.loads((tmp_path / "c.json").read_text())["pairs"][0]
    assert pair["accuracy"]["n"] == 400
    assert pair["accuracy"]["a"] == pair["accuracy"]["b"] > 0.95
    assert (pair["accuracy"]["lost"], pair["accuracy"]["won"]) == (0, 0)
    assert pair["goals"][0]["status"] == "holds"
    assert "accuracy: A 9" in run.stdout
    failed(hwbench("compare", "digits_cnn", "digits_cnn", "--fail-if", "accuracy<-1pp", cwd=tmp_path), 4, "--data")
