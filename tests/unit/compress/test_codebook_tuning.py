"""Codebooks trained: weights that share a value move by the mean of their gradients, and stay equal and zero."""

import copy

import numpy as np
import onnx_ir as ir
import pytest
import torch
from compress_subjects import random_samples, subject_of
from factor_graphs import conv, product

from hwbench.compress.codebooks import Codebook, as_rows
from hwbench.compress.methods.share import Share, ShareSettings
from hwbench.compress.sharing.tuning import Tied, labels_of, tune
from hwbench.data.samples import Samples
from hwbench.errors import UsageError
from hwbench.train.parameters import by_initializer


def shared(tmp_path, *, samples=24, model=None, **given_settings):
    model = model or conv(outputs=8, inputs=12, pads=(1, 1, 1, 1), sizes=(5, 5))
    subject = subject_of(model, tmp_path, samples=random_samples(model, samples))
    settings = ShareSettings(**({"bits": 2} | given_settings))
    return subject, Share().apply(subject, list(Share().legal(subject, settings)), settings)


def weight(subject, name="w"):
    return subject.model.graph.initializers[name].const_value.numpy()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_moves_each_value_by_the_mean_of_its_gradients(tmp_path, optimizer):
    subject, _ = shared(tmp_path)
    view = subject.view()
    free = copy.deepcopy(view)
    tied = Tied(view, labels_of(subject))
    inputs = subject.tensors(next(subject.samples.in_order())[0])
    before = weight(subject).copy()
    kinds = {"sgd": lambda p: torch.optim.SGD(p, 0.1), "adamw": lambda p: torch.optim.AdamW(p, 0.1)}
    for one in (view, free):
        (one(*inputs)[0] ** 2).sum().backward()
    gradient = by_initializer(free)["w"].grad.numpy()
    expected = np.zeros_like(before)
    for value in np.unique(before):
        expected[before == value] = gradient[before == value].mean()
    tied.start(view)
    tied.before_step()
    parameter = by_initializer(view)["w"]
    np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    kinds[optimizer]([parameter]).step()
    tied.after_step(0.0)
    after = parameter.detach().numpy()
    assert len(np.unique(after)) == len(np.unique(before)) == 4
    if optimizer == "sgd":
        np.testing.assert_allclose(after, before - 0.1 * expected, rtol=1e-4)
    for value in np.unique(before):
        assert len(np.unique(after[before == value])) == 1


def test_the_numbers_follow_the_books(tmp_path):
    model = conv(outputs=3, inputs=1, kernel=(1, 2), sizes=(4, 4))
    subject = subject_of(model, tmp_path)
    array = np.array([[1, 2], [2, 0], [1, 1]], np.float32).reshape(3, 1, 1, 2)
    model.graph.initializers["w"].const_value = ir.tensor(array, name="w")
    subject.codebooks["w"] = Codebook(name="conv")
    assert labels_of(subject)[0]["w"].ravel().tolist() == [1, 2, 2, -1, 1, 1]
    subject.codebooks["w"] = Codebook(name="conv", axes=(0,))
    by_channel = labels_of(subject)[0]["w"].reshape(3, 2)
    assert by_channel[1, 1] == -1
    assert len({by_channel[0, 0], by_channel[0, 1], by_channel[1, 0], by_channel[2, 0]}) == 4
    assert by_channel[2, 0] == by_channel[2, 1]


@pytest.mark.parametrize("scope", ["layer", "channel"])
def test_training_brings_the_network_nearer_and_keeps_the_codebooks(tmp_path, scope):
    """Inputs of very different sizes: k-means of the weights, which does not know them, is far from the best."""
    model = product(outputs=6, inputs=100, lead=(4,))
    x = np.random.default_rng(0).standard_normal((32, 100)) * np.geomspace(0.01, 10, 100)
    samples = Samples(inputs={"x": x.astype(np.float32)}, labels=None, batch=4)
    settings = ShareSettings(bits=2, scope=scope)
    tuned = subject_of(model, tmp_path, samples=samples)
    Share().apply(tuned, ["fc"], settings)
    before = weight(tuned).copy()
    losses = tune(tuned, epochs=8, learning_rate=0.3)
    assert losses["last_loss"] < 0.9 * losses["first_loss"]
    axes = tuned.codebooks["w"].axes
    assert not np.array_equal(weight(tuned), before)
    for old, new in zip(as_rows(before, axes), as_rows(weight(tuned), axes), strict=True):
        pairs = len(np.unique(np.stack([old, new]), axis=1).T)
        assert pairs == len(np.unique(old)) == len(np.unique(new)), "nobody changes places"


def test_the_method_trains_where_it_is_asked_to(tmp_path):
    plain, _ = shared(tmp_path)
    tuned, outcome = shared(tmp_path, finetune_epochs=1, learning_rate=1.0)
    assert {"first_loss", "last_loss"} <= set(outcome.figures)
    assert not np.array_equal(weight(plain), weight(tuned))
    assert outcome.changes[0].bits_per_weight == tuned.bits["w"]


def test_zeros_stay_zero(tmp_path):
    rng = np.random.default_rng(0)
    array = rng.standard_normal((10, 12)).astype(np.float32) * (rng.random((10, 12)) < 0.5)
    model = product(outputs=10, inputs=12, lead=(4,))
    model.graph.initializers["w"].const_value = ir.tensor(array.astype(np.float32), name="w")
    subject, _ = shared(tmp_path, model=model, finetune_epochs=3, learning_rate=0.05)
    assert ((weight(subject) == 0) == (array == 0)).all()
    assert len(np.unique(weight(subject))) <= 4


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UsageError, match="with finetune_epochs"):
        ShareSettings(learning_rate=0.1)
    with pytest.raises(UsageError, match="must not be negative"):
        ShareSettings(finetune_epochs=-1)
    subject = subject_of(conv(outputs=8, inputs=12), tmp_path)
    before = weight(subject).copy()
    with pytest.raises(UsageError, match="needs samples"):
        Share().apply(subject, ["conv"], ShareSettings(finetune_epochs=1))
    assert np.array_equal(weight(subject), before)
