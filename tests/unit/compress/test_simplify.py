"""Simplify on built-in and real networks: equal outputs, fewer operators, nothing left for a second time."""

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from compress_hubs import MODULES, QUICK_ZOO, SLOW_ZOO, hub
from compress_subjects import random_samples, run_ort, subject_of
from large import LARGE
from text_graphs import text_graph

from hwbench.compress.methods.simplify import Simplify, SimplifySettings
from hwbench.errors import UsageError
from hwbench.graph.batch import batch_dependence, open_batch, rebatch
from hwbench.graph.onnx_file import infer_shapes

EXPECTED = {  # operators left, and what they are where that is easily said
    "digits_cnn": {"Conv": 3, "Relu": 3, "MaxPool": 1, "Reshape": 1, "Gemm": 1},
    "cifar_resnet20": {"Conv": 19, "Relu": 19, "Add": 9, "Slice": 4, "Pad": 2, "ReduceMean": 1, "Gemm": 1},
    "mlperf_resnet8": {"Conv": 9, "Relu": 7, "Add": 3, "ReduceMean": 1, "Gemm": 1},
    "mlperf_ds_cnn": {"Conv": 9, "Relu": 9, "ReduceMean": 1, "Gemm": 1},
}


def simplified(model: ir.Model, folder, settings=None, pattern=".*"):
    subject = subject_of(model, folder)
    settings = settings or SimplifySettings()
    legal = Simplify().legal(subject, settings)
    layers = [name for name, reason in legal.items() if reason is None and re.fullmatch(pattern, name)]
    return subject, Simplify().apply(subject, layers, settings)


def close(one: list[np.ndarray], other: list[np.ndarray], tolerance: float = 1e-5) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def check(name: str, folder) -> None:
    model, larger = hub(name, 2), hub(name, 3)
    x = random_samples(larger, 3).inputs
    two = {key: array[:2] for key, array in x.items()}
    wanted, wanted_of_three = run_ort(model, two), run_ort(larger, x)
    dependence = batch_dependence(model, larger)
    subject, outcome = simplified(hub(name, 2), folder)
    onnx.checker.check_model(ir.to_proto(subject.model), full_check=True)
    tolerance = 5e-5 if name == "resnet50" else 1e-5  # 53 folded BatchNorms in a row, rounded to float32
    close(run_ort(subject.model, two), wanted, tolerance)
    nodes = list(subject.model.graph)
    assert outcome.figures["nodes after"] == len(nodes) <= outcome.figures["nodes before"]
    if name in EXPECTED:
        assert {op: sum(node.op_type == op for node in nodes) for op in {node.op_type for node in nodes}} == EXPECTED[
            name
        ]
    assert not simplified(subject.model, folder)[1].changes
    shaped = infer_shapes(subject.model)
    assert all(value.shape is not None and value.shape.is_static() for node in shaped.graph for value in node.outputs)
    close(run_ort(rebatch(shaped, dependence, 3), x), wanted_of_three, tolerance)
    close(run_ort(open_batch(shaped, dependence), x), wanted_of_three, tolerance)


@pytest.mark.parametrize("name", [*QUICK_ZOO, "cifar_resnet20", "mlperf_ds_cnn", "squeezenet"])
def test_networks_stay_the_same_and_can_still_change_their_batch(name, tmp_path):
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a loader leaves its file open
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in {"resnet8", "ds_cnn", "mlperf_resnet8"} else LARGE)
        for name in (*SLOW_ZOO, *MODULES, "cifar_resnet56", "mlperf_resnet8", "efficientnet_lite0")
    ],
)
def test_large_networks_stay_the_same_and_can_still_change_their_batch(name, tmp_path):
    check(name, tmp_path)


GRAPH = "h = MatMul(x, w) i = Identity(h) m = Mul(i, by) j = Identity(m) y = Abs(j)"
CONSTANTS = {"w": np.eye(4, dtype=np.float32), "by": np.full(4, 2, np.float32)}


def test_only_layers_that_were_chosen_are_touched(tmp_path):
    subject, outcome = simplified(text_graph(GRAPH, CONSTANTS, x=(2, 4)), tmp_path, pattern="n1")
    assert [node.name for node in subject.model.graph] == ["n0", "n2", "n3", "n4"]
    assert [(change.layer, change.kind) for change in outcome.changes] == [("n1", "rewritten")]


def test_only_rewrites_that_were_chosen_are_made(tmp_path):
    settings = SimplifySettings(rewrites=("no-ops",))
    subject, outcome = simplified(text_graph(GRAPH, CONSTANTS, x=(2, 4)), tmp_path, settings)
    assert [node.op_type for node in subject.model.graph] == ["MatMul", "Mul", "Abs"]
    assert outcome.figures == {"nodes before": 5, "nodes after": 3, "no-ops": 2}
    with pytest.raises(UsageError, match="no rewrites"):
        SimplifySettings(rewrites=())


def test_finding_what_is_legal_changes_nothing(tmp_path):
    model = text_graph(GRAPH, CONSTANTS, x=(2, 4))
    before = ir.to_proto(model).SerializeToString()
    legal = Simplify().legal(subject_of(model, tmp_path), SimplifySettings())
    assert list(legal) == ["n0", "n1", "n2", "n3"]
    assert ir.to_proto(model).SerializeToString() == before


def test_weights_that_earlier_steps_keep_books_of_are_held(tmp_path):
    subject = subject_of(text_graph(GRAPH, CONSTANTS, x=(2, 4)), tmp_path)
    subject.held_zeros.add("w")
    legal = Simplify().legal(subject, SimplifySettings())
    assert legal["n2"].code == "held_weight"
