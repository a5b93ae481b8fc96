from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compress_graphs import one_layer
from sparse_examples import pruned, strips_kernel, with_strips

from hwbench.records.quantization import PrecisionPlan
from hwbench.sparse.apply import NO_PLUGINS, apply_kernels
from hwbench.units import format_bytes

GPU = (9, 0)


@pytest.fixture(autouse=True)
def _strips(monkeypatch):
    with_strips(monkeypatch)


def applied(model, plan, **other):
    return apply_kernels(model, plan, compute_capability=GPU, kernels={"strips": strips_kernel()}, **other)


def test_a_plan_puts_its_kernels_into_the_graph_and_says_what_it_saves():
    model = one_layer("MatMul", pruned(np.random.default_rng(0), 8, 40).T, (3, 40))
    found = applied(model, PrecisionPlan(default="float", kernels={"layer": "strips"}))
    assert found.packed["layer"].bytes == 2 * (2 * 4 * 20 + 2 * 20)
    assert found.kernels["layer"].name == "strips"
    assert not found.left_dense
    assert found.notes == ("layer: kernel strips, weights 400 B in place of 640 B in fp16",)
    assert "strips" in {node.op_type for node in model.graph}


def test_what_a_convolution_moves_to_become_a_product_is_told():
    weight = pruned(np.random.default_rng(0), 8, 54).reshape(8, 6, 3, 3)
    model = one_layer("Conv", weight, (1, 6, 5, 5), pads=[1, 1, 1, 1])
    found = applied(model, PrecisionPlan(default="float", kernels={"layer": "strips"}))
    moved = 2 * 6 * 25 + 2 * 25 * 54 + 2 * 2 * 25 * 8
    assert found.notes[0].endswith(f"; its patches (25 x 54) move {format_bytes(moved)} more at each run")


def test_a_layer_that_no_kernel_takes_stays_dense_and_is_told_of():
    model = one_layer("MatMul", np.ones((40, 8)), (3, 40))
    before = str(ir.to_proto(model))
    found = applied(model, PrecisionPlan(default="float", kernels={"layer": "strips"}))
    assert str(ir.to_proto(model)) == before
    assert found.left_dense["layer"].code == "not_in_format"
    assert not found.packed
    assert found.notes[0].startswith("layer stays dense, not strips: no column of a strip is zero")


def test_a_runtime_without_plugins_leaves_all_dense_and_says_so():
    model = one_layer("MatMul", pruned(np.random.default_rng(0), 8, 40).T, (3, 40))
    found = applied(model, PrecisionPlan(default="float", kernels={"layer": "strips"}), without=NO_PLUGINS)
    assert "TensorRT-RTX has no plugins" in found.notes[0]
    assert found.left_dense == {"layer": NO_PLUGINS}
    assert {node.op_type for node in model.graph} == {"MatMul"}


def test_a_plan_without_kernels_changes_nothing():
    model = one_layer("MatMul", np.ones((40, 8)), (3, 40))
    assert applied(model, PrecisionPlan(default="int8")).notes == ()


def test_a_layer_has_a_kernel_or_a_scheme():
    with pytest.raises(ValueError, match="a sparse kernel and a scheme both: fc"):
        PrecisionPlan(default="float", kernels={"fc": "vw16"}, layers={"fc": "int8"})
    plan = PrecisionPlan(default="float", floating="fp16", kernels={"fc": "vw16"}, layers={"fc": "float"})
    assert plan.label == "fp16-sparse"
