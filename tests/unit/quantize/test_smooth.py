import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
import repair_graphs as nets
from onnx import helper
from onnx.reference import ReferenceEvaluator

from hwbench.quantize.smooth import smooth

X = [2, 5, 6]
NORM = helper.make_node("LayerNormalization", ["x", "gain", "shift"], ["n"], name="norm")
BARE = helper.make_node("LayerNormalization", ["x", "ones"], ["m"], name="norm")
GAIN = helper.make_node("Mul", ["m", "gain"], ["g"], name="gain")
SHIFT = helper.make_node("Add", ["shift", "g"], ["n"], name="shift")
WEIGHTS = {
    "gain": np.array([1, 40, 1, 1, 0.5, 9], np.float32),
    "shift": np.array([0, 3, -1, 0, 0, 1], np.float32),
    "ones": np.ones(6, np.float32),
    "wq": graphs.random_array(6, 4, seed=1),
    "wk": graphs.random_array(6, 3, seed=2),
    "bq": graphs.random_array(4, seed=3),
    "bw": graphs.random_array(6, seed=5),
    "w6": graphs.random_array(6, 6, seed=4),
    "halves": np.full((1, 1, 6), 0.5, np.float32),
    "plane": np.ones((5, 6), np.float32),
    "half": np.float32(0.5),
}
READERS = [
    helper.make_node("MatMul", ["n", "wq"], ["q0"], name="query"),
    helper.make_node("Add", ["q0", "bq"], ["q"], name="query_bias"),
    helper.make_node("MatMul", ["n", "wk"], ["k"], name="key"),
]


def network(*nodes, more=()):
    used = {name for node in nodes for name in node.input}
    outputs = [graphs.tensor("q", [2, 5, 4]), graphs.tensor("k", [2, 5, 3]), *more]
    weights = [graphs.weight(name, array) for name, array in WEIGHTS.items() if name in used]
    return nets.hub(graphs.model(nodes, [graphs.tensor("x", X)], outputs, weights))


def values(model, *names):
    """Tensors of the graph on fixed inputs: its outputs, or those named."""
    proto = ir.to_proto(model)
    evaluator = ReferenceEvaluator(proto)
    feeds = {"x": graphs.random_array(*X, seed=9)}
    if not names:
        return np.concatenate([array.reshape(-1) for array in evaluator.run(None, feeds)])
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return ReferenceEvaluator(proto).run(list(names), feeds)


def seen(model, *names):
    return {name: nets.measured(array, -1) for name, array in zip(names, values(model, *names), strict=True)}


ORIGINS = {
    "a normalisation": [NORM],
    "a normalisation in parts": [BARE, GAIN, SHIFT],
    "a gain alone": [BARE, helper.make_node("Mul", ["gain", "m"], ["n"], name="gain")],
    "a scalar factor": [NORM_M := helper.make_node("LayerNormalization", ["x", "gain", "shift"], ["m"], name="norm"),
                        helper.make_node("Mul", ["m", "half"], ["n"], name="half")],
    "a factor of three axes": [NORM_M, helper.make_node("Mul", ["m", "halves"], ["n"], name="half")],
    "a ReLU": [NORM_M, helper.make_node("Relu", ["m"], ["n"], name="relu")],
    "a linear layer": [helper.make_node("MatMul", ["x", "w6"], ["n"], name="before")],
    "a linear layer and its bias": [
        helper.make_node("MatMul", ["x", "w6"], ["m"], name="before"),
        helper.make_node("Add", ["bw", "m"], ["n"], name="before_bias"),
    ],
    "a product of two activations": [
        helper.make_node("Sigmoid", ["x"], ["s"], name="sigmoid"),
        helper.make_node("MatMul", ["x", "w6"], ["u"], name="before"),
        helper.make_node("Mul", ["s", "u"], ["n"], name="gate"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("origin", ORIGINS)
def test_the_function_stays_and_the_division_costs_no_node(origin):
    model = network(*ORIGINS[origin], *READERS)
    before, nodes = values(model), len(model.graph)
    facts = seen(model, "n")

    outcome = smooth(model, facts, 0.5)

    assert outcome.changed == (*(["before"] if "before" in {n.name for n in ORIGINS[origin]} else []), "query", "key")
    assert {item.layer for item in outcome.skipped} == set()
    assert len(model.graph) == nodes
    np.testing.assert_allclose(values(model), before, rtol=1e-4, atol=1e-5)
    assert seen(model, "n")["n"].absmax.max() < facts["n"].absmax.max()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_the_scale_is_the_papers(alpha):
    """With alpha 1 the activations come out with the maxima 1; with alpha 0 the weights do."""
    model = network(NORM, *READERS)
    x = seen(model, "n")["n"].absmax
    w = np.abs(np.hstack([WEIGHTS["wq"], WEIGHTS["wk"]])).max(axis=1)

    smooth(model, seen(model, "n"), alpha)

    scale = x**alpha / w ** (1 - alpha)
    np.testing.assert_allclose(seen(model, "n")["n"].absmax, x / scale, rtol=1e-5)
    np.testing.assert_allclose(nets.layer(model, "query").weight, WEIGHTS["wq"] * scale[:, None], rtol=1e-5)
    np.testing.assert_allclose(nets.layer(model, "key").weight, WEIGHTS["wk"] * scale[:, None], rtol=1e-5)


def test_smoothing_lowers_the_error_of_int8_activations():
    model = network(NORM, *READERS)
    exact = values(model)

    def error():
        (n,) = values(model, "n")
        step = (n.max() - n.min()) / 255
        rounded = np.round(n / step) * step
        outputs = [
            rounded @ nets.layer(model, "query").weight + WEIGHTS["bq"],
            rounded @ nets.layer(model, "key").weight,
        ]
        return np.square(np.concatenate([array.reshape(-1) for array in outputs]) - exact).mean()

    before = error()
    smooth(model, seen(model, "n"), 0.5)

    assert error() < 0.7 * before


RESIDUAL = [helper.make_node("Neg", ["n"], ["r"], name="residual")]


def test_a_tensor_that_others_read_is_left_alone_unless_a_node_may_be_put_in():
    """As in BERT, where the residual branch leaves from the normalised tensor."""
    more = [graphs.tensor("r", X)]
    model = network(NORM, *READERS, *RESIDUAL, more=more)
    before, facts = values(model), seen(model, "n")

    outcome = smooth(model, facts, 0.5)
    assert outcome.changed == ()
    assert [item.layer for item in outcome.skipped] == ["query", "key"]
    assert "residual" in outcome.skipped[0].reason
    np.testing.assert_array_equal(values(model), before)

    outcome = smooth(model, facts, 0.5, insert=True)
    assert outcome.changed == ("query", "key")
    assert [node.op_type for node in model.graph].count("Mul") == 1
    np.testing.assert_allclose(values(model), before, rtol=1e-4, atol=1e-5)
    assert nets.layer(model, "query").input is nets.layer(model, "key").input


@pytest.mark.parametrize(
    ("node", "word"),
    [
        (helper.make_node("Softplus", ["x"], ["n"], name="made"), "Softplus"),
        (helper.make_node("Add", ["x", "x"], ["n"], name="twice"), "twice"),
        (helper.make_node("LayerNormalization", ["x", "plane"], ["n"], name="norm", axis=1), "gain and shift"),
    ],
)
def test_what_cannot_be_divided_is_named(node, word):
    model = network(node, *READERS)

    outcome = smooth(model, seen(model, "n"), 0.5)

    assert outcome.changed == ()
    assert word in outcome.skipped[0].reason


def test_an_input_of_the_network_cannot_be_divided():
    model = network(*(helper.make_node(n.op_type, ["x" if i == "n" else i for i in n.input], n.output, name=n.name)
                      for n in READERS))  # fmt: skip

    assert "an input of the network" in smooth(model, {"x": nets.measured(np.ones(X), -1)}, 0.5).skipped[0].reason


def test_without_statistics_or_with_others_nothing_happens():
    model = network(NORM, *READERS)

    assert smooth(model, {}, 0.5).skipped[0].reason == "nothing is known about its input"
    assert "of 5 channels, not 6" in smooth(model, {"n": nets.measured(np.ones((2, 5)), -1)}, 0.5).skipped[0].reason


def test_channels_that_are_zero_keep_their_scale():
    model = network(NORM, *READERS)
    before, facts = values(model), seen(model, "n")["n"]
    facts.absmax[2] = 0

    smooth(model, {"n": facts}, 0.5)

    np.testing.assert_array_equal(nets.layer(model, "query").weight[2], WEIGHTS["wq"][2])
    np.testing.assert_allclose(values(model), before, rtol=1e-4, atol=1e-5)
