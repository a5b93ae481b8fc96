import dataclasses

import numpy as np
import pytest
from stitched_nets import bench, mixed_net, small_samples
from structure_graphs import Net

torch = pytest.importorskip("torch", reason="patches are put into the torch view")
stats = pytest.importorskip("scipy.stats", reason="an entropy that is not ours")

from hwbench.errors import ModelError  # noqa: E402
from hwbench.plan.designs import design_of  # noqa: E402
from hwbench.records.base import Missing  # noqa: E402
from hwbench.records.planning import Design  # noqa: E402
from hwbench.sensitivity.patches import Patch  # noqa: E402
from hwbench.sensitivity.stitch import Stitch  # noqa: E402


def scores(stitch, patch):
    with torch.no_grad(), stitch.flow.patched(patch):
        found = [stitch.flow.outputs(stitch.flow.run(each.values, 0, patch))[0] for each in stitch.batches]
    return torch.cat(found).double().numpy()


def scaled(net):
    """A linear layer on top of nothing, whose output is scores of classes."""
    flat = net.node("Flatten", "x")
    return net.model(net.gemm(flat, 12, 5, "head"))


def test_divergence_agreement_and_accuracy_by_scipy():
    model = scaled(Net(4, 3, 4, seed=3))
    samples = small_samples(model, 16, classes=5)
    network, _, composer = bench(model, samples=samples, ranges=True)
    stitch = Stitch(network)
    patch = composer.compose(Design(schemes={"head": "int8"}))
    p, q = (
        np.exp(each) / np.exp(each).sum(1, keepdims=True) for each in (scores(stitch, Patch()), scores(stitch, patch))
    )
    found = stitch.judge(patch, what="int8")
    assert found.n == 16
    assert found.divergence == pytest.approx(float(np.mean(stats.entropy(p, q, axis=1))), rel=1e-6)
    assert found.agreement == np.mean(p.argmax(1) == q.argmax(1))
    assert found.accuracy == np.mean(q.argmax(1) == samples.labels)
    few = stitch.judge(patch, what="int8", samples=5)
    assert few.n == 8
    assert few.divergence == pytest.approx(float(np.mean(stats.entropy(p[:8], q[:8], axis=1))), rel=1e-6)


@pytest.mark.parametrize("classes", [True, False])
def test_of_pairs_the_accuracy_is_the_order_of_their_cosines(classes):
    """What the certificate is of: an output that only looks like scores of classes is not judged by its largest."""
    if classes:
        model = scaled(Net(4, 3, 4, seed=3))
    else:
        net = Net(4, 3, 6, 6)
        model = net.model(net.conv(net.node("Relu", net.conv("x", 3, 16, 3, name="one")), 16, 4, name="head"))
    samples = small_samples(model, 16)
    labels = np.random.default_rng(0).uniform(0, 5, 8)
    network, _, composer = bench(model, samples=dataclasses.replace(samples, labels=labels), ranges=True)
    stitch = Stitch(network)
    patch = composer.compose(Design(schemes={"head": "int8"}))
    vectors = scores(stitch, patch).reshape(16, -1)
    a, b = vectors[::2], vectors[1::2]
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    found = stitch.judge(patch, what="int8")
    assert found.accuracy == pytest.approx(stats.spearmanr(cosines, labels).statistic, abs=1e-6)
    few = stitch.judge(patch, what="int8", samples=8)
    assert few.accuracy == pytest.approx(stats.spearmanr(cosines[:4], labels[:4]).statistic, abs=1e-6)
    assert stitch.judge(patch, what="int8", samples=4).accuracy.code == "too_few"
    assert found.divergence > 0


def test_the_original_loses_nothing():
    network, _, composer = bench(mixed_net())
    stitch = Stitch(network)
    found = stitch.judge(composer.compose(Design()), what="the original")
    assert found.divergence == 0.0


def test_an_output_without_classes_is_held_against_by_its_size():
    net = Net(2, 3, 6, 6)
    model = net.model(net.conv(net.node("Relu", net.conv("x", 3, 16, 3, name="one")), 16, 4, name="two"))
    network, _, composer = bench(model)
    stitch = Stitch(network)
    patch = composer.compose(Design(widths={"one": 8}))
    y, z = scores(stitch, Patch()), scores(stitch, patch)
    found = stitch.judge(patch, what="narrow")
    assert stitch.measure == "relative"
    assert found.divergence == pytest.approx(((z - y) ** 2).sum() / (y**2).sum(), rel=1e-9)
    assert isinstance(found.agreement, Missing)


def test_from_a_cut_on_gives_the_same_bits():
    model = mixed_net()
    network, space, composer = bench(model, samples=small_samples(model, 4), ranges=True)
    stitch = Stitch(network)
    designs = [design_of(space, {site.name: 1}) for site in space.sites]
    patches = [composer.compose(design) for design in designs]
    stitch.cut_at([stitch.flow.start(patch) for patch in patches])
    begun = [stitch.prefixed(patch) for patch in patches]
    assert sum(begun) > len(patches) / 2
    for patch in patches:
        assert stitch.judge(patch, what="it") == stitch.judge(patch, what="it", prefix=False)


def test_cuts_keep_to_their_memory_and_save_what_they_can():
    network, space, composer = bench(mixed_net())
    starts = []
    for limit in (1 << 30, 3 * 4 * 16 * 36 * 4, 0):
        stitch = Stitch(network, cut_bytes=limit)
        starts = [
            stitch.flow.start(composer.compose(design_of(space, {s.name: 1}))) for s in space.sites if s.kind == "width"
        ]
        stitch.cut_at(starts)
        kept = sum(
            value.numel() * 4
            for batch in stitch.batches
            for cut in batch.cuts.values()
            for node, value in cut.items()
            if node not in stitch.flow.inputs
        )
        assert kept <= limit
        assert bool(stitch.cuts) == (limit > 0)
    assert max(starts) > 5


def test_weights_are_put_back():
    network, space, composer = bench(mixed_net(), ranges=True)
    stitch = Stitch(network)
    before = scores(stitch, Patch())
    for site in space.sites:
        stitch.judge(composer.compose(design_of(space, {site.name: 1})), what=site.name)
    assert np.array_equal(before, scores(stitch, Patch()))


def test_nan_names_the_choice_and_the_layer():
    network, _, _ = bench(mixed_net())
    broken = Patch(weights={("b1.wide", 1): np.full((32, 16, 1, 1), np.nan, np.float32)})
    with pytest.raises(ModelError, match=r"width:b1\.wide: layer 'b1\.wide' puts out NaN"):
        Stitch(network).judge(broken, what="width:b1.wide")
