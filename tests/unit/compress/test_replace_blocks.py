"""Blocks replaced one after the other, by worth or by name, and the books and repairs afterwards."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compress_subjects import random_samples, run_ort, subject_of
from residual_graphs import ACTIVATIONS, residual_net, unclipped_net

from hwbench.compress.methods.repair import Repair
from hwbench.compress.methods.replace import Replace, ReplaceSettings
from hwbench.compress.repair.match import Match, match
from hwbench.errors import UsageError
from hwbench.graph.onnx_file import infer_shapes
from hwbench.structure.blocks import residual_blocks
from hwbench.structure.drop import drop_block

pytest.importorskip("onnxruntime", reason="onnxruntime computes the networks")
torch = pytest.importorskip("torch", reason="rows are taken in torch")

EXACT = 1e-10  # damping that leaves the fit as it is


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _subject(tmp_path, model=None, count: int = 16):
    model = model or residual_net()
    return subject_of(model, tmp_path, samples=random_samples(model, count, seed=4))


def _done(method, subject, settings):
    legal = method.legal(subject, settings)
    outcome = method.apply(subject, [name for name, reason in legal.items() if reason is None], settings)
    subject.model = infer_shapes(subject.model)
    return outcome


def _applied(subject, **settings):
    return _done(Replace(), subject, ReplaceSettings(**settings))


def _values(model: ir.Model, name: str, subject) -> np.ndarray:
    """A tensor of a network, put out too, over all samples."""
    copy = infer_shapes(model.clone())
    copy.graph.outputs.append(next(v for node in copy.graph for v in node.outputs if v.name == name))
    x = np.array(subject.samples.inputs["x"])
    return np.concatenate([run_ort(copy, {"x": x[i : i + 2]})[-1] for i in range(0, len(x), 2)]).astype(np.float64)


def _lstsq(reads: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights of a padded 3x3 convolution with the bias last, and what they leave of the variance."""
    padded = np.pad(reads, ((0, 0), (0, 0), (1, 1), (1, 1)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    rows = views.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 9 * reads.shape[1])
    rows = np.hstack([rows, np.ones((len(rows), 1))])
    t = target.transpose(0, 2, 3, 1).reshape(-1, target.shape[1])
    found = np.linalg.lstsq(rows, t, rcond=None)[0]
    return found.T, float(((t - rows @ found) ** 2).sum() / ((t - t.mean(0)) ** 2).sum())


def _layer(model: ir.Model, name: str) -> np.ndarray:
    node = next(node for node in model.graph if node.name == name)
    weight, bias = (value.const_value.numpy() for value in node.inputs[1:])
    return np.hstack([weight.reshape(len(weight), -1), bias[:, None]])


def _distance(subject) -> float:
    now, then = (_values(model, "y", subject) for model in (subject.model, subject.original))
    return float(((now - then) ** 2).sum() / (then**2).sum())


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_two_blocks_that_layers_can_compute_are_computed_by_them(tmp_path, activation, norms):
    subject = _subject(tmp_path, unclipped_net(activation=activation, norms=norms))
    outcome = _applied(subject, blocks=("block.0", "block.1"), damping=EXACT)
    assert [change.layer for change in outcome.changes] == ["block.0", "block.1"]
    assert all(error < 1e-6 for error in outcome.figures.values())
    assert residual_blocks(subject.model) == []
    x = {"x": np.array(subject.samples.inputs["x"])[:2]}
    wanted, found = (run_ort(model, x)[0] for model in (subject.original, subject.model))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    np.testing.assert_allclose(subject.view()(*subject.tensors(x))[0].detach().numpy(), wanted, rtol=1e-4)


def test_the_second_is_fitted_to_what_it_reads_behind_the_first(tmp_path):
    subject = _subject(tmp_path)
    target = _values(subject.original, "block.1/Add", subject)
    alone, _ = _lstsq(_values(subject.original, "h1", subject), target)
    outcome = _applied(subject, blocks=("block.1", "block.0"), damping=EXACT)
    assert [change.layer for change in outcome.changes] == ["block.0", "block.1"]
    weights, error = _lstsq(_values(subject.model, "h1", subject), target)
    assert np.abs(weights - alone).max() > 0.01
    np.testing.assert_allclose(_layer(subject.model, "block.1.one"), weights, atol=1e-3)
    assert outcome.figures["error of block.1"] == pytest.approx(error, rel=1e-3)


def test_damping_pulls_towards_passing_on_what_comes_in(tmp_path):
    subject = _subject(tmp_path)
    _applied(subject, blocks=("block.0",), damping=1e6)
    centre = np.zeros((4, 4, 3, 3))
    centre[np.arange(4), np.arange(4), 1, 1] = 1
    np.testing.assert_allclose(_layer(subject.model, "block.0.one")[:, :-1], centre.reshape(4, -1), atol=1e-4)


def test_figures_tell_what_each_block_loses_alone_and_those_go_that_lose_least(tmp_path):
    subject = _subject(tmp_path)
    errors = {
        f"block.{i}": _lstsq(*(_values(subject.original, name, subject) for name in (f"h{i}", f"block.{i}/Add")))[1]
        for i in range(3)
    }
    outcome = _applied(subject, count=2, damping=EXACT)
    told = {name.split()[2]: error for name, error in outcome.figures.items() if name.endswith("alone")}
    assert told == pytest.approx(errors, rel=1e-3)
    assert [change.layer for change in outcome.changes] == sorted(sorted(errors, key=errors.get)[:2])


def test_an_amount_of_nothing_replaces_nothing(tmp_path):
    subject = _subject(tmp_path)
    assert _applied(subject, amount=0.0).changes == []
    assert len(residual_blocks(subject.model)) == 3


def test_it_loses_less_than_dropping_and_a_repair_takes_it_for_what_the_block_added_up(tmp_path):
    subject = _subject(tmp_path)
    drop_block(subject.model, residual_blocks(subject.model)[2])
    dropped = _distance(subject)
    subject = _subject(tmp_path)
    _applied(subject, blocks=("block.2",))
    replaced = _distance(subject)
    assert replaced < 0.5 * dropped
    found = match(subject, subject.layers()["block.2.one"])
    assert isinstance(found, Match)
    assert (found.source.tensor, found.source.node) == ("block.2/Add", "block.2/Add")
    _done(Repair(), subject, Repair.settings_type())
    assert _distance(subject) <= replaced


def test_the_books_of_what_went_go(tmp_path):
    subject = _subject(tmp_path, unclipped_net(norms=True))
    subject.held_zeros |= {"block.0.two.w", "block.1.two.w"}
    subject.bits |= {"block.0.two.w": 4.0}
    subject.keep("block.0.two.w", 0, np.arange(4))
    (change,) = _applied(subject, blocks=("block.0",)).changes
    norms = {f"block.0.{part}.norm.{kind}/0" for part in ("one", "two") for kind in ("scale", "shift", "mean", "var")}
    assert set(change.removed) == {"block.0.two.w/0", "block.0.two.b/0"} | norms
    assert (change.kind, set(change.removed.values())) == ("cut", {(0, 1, 2, 3)})
    assert "'block.0.one': 5 nodes, 52 weights" in change.what
    assert (subject.held_zeros, subject.bits, subject.kept) == ({"block.1.two.w"}, {}, {})


def test_a_block_that_an_earlier_step_took_is_left_alone(tmp_path):
    subject = _subject(tmp_path)
    _applied(subject, blocks=("block.0",))
    outcome = _applied(subject, blocks=("block.0", "block.1"))
    assert [change.layer for change in outcome.changes] == ["block.1"]
    assert [(left.layer, left.reason.code) for left in outcome.left_alone] == [("block.0", "gone")]


def test_quantised_weights_are_left_alone(tmp_path):
    subject = _subject(tmp_path)
    subject.bits["block.1.one.w"] = 4.0
    legal = Replace().legal(subject, ReplaceSettings())
    assert [name for name, reason in legal.items() if reason is not None] == ["block.1"]
    assert legal["block.1"].code == "held_weight"


def test_a_block_that_the_original_does_not_have_is_left_alone(tmp_path):
    subject = _subject(tmp_path)
    next(node for node in subject.original.graph if node.name == "block.1/Add").outputs[0].name = "other"
    reason = Replace().legal(subject, ReplaceSettings())["block.1"]
    assert reason is not None
    assert reason.code == "no_counterpart"


def test_blocks_that_may_are_listed(tmp_path):
    with pytest.raises(UsageError) as error:
        _applied(_subject(tmp_path), blocks=("stem",))
    assert error.value.hint == "blocks: block.0, block.1, block.2"


def test_data_are_asked_for(tmp_path):
    with pytest.raises(UsageError, match="replace needs samples"):
        _applied(subject_of(residual_net(), tmp_path), count=1)


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
        _applied(_subject(tmp_path), **settings)
    assert words in f"{error.value.message} {error.value.hint}"
