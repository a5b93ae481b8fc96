import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
import repair_graphs as nets
from onnx import helper

from hwbench.quantize.adaround import adaround, learn_rounding


def correlated(rows, channels, seed):
    """Inputs that hang together, as those behind a ReLU do: there rounding to nearest is far from best."""
    generator = np.random.default_rng(seed)
    mixed = np.random.default_rng(99).standard_normal((6, channels))
    return np.maximum(generator.standard_normal((rows, 6)) @ mixed + 0.5, 0).astype(np.float32)


def linear(channels=24, outputs=10):
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="layer", transB=1)
    weights = [graphs.weight("w", graphs.random_array(outputs, channels))]
    made = graphs.model([node], [graphs.tensor("x", [None, channels])], [graphs.tensor("y", None)], weights)
    return nets.hub(made), correlated(2000, channels, 1), correlated(2000, channels, 2)


def images(group=1):
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="layer", pads=[1, 1, 1, 1], group=group)
    weights = [graphs.weight("w", graphs.random_array(6, 6 // group, 3, 3))]
    made = graphs.model([node], [graphs.tensor("x", [None, 6, 8, 8])], [graphs.tensor("y", None)], weights)
    kernel = np.ones((3, 3)) / 9

    def smooth(seed):
        noise = np.random.default_rng(seed).standard_normal((40, 6, 10, 10))
        views = np.lib.stride_tricks.sliding_window_view(noise, (3, 3), axis=(2, 3))
        return np.maximum((views * kernel).sum((4, 5)), 0).astype(np.float32)

    return nets.hub(made), smooth(1), smooth(2)


NETS = {
    "linear": linear,
    "convolution": images,
    "two groups": lambda: images(group=2),
    "depthwise": lambda: images(group=6),
}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("net", NETS)
def test_on_inputs_it_has_not_seen_the_error_is_smaller_than_with_rounding_to_nearest(net, bits):
    model, seen, fresh = NETS[net]()
    weight, exact = nets.layer(model, "layer").weight, nets.run(model, fresh)
    plain = ir.from_proto(ir.to_proto(model))
    layer = nets.layer(plain, "layer")
    layer.set_blocks(layer.to_blocks(nets.fake_quantised(weight, 0, bits)))

    outcome = adaround(model, lambda _: [seen[:20], seen[20:]], bits=bits)

    assert outcome.changed == ("layer",)
    nearest = np.square(nets.run(plain, fresh) - exact).mean()
    learned = np.square(nets.run(model, fresh) - exact).mean()
    assert learned < 0.9 * nearest
    step = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True) / (2 ** (bits - 1) - 1)
    assert (np.abs(nets.layer(model, "layer").weight - weight) < 1.001 * step).all(), "up or down, and no further"


@pytest.mark.parametrize("bits", [8, 4])
def test_any_quantiser_with_the_largest_weight_as_its_end_finds_the_same_integers(bits):
    model, seen, _ = images()
    adaround(model, lambda _: [seen], bits=bits)
    weight = nets.layer(model, "layer").weight  # as float32 has it
    scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / (2 ** (bits - 1) - 1)

    integers = weight / scale

    np.testing.assert_allclose(integers, np.rint(integers), atol=1e-4)
    np.testing.assert_allclose(nets.fake_quantised(weight, 0, bits), weight, rtol=1e-6, atol=1e-7)


def test_zeros_stay_zeros_and_a_channel_without_weights_stays():
    weights = graphs.random_array(1, 4, 12).astype(np.float64)
    weights[0, 1, ::2] = 0
    weights[0, 2] = 0
    x = correlated(500, 12, 3)

    learned = learn_rounding(weights, (x.T @ x / len(x))[None], bits=8, steps=50)

    assert (learned[weights == 0] == 0).all()
    assert np.isfinite(learned).all()


def test_against_every_rounding_there_is():
    """Eight weights can be rounded in 256 ways; what is learned comes close to the best of them."""
    weights = graphs.random_array(1, 6, 8, seed=4).astype(np.float64)
    x = correlated(300, 8, 5)
    gram = (x.T @ x / len(x))[None]
    scale = np.abs(weights).max(axis=2, keepdims=True) / 7
    learned = learn_rounding(weights, gram, bits=4, steps=400)
    ways = (np.arange(256)[:, None] >> np.arange(8)) & 1

    def error(candidate, channel):
        off = candidate - weights[0, channel]
        return np.einsum("...i,ij,...j->...", off, gram[0], off)

    best = nearest = found = 0.0
    for channel in range(6):
        step = scale[0, channel, 0]
        exact = weights[0, channel] / step
        fixed = np.abs(exact) > 7 - 1e-9
        low = np.where(fixed, np.rint(exact), np.floor(exact))
        best += error((low + ways * ~fixed) * step, channel).min()
        nearest += error(np.rint(exact) * step, channel)
        found += error(learned[0, channel], channel)

    assert best <= found <= best + 0.2 * (nearest - best)


def test_what_cannot_be_learned_is_said():
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="layer")
    weights = [graphs.weight("w", graphs.random_array(4, 5, 2, 2))]
    made = graphs.model([node], [graphs.tensor("x", nets.IMAGE)], [graphs.tensor("y", None)], weights)
    assert "transposed" in adaround(nets.hub(made), lambda _: [nets.images()]).skipped[0].reason

    model, _, _ = linear()
    assert adaround(model, lambda _: []).skipped[0].reason == "nothing is known about its input"


def test_the_same_seed_gives_the_same_weights_and_only_chosen_layers_change():
    first, seen, _ = images()
    second, _, _ = images()
    for model in (first, second):
        adaround(model, lambda _: [seen], steps=20, seed=7)
    np.testing.assert_array_equal(nets.layer(first, "layer").weight, nets.layer(second, "layer").weight)

    third, _, _ = images()
    kept = nets.layer(third, "layer").weight
    assert adaround(third, lambda _: [seen], only=[]).changed == ()
    np.testing.assert_array_equal(nets.layer(third, "layer").weight, kept)
