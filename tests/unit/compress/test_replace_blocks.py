"""One layer for a block: fitted as numpy's least squares fits it, to the network as it is by then."""

from __future__ import annotations

import numpy as np
import pytest
from compress_subjects import random_samples, run_ort, subject_of
from residual_graphs import residual_net

from hwbench.compress.methods.replace import Replace, ReplaceSettings
from hwbench.errors import UsageError
from hwbench.graph.onnx_file import infer_shapes

pytest.importorskip("onnxruntime", reason="onnxruntime computes the networks")
torch = pytest.importorskip("torch", reason="statistics are collected in torch")


def _subject(tmp_path, model=None, count=24):
    model = model or residual_net()
    return subject_of(model, tmp_path, samples=random_samples(model, count, seed=4))


def _apply(subject, **settings):
    chosen = ReplaceSettings(**settings)
    legal = [name for name, reason in Replace().legal(subject, chosen).items() if reason is None]
    return Replace().apply(subject, legal, chosen)


def _values(model, names, samples):
    copy = infer_shapes(model.clone())
    by_name = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs.extend(by_name[name] for name in names)
    batches = [run_ort(copy, batch) for batch, _ in samples.in_order()]
    order = [value.name for value in copy.graph.outputs]
    return [np.concatenate([batch[order.index(name)] for batch in batches]) for name in names]


def _rows(x):
    """What a 3x3 convolution multiplies its weights with, and a one, position by position."""
    rows = torch.nn.functional.unfold(torch.from_numpy(x), 3, padding=1).transpose(1, 2).reshape(-1, 9 * x.shape[1])
    return np.concatenate([rows.numpy(), np.ones((len(rows), 1))], axis=1).astype(np.float64)


def _best(x, t):
    weights, *_ = np.linalg.lstsq(
        _rows(x), np.moveaxis(t, 1, -1).reshape(-1, t.shape[1]).astype(np.float64), rcond=None
    )
    return weights.T


def _made(model, layer):
    node = next(node for node in model.graph if node.name == layer)
    weight, bias = (node.inputs[index].const_value.numpy().astype(np.float64) for index in (1, 2))
    return np.concatenate([weight.reshape(len(weight), -1), bias[:, None]], axis=1)


@pytest.mark.parametrize("blocks", [["block.0"], ["block.0", "block.1"]])
def test_a_layer_is_fitted_to_the_block_by_what_it_reads_now(tmp_path, blocks):
    model = residual_net(2)
    subject = _subject(tmp_path, model)
    samples = subject.samples
    _apply(subject, blocks=tuple(blocks), damping=1e-9)
    last = int(blocks[-1][-1])
    (wanted,) = _values(residual_net(2), [f"block.{last}/Add"], samples)
    (read,) = _values(subject.model, [f"h{last}"], samples)
    np.testing.assert_allclose(_made(subject.model, f"block.{last}.one"), _best(read, wanted), rtol=2e-3, atol=2e-4)


def test_a_block_that_is_linear_is_replaced_exactly(tmp_path):
    model = residual_net(1)
    model.graph.initializers["block.0.two.w"].const_value = _zeros(model, "block.0.two.w")
    subject = _subject(tmp_path, model)
    outcome = _apply(subject, count=1, damping=1e-9)
    assert outcome.figures["error of block.0"] < 1e-6
    for batch, _ in subject.samples.in_order():
        np.testing.assert_allclose(run_ort(subject.model, batch)[0], run_ort(model, batch)[0], rtol=1e-3, atol=1e-4)


def _zeros(model, name):
    import onnx_ir as ir

    old = model.graph.initializers[name].const_value.numpy()
    return ir.tensor(np.zeros_like(old), name=name)


def test_those_that_a_layer_comes_nearest_to_are_chosen(tmp_path):
    names = [f"block.{index}" for index in range(3)]
    alone = {name: _apply(_subject(tmp_path), blocks=(name,)).figures[f"error of {name}"] for name in names}
    nearest = sorted(names, key=alone.__getitem__)
    assert [change.layer for change in _apply(_subject(tmp_path), count=1).changes] == nearest[:1]
    assert {change.layer for change in _apply(_subject(tmp_path), amount=0.67).changes} == set(nearest[:2])


def test_what_went_is_in_the_change(tmp_path):
    (change,) = _apply(_subject(tmp_path), blocks=("block.1",)).changes
    assert change.layer == "block.1"
    assert set(change.removed) == {"block.1.two.w/0", "block.1.two.b/0"}
    assert "block.1.one" in change.what


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "one of amount, count and blocks"),
        ({"count": 4}, "4 blocks are asked for, and 3 may"),
        ({"blocks": ("gone",)}, "no block that may be replaced is called gone"),
        ({"blocks": ("block.0",), "count": 1}, "give one of the three"),
        ({"count": 1, "damping": 0.0}, "damping must be above 0"),
        ({"amount": 1.5}, "amount"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, settings, words):
    with pytest.raises(UsageError) as error:
        _apply(_subject(tmp_path), **settings)
    assert words in f"{error.value.message} {error.value.hint}"


def test_weights_that_books_are_kept_of_stay(tmp_path):
    subject = _subject(tmp_path)
    subject.held_zeros.add("block.1.one.w")
    reasons = Replace().legal(subject, ReplaceSettings(count=1))
    assert reasons["block.1"].code == "held_weight"
    assert reasons["block.0"] is None
