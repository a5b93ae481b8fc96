"""Gates learned for each block: what they do in a view, what is dropped, and what is folded into the weights."""

from __future__ import annotations

import numpy as np
import pytest
from compress_subjects import random_samples, run_ort, subject_of
from residual_graphs import residual_net

pytest.importorskip("onnxruntime", reason="onnxruntime computes the networks")
torch = pytest.importorskip("torch", reason="gates are trained in torch")

from hwbench.compress.methods.gates import Gates, GatesSettings, _gated, _shares  # noqa: E402
from hwbench.data.samples import Samples  # noqa: E402
from hwbench.errors import UsageError  # noqa: E402
from hwbench.structure.blocks import residual_blocks  # noqa: E402
from hwbench.structure.drop import drop_block  # noqa: E402

X = {"x": np.random.default_rng(3).normal(size=(2, 4, 8, 8)).astype(np.float32)}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _net(useless: int):
    """Three blocks; what one of them adds is next to nothing."""
    import onnx_ir as ir

    model = residual_net()
    for name in (f"block.{useless}.two.w", f"block.{useless}.two.b"):
        held = model.graph.initializers[name]
        held.const_value = ir.tensor(held.const_value.numpy() * np.float32(1e-4), name=name)
    return model


def test_a_gate_multiplies_its_branch_alone(tmp_path):
    subject = subject_of(residual_net(), tmp_path)
    view = subject.view()
    blocks = {block.name: block for block in residual_blocks(subject.model)}
    penalty = _gated(view, blocks, _shares(blocks, "blocks"), GatesSettings())
    x = torch.from_numpy(X["x"])
    view.eval()
    np.testing.assert_allclose(view(x)[0].detach().numpy(), run_ort(subject.model, X)[0], rtol=1e-4, atol=1e-5)
    penalty.gates["block.1"].raw.data.fill_(-100.0)
    cut = residual_net()
    drop_block(cut, residual_blocks(cut)[1])
    np.testing.assert_allclose(view(x)[0].detach().numpy(), run_ort(cut, X)[0], rtol=1e-4, atol=1e-5)


def test_shares_add_up_and_follow_the_multiply_adds(tmp_path):
    blocks = {block.name: block for block in residual_blocks(residual_net())}
    assert _shares(blocks, "blocks") == pytest.approx(dict.fromkeys(blocks, 1 / 3))
    assert _shares(blocks, "macs") == pytest.approx(dict.fromkeys(blocks, 1 / 3))


@pytest.mark.parametrize("useless", [2])
def test_the_block_that_does_nothing_is_shut(tmp_path, useless):
    model = _net(useless)
    subject = subject_of(model, tmp_path, samples=random_samples(model, 8, seed=1))
    before = run_ort(subject.model, X)[0]
    settings = GatesSettings(epochs=6, speed=500.0, penalty=0.05, held_out=0.0)
    legal = [name for name, reason in Gates().legal(subject, settings).items() if reason is None]
    outcome = Gates().apply(subject, legal, settings)
    gates = {name.removeprefix("gate of "): value for name, value in outcome.figures.items() if name.startswith("gate")}
    assert gates[f"block.{useless}"] == 0.0
    assert f"block.{useless}" in {change.layer for change in outcome.changes if change.kind == "cut"}
    assert f"block.{useless}" not in {block.name for block in residual_blocks(subject.model)}
    assert all(value > 0.3 for name, value in gates.items() if name != f"block.{useless}")
    after = run_ort(subject.model, X)[0]
    assert np.abs(after - before).max() < 0.3 * np.abs(before).max()


def test_what_gates_are_open_by_is_in_the_weights(tmp_path, monkeypatch):
    """The network handed back is the gated view, to rounding."""
    from hwbench.compress.methods import gates as module

    seen = []
    real = module._gated

    def kept(view, *rest):
        seen.append((view, real(view, *rest)))
        return seen[0][1]

    monkeypatch.setattr(module, "_gated", kept)
    model = residual_net()
    samples = random_samples(model, 8, classes=3, seed=1)
    subject = subject_of(model, tmp_path, samples=samples)
    settings = GatesSettings(epochs=3, speed=300.0, penalty=2.0, train="all", held_out=0.0)
    outcome = Gates().apply(subject, ["block.0", "block.1", "block.2"], settings)
    ((view, penalty),) = seen
    wanted = view.eval()(torch.from_numpy(X["x"]))[0].detach().numpy()
    np.testing.assert_allclose(run_ort(subject.model, X)[0], wanted, rtol=1e-3, atol=1e-4)
    partly = [name for name, value in penalty.values().items() if 0 < value < 1]
    assert {change.layer for change in outcome.changes if change.kind == "rewritten"} == set(partly)
    assert any(change.kind == "trained" for change in outcome.changes)


def test_an_amount_takes_the_smallest_gates(tmp_path):
    model = _net(1)
    subject = subject_of(model, tmp_path, samples=random_samples(model, 8, seed=1))
    weights = {name: value.const_value.numpy().copy() for name, value in subject.model.graph.initializers.items()}
    settings = GatesSettings(epochs=1, speed=10.0, amount=0.34, held_out=0.0)
    outcome = Gates().apply(subject, ["block.0", "block.1", "block.2"], settings)
    alphas = {name: value for name, value in outcome.figures.items() if name.startswith("log alpha of ")}
    (gone,) = [change.layer for change in outcome.changes if change.kind == "cut"]
    assert f"log alpha of {gone}" == min(alphas, key=alphas.get)
    left = subject.model.graph.initializers  # the gates alone were trained
    assert all(np.array_equal(value.const_value.numpy(), weights[name]) for name, value in left.items()
               if not name.startswith("block."))  # fmt: skip


def test_labels_alone_can_teach(tmp_path):
    model = residual_net()
    samples = random_samples(model, 8, classes=3)
    subject = subject_of(model, tmp_path, samples=Samples(inputs=samples.inputs, labels=samples.labels, batch=2))
    settings = GatesSettings(epochs=1, teacher=False, held_out=0.0, schedule="constant")
    outcome = Gates().apply(subject, ["block.1"], settings)
    assert outcome.figures["gate_reach"] == pytest.approx(4 * 1e-3 * 50)
    assert "no gate could shut: log alpha could move by 0.2" in outcome.notes[-1]


@pytest.mark.parametrize("values", [{"penalty": 0.0}, {"speed": -1.0}, {"amount": 2.0}, {"epochs": 0}])
def test_values_out_of_bounds_are_refused(values):
    with pytest.raises(UsageError, match="is "):
        GatesSettings(**values)
