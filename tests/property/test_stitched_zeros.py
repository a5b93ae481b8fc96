"""A stitched network with zeros gives what the network gives that the recipe of the same design really makes."""

import numpy as np
import pytest
from compress_subjects import random_samples, run_ort
from hypothesis import given, settings
from hypothesis import strategies as st
from structure_graphs import Net

torch = pytest.importorskip("torch", reason="patches are put into the torch view")

import msgspec  # noqa: E402

from hwbench.compress.api import compress  # noqa: E402
from hwbench.compress.format_pattern import OfFormat  # noqa: E402
from hwbench.compress.simulated import folded  # noqa: E402
from hwbench.graph.linear import linear_layers  # noqa: E402
from hwbench.plan.designs import steps_of  # noqa: E402
from hwbench.plan.sites import space_of  # noqa: E402
from hwbench.records.planning import TWO_FOUR, Design, Zeros  # noqa: E402
from hwbench.sensitivity.network import Network  # noqa: E402
from hwbench.sensitivity.patches import Composer  # noqa: E402
from hwbench.sensitivity.stitch import Stitch  # noqa: E402

FORMATS = [("s24", 0.5), ("vw16", 0.5), ("vw16", 0.7), ("bsr16", 0.5), ("gap4", 0.7), ("vw16_int8", 0.5),
           (TWO_FOUR, 0.5)]  # fmt: skip
LEAST_SQUARES = {"which": ["least-squares"], "rounds": 0, "rows": None}  # of the repair, what a patch has
# Weights near the middle of two steps of what a kernel holds are rounded to either, by the noise of the fit.
OFF = 1e-3  # steps of 16 bits; 1.8e-4 has been seen
OFF_INT8 = 8e-3  # steps of 8 bits; 1.3e-3 has been seen


@st.composite
def designs(draw):
    """A small net, where zeros lie in it, and how wide its layers are."""
    first, middle = draw(st.sampled_from([64, 128])), draw(st.sampled_from([64, 128]))
    net = Net(4, 3, 3, 3, seed=draw(st.integers(0, 99)))
    x = net.conv("x", 3, first, 3, name="stem", bias=draw(st.booleans()))
    if draw(st.booleans()):
        x = net.norm(x, first, "stem.bn")
    kernel = draw(st.sampled_from([1, 3]))
    x = net.conv(net.node("Relu", x), first, middle, kernel, name="body", bias=draw(st.booleans()))
    if draw(st.booleans()):
        x = net.norm(x, middle, "body.bn")
    model = net.model(net.pooled(net.node("Relu", x), middle, 48))
    layers = draw(st.lists(st.sampled_from(["body", "head"]), min_size=1, unique=True))
    chosen = {name: draw(st.sampled_from(FORMATS)) for name in layers}
    zeros = {name: Zeros(format=made, sparsity=share) for name, (made, share) in chosen.items()}
    wide = [name for name, size in (("stem", first), ("body", middle)) if size == 128 and draw(st.booleans())]
    return model, Design(zeros=zeros, widths=dict.fromkeys(wide, 64))


def as_built(model, zeros):
    """The network with BatchNorm folded, and the weights that its kernels read packed as the build packs them."""
    model = folded(model)
    for layer in linear_layers(model):
        held = zeros.get(layer.name)
        if held is not None and held.format != TWO_FOUR:
            layer.set_blocks(OfFormat(held.format).held(layer.blocks(), layer.name))
    return model


def both(model, design, *, refit):
    """The outputs of the stitched network and of the one that the recipe makes."""
    samples = random_samples(model, 4)  # one batch: the repair then learns from all of them
    space = space_of(model, "0" * 64)
    steps = steps_of(space, design, data=refit)
    steps = [msgspec.structs.replace(step, settings=LEAST_SQUARES) if step.method == "repair" else step
             for step in steps]  # fmt: skip
    made = compress(model, steps, inputs=samples.inputs, repair="none")
    network = Network(model, samples, refit=refit)
    composer = Composer(network, space)
    composer.gather()
    patch, stitch = composer.compose(design), Stitch(network)
    with torch.no_grad(), stitch.flow.patched(patch):
        found = stitch.flow.outputs(stitch.flow.run(stitch.batches[0].values, 0, patch))[0].numpy()
    assert not any("taken back" in note or "nothing to do" in note for one in made.applied for note in one.notes)
    for name, zeros in design.zeros.items():
        assert (patch.weights[name, 1] == 0).mean() > zeros.sparsity - 0.02
    return found, run_ort(as_built(made.model, design.zeros), samples.inputs)[0]


@settings(max_examples=12, deadline=None)
@given(designs(), st.booleans())
def test_a_patch_is_the_network_that_the_recipe_makes(made, refit):
    model, design = made
    found, wanted = both(model, design, refit=refit)
    off = OFF_INT8 if any(zeros.format.endswith("_int8") for zeros in design.zeros.values()) else OFF
    assert np.abs(found - wanted).max() <= off * np.abs(wanted).max()


@pytest.mark.parametrize(("name", "sparsity"), FORMATS)
def test_of_every_format(name, sparsity):
    net = Net(4, 3, 3, 3, seed=7)
    x = net.node("Relu", net.norm(net.conv("x", 3, 64, 3, name="stem", bias=False), 64, "stem.bn"))
    x = net.node("Relu", net.norm(net.conv(x, 64, 128, name="body", bias=False), 128, "body.bn"))
    model = net.model(net.pooled(x, 128, 32))
    zeros = Zeros(format=name, sparsity=sparsity)
    for refit in (False, True):
        found, wanted = both(model, Design(zeros={"body": zeros, "head": zeros}), refit=refit)
        assert np.abs(found - wanted).max() <= OFF * np.abs(wanted).max()
