from __future__ import annotations

import numpy as np
import pytest
from compress_graphs import one_layer, small_cnn
from compress_subjects import random_samples, run_ort, subject_of

from hwbench.compress.methods.prune import Prune, PruneSettings
from hwbench.compress.methods.sparsegpt import SparseGpt, SparseGptSettings
from hwbench.errors import UsageError

pytest.importorskip("torch", reason="Gram matrices come from the view")


def bench(tmp_path, model, count=16):
    """Inputs that go together: without that there is nothing to make up with."""
    samples = random_samples(model, count)
    x = samples.inputs["x"]
    x[:] = 0.3 * x + x.mean(axis=1 if x.ndim == 4 else -1, keepdims=True)
    return subject_of(model, tmp_path, samples=samples)


def outputs(subject):
    x = subject.samples.inputs["x"]
    starts = range(0, len(x), subject.batch)
    parts = [run_ort(subject.model, {"x": x[start : start + subject.batch]})[0] for start in starts]
    return np.concatenate(parts).astype(np.float64)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("op", "shape", "x", "how"),
    [
        ("Conv", (6, 8, 3, 3), (2, 8, 6, 6), {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
        ("Conv", (6, 4, 3, 1), (2, 8, 6, 6), {"group": 2, "dilations": [2, 1]}),
        ("ConvTranspose", (8, 5, 2, 2), (2, 8, 4, 4), {"strides": [2, 2]}),
        ("MatMul", (12, 7), (2, 5, 12), {}),
        ("Gemm", (7, 12), (8, 12), {"transB": 1}),
    ],
)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_the_error_told_is_the_error_made_and_below_that_of_zeros_alone(op, shape, x, how, pattern, exact, tmp_path):
    weight = np.random.default_rng(0).normal(size=shape)
    asked = {"amount": None if pattern == "2:4" else 0.5, "pattern": pattern}
    subject = bench(tmp_path, one_layer(op, weight, x, **how), count=x[0] * 4)
    before = outputs(subject)
    out = SparseGpt().apply(subject, ["layer"], SparseGptSettings(exact=exact, **asked))
    error = np.square(outputs(subject) - before).sum() / np.square(before).sum()
    assert out.changes[0].error == pytest.approx(error, rel=1e-3)
    assert 0.4 < out.changes[0].zeros <= 0.5
    plain = bench(tmp_path, one_layer(op, weight, x, **how), count=x[0] * 4)
    Prune().apply(plain, ["layer"], PruneSettings(**asked))
    assert error < np.square(outputs(plain) - before).sum() / np.square(before).sum()


def test_a_bias_counts_in_the_error(tmp_path):
    subject = bench(tmp_path, small_cnn())
    before = outputs(subject)
    out = SparseGpt().apply(subject, ["fc"], SparseGptSettings(amount=0.5))
    error = np.square(outputs(subject) - before).sum() / np.square(before).sum()
    assert out.changes[0].error == pytest.approx(error, rel=1e-3)
    assert subject.held_zeros == {"w3"}
    assert subject.bits["w3"] == pytest.approx(0.5 * 32 + 1)


def test_every_layer_of_a_network_in_one_go(tmp_path):
    subject = bench(tmp_path, small_cnn())
    asked = SparseGptSettings(amount=0.5)
    legal = SparseGpt().legal(subject, asked)
    assert legal == {"conv1": None, "conv2": None, "fc": None}
    out = SparseGpt().apply(subject, list(legal), asked)
    assert [change.layer for change in out.changes] == list(legal)
    assert all(change.zeros == pytest.approx(0.5, abs=0.02) for change in out.changes)
    assert np.isfinite(outputs(subject)).all()


def test_a_layer_that_never_sees_anything_keeps_its_largest_weights(tmp_path):
    weight = np.random.default_rng(0).normal(size=(6, 3))
    model = one_layer("MatMul", weight, (2, 6))
    subject = bench(tmp_path, model)
    subject.samples.inputs["x"][:] = 0
    out = SparseGpt().apply(subject, ["layer"], SparseGptSettings(amount=0.5))
    found = subject.layers()["layer"].weight
    left = np.abs(weight) > np.sort(np.abs(weight).ravel())[8]
    np.testing.assert_allclose(found, np.where(left, weight, 0), rtol=1e-6)
    assert out.changes[0].error is None


def test_exact_is_for_small_layers(tmp_path):
    subject = subject_of(one_layer("MatMul", np.ones((3000, 4)), (1, 3000)), tmp_path)
    found = SparseGpt().legal(subject, SparseGptSettings(amount=0.5, exact=True))["layer"]
    assert found.code == "too_large"
    assert SparseGpt().legal(subject, SparseGptSettings(amount=0.5))["layer"] is None
    with pytest.raises(UsageError, match="needs samples"):
        SparseGpt().apply(subject, ["layer"], SparseGptSettings(amount=0.5))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({}, "needs an amount"),
        ({"amount": -0.1}, "between 0 and 1"),
        ({"amount": float("nan")}, "between 0 and 1"),
        ({"amount": 0.5, "pattern": "2:4"}, "give no amount"),
        ({"amount": 0.5, "damping": 0.0}, "damping"),
        ({"amount": 0.5, "pattern": "1x4", "exact": True}, "single weights"),
    ],
)
def test_settings_that_mean_nothing_are_refused(how, says):
    with pytest.raises(UsageError, match=says):
        SparseGptSettings(**how)
