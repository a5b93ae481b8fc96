"""Activations are found however they are spelled; what is put in their place is held against torch's own."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from compress_subjects import run_ort
from text_graphs import operators, text_graph
from torch.nn import functional

from hwbench.structure.activations import CHEAPER, STANDS_FOR, activations, substitute

SPELLED = {
    "gelu of the torch exporter": (
        "gelu", "d = Div(x, root) e = Erf(d) p = Add(e, one) h = Mul(half, x) g = Mul(h, p) y = Neg(g)",
    ),
    "gelu as in BERT": (
        "gelu", "d = Div(x, root) e = Erf(d) p = Add(one, e) h = Mul(x, p) g = Mul(h, half) y = Neg(g)",
    ),
    "gelu with a factor": (
        "gelu", "d = Mul(inverse, x) e = Erf(d) p = Add(e, one) h = Mul(p, half) g = Mul(x, h) y = Neg(g)",
    ),
    "gelu of opset 20": ("gelu", "g = Gelu(x) y = Neg(g)"),
    "tanh-gelu of opset 20": ("gelu-tanh", 'g = Gelu <approximate = "tanh"> (x) y = Neg(g)'),
    "tanh-gelu": (
        "gelu-tanh",
        "c = Pow(x, three) s = Mul(c, small) a = Add(x, s) m = Mul(a, k) t = Tanh(m) p = Add(t, one) h = Mul(x, half) "
        "g = Mul(h, p) y = Neg(g)",
    ),
    "silu": ("silu", "s = Sigmoid(x) g = Mul(x, s) y = Neg(g)"),
    "silu, gated": ("silu", "s = Sigmoid(x) g = Mul(s, x) y = Mul(g, other)"),
    "mish": ("mish", "s = Softplus(x) t = Tanh(s) g = Mul(x, t) y = Neg(g)"),
    "sigmoid": ("sigmoid", "g = Sigmoid(x) y = Mul(g, other)"),
    "sigmoid of a square": ("sigmoid", "q = Mul(x, x) g = Sigmoid(q) y = Neg(g)"),
}  # fmt: skip
NUMBERS = {
    "root": np.sqrt(2), "inverse": np.sqrt(0.5), "one": 1.0, "half": 0.5, "three": 3.0, "small": 0.044715,
    "k": np.sqrt(2 / np.pi),
}  # fmt: skip
TORCH = {
    "hard-sigmoid": functional.hardsigmoid,
    "hard-swish": functional.hardswish,
    "gelu-tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "quick-gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": functional.relu,
}


def graph(body: str, opset: int) -> ir.Model:
    numbers = {name: np.float32(number) for name, number in NUMBERS.items() if name in body}
    other = {"other": np.arange(1, 5, dtype=np.float32)} if "other" in body else {}
    return text_graph(body, numbers | other, x=(3, 4), opset=opset)


@pytest.mark.parametrize("spelling", SPELLED)
def test_a_function_is_told_by_its_values(spelling):
    function, body = SPELLED[spelling]
    (found,) = activations(graph(body, 20))
    assert found.function == function
    assert found.output.name == "g"
    assert found.input.name == ("q" if "square" in spelling else "x")


FITTING = [
    (spelling, cheaper, opset)
    for spelling in ("gelu of the torch exporter", "silu, gated", "sigmoid", "tanh-gelu", "mish")
    for cheaper in CHEAPER
    for opset in (13, 17, 20)
    if SPELLED[spelling][0] in STANDS_FOR[cheaper]
]


@pytest.mark.parametrize(("spelling", "cheaper", "opset"), FITTING)
def test_what_is_put_in_is_what_torch_computes(spelling, cheaper, opset):
    body = SPELLED[spelling][1]
    model = graph(body, opset)
    after = operators(model)[len(next(activations(model)).nodes) :]
    (found,) = activations(model)
    substitute(model, found, cheaper)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32) * 3
    g = TORCH[cheaper](torch.from_numpy(x)).numpy()
    wanted = g * np.arange(1, 5) if "other" in body else -g
    np.testing.assert_allclose(run_ort(model, {"x": x})[0], wanted, rtol=1e-5, atol=1e-5)
    assert operators(model)[-len(after) :] == after
    assert "Erf" not in operators(model)
    assert "g" in {value.name for node in model.graph for value in node.outputs}


@pytest.mark.parametrize(
    "body",
    [
        "d = Div(x, half) e = Erf(d) p = Add(e, one) h = Mul(half, x) g = Mul(h, p) y = Neg(g)",  # another scale
        "s = Tanh(x) y = Neg(s)",  # known, and nothing is cheaper
        "e = Erf(x) y = Mul(e, other)",
    ],
)
def test_other_functions_are_left_alone(body):
    assert not list(activations(graph(body, 17)))


def test_a_value_inside_that_others_read_keeps_the_function():
    body = SPELLED["gelu of the torch exporter"][1].replace("y = Neg(g)", "y = Add(g, e)")
    assert not list(activations(graph(body, 17)))
    model = graph("s = Sigmoid(x) g = Mul(x, s) y = Add(g, s)", 17)  # the sigmoid alone is one still
    assert [found.function for found in activations(model)] == ["sigmoid"]


def test_an_output_of_the_network_keeps_its_name():
    model = graph("s = Sigmoid(x) y = Mul(x, s)", 17)
    (found,) = activations(model)
    substitute(model, found, "hard-swish")
    assert operators(model) == ["HardSwish"]
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert model.graph[0].name == "n0.hard-swish"
