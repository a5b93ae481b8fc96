"""Least squares layer by layer: what each is solved for, that the next reads what it was made into, and memory."""

from __future__ import annotations

import numpy as np
import pytest
from compress_subjects import random_samples, run_ort, subject_of
from residual_graphs import residual_net, unclipped_net

torch = pytest.importorskip("torch", reason="the torch view gives the activations")

from hwbench.compress.repair import sequential  # noqa: E402
from hwbench.compress.repair.sequential import solve_in_turn  # noqa: E402
from hwbench.compress.statistics.walk import Walk  # noqa: E402
from hwbench.graph.linear import set_constant  # noqa: E402
from hwbench.graph.onnx_file import infer_shapes  # noqa: E402
from hwbench.torch_view.build import to_torch  # noqa: E402

EXACT = 1e-10  # damping that leaves the fit as it is


def shaken(tmp_path, model=None, *, layers=("block.0.one",), count=16):
    """A network with other weights in some layers than its original has."""
    model = model or residual_net()
    subject = subject_of(model, tmp_path, samples=random_samples(model, count, seed=4))
    rng = np.random.default_rng(0)
    for name in layers:
        layer = subject.layers()[name]
        set_constant(layer.node, 1, layer.weight * (1 + 0.3 * rng.standard_normal(layer.weight.shape)))
    return subject


def tensors(model, names, subject):
    """Tensors of a network over all samples."""
    copy = infer_shapes(model.clone())
    for name in names:
        copy.graph.outputs.append(next(v for node in copy.graph for v in node.outputs if v.name == name))
    x = np.array(subject.samples.inputs["x"])
    parts = [run_ort(copy, {"x": x[i : i + subject.batch]})[-len(names) :] for i in range(0, len(x), subject.batch)]
    return [np.concatenate(each).astype(np.float64) for each in zip(*parts, strict=True)]


def test_a_layer_is_solved_for_the_sum_less_what_the_shortcut_is_now(tmp_path):
    subject = shaken(tmp_path)
    (done,), left = solve_in_turn(subject, ["block.1.two"], damping=EXACT, per_input=None)
    assert not left
    (whole,) = tensors(subject.original, ["block.1/Add"], subject)
    reads, shortcut, added = tensors(subject.model, ["block.1.relu", "h1", "block.1/Add"], subject)
    views = np.lib.stride_tricks.sliding_window_view(np.pad(reads, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
    rows = views.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 36)
    rows = np.column_stack([rows, np.ones(len(rows))])
    wanted = (whole - shortcut).transpose(0, 2, 3, 1).reshape(-1, 4)
    best = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    layer = subject.layers()["block.1.two"]
    np.testing.assert_allclose(layer.weight, best[:36].T.reshape(4, 4, 3, 3), atol=1e-3)
    np.testing.assert_allclose(layer.bias(), best[36], atol=1e-3)
    assert done.after == pytest.approx(np.square(whole - added).sum() / (wanted.var(0) * len(wanted)).sum(), rel=1e-3)


@pytest.mark.parametrize("norms", [False, True])
def test_each_layer_reads_what_those_before_it_were_made_into(tmp_path, norms):
    """A second round begins where the first has ended: nothing was left as it was behind a layer's back."""
    subject = shaken(tmp_path, unclipped_net(norms=norms), layers=["stem"], count=24)
    names = [name for name in subject.layers() if name != "stem"]
    done = {each.layer: each for each in solve_in_turn(subject, names, damping=EXACT, per_input=None)[0]}
    assert len(done) > 2
    again, _ = solve_in_turn(subject, names, damping=EXACT, per_input=None)
    for each in again:
        assert each.before == pytest.approx(done[each.layer].after, rel=0.02, abs=1e-6)


def test_what_went_wrong_before_is_made_up_for(tmp_path):
    layers = ["stem", "block.0.two", "block.1.one"]
    before = shaken(tmp_path, layers=layers)
    subject = shaken(tmp_path, layers=layers)
    solve_in_turn(subject, [name for name in subject.layers() if name not in layers], damping=1e-6, per_input=None)
    (truth,) = tensors(before.original, ["h3"], before)
    errors = [np.square(tensors(each.model, ["h3"], each)[0] - truth).mean() for each in (before, subject)]
    assert errors[1] < 0.7 * errors[0]
    others = shaken(tmp_path, layers=layers).layers()
    for name in layers:
        np.testing.assert_array_equal(subject.layers()[name].weight, others[name].weight)


def test_a_network_that_is_as_it_was_is_left_so(tmp_path):
    subject = shaken(tmp_path, layers=())
    done, left = solve_in_turn(subject, list(subject.layers()), damping=1e-6, per_input=None)
    assert done == []
    assert left == {}


def test_where_memory_has_no_room_fewer_samples_are_looked_at(tmp_path, monkeypatch):
    rows = []
    for limit in (1 << 40, 1):
        monkeypatch.setattr(sequential, "MEMORY", limit)
        done, _ = solve_in_turn(shaken(tmp_path), ["block.1.two"], damping=1e-6, per_input=None)
        rows.append(done[0].rows)
    assert rows == [16 * 64, 2 * 64], "positions of all images, and of one batch"


def test_a_walk_frees_what_nobody_reads_any_more_but_what_is_kept():
    view = to_torch(residual_net())
    batches = [(torch.ones(2, 4, 8, 8),), (torch.zeros(2, 4, 8, 8),)]
    walk = Walk(view, batches, ["stem"])
    walk.until("block.1.one")
    assert walk.made("h0") is None
    assert len(walk.made("stem")) == 2
    walk.let_go("stem")
    assert walk.made("stem") is None
    with torch.no_grad():
        walk.through("y")
        torch.testing.assert_close(walk.made("y")[0], view(*batches[0])[0])
    assert walk.most_bytes >= 2 * batches[0][0].nbytes
