"""Sharing: what has a codebook of its own, zeros that stay, what is said of size, and that no more is claimed."""

import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
from compress_subjects import imported, run_ort, subject_of
from factor_graphs import conv, given, plain_grams, product
from onnx import helper

from hwbench.compress.codebooks import read, write
from hwbench.compress.methods.share import Share, ShareSettings
from hwbench.data.samples import Samples
from hwbench.errors import UsageError
from hwbench.graph.linear import linear_layers
from hwbench.graph.onnx_file import infer_shapes

METHOD = Share()


def applied(subject, layers=None, **given_settings):
    settings = ShareSettings(**given_settings)
    legal = [name for name, reason in METHOD.legal(subject, settings).items() if reason is None]
    return METHOD.apply(subject, legal if layers is None else layers, settings)


def weight(subject, name="w"):
    return subject.model.graph.initializers[name].const_value.numpy()


def two_convs(**arrays):
    """Two convolutions, ``one`` with weights ``w1`` and ``two`` with ``w2``."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["t"], name="one", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["t", arrays.get("second", "w2")], ["y"], name="two", pads=[1, 1, 1, 1]),
    ]
    w1 = arrays.get("w1", graphs.random_array(8, 8, 3, 3, seed=1))
    weights = [graphs.weight("w1", w1)]
    if "second" not in arrays:
        weights.append(graphs.weight("w2", arrays.get("w2", 5 * graphs.random_array(8, 8, 3, 3, seed=2))))
    x, y = graphs.tensor("x", [2, 8, 6, 6]), graphs.tensor("y", [2, 8, 6, 6])
    return infer_shapes(ir.from_proto(graphs.model(nodes, [x], [y], weights)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"bits": 1}, "2 to 8"),
        ({"bits": 9}, "2 to 8"),
        ({"tied": ("a",), "scope": "global"}, "one codebook together"),
        ({"tied": ("(",)}, "no regular expression"),
    ],
)
def test_wrong_settings_are_refused(wrong, said):
    with pytest.raises(UsageError, match=said):
        ShareSettings(**wrong)


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_a_layer_has_two_to_the_bits_values_and_is_nearest_to_them(tmp_path, bits):
    subject = subject_of(conv(outputs=16, inputs=16), tmp_path)
    before = weight(subject).copy()
    outcome = applied(subject, bits=bits)
    after = weight(subject)
    values = np.unique(after)
    assert len(values) == 2**bits
    nearest = values[np.abs(before[..., None] - values).argmin(-1)]
    assert np.abs(np.abs(before - after) - np.abs(before - nearest)).max() == 0
    (change,) = outcome.changes
    assert change.bits_per_weight == bits + 2**bits * 32 / before.size == subject.bits["w"]
    assert outcome.figures["packed_bytes"] * 8 == bits * before.size + 2**bits * 32
    assert outcome.figures["huffman_bytes"] <= outcome.figures["packed_bytes"]
    assert outcome.notes == ["size only: no kernel executes codebooks; latency unchanged"]


def test_more_bits_lose_less_and_the_best_start_loses_least(tmp_path):
    def lost(**given_settings):
        subject = subject_of(conv(outputs=16, inputs=16, seed=3), tmp_path)
        before = weight(subject).copy()
        applied(subject, **given_settings)
        return float(((weight(subject) - before) ** 2).sum())

    by_bits = [lost(bits=bits) for bits in range(2, 8)]
    assert by_bits == sorted(by_bits, reverse=True)
    exact = lost(bits=4, init="exact")
    assert all(exact <= lost(bits=4, init=init) for init in ("linear", "density", "kmeans++"))
    assert exact == lost(bits=4), "auto is exact for a layer this small"


@pytest.mark.parametrize("scope", ["channel", "position"])
def test_each_channel_or_position_has_its_own_values(tmp_path, scope):
    subject = subject_of(conv(outputs=4, inputs=80), tmp_path)
    whole = subject_of(conv(outputs=4, inputs=80), tmp_path)
    before = weight(subject).copy()
    outcome = applied(subject, bits=3, scope=scope)
    applied(whole, bits=3)
    after = weight(subject)
    parts = after if scope == "channel" else after.reshape(4, 80, 9).transpose(2, 0, 1)
    assert all(len(np.unique(part)) == 8 for part in parts)
    assert ((after - before) ** 2).sum() < ((weight(whole) - before) ** 2).sum()
    books = 4 if scope == "channel" else 9
    assert outcome.changes[0].bits_per_weight == pytest.approx(3 + books * 8 * 32 / before.size)
    assert subject.codebooks["w"].axes == ((0,) if scope == "channel" else (2, 3))


@pytest.mark.parametrize(("transposed", "axis"), [(True, 0), (False, 1)])
def test_channels_of_a_product_lie_where_the_node_has_them(tmp_path, transposed, axis):
    subject = subject_of(product(outputs=5, inputs=300, transposed=transposed), tmp_path)
    applied(subject, bits=2, scope="channel")
    assert all(len(np.unique(part)) == 4 for part in np.moveaxis(weight(subject), axis, 0))


def test_global_and_tied_layers_have_one_codebook(tmp_path):
    subject = subject_of(two_convs(), tmp_path)
    outcome = applied(subject, bits=4, scope="global")
    assert len(np.unique(np.concatenate([weight(subject, name).ravel() for name in ("w1", "w2")]))) == 16
    assert outcome.changes[0].bits_per_weight == pytest.approx(4 + 16 * 32 / 1152)
    assert "1 other weight" in outcome.changes[0].what
    tied = subject_of(two_convs(), tmp_path)
    applied(tied, bits=4, tied=("one|two",))
    assert np.array_equal(weight(tied, "w1"), weight(subject, "w1"))
    with pytest.raises(UsageError, match="two or more can share"):
        applied(subject_of(two_convs(), tmp_path), bits=4, tied=("one",))


def test_a_tensor_that_two_layers_read_is_shared_once_and_told_for_both(tmp_path):
    subject = subject_of(two_convs(second="w1"), tmp_path)
    outcome = applied(subject, bits=3)
    assert [change.layer for change in outcome.changes] == ["one", "two"]
    assert outcome.figures["weights"] == 576
    assert set(subject.model.graph.initializers) == {"w1"}


def test_zeros_stay_zero_where_they_are_held_or_many(tmp_path):
    rng = np.random.default_rng(0)
    array = rng.standard_normal((8, 8, 3, 3)).astype(np.float32)
    array[rng.random(array.shape) < 0.6] = 0
    few = rng.standard_normal((8, 8, 3, 3)).astype(np.float32)
    few[0, 0, 0, 0] = 0
    subject = subject_of(two_convs(w1=array, w2=few), tmp_path)
    outcome = applied(subject, bits=2)
    assert ((weight(subject, "w1") == 0) == (array == 0)).all()
    assert len(np.unique(weight(subject, "w1"))) == 4, "zero is one of the four"
    assert outcome.changes[0].zeros == pytest.approx((array == 0).mean())
    assert weight(subject, "w2")[0, 0, 0, 0] != 0
    held = subject_of(two_convs(w1=array, w2=few), tmp_path)
    held.held_zeros.add("w2")
    applied(held, bits=2)
    assert weight(held, "w2")[0, 0, 0, 0] == 0
    assert len(np.unique(weight(held, "w2"))) <= 4


def test_few_values_are_kept_as_they_are_and_all_zeros_too(tmp_path):
    few = np.random.default_rng(0).choice(np.array([-1.5, 0, 0.25], np.float32), (8, 8, 3, 3))
    subject = subject_of(two_convs(w1=few, w2=np.zeros((8, 8, 3, 3), np.float32)), tmp_path)
    outcome = applied(subject, bits=4)
    assert weight(subject, "w1").tobytes() == few.tobytes()
    assert not weight(subject, "w2").any()
    assert [change.bits_per_weight for change in outcome.changes] == [2 + 3 * 32 / 576, 32 / 576]


def test_a_codebook_that_costs_more_than_it_saves_is_refused(tmp_path):
    legal = METHOD.legal(subject_of(conv(outputs=4, inputs=1, kernel=(3, 3)), tmp_path), ShareSettings(bits=6))
    assert legal["conv"].code == "no_gain"
    assert "36 indices" in legal["conv"].why
    wide = METHOD.legal(subject_of(conv(outputs=64, inputs=1), tmp_path), ShareSettings(bits=4, scope="channel"))
    assert wide["conv"].code == "no_gain"


def test_important_weights_are_kept_better(tmp_path, monkeypatch):
    plain_grams(monkeypatch)
    model = product(outputs=40, inputs=30, lead=(4,))
    x = given(model, count=64)["x"] * np.geomspace(0.01, 10, 30).astype(np.float32)
    samples = Samples(inputs={"x": x}, labels=None, batch=4)

    def error(**given_settings):
        subject = subject_of(ir.from_proto(ir.to_proto(model)), tmp_path, samples=samples)
        outcome = applied(subject, bits=3, **given_settings)
        batch = {"x": x[:4]}
        off = run_ort(subject.model, batch)[0] - run_ort(model, batch)[0]
        return float((off**2).sum()), outcome.changes[0].error

    plain, none = error()
    weighted, told = error(importance="inputs")
    assert none is None
    assert weighted < plain
    assert 0 < told < 1
    with pytest.raises(UsageError, match="needs samples"):
        applied(subject_of(model, tmp_path), importance="inputs")


def test_half_precision_has_codebooks_of_half_precision(tmp_path):
    subject = subject_of(conv(outputs=16, inputs=16, dtype=np.float16), tmp_path)
    (change,) = applied(subject, bits=4).changes
    assert weight(subject).dtype == np.float16
    assert len(np.unique(weight(subject))) == 16
    assert change.bits_per_weight == 4 + 16 * 16 / 2304


@pytest.fixture(scope="module")
def resnet8(tmp_path_factory):
    return imported("zoo:resnet8", tmp_path_factory.mktemp("resnet8"), batch=1)


@pytest.mark.parametrize("scope", ["global", "layer", "channel", "position"])
def test_a_whole_network_is_packed_into_a_file_and_comes_back(tmp_path, scope, resnet8):
    subject = subject_of(ir.from_proto(ir.to_proto(resnet8)), tmp_path)
    outcome = applied(subject, bits=4, scope=scope, init="linear")
    assert len(outcome.changes) >= 3
    assert outcome.figures["packed_bytes"] < 0.35 * outcome.figures["bytes_before"]
    path = tmp_path / "codebooks.npz"
    names = write(subject.model, subject.codebooks, path)
    assert set(names) == set(subject.codebooks)
    back = read(path)
    assert all(back[name].tobytes() == weight(subject, name).tobytes() for name in names)
    assert path.stat().st_size < 0.4 * outcome.figures["bytes_before"]


def test_a_network_of_deep_compression_is_taken_without_loss(tmp_path):
    """Han's SqueezeNet: each layer has at most 256 values, a third of its weights; packed, the same bits come back."""
    from benchmarks.real_tasks import DATA

    path = DATA / "imagenet" / "squeezenet_v1.0_deep_compressed.onnx"
    if not path.exists():
        pytest.skip("needs the shared data")
    subject = subject_of(imported(str(path), tmp_path, batch=1), tmp_path)
    layers = [layer for layer in linear_layers(subject.model) if hasattr(layer, "weight")]
    distinct = {layer.name: len(np.unique(layer.weight)) for layer in layers}
    assert len(distinct) == 26
    assert max(distinct.values()) <= 256
    dense = sum(np.count_nonzero(layer.weight) for layer in layers) / sum(layer.weight.size for layer in layers)
    assert dense == pytest.approx(0.334, abs=0.002)
    before = {value.name: value.const_value.numpy().tobytes() for value in subject.model.graph.initializers.values()}
    outcome = applied(subject, bits=8)
    assert len(outcome.changes) == 26
    after = {value.name: value.const_value.numpy().tobytes() for value in subject.model.graph.initializers.values()}
    assert before == after
