"""The trained model and its data: the split, the stated accuracy, and the training that reproduces it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hwbench.errors import UsageError
from hwbench.models.digits import accuracy, load_digits_split, split_indices
from hwbench.models.digits_cnn import WEIGHTS, DigitsCnn
from hwbench.models.train_digits import save, scores, train
from hwbench.models.zoo import create

pytest.importorskip("sklearn")

CORRECT, COUNT = 354, 359  # of the shipped weights on the test part
BAND = range(350, 360)  # of a training with another seed or on another machine


def test_parts_are_disjoint_and_pinned():
    parts = split_indices()
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [1079, 359, 359]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1797))
    digest = hashlib.sha256(parts["test"].astype("<i8").tobytes()).hexdigest()
    assert digest == "a9541259abdb9fd20933f154a3d941508560ec9cb6fd0e742eca8b4024c6e174"


def test_images_are_scaled_and_every_digit_is_in_every_part():
    for x, y in load_digits_split().values():
        assert (x.dtype, x.shape[1:], y.dtype) == (np.float32, (1, 8, 8), np.int64)
        assert (x.min(), x.max()) == (0.0, 1.0)
        assert set(y.tolist()) == set(range(10))


def test_shipped_weights_have_the_stated_accuracy():
    module, _ = create("digits_cnn")
    assert accuracy(lambda images: scores(module, images)) == (CORRECT, COUNT)
    text = (Path(__file__).parents[3] / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert f"{CORRECT} of {COUNT}" in text
    assert f"{BAND.start} to {BAND.stop - 1}" in text


def test_shipped_weights_are_small_float32_and_complete():
    assert WEIGHTS.stat().st_size < 200_000
    with np.load(WEIGHTS) as arrays:
        assert set(arrays.files) == set(DigitsCnn().state_dict())
        kinds = {arrays[name].dtype for name in arrays.files if not name.endswith("num_batches_tracked")}
    assert kinds == {np.dtype("float32")}


@pytest.mark.parametrize("batch_size", [1, 100, 1000])
def test_accuracy_is_the_same_in_batches(batch_size):
    module, _ = create("digits_cnn")
    sizes = set()

    def predict(images):
        sizes.add(len(images))
        return scores(module, images)

    assert accuracy(predict, batch_size=batch_size) == (CORRECT, COUNT)
    assert sizes == {batch_size}


def test_accuracy_counts_against_the_labels():
    right = np.eye(10)[load_digits_split()["validation"][1]]
    assert accuracy(lambda _: right, split="validation") == (359, 359)
    assert accuracy(lambda _: -right, split="validation") == (0, 359)


def test_scores_of_the_wrong_shape_are_refused():
    with pytest.raises(UsageError, match=r"shape \(359,\), not \(359, 10\)"):
        accuracy(lambda images: np.zeros(len(images)))


def test_without_scikit_learn_the_cure_is_named():
    code = (
        "import sys\nfrom hwbench.errors import EngineError\nfrom hwbench.models.digits import load_digits_split\n"
        "sys.path.clear()\n"
        "try: load_digits_split()\nexcept EngineError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "pip install scikit-learn" in done.stdout


def test_training_learns_and_leaves_random_state_alone(tmp_path):
    before = torch.get_rng_state()
    module = train(epochs=4)
    assert torch.equal(before, torch.get_rng_state())
    correct, count = accuracy(lambda images: scores(module, images), split="validation")
    assert correct > 0.9 * count
    save(module, tmp_path / "weights.npz")
    with np.load(tmp_path / "weights.npz") as arrays:
        assert np.array_equal(arrays["fc.weight"], module.fc.weight.detach().numpy())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])  # 0 is that of the shipped weights
def test_training_again_reaches_the_stated_accuracy(seed):
    module = train(seed)
    correct, _ = accuracy(lambda images: scores(module, images))
    assert correct in BAND
