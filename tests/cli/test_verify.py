"""``hwbench verify`` from outside, on the built-in network that is trained."""

import json

import numpy as np
import pytest
from command import failed, hwbench
from sklearn.datasets import load_digits

ENGINES = ("-e", "onnxruntime", "-e", "openvino")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Real digits, as digits_cnn takes them, and the same with one label in ten wrong."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    x = (images[:300].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    np.savez(folder / "digits.npz", x=x, labels=labels[:300])
    np.savez(folder / "plain.npz", x=x[:40])
    return folder


def test_certified(digits):
    run = hwbench("verify", "digits_cnn", "--data", "digits.npz", *ENGINES, "-p", "fp32", "--max-drop", "1pp",
                  "-b", "32", "--layers", "--json", "-o", "v.json", cwd=digits)  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found == json.loads((digits / "v.json").read_text())
    reference, other = found["rows"]
    assert (reference["engine"], other["engine"]) == ("onnxruntime", "openvino")
    assert reference["scores"][0]["name"] == "accuracy"
    assert reference["scores"][0]["value"] > 0.95
    assert reference["scores"][0]["n"] == 300
    assert other["certificate"]["word"] == "CERTIFIED"
    assert other["agreement"]["different"] == 0
    assert other["layers"]["samples"] == 32
    assert len(other["layers"]["errors"]) > 3
    assert "CERTIFIED" in run.stderr


def test_no_finite_number_of_samples_shows_that_nothing_changed(digits):
    """No drop at all is allowed, none is seen, and the data cannot show it: with --strict that is exit code 5."""
    (digits / "mine.py").write_text(
        "def score(outputs, labels):\n    return (outputs[next(iter(outputs))].argmax(1) == labels) * 1.0\n"
    )
    run = hwbench("verify", "digits_cnn", "--data", "digits.npz", *ENGINES, "-p", "fp32", "--max-drop", "0",
                  "--metric", "mine.py:score", "--strict", cwd=digits)  # fmt: skip
    assert run.returncode == 5, run.stdout + run.stderr
    assert "NOT ENOUGH DATA" in run.stdout


def test_without_labels_there_is_agreement(digits):
    run = hwbench("verify", "digits_cnn", "--data", "plain.npz", *ENGINES, "-p", "fp32", cwd=digits)
    assert run.returncode == 0, run.stderr
    assert "0 of 40" in run.stdout
    assert "without labels" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("--data", "nowhere.npz"), 2, ("nowhere.npz", "cannot be read")),
        (("--data", "plain.npz", "--task", "classification", "--metric", "a.py:b"), 2, ("--task and --metric",)),
        (("--data", "plain.npz", "--max-drop", "much"), 2, ("--max-drop 'much'", "1pp")),
        (("--data", "plain.npz", "-e", "nosuch"), 2, ("no engine is called 'nosuch'",)),
        (("--data", "digits.npz", "--task", "regression"), 2, ("regression needs",)),
        (("--data", "nowhere.npz", "-o", "."), 2, ("--output '.' is a folder", "verification.json")),  # before it reads
    ],
)
def test_refusals(digits, arguments, code, parts):
    failed(hwbench("verify", "digits_cnn", *arguments, cwd=digits), code, *parts)


def test_what_was_found_is_shown_though_it_cannot_be_written(digits):
    (digits / "taken").write_text("")
    run = hwbench("verify", "digits_cnn", "--data", "plain.npz", "-e", "onnxruntime", "-p", "fp32",
                  "-o", "taken/v.json", cwd=digits)  # fmt: skip
    assert run.returncode == 3, run.stderr
    assert "without labels" in run.stdout
    assert "taken" in run.stderr
