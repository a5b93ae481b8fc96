"""Width: which units go by scores written out here, which widths are kept, what is entered, and what is left alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compress_subjects import random_samples, run_ort, subject_of
from hypothesis import given, settings
from hypothesis import strategies as st
from structure_graphs import (
    BATCH,
    DIM,
    TOKENS,
    WIDTH,
    Net,
    assert_close,
    attended,
    group_of,
    heads_of,
    inputs_of,
    joined,
    masked,
)

from hwbench.compress.methods.width import Width, WidthSettings
from hwbench.compress.narrow.choose import Edges, fitted, keep_each, keep_ranked, unit_scores
from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.structure.groups import Group, channel_groups


def weight(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


def residual(width: int = 8, inner: int = 6) -> ir.Model:
    net = Net(2, 3, 6, 6)
    stream = net.conv("x", 3, width, name="stem")
    z = net.norm(net.conv(net.node("Relu", stream), width, inner, 3, name="in"), inner, "bn")
    out = net.conv(net.conv(z, inner, inner, 3, group=inner, name="depthwise"), inner, width, name="out")
    return net.model(net.pooled(net.node("Add", stream, out), width))


def applied(model: ir.Model, folder, layers=None, **given):
    subject, chosen = subject_of(model, folder, samples=random_samples(model, 8)), WidthSettings(**given)
    legal = Width().legal(subject, chosen)
    wanted = [name for name, why in legal.items() if why is None and (layers is None or name in layers)]
    return subject, Width().apply(subject, wanted, chosen), legal


def of_size(name: str, size: int, each: int = 1, kind="channels", first: int = 0) -> Group:
    places = first + np.arange(size * each).reshape(size, each)
    return Group(name=name, kind=kind, size=size, members=(), producers={name: places}, consumers={})


def test_the_least_important_by_l1_over_all_who_add_to_the_stream_go(tmp_path):
    model = residual()
    total = np.zeros(8)
    for name in ("stem", "out"):
        sums = np.abs(weight(model, f"{name}.weight")).sum(axis=(1, 2, 3))
        total += sums / sums.mean()
    gone = np.sort(np.argsort(total)[:2])
    subject, outcome, legal = applied(model, tmp_path, amount=0.25, criterion="l1")
    assert {name: why and why.code for name, why in legal.items()} == {
        "stem": None, "in": None, "depthwise": None, "out": None, "head": "output",
    }  # fmt: skip
    changes = {change.layer: change for change in outcome.changes}
    assert changes["stem"].removed == {"stem.weight/0": tuple(gone), "stem.bias/0": tuple(gone)}
    assert (changes["stem"].shape_before, changes["stem"].shape_after) == ((8, 3, 1, 1), (6, 3, 1, 1))
    assert changes["head"].removed == {"head.weight/1": tuple(gone)}
    assert changes["head"].what == "6 of 8 input channels left"
    assert "bn" in changes
    kept = np.setdiff1d(np.arange(8), gone)
    np.testing.assert_array_equal(subject.kept["stem.out"][1], kept)
    np.testing.assert_array_equal(subject.kept["out.weight"][0], kept)
    assert outcome.figures == {"groups": 2, "groups_cut": 2, "units": 14, "units_removed": 4}


def test_the_result_is_the_original_with_zeros(tmp_path):
    model = residual()
    original, groups = ir.from_proto(ir.to_proto(model)), channel_groups(model).groups
    subject, _, _ = applied(model, tmp_path, amount=0.5)
    cuts = [(group, group_kept(subject, group)) for group in groups]
    inputs = inputs_of(model)
    assert_close(run_ort(model, inputs), run_ort(masked(original, cuts), inputs))


def group_kept(subject, group: Group) -> np.ndarray:
    layer, places = next(iter(group.producers.items()))
    left = subject.kept[f"{layer}.weight"][0]
    return np.array([unit for unit, channels in enumerate(places) if np.isin(channels, left).all()])


def test_books_of_two_cuts_count_in_the_original(tmp_path):
    model = residual(width=12)
    subject, _, _ = applied(model, tmp_path, amount=0.5)
    first = subject.kept["stem.weight"][0].copy()
    chosen = WidthSettings(amount=0.5, kinds=("channels",))
    second = Width().apply(subject, ["stem", "out"], chosen)
    assert len(subject.kept["stem.weight"][0]) == 3
    removed = next(change for change in second.changes if change.layer == "stem").removed["stem.weight/0"]
    np.testing.assert_array_equal(subject.kept["stem.weight"][0], np.delete(first, removed))
    np.testing.assert_array_equal(
        weight(model, "stem.weight"), weight(subject.original, "stem.weight")[subject.kept["stem.weight"][0]]
    )


def test_a_group_goes_only_if_all_who_make_it_were_asked_for_and_depthwise_follows(tmp_path):
    _, outcome, _ = applied(residual(), tmp_path, layers=["in", "out"], amount=0.5)
    assert {change.layer for change in outcome.changes} == {"in", "bn", "depthwise", "out"}
    assert [(left.layer, left.reason.code) for left in outcome.left_alone] == [("out", "coupled")]
    assert "stem" in outcome.left_alone[0].reason.why


def test_kinds_and_minimum_are_reasons(tmp_path):
    net = Net(BATCH, TOKENS, WIDTH)
    q, k, v = (heads_of(net, net.linear("x", WIDTH, 4 * DIM, name), 4) for name in "qkv")
    y = net.node("Add", joined(net, attended(net, q, k, v), 4), "x")
    model = net.model(net.linear(net.node("Relu", net.linear(y, WIDTH, 10, "up")), 10, WIDTH, "down"))
    subject = subject_of(model, tmp_path)
    columns = Width().legal(subject, WidthSettings(amount=0.5, kinds=("columns",)))
    assert {name: why and why.code for name, why in columns.items()} == {
        "q": "kind", "k": "kind", "v": "kind", "o": "tied", "up": None, "down": "output",
    }  # fmt: skip
    assert Width().legal(subject, WidthSettings(amount=0.5, minimum=4))["q"].code == "minimum"
    outcome = Width().apply(subject, ["q", "k", "v", "up"], WidthSettings(amount=0.5))
    changes = {change.layer: change for change in outcome.changes}
    assert changes["q"].what == "8 of 16 output channels left (2 of 4 heads)"
    assert set(changes["q"].removed) == {"q.weight/1", "q.bias/0"}  # the Add behind belongs to its layer
    assert changes["up"].what == "5 of 10 output channels left (5 of 10 columns)"


def test_widths_are_the_layers_and_what_does_not_fit_is_left_alone(tmp_path):
    model = residual(width=8, inner=6)
    _, outcome, _ = applied(model, tmp_path, amount=0.5, widths=(5, 7))
    assert weight(model, "stem.weight").shape[0] == 5
    assert weight(model, "in.weight").shape[0] == 5
    model = residual(width=8, inner=6)
    _, outcome, _ = applied(model, tmp_path, amount=0.25, widths=(7,))
    assert weight(model, "stem.weight").shape[0] == 7
    assert weight(model, "in.weight").shape[0] == 6
    assert {left.layer: left.reason.code for left in outcome.left_alone} == {"in": "no_width", "depthwise": "no_width"}


def test_a_padded_stage_gets_a_width_that_fits_although_it_is_of_several_groups(tmp_path):
    net = Net(1, 3, 8, 8)
    narrow = net.node("Relu", net.conv("x", 3, 16, name="stem"))
    wide = net.conv(narrow, 16, 32, 3, name="wide", strides=[2, 2])
    halved = net.node("AveragePool", narrow, kernel_shape=[2, 2], strides=[2, 2])
    pads = net.constant(np.array([0, 8, 0, 0, 0, 8, 0, 0], np.int64))
    model = net.model(net.pooled(net.node("Add", wide, net.node("Pad", halved, pads)), 32))
    applied(model, tmp_path, amount=0.6, multiple_of=8)
    assert weight(model, "stem.weight").shape[0] == 8  # 6 are left, rounded up
    assert weight(model, "wide.weight").shape[0] == 16  # 8 of the stem, and of the 6 more that are left 8
    assert np.isfinite(run_ort(model, inputs_of(model))[0]).all()


def test_ranked_over_all_groups_the_weakest_go_first(tmp_path):
    net = Net(1, 3, 6, 6)
    y = net.conv(net.conv("x", 3, 8, name="one"), 8, 8, name="two")
    model = net.model(net.pooled(y, 8))
    spread = weight(model, "one.weight") * np.where(np.arange(8) < 4, 1e-3, 1)[:, None, None, None]
    model.graph.initializers["one.weight"].const_value = ir.tensor(spread.astype(np.float32), name="one.weight")
    _, outcome, _ = applied(model, tmp_path, amount=0.25, scope="global")
    assert outcome.figures["units_removed"] == 4
    assert weight(model, "one.weight").shape[0] == 4
    assert weight(model, "two.weight").shape[0] == 8


@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=4),
    amount=st.floats(0.01, 0.99),
    minimum=st.integers(1, 3),
    multiple=st.integers(1, 16),
    seed=st.integers(0, 9),
)
@settings(max_examples=100, deadline=None)
def test_what_is_kept_fits_and_is_never_less_than_asked(sizes, amount, minimum, multiple, seed):
    rng = np.random.default_rng(seed)
    groups = [of_size(f"g{index}", size) for index, size in enumerate(sizes)]
    scores = {group.name: rng.random(group.size) for group in groups}
    widths = {group.name: group.size for group in groups}
    ranked = keep_ranked(scores, amount, minimum)
    left = sum(sizes) - sum(ranked.values())
    assert left == min(int(np.floor(amount * sum(sizes) + 0.5)), sum(max(0, size - minimum) for size in sizes))
    for wanted in (keep_each(scores, amount), ranked):
        counts = fitted(groups, wanted, Edges(widths=(), multiple_of=multiple, minimum=minimum), widths)
        for group in groups:
            least = min(group.size, max(1, minimum, wanted[group.name]))
            assert counts[group.name] >= least
            assert counts[group.name] == group.size or counts[group.name] % multiple == 0
            assert counts[group.name] - least < multiple


def test_channels_beside_the_group_count_in_its_layers_width():
    one, row = of_size("a", 8), np.arange(8).reshape(8, 1)
    two = Group(name="b", kind="channels", size=8, members=(), producers={"b": row + 8, "a2": row}, consumers={})
    edges = Edges(widths=(12,), multiple_of=1, minimum=1)
    assert fitted([one], {"a": 5}, edges, {"a": 14})["a"] == 6  # six others in the layer
    assert isinstance(fitted([two], {"b": 5}, edges, {"b": 8, "a2": 8})["b"], Missing)
    heads = of_size("h", 4, each=64, kind="heads")
    assert fitted([heads], {"h": 3}, Edges(widths=(), multiple_of=2, minimum=1), {"h": 256})["h"] == 4


def test_scores_of_units_are_means_over_layers_of_their_own_scale():
    places = np.array([[0, 1], [2, 3]])
    group = Group(name="a", kind="heads", size=2, members=(), producers={"a": places, "b": places}, consumers={})
    scores = {"a": np.array([1.0, 1, 3, 3]), "b": np.array([500.0, 500, 100, 100])}
    np.testing.assert_allclose(unit_scores(group, scores), [(0.5 + 10 / 6) / 2, (1.5 + 2 / 6) / 2])
    np.testing.assert_array_equal(unit_scores(group, {"a": np.zeros(4)}), [0, 0])


def test_criteria_that_cannot_score_a_layer_are_reasons(tmp_path):
    model = residual()
    legal = Width().legal(subject_of(model, tmp_path), WidthSettings(amount=0.5, criterion="bn-gamma"))
    assert legal["stem"].code == "no_batch_norm"
    assert legal["in"] is None
    assert legal["depthwise"] is None  # it follows "in", which can be scored


@pytest.mark.parametrize("criterion", ["random", "l2", "fpgm", "activation", "taylor"])
def test_criteria_of_all_sorts(criterion, tmp_path):
    model = residual()
    applied(model, tmp_path, amount=0.25, criterion=criterion)
    assert weight(model, "head.weight").shape == (3, 6)
    assert np.isfinite(run_ort(model, inputs_of(model))[0]).all()


@pytest.mark.parametrize(
    "wrong",
    [{"amount": 0.0}, {"amount": 1.0}, {"criterion": "best"}, {"kinds": ()}, {"minimum": 0}, {"multiple_of": 0},
     {"widths": (0,)}, {"widths": (8,), "multiple_of": 8}],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UsageError):
        WidthSettings(**{"amount": 0.5, **wrong})


def test_two_networks_cut_with_one_seed_are_the_same(tmp_path):
    made = []
    for _ in range(2):
        model = residual()
        applied(model, tmp_path, amount=0.5, criterion="random")
        made.append(weight(model, "stem.weight"))
    np.testing.assert_array_equal(*made)


def test_asking_for_units_that_are_not_there_changes_nothing():
    model = residual()
    group = group_of(model, "stem")
    from hwbench.structure.cut import cut

    for keep in ([], [8], [-1], [0.5]):
        with pytest.raises(UsageError):
            cut(model, group, np.array(keep))
    assert weight(model, "stem.weight").shape[0] == 8
    cut(model, group, np.arange(3))
    with pytest.raises(UsageError, match="larger"):
        cut(model, group, np.arange(3))
