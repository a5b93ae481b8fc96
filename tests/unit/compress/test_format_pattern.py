from __future__ import annotations

import numpy as np
import pytest
from compress_graphs import one_layer, small_cnn
from compress_subjects import random_samples, subject_of
from sparse_examples import Strips, with_strips

from hwbench.compress.format_pattern import OfFormat
from hwbench.compress.methods.gradual import Gradual, GradualSettings
from hwbench.compress.methods.prune import Prune, PruneSettings
from hwbench.compress.methods.sparsegpt import SparseGpt, SparseGptSettings
from hwbench.compress.patterns import parse_pattern
from hwbench.compress.surgeon import damped, lost, refit, sweep
from hwbench.errors import UsageError
from hwbench.sparse.formats import FORMATS

PATTERN = "format:strips"


@pytest.fixture(autouse=True)
def _strips(monkeypatch):
    with_strips(monkeypatch)


def carried_out(method, asked, subject):
    legal = method.legal(subject, asked)
    return legal, method.apply(subject, [name for name, why in legal.items() if why is None], asked)


def packs(layer):
    """What is left of a layer's weights goes through its format and back."""
    matrix = layer.blocks().reshape(layer.blocks().shape[1], -1)
    packed = FORMATS["strips"].pack(matrix)
    np.testing.assert_allclose(FORMATS["strips"].unpack(packed), matrix, rtol=2**-10, atol=1e-7)
    return packed


def test_a_format_is_a_pattern_and_is_written_as_it_was_read():
    assert parse_pattern(PATTERN) == OfFormat("strips")
    assert str(parse_pattern(PATTERN)) == PATTERN
    with pytest.raises(UsageError, match="no sparse format 'stripes'"):
        parse_pattern("format:stripes")


@pytest.mark.parametrize(("op", "shape", "x"), [
    ("Conv", (8, 6, 3, 3), (2, 6, 5, 5)), ("MatMul", (12, 8), (2, 12)), ("Conv", (16, 8, 1, 1), (2, 8, 4, 4)),
])  # fmt: skip
def test_prune_keeps_what_the_format_holds_and_tells_the_bytes(op, shape, x, tmp_path):
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    subject = subject_of(one_layer(op, weight, x), tmp_path)
    _, out = carried_out(Prune(), PruneSettings(pattern=PATTERN, amount=0.5), subject)
    packed = packs(subject.layers()["layer"])
    change = out.changes[0]
    assert change.zeros == pytest.approx(0.5, abs=0.05)
    assert f"{packed.bytes} bytes packed as strips" in change.what
    assert change.bits_per_weight == pytest.approx(8 * packed.bytes / weight.size)
    assert subject.bits["w"] == change.bits_per_weight
    assert subject.held_zeros == {"w"}


def test_prune_keeps_the_strips_of_the_largest_scores(tmp_path):
    weight = np.random.default_rng(1).normal(size=(8, 20)).astype(np.float32)
    subject = subject_of(one_layer("Gemm", weight, (2, 20), transB=1), tmp_path)
    carried_out(Prune(), PruneSettings(pattern=PATTERN, amount=0.5), subject)
    found = subject.layers()["layer"].weight != 0
    strips = np.abs(weight).reshape(2, 4, 20).sum(1)
    for strip, kept in zip(strips, found.reshape(2, 4, 20).all(1), strict=True):
        assert kept.sum() == 10
        assert strip[kept].min() > strip[~kept].max()


def test_layers_the_format_does_not_take_are_left_with_the_reason(tmp_path):
    subject = subject_of(small_cnn(), tmp_path)  # 6 channels, 6 channels, 5 classes
    legal = Prune().legal(subject, PruneSettings(pattern=PATTERN, amount=0.5))
    assert {why.code for why in legal.values()} == {"format_refuses"}
    weight = np.ones((8, 2, 3, 3))
    grouped = subject_of(one_layer("Conv", weight, (1, 8, 5, 5), group=4), tmp_path)
    assert Prune().legal(grouped, PruneSettings(pattern=PATTERN, amount=0.5))["layer"].code == "groups"


@pytest.mark.parametrize("how", [
    {}, {"threshold": 0.1}, {"amount": 0.5, "scope": "global"}, {"amount": 0.5, "scope": "output"},
])  # fmt: skip
def test_prune_refuses_settings_that_a_format_has_no_use_for(how):
    with pytest.raises(UsageError):
        PruneSettings(pattern=PATTERN, **how)


def test_a_fraction_that_the_format_cannot_have_is_refused(tmp_path):
    subject = subject_of(one_layer("MatMul", np.ones((12, 8)), (2, 12)), tmp_path)
    with pytest.raises(UsageError, match=r"amount=0.97: strips keep a twentieth"):
        carried_out(Prune(), PruneSettings(pattern=PATTERN, amount=0.97), subject)


def test_the_sweep_keeps_the_strips_and_lies_between_zeroing_them_and_the_exact_answer():
    rng = np.random.default_rng(2)
    weights, x = rng.normal(size=(8, 24)), rng.normal(size=(200, 24)) @ rng.normal(size=(24, 24))
    gram = x.T @ x / len(x)
    found = sweep(weights, damped(gram, 0.01), OfFormat("strips"), 0.5, 1)
    gone = found == 0
    assert gone.mean() == 0.5
    assert np.array_equal(gone.reshape(2, 4, 24).all(1), gone.reshape(2, 4, 24).any(1))
    exact = refit(weights, gone, gram)
    assert lost(weights, exact, gram) < lost(weights, found, gram) < lost(weights, np.where(gone, 0, weights), gram)


def test_sparsegpt_prunes_for_the_format(tmp_path):
    weight = np.random.default_rng(0).normal(size=(8, 6, 3, 3)).astype(np.float32)
    model = one_layer("Conv", weight, (4, 6, 6, 6))
    subject = subject_of(model, tmp_path, samples=random_samples(model, 16))
    _, out = carried_out(SparseGpt(), SparseGptSettings(pattern=PATTERN, amount=0.5), subject)
    packed = packs(subject.layers()["layer"])
    assert out.changes[0].zeros == pytest.approx(0.5, abs=0.05)
    assert f"{packed.bytes} bytes" in out.changes[0].what
    with pytest.raises(UsageError, match="exact takes single weights"):
        SparseGptSettings(pattern=PATTERN, amount=0.5, exact=True)


def test_gradual_prunes_for_the_format(tmp_path):
    weight = np.random.default_rng(0).normal(size=(8, 6, 3, 3)).astype(np.float32)
    model = one_layer("Conv", weight, (4, 6, 6, 6))
    subject = subject_of(model, tmp_path, samples=random_samples(model, 16))
    asked = GradualSettings(pattern=PATTERN, amount=0.5, epochs=2, learning_rate=1e-3, updates=4)
    _, out = carried_out(Gradual(), asked, subject)
    packed = packs(subject.layers()["layer"])
    assert out.changes[0].zeros >= 0.5
    assert f"{packed.bytes} bytes" in out.changes[0].what
    with pytest.raises(UsageError, match="scope=global"):
        GradualSettings(pattern=PATTERN, amount=0.5, scope="global")


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_what_a_format_of_ours_keeps_it_packs(name, tmp_path):
    """Every format that ships, on a layer of 64 x 256, at half of the weights."""
    weight = np.random.default_rng(3).normal(size=(64, 256)).astype(np.float32)
    subject = subject_of(one_layer("Gemm", weight, (2, 256), transB=1), tmp_path)
    asked = PruneSettings(pattern=f"format:{name}", amount=0.5)
    try:
        legal, out = carried_out(Prune(), asked, subject)
    except UsageError as error:
        pytest.skip(f"a dense format: {error.message}")
    assert legal["layer"] is None
    found = subject.layers()["layer"].weight
    format_ = FORMATS[name]
    packed = format_.pack(found)
    assert out.changes[0].bits_per_weight == pytest.approx(8 * packed.bytes / found.size)
    back = format_.unpack(packed)
    assert not back[found == 0].any()
    assert isinstance(format_, Strips) or 0.3 < out.changes[0].zeros < 0.7


METHODS = {
    "prune": (Prune, PruneSettings, {}),
    "sparsegpt": (SparseGpt, SparseGptSettings, {}),
    "gradual": (Gradual, GradualSettings, {"epochs": 1, "learning_rate": 1e-3, "updates": 2}),
}


@pytest.mark.parametrize(("name", "method"), [
    (name, method) for name in ("vw16_int8", "s24_int8", "bsr16", "bitmap") for method in METHODS
    if (name, method) != ("s24_int8", "gradual")  # the fraction grows, and s24 knows one half alone
])  # fmt: skip
def test_the_network_has_the_weights_that_the_kernel_multiplies_by(name, method, tmp_path):
    weight = np.random.default_rng(3).normal(size=(32, 64)).astype(np.float32)
    model = one_layer("Gemm", weight, (4, 64), transB=1)
    subject = subject_of(model, tmp_path, samples=random_samples(model, 16))
    make, settings, more = METHODS[method]
    _, out = carried_out(make(), settings(pattern=f"format:{name}", amount=0.5, **more), subject)
    found, format_ = subject.layers()["layer"].weight, FORMATS[name]
    packed = format_.pack(found)
    np.testing.assert_allclose(format_.unpack(packed), found, rtol=1e-6, atol=0)
    held = next(change for change in out.changes if change.layer == "layer")
    assert held.bits_per_weight == pytest.approx(8 * packed.bytes / found.size)
    if name.endswith("int8"):
        assert max(len(np.unique(np.abs(row))) for row in found) <= 128


def test_the_error_that_sparsegpt_tells_has_the_rounding_of_the_format_in_it(tmp_path):
    """Two of four are zero already: nothing is lost but what int8 loses."""
    weight = np.random.default_rng(3).normal(size=(16, 64)).astype(np.float32) * np.tile([1, 0, 1, 0], 16)
    model = one_layer("Gemm", weight.astype(np.float32), (4, 64), transB=1)
    errors = {}
    for name in ("s24", "s24_int8"):
        (tmp_path / name).mkdir()
        subject = subject_of(model, tmp_path / name, samples=random_samples(model, 16))
        errors[name] = carried_out(SparseGpt(), SparseGptSettings(pattern=f"format:{name}", amount=0.5), subject)[1]
    assert 1e-9 < errors["s24"].changes[0].error < 1e-6 < errors["s24_int8"].changes[0].error < 1e-3


@pytest.mark.parametrize("name", ["vw16", "s24", "bitmap"])
def test_weights_that_a_format_cannot_hold_are_refused_with_the_layer_and_the_reason(name, tmp_path):
    weight = np.random.default_rng(3).normal(size=(32, 64)).astype(np.float32)
    weight[3, 4] = 1e6
    subject = subject_of(one_layer("Gemm", weight, (2, 64), transB=1), tmp_path)
    with pytest.raises(UsageError, match=f"layer: the weights cannot be packed as {name}"):
        carried_out(Prune(), PruneSettings(pattern=f"format:{name}", amount=0.5), subject)
