"""Blocks dropped by what they are worth; every score is derived again from ONNX Runtime's values in numpy."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compress_subjects import random_samples, run_ort, subject_of
from residual_graphs import drawn, net, residual_net

from hwbench.compress.methods.depth import Depth, DepthSettings
from hwbench.errors import ModelError, UsageError
from hwbench.graph.onnx_file import infer_shapes
from hwbench.structure.blocks import residual_blocks
from hwbench.structure.drop import drop_block

pytest.importorskip("onnxruntime", reason="onnxruntime computes the networks")
torch = pytest.importorskip("torch", reason="scores are measured in torch")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _subject(tmp_path, model=None, count: int = 7):
    model = model or residual_net()
    return subject_of(model, tmp_path, samples=random_samples(model, count, seed=4))


def _values(model: ir.Model, names: list[str], x: np.ndarray) -> list[np.ndarray]:
    """The tensors of these names, put out too."""
    copy = infer_shapes(model.clone())
    by_name = {value.name: value for node in copy.graph for value in node.outputs}
    outputs = [value.name for value in copy.graph.outputs]
    copy.graph.outputs.extend(by_name[name] for name in names if name not in outputs)
    batches = [run_ort(copy, {"x": x[i : i + 2]}) for i in range(0, len(x) - 1, 2)]
    order = [value.name for value in copy.graph.outputs]
    return [np.concatenate([batch[order.index(name)] for batch in batches]).astype(np.float64) for name in names]


def _influence(before: np.ndarray, after: np.ndarray, axis: int) -> float:
    total = []
    for one, other in zip(np.moveaxis(before, axis, -1).reshape(-1, before.shape[axis]),
                          np.moveaxis(after, axis, -1).reshape(-1, after.shape[axis]), strict=True):  # fmt: skip
        lengths = np.linalg.norm(one), np.linalg.norm(other)
        total.append(1.0 if lengths == (0, 0) else 0.0 if 0 in lengths else one @ other / (lengths[0] * lengths[1]))
    return 1 - float(np.mean(total))


def _legal(subject, settings):
    return [name for name, reason in Depth().legal(subject, settings).items() if reason is None]


def test_influence_is_one_minus_the_mean_cosine_over_channels(tmp_path):
    subject, settings = _subject(tmp_path), DepthSettings(count=1)
    x = np.array(subject.samples.inputs["x"])[:6]  # seven samples, three full batches of two
    hidden = _values(subject.model, ["h0", "h1", "h2", "h3"], x)
    wanted = {f"block.{i}": _influence(hidden[i], hidden[i + 1], 1) for i in range(3)}
    outcome = Depth().apply(subject, _legal(subject, settings), settings)
    found = {name.removeprefix("influence of "): score for name, score in outcome.figures.items()}
    assert found == pytest.approx(wanted, abs=1e-6)
    assert [change.layer for change in outcome.changes] == [min(wanted, key=wanted.get)]


def test_influence_of_rows_goes_over_the_last_axis(tmp_path):
    lines = [
        ("MatMul", "x a", "layers.0.one"),
        ("Add", "x layers.0.one", "h1"),
        ("MatMul", "h1 b", "layers.0.two"),
        ("Add", "layers.0.two h1", "y"),
    ]
    model = net(lines, {"a": drawn(5, 5), "b": drawn(5, 5, seed=1, scale=0.1)}, x=(2, 3, 5))
    subject = _subject(tmp_path, model)
    x = np.array(subject.samples.inputs["x"])[:6]
    h1, y = _values(model, ["h1", "y"], x)
    settings = DepthSettings(count=1)
    outcome = Depth().apply(subject, _legal(subject, settings), settings)
    wanted = [_influence(x.astype(np.float64), h1, -1), _influence(h1, y, -1)]
    assert list(outcome.figures.values()) == pytest.approx(wanted, abs=1e-6)
    assert [change.layer for change in outcome.changes] == ["layers.0.two"]
    together = DepthSettings(count=1, unit="layer")
    subject = _subject(tmp_path, net(lines, {"a": drawn(5, 5), "b": drawn(5, 5, seed=1, scale=0.1)}, x=(2, 3, 5)))
    assert _legal(subject, together) == ["layers.0"]
    outcome = Depth().apply(subject, ["layers.0"], together)
    assert list(outcome.figures.values()) == pytest.approx([_influence(x.astype(np.float64), y, -1)], abs=1e-6)
    assert [node.op_type for node in subject.model.graph] == ["Identity"]


def _without(index: int, gone: list[int], x: np.ndarray) -> np.ndarray:
    model = residual_net()
    blocks = residual_blocks(model)
    for each in (*gone, index):
        drop_block(model, blocks[each])
    return _values(model, ["y"], x)[0]


def _distance(kind: str, wanted: np.ndarray, got: np.ndarray) -> float:
    if kind == "mse":
        return float(((got - wanted) ** 2).sum() / (wanted**2).sum())
    p, q = (np.exp(y) / np.exp(y).sum(-1, keepdims=True) for y in (wanted, got))
    return float((p * np.log(p / q)).sum(-1).mean())


@pytest.mark.parametrize("distance", ["mse", "kl"])
@pytest.mark.parametrize("greedy", [False, True])
def test_output_change_is_that_of_the_network_without_the_block(tmp_path, distance, greedy):
    subject = _subject(tmp_path)
    x = np.array(subject.samples.inputs["x"])[:6]
    whole = _values(subject.model, ["y"], x)[0]
    settings = DepthSettings(count=2, criterion="output", distance=distance, greedy=greedy)
    outcome = Depth().apply(subject, _legal(subject, settings), settings)
    scores = {i: _distance(distance, whole, _without(i, [], x)) for i in range(3)}
    first = min(scores, key=scores.get)
    found = [value for name, value in outcome.figures.items() if "gone" not in name]
    assert found == pytest.approx(list(scores.values()), rel=1e-4, abs=1e-9)
    again = {
        i: _distance(distance, whole, _without(i, [first], x)) if greedy else scores[i] for i in {0, 1, 2} - {first}
    }
    second = min(again, key=again.get)
    assert [change.layer for change in outcome.changes] == [f"block.{first}", f"block.{second}"]
    if greedy:
        measured = {name: value for name, value in outcome.figures.items() if "1 gone" in name}
        assert list(measured.values()) == pytest.approx([again[i] for i in sorted(again)], rel=1e-4, abs=1e-9)
    assert len(residual_blocks(subject.model)) == 1


def test_the_highest_go_when_asked_to(tmp_path):
    settings = DepthSettings(amount=0.34, highest=True)
    subject = _subject(tmp_path)
    outcome = Depth().apply(subject, _legal(subject, settings), settings)
    scores = outcome.figures
    assert [f"influence of {change.layer}" for change in outcome.changes] == [max(scores, key=scores.get)]


def test_named_blocks_go_without_data_and_leave_the_books_right(tmp_path):
    subject = subject_of(residual_net(), tmp_path)
    subject.held_zeros |= {"block.1.one.w", "block.0.one.w"}
    subject.bits |= {"block.1.one.w": 4.0}
    subject.keep("block.1.one.w", 0, np.arange(4))
    settings = DepthSettings(blocks=("block.1",))
    (change,) = Depth().apply(subject, _legal(subject, settings), settings).changes
    assert change.removed["block.1.one.w/0"] == (0, 1, 2, 3)
    assert set(change.removed) == {f"block.1.{part}.{kind}/0" for part in ("one", "two") for kind in "wb"}
    assert (subject.held_zeros, subject.bits, subject.kept) == ({"block.0.one.w"}, {}, {})
    assert "5 nodes, 296 weights" in change.what


def test_random_is_repeatable_by_seed(tmp_path):
    settings = DepthSettings(count=1, criterion="random")
    chosen = []
    for seed in (0, 0, 1, 2, 3, 4):
        subject = subject_of(residual_net(), tmp_path, seed=seed)
        chosen.append(Depth().apply(subject, _legal(subject, settings), settings).changes[0].layer)
    assert chosen[0] == chosen[1]
    assert len(set(chosen)) > 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (DepthSettings(), "how many blocks"),
        (DepthSettings(amount=0.5, count=1), "how many blocks"),
        (DepthSettings(count=4), "4 blocks are asked for, and 3 may"),
        (DepthSettings(blocks=("stem",)), "called stem"),
        (DepthSettings(blocks=("block.0",), count=1), "is given too"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, told):
    subject = _subject(tmp_path)
    with pytest.raises(UsageError, match=told):
        Depth().apply(subject, _legal(subject, settings), settings)
    assert len(residual_blocks(subject.model)) == 3


def test_data_are_asked_for_and_nan_is_told(tmp_path):
    settings = DepthSettings(count=1)
    subject = subject_of(residual_net(), tmp_path)
    with pytest.raises(UsageError, match="needs samples"):
        Depth().apply(subject, _legal(subject, settings), settings)
    subject = _subject(tmp_path)
    np.asarray(subject.samples.inputs["x"])[:] = np.nan
    with pytest.raises(ModelError, match="NaN"):
        Depth().apply(subject, _legal(subject, settings), settings)


def test_nothing_goes_for_an_amount_of_zero(tmp_path):
    subject, settings = _subject(tmp_path), DepthSettings(amount=0.0)
    assert Depth().apply(subject, _legal(subject, settings), settings).changes == []
    assert len(residual_blocks(subject.model)) == 3


@pytest.mark.parametrize("values", [{"amount": 1.5}, {"amount": -0.1}, {"count": 0}])
def test_values_out_of_bounds_are_refused(values):
    with pytest.raises(UsageError, match="is "):
        DepthSettings(**values)
