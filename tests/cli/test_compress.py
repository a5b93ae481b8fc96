"""``hwbench compress`` and ``hwbench methods`` from outside, on the trained digits network."""

import json
import re
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from command import Running, assert_gone, environment, failed, hwbench

torch = pytest.importorskip("torch", reason="compression goes through torch")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Digits to learn from and others to judge on."""
    from hwbench.models.digits import load_digits_split

    folder = tmp_path_factory.mktemp("digits")
    parts = load_digits_split()
    np.savez(folder / "train.npz", x=parts["train"][0], labels=parts["train"][1])
    np.savez(folder / "test.npz", x=parts["test"][0], labels=parts["test"][1])
    np.savez(folder / "nan.npz", x=np.full((64, 1, 8, 8), np.nan, np.float32))
    np.savez(folder / "wrong.npz", x=np.zeros((64, 3, 8, 8), np.float32))
    return folder


@pytest.fixture(scope="module")
def made(data):
    """One compression that many tests look at: half of all channels, repaired, judged, also as a torch program."""
    run = hwbench("compress", "digits_cnn", "--method", "width", "--amount", "50%", "--data", "train.npz",
                  "--verify-data", "test.npz", "--emit", "torch", "-o", "out", "--json", cwd=data)  # fmt: skip
    assert run.returncode == 0, run.stderr
    return SimpleNamespace(run=run, folder=data / "out", found=json.loads(run.stdout), cwd=data)


def test_what_is_saved_is_what_is_told(made):
    assert made.found == json.loads((made.folder / "compression.json").read_text())
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "compression.html", "compression.json", "model.onnx", "model.pt2",
    ]  # fmt: skip
    assert made.found["compressed"]["files"] == ["model.onnx", "model.pt2"]
    assert [applied["step"]["method"] for applied in made.found["compressed"]["applied"]] == ["width", "repair"]


def test_the_record_can_be_read_again(made):
    from hwbench.files import encode, read_record
    from hwbench.records.compression import COMPRESSION_SCHEMA, CompressionResult

    path = made.folder / "compression.json"
    record = read_record(path, CompressionResult, schema=COMPRESSION_SCHEMA)
    assert encode(record) + b"\n" == path.read_bytes()
    assert record.learned_from.facts.samples == 1024


def test_it_is_smaller_and_says_by_how_much(made):
    before, after = (made.found["compressed"][when] for when in ("before", "after"))
    assert after["parameters"] < 0.6 * before["parameters"]
    assert after["macs"] < 0.6 * before["macs"]
    weights = sum(value.size for value in arrays(made.folder / "model.onnx").values())
    assert abs(weights - after["weight_bytes"] / 4) < 0.02 * weights + 64


def arrays(path):
    import onnx
    from onnx import numpy_helper

    return {value.name: numpy_helper.to_array(value) for value in onnx.load(path).graph.initializer}


def test_accuracy_before_and_after_is_that_of_the_files(made):
    reference, row = made.found["verification"]["found"]["rows"]
    with np.load(made.cwd / "test.npz") as test:
        session = onnxruntime.InferenceSession(made.folder / "model.onnx", providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        right = session.run(None, {name: test["x"]})[0].argmax(1) == test["labels"]
    assert row["scores"][0]["value"] == pytest.approx(right.mean())
    assert reference["scores"][0]["value"] > 0.95
    assert row["scores"][0]["value"] > 0.6


def test_the_batch_axis_is_open(made):
    session = onnxruntime.InferenceSession(made.folder / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    for batch in (1, 7):
        assert session.run(None, {given.name: np.zeros((batch, *given.shape[1:]), np.float32)})[0].shape == (batch, 10)


def test_the_torch_program_is_the_same_network(made):
    program = torch.export.load(made.folder / "model.pt2").module()
    x = np.random.default_rng(0).random((32, 1, 8, 8), np.float32)
    session = onnxruntime.InferenceSession(made.folder / "model.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {session.get_inputs()[0].name: x})
    (found,) = program(torch.from_numpy(x))
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-4)


def test_what_was_removed_is_recorded(made):
    (width, _) = made.found["compressed"]["applied"]
    for change in width["changes"]:
        assert change["removed"], change
        for where, indices in change["removed"].items():
            assert re.fullmatch(r".+/\d+", where)
            assert indices == sorted(set(indices))


def test_the_page_and_the_table(made):
    page = (made.folder / "compression.html").read_text()
    assert "<script" not in page
    for name in ("parameters", "multiply-adds", "accuracy"):
        assert name in page
        assert name in made.run.stderr
    layers = [layer["layer"] for layer in made.found["compressed"]["layers_before"] if layer["weight_shape"]]
    assert all(layer in page for layer in layers)


def test_the_result_goes_on(made):
    """A compressed model is a model: compress it again."""
    run = hwbench("compress", "out/model.onnx", "-m", "prune", "--amount", "0.5", "-o", "twice", "--json", cwd=made.cwd)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["compressed"]["after"]["nonzero_parameters"] < 0.6 * found["compressed"]["before"]["parameters"]
    assert found["learned_from"]["code"] == "no_data"
    assert any("not repaired" in warning for warning in found["warnings"])
    again = hwbench(
        "compress", "twice/model.onnx", "-m", "repair", "--data", "train.npz", "-o", "held", "--json", cwd=made.cwd
    )
    assert again.returncode == 0, again.stderr
    kept = json.loads(again.stdout)["compressed"]["after"]["nonzero_parameters"]
    assert kept <= found["compressed"]["after"]["nonzero_parameters"] + 64  # shifts may fill, weights may not


def test_a_recipe_and_a_goal_that_is_missed(data):
    (data / "recipe.toml").write_text(
        '[[step]]\nmethod = "width"\namount = 0.9\n[[step]]\nmethod = "prune"\namount = 0.9\n'
    )
    run = hwbench("compress", "digits_cnn", "--recipe", "recipe.toml", "--verify-data", "test.npz", "--max-drop", "1pp",
                  "-o", "bad", cwd=data)  # fmt: skip
    assert run.returncode == 1, run.stderr
    assert "FAILED: accuracy falls by" in run.stdout
    assert (data / "bad" / "model.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing says what is to be done"),
        (["-m", "prune", "--recipe", "r.toml"], "--method and --recipe both"),
        (["-m", "prunes"], "no compressor is called 'prunes'"),
        (["-m", "prune", "--set", "amonut=0.5"], "amonut"),
        (["-m", "prune", "--set", "amount"], "is no setting"),
        (["-m", "prune", "--amount", "half"], "--amount 'half' is no amount"),
        (["-m", "prune", "--amount", "0.5", "--set", "amount=0.4"], "say the same"),
        (["-m", "prune", "--amount", "150%"], "amount"),
        (["-m", "prune", "--amount", "0.5", "--layers", "conv99"], "no layer matches 'conv99'"),
        (["-m", "prune", "--amount", "0.5", "--layers", "("], "no regular expression"),
        (["-m", "prune", "--amount", "0.5", "--repair", "bias"], "there are none"),
        (["-m", "prune", "--amount", "0.5", "--max-drop", "1pp"], "give --verify-data"),
        (["-m", "prune", "--amount", "0.5", "--emit", "tflite"], "known: onnx, torch"),
        (["-m", "prune", "--amount", "0.5", "--data", "wrong.npz"], "the model takes"),
        (["-m", "prune", "--amount", "0.5", "--data", "nan.npz"], "holds NaN or infinity"),
        (["-m", "prune", "--amount", "0.5", "--verify-data", "none.npz"], "none.npz"),
    ],
)
def test_what_is_wrong_with_a_request(data, arguments, said):
    run = hwbench("compress", "digits_cnn", *arguments, "-o", "refused", cwd=data)
    failed(run, 2, said)
    assert not (data / "refused").exists()


def test_results_are_not_written_over(made):
    arguments = ("compress", "digits_cnn", "-m", "prune", "--amount", "0.5", "-o", "out")
    before = (made.folder / "compression.json").read_bytes()
    failed(hwbench(*arguments, cwd=made.cwd), 2, "holds a compressed model already")
    failed(hwbench(*arguments, "--resume", cwd=made.cwd), 2, "is finished")
    failed(hwbench(*arguments, "--force", "--layers", "conv99", cwd=made.cwd), 2, "no layer matches")
    assert (made.folder / "compression.json").read_bytes() == before


def test_the_model_itself_and_files_of_others_are_not_replaced(made, data):
    (data / "mine").mkdir()
    original = (made.folder / "model.onnx").read_bytes()
    (data / "mine" / "model.onnx").write_bytes(original)
    arguments = ("-m", "prune", "--amount", "0.5", "-o", "mine")
    failed(hwbench("compress", "mine/model.onnx", *arguments, "--force", cwd=data), 2, "the model itself lies")
    failed(hwbench("compress", "digits_cnn", *arguments, cwd=data), 2, "would be replaced")
    assert (data / "mine" / "model.onnx").read_bytes() == original
    assert [path.name for path in (data / "mine").iterdir()] == ["model.onnx"]


def test_a_run_that_is_stopped_goes_on(data):
    (data / "slow.toml").write_text(
        '[[step]]\nmethod = "prune"\namount = 0.3\n[[step]]\nmethod = "finetune"\nepochs = 60\n'
    )
    arguments = (
        "compress",
        "digits_cnn",
        "--recipe",
        "slow.toml",
        "--data",
        "train.npz",
        "-o",
        "slow",
        "--repair",
        "none",
    )
    running = Running(*arguments, cwd=data, env=environment(data))
    running.wait_for("step 2 of 2: finetune")
    children = running.descendants()
    code, said = running.interrupt(group=True)
    assert code == 130, said
    assert_gone(children)
    assert not (data / "slow" / "model.onnx").exists()
    failed(hwbench(*arguments, cwd=data), 2, "--resume goes on")
    run = hwbench(*arguments, "--resume", "--json", cwd=data)
    assert run.returncode == 0, run.stderr
    assert "step 1 of 2" not in run.stderr
    assert [each["step"]["method"] for each in json.loads(run.stdout)["compressed"]["applied"]] == ["prune", "finetune"]
    assert not (data / "slow" / "work").exists()


def test_methods(tmp_path):
    run = hwbench("methods", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    for name in ("width", "prune", "low-rank", "finetune"):
        assert re.search(rf"^ ?{name} ", run.stdout, re.MULTILINE), name
    one = hwbench("methods", "prune", cwd=tmp_path)
    assert re.search(r"^ ?amount ", one.stdout, re.MULTILINE)
    assert "criterion" in one.stdout
    failed(hwbench("methods", "prunes", cwd=tmp_path), 2, "no compressor is called 'prunes'")
