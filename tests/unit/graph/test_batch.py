"""A network at another batch size, held against the import at that size."""

import numpy as np
import onnx_ir as ir
import pytest
from compress_hubs import FILES, MODULES, QUICK_ZOO, SLOW_ZOO, hub
from compress_subjects import imported, random_samples, run_ort
from large import LARGE
from text_graphs import text_graph

from hwbench.errors import ModelError, UsageError
from hwbench.graph.batch import batch_dependence, open_batch, rebatch
from hwbench.graph.linear import linear_layers
from hwbench.records.base import Missing

ATTENTION = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cls = torch.nn.Parameter(torch.randn(1, 1, 8))
        self.qkv, self.out = torch.nn.Linear(8, 24), torch.nn.Linear(8, 5)

    def forward(self, x):
        b = x.shape[0]
        x = torch.cat([self.cls.expand(b, -1, -1), x], 1)
        q, k, v = self.qkv(x).reshape(b, -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(b * x.shape[1], 8)).reshape(b, x.shape[1], 5).mean(1)


def net():
    return Net(), (torch.zeros(2, 3, 8),)
"""


def text(body: str, constants: dict[str, np.ndarray] | None = None, *, batch: int) -> ir.Model:
    return text_graph(body, constants, x=(batch, 6))


def same(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    assert [one.shape for one in first] == [one.shape for one in second]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def held_against_imports(one: ir.Model, two: ir.Model, three: ir.Model) -> None:
    dependence = batch_dependence(one, two)
    x = random_samples(three, 3).inputs
    wanted = run_ort(three, x)
    made = rebatch(two, dependence, 3)
    same(run_ort(made, x), wanted)
    shapes = {value.name: value.shape for node in made.graph for value in node.outputs}
    assert all(shapes[value.name] == value.shape for node in three.graph for value in node.outputs)
    assert all(shape is not None and shape.is_static() for shape in shapes.values())
    opened = open_batch(one, dependence)
    assert isinstance(opened, ir.Model)
    same(run_ort(opened, x), wanted)
    two_of_them = {name: array[:2] for name, array in x.items()}
    same(run_ort(opened, two_of_them), run_ort(two, two_of_them))


@pytest.mark.parametrize("name", [*QUICK_ZOO, *FILES])
def test_another_batch_is_what_an_import_at_that_batch_gives(name):
    held_against_imports(*(hub(name, batch) for batch in (1, 2, 3)))


LARGEST = ("resnet50", "mobilenet_v2", "bert_small", "vit_tiny")
NETWORKS = (*SLOW_ZOO, *MODULES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a loader leaves its file open
@pytest.mark.parametrize("name", [pytest.param(name, marks=LARGE) if name in LARGEST else name for name in NETWORKS])
def test_another_batch_of_large_networks(name):
    held_against_imports(*(hub(name, batch) for batch in (1, 2, 3)))


def test_a_parameter_that_is_repeated_over_the_batch_becomes_one(tmp_path):
    (tmp_path / "attention.py").write_text(ATTENTION)
    one, two, three = (imported(f"{tmp_path}/attention.py:net", tmp_path / str(b), batch=b) for b in (1, 2, 3))
    dependence = batch_dependence(one, two)
    assert len(dependence.repeated) == 1
    made = rebatch(two, dependence, 4)
    singles = [value for value in made.graph.initializers.values() if list(value.shape) == [1, 1, 8]]
    assert len(singles) == 1
    assert [node.op_type for node, _ in singles[0].uses()] == ["Expand"]
    x = random_samples(three, 3).inputs
    singles[0].const_value = ir.tensor(singles[0].const_value.numpy() * 2, name=singles[0].name)  # as training would
    again = rebatch(made, dependence, 3)
    opened = open_batch(made, dependence)
    same(run_ort(opened, x), run_ort(again, x))
    assert not np.allclose(run_ort(again, x)[0], run_ort(three, x)[0])
    held_against_imports(one, two, three)


def test_copies_that_were_trained_apart_are_refused(tmp_path):
    (tmp_path / "attention.py").write_text(ATTENTION)
    two, three = (imported(f"{tmp_path}/attention.py:net", tmp_path / str(b), batch=b) for b in (2, 3))
    dependence = batch_dependence(two, three)
    ((reader, index),) = dependence.repeated
    value = next(node for node in two.graph if node.name == reader).inputs[index]
    apart = value.const_value.numpy().copy()
    apart[1] += 1
    value.const_value = ir.tensor(apart, name=value.name)
    with pytest.raises(ModelError, match="no longer does"):
        rebatch(two, dependence, 3)


def test_constants_are_found_after_they_were_cut_and_copied(tmp_path):
    body = "h = Reshape(x, shape) z = Reshape(h, shape) w = MatMul(z, weight) y = Reshape(w, flat)"

    def net(batch):
        constants = {
            "shape": np.array([batch, 2, 3]),
            "flat": np.array([batch, 8]),
            "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        }
        return text(body, constants, batch=batch)

    dependence, model = batch_dependence(net(2), net(3)), net(2)
    layer = next(iter(linear_layers(model)))
    layer.node.inputs[1].const_value = ir.tensor(np.ones((3, 1), np.float32), name="weight")
    layer.node.inputs[1].shape = ir.Shape([3, 1])
    last = list(model.graph)[-1]
    cut = ir.Value(name="flat.of.n3", const_value=ir.tensor(np.array([2, 2]), name="flat.of.n3"))
    model.graph.initializers[cut.name] = cut
    last.replace_input_with(1, cut)
    for node in list(model.graph)[2:]:
        node.outputs[0].shape = None
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    for made in (rebatch(model, dependence, 5), open_batch(model, dependence)):
        (y,) = run_ort(made, {"x": x})
        np.testing.assert_allclose(y, x.reshape(5, 2, 3).sum(2), rtol=1e-6)
    assert cut.const_value.numpy().tolist() == [2, 2]  # the model itself is as it was


@pytest.mark.parametrize(
    ("body", "constants", "ops"),
    [  # the body, its constants at a batch of b, and what computes the batch when it is open
        ("h = Reshape(x, s) y = Reshape(h, t)", lambda b: {"s": np.array([-1, b]), "t": np.array([b, 6])}, {"Concat"}),
        ("h = Reshape(x, s) y = Reshape(h, t)", lambda b: {"s": np.array([6 * b, 1]), "t": np.array([b, 6])}, set()),
        (
            "h = Expand(one, s) y = Add(x, h)",
            lambda b: {"s": np.array([b, 6]), "one": np.ones((1, 6), "f")},
            {"Concat"},
        ),
        ("h = Mul(x, x) y = Expand(h, s)", lambda b: {"s": np.array([b, 6])}, set()),
        (
            "h = Concat <axis = 0> (x, x) y = Slice(h, n, e, a)",
            lambda b: {"n": np.array([b]), "e": np.array([2**63 - 1]), "a": np.array([0])},
            {"Gather"},
        ),
        (
            "r = Range(n, e, d) f = Cast <to = 1> (r) h = Unsqueeze(f, a) y = Add(x, h)",
            lambda b: {"n": np.array(0), "e": np.array(3 * b), "d": np.array(3), "a": np.array([1])},
            {"Mul"},
        ),
        ("y = Add(x, many)", lambda b: {"many": np.tile(np.arange(6, dtype="f"), (b, 1))}, {"Expand"}),
    ],
)  # fmt: skip
def test_each_kind_of_constant(body, constants, ops):
    models = [text(body, constants(batch), batch=batch) for batch in (2, 3, 7)]
    dependence = batch_dependence(models[0], models[1])
    x = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    wanted = run_ort(models[2], {"x": x})
    same(run_ort(rebatch(models[1], dependence, 7), {"x": x}), wanted)
    opened = open_batch(models[0], dependence)
    same(run_ort(opened, {"x": x}), wanted)
    made = {node.op_type for node in opened.graph if node.name not in {node.name for node in models[0].graph}}
    assert ops <= made
    if not ops:
        assert not made


@pytest.mark.parametrize(
    ("body", "constants", "says"),
    [
        ("y = Mul(x, inverse)", lambda b: {"inverse": np.array(1 / b, "f")}, "other numbers"),
        ("y = Add(x, ids)", lambda b: {"ids": np.arange(b, dtype="f")[:, None]}, "other numbers"),
        ("h = Pad(x, p) y = Relu(h)", lambda b: {"p": np.array([0, 0, 8 - b, 0])}, "at batch 2"),
    ],
)
def test_what_is_not_in_proportion_to_the_batch_is_baked_in(body, constants, says):
    found = batch_dependence(*(text(body, constants(batch), batch=batch) for batch in (2, 3)))
    assert isinstance(found, Missing)
    assert found.code == "batch_baked"
    assert says in found.why


def test_constants_that_nodes_make_become_initialisers():
    models = [text(f"c = Constant <value_ints = [{batch}, 6]> () y = Reshape(x, c)", batch=batch) for batch in (2, 3)]
    dependence = batch_dependence(*models)
    assert dependence.attributes == {}  # who reads a Constant is asked
    x = np.ones((5, 6), np.float32)
    for made in (rebatch(models[0], dependence, 5), open_batch(models[0], dependence)):
        assert "Constant" not in {node.op_type for node in made.graph}
        same(run_ort(made, {"x": x}), [x])


def test_a_node_that_holds_the_batch_keeps_it_closed():
    def net(batch):
        model = text("y = Custom(x)", batch=batch)
        model.graph[0].attributes["rows"] = ir.AttrInt64("rows", 2 * batch)
        model.graph[0].attributes["shape"] = ir.AttrInt64s("shape", [batch, 6])
        return model

    dependence = batch_dependence(net(2), net(3))
    assert dependence.attributes == {("n0", "rows"): {0: 2}, ("n0", "shape"): {0: 1}}
    reason = open_batch(net(2), dependence)
    assert isinstance(reason, Missing)
    assert "'rows'" in reason.why


def test_an_input_that_holds_a_multiple_of_the_batch_stays_closed():
    models = [text("y = Relu(x)", batch=batch) for batch in (2, 3)]
    for model, batch in zip(models, (2, 3), strict=True):
        extra = ir.Value(name="z", shape=ir.Shape([4 * batch]), type=ir.TensorType(ir.DataType.FLOAT))
        model.graph.inputs.append(extra)
    dependence = batch_dependence(*models)
    assert dependence.shapes["z"] == {0: 4}
    assert list(rebatch(models[0], dependence, 5).graph.inputs[1].shape) == [20]
    assert "multiple" in open_batch(models[0], dependence).why


def test_graphs_that_differ_and_equal_batches_are_refused():
    with pytest.raises(ModelError, match="another graph"):
        batch_dependence(text("y = Relu(x)", batch=2), text("y = Abs(x)", batch=3))
    with pytest.raises(ModelError, match="same batch size"):
        batch_dependence(text("y = Relu(x)", batch=2), text("y = Relu(x)", batch=2))
    models = [text("y = Relu(x)", batch=batch) for batch in (2, 3)]
    with pytest.raises(UsageError, match="batch of 0"):
        rebatch(models[0], batch_dependence(*models), 0)
