"""The score without training, against the paper's formula written out in NumPy."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hwbench.graph.onnx_file import infer_shapes
from hwbench.records.base import Missing
from hwbench.records.search import Candidate
from hwbench.search.candidates import architectures, narrowed, ranked
from hwbench.search.naswot import log_determinant, patterns
from hwbench.search.space import space_of
from hwbench.torch_view.build import to_torch

N = 6


def two_layers(first, second):
    nodes = [
        helper.make_node("Gemm", ["x", "first"], ["a"], name="one", transB=1),
        helper.make_node("Relu", ["a"], ["b"], name="relu1"),
        helper.make_node("Gemm", ["b", "second"], ["c"], name="two", transB=1),
        helper.make_node("Relu", ["c"], ["y"], name="relu2"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [N, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [N, len(second)])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return to_torch(infer_shapes(ir.serde.deserialize_model(model)))


def test_the_score_is_the_determinant_of_agreements():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, 5)).astype(np.float32)
    first, second = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 5), (9, 16)))
    hidden = x @ first.T
    last = np.maximum(hidden, 0) @ second.T
    on = np.concatenate([hidden > 0, last > 0], axis=1)
    kernel = np.array([[float(np.sum(on[i] == on[j])) for j in range(N)] for i in range(N)])
    codes = patterns(two_layers(first, second), [torch.from_numpy(x)])
    assert [code.shape for code in codes] == [(N, 16), (N, 9)]
    assert log_determinant(codes) == pytest.approx(np.log(abs(np.linalg.det(kernel))), rel=1e-6)


def test_equal_inputs_have_no_score_and_neither_has_a_network_without_rectifiers():
    same = np.tile(np.array([[True, False, True]]), (4, 1))
    assert isinstance(log_determinant([same]), Missing)
    assert log_determinant([]).code == "no_rectifier"


def test_candidates_are_kept_by_fronts_of_score_and_latency():
    points = {"a": (5.0, 3.0), "b": (4.0, 1.0), "c": (4.5, 3.5), "d": (3.0, 2.0), "e": (2.0, 0.5)}
    given = [
        Candidate(params={"name": name}, score=score, median_s=time, kept=False)
        for name, (score, time) in points.items()
    ]
    given.append(Candidate(params={"name": "f"}, score=Missing(code="x", why="no"), median_s=0.1, kept=False))
    found = ranked(given, keep=4)
    assert [(one.params["name"], one.front) for one in found] == [
        ("a", 0), ("b", 0), ("e", 0), ("c", 1), ("d", 1), ("f", None),
    ]  # fmt: skip
    assert [one.params["name"] for one in found if one.kept] == ["a", "b", "e", "c"]


def test_ranking_makes_one_choice_of_the_architecture():
    tables = {"model": {"width": {"low": 0.25, "high": 1.0}, "depth": [1, 2, 3], "classes": 10}}
    space = space_of(tables | {"training": {"epochs": [1, 2]}}, threads=1)
    drawn = architectures(space, 7, seed=1)
    assert len({str(one) for one in drawn}) == 7
    assert drawn == architectures(space, 7, seed=1)
    assert all(0.25 <= one["width"] <= 1 and one["depth"] in {1, 2, 3} and one["classes"] == 10 for one in drawn)
    kept = [Candidate(params=one, score=1.0, median_s=1.0, kept=True) for one in drawn[:2]]
    names = [one.name for one in narrowed(space, kept).parameters if not one.fixed]
    assert names == ["model.candidate", "training.epochs"]
