import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from hwbench.errors import ModelError
from hwbench.graph.prefixes import Prefix, prefixes, write_prefix
from hwbench.records.base import Missing
from hwbench.records.model import Layer


def layer(name, inputs, outputs, macs=100):
    return Layer(
        name=name, op="Conv", module=None, inputs=inputs, outputs=outputs, parameters=0, macs=macs, moved_bytes=10
    )


CHAIN = [layer(f"l{i}", (f"t{i}",), (f"t{i + 1}",)) for i in range(8)]
RESIDUAL = [
    layer("a", ("x",), ("a",)), layer("b", ("a",), ("b",)), layer("c", ("b",), ("c",)),
    layer("add", ("a", "c"), ("s",)), layer("d", ("s",), ("d",)),
]  # fmt: skip


def test_a_chain_is_cut_into_equal_parts():
    found = prefixes(CHAIN, ("t8",), 4)
    assert [len(prefix.layers) for prefix in found] == [2, 4, 6, 8]
    assert [prefix.outputs for prefix in found] == [("t2",), ("t4",), ("t6",), ("t8",)]


def test_parts_are_of_equal_cost():
    heavy = [layer(f"l{i}", (f"t{i}",), (f"t{i + 1}",), macs=1000 if i == 0 else 10) for i in range(8)]
    assert len(prefixes(heavy, ("t8",), 4)[0].layers) == 1
    free = [layer(f"l{i}", (f"t{i}",), (f"t{i + 1}",), macs=Missing(code="x", why="y")) for i in range(8)]
    assert len(prefixes(free, ("t8",), 4)) == 4


def test_no_cut_goes_through_a_residual_branch():
    found = prefixes(RESIDUAL, ("d",), 5)
    assert all(len(prefix.outputs) == 1 for prefix in found)
    assert ("a", "b") not in [prefix.layers for prefix in found]
    assert found[-1].layers == ("a", "b", "c", "add", "d")


def test_one_part_is_the_whole():
    assert prefixes(CHAIN, ("t8",), 1) == (Prefix(layers=tuple(f"l{i}" for i in range(8)), outputs=("t8",)),)


@pytest.fixture
def model(tmp_path):
    weights = [numpy_helper.from_array(np.full((4, 4), 0.5 + i, dtype=np.float32), f"w{i}") for i in range(3)]
    nodes = [helper.make_node("MatMul", [f"t{i}", f"w{i}"], [f"t{i + 1}"], name=f"l{i}") for i in range(3)]
    shape = [1, 4]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("t3", TensorProto.FLOAT, shape)],
        weights,
        value_info=[helper.make_tensor_value_info(f"t{i}", TensorProto.FLOAT, shape) for i in (1, 2)],
    )
    path = tmp_path / "chain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_a_prefix_computes_what_the_model_computes_up_to_there(model, tmp_path):
    path = write_prefix(model, Prefix(layers=("l0", "l1"), outputs=("t2",)), ["t0"], tmp_path / "prefix.onnx")
    x = np.ones((1, 4), dtype=np.float32)
    (seen,) = ReferenceEvaluator(str(path)).run(None, {"t0": x})
    assert seen == pytest.approx(x @ np.full((4, 4), 0.5) @ np.full((4, 4), 1.5))
    assert [node.name for node in onnx.load(path).graph.node] == ["l0", "l1"]


def test_a_cut_that_is_not_there(model, tmp_path):
    with pytest.raises(ModelError, match="cannot be cut at nowhere"):
        write_prefix(model, Prefix(layers=("l0",), outputs=("nowhere",)), ["t0"], tmp_path / "prefix.onnx")
