"""Lowering to LiteRT where a constant is joined, an addition is kept in floating point, and nothing can be int8."""

from __future__ import annotations

from pathlib import Path

import litert_nets
import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_graphs import model, random_array, tensor, weight

from hwbench.errors import Unsupported
from hwbench.protocols import LowerRequest
from hwbench.records.quantization import PrecisionPlan

pytest.importorskip("litert_torch", reason="needs the extra mobile-convert")
pytest.importorskip("litert_quantizer", reason="needs the extra mobile-convert")
onnxruntime = pytest.importorskip("onnxruntime", reason="the truth")

from hwbench.engines import litert_lower  # noqa: E402
from hwbench.engines.litert_graph import FileGraph  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the converter warns of torch's own future
]

INT8 = PrecisionPlan(default="int8")
PADS = [1, 1, 1, 1]


def lower(made: onnx.ModelProto, plan: PrecisionPlan, folder: Path):
    """Return the file's content, the network's inputs, and its true outputs."""
    imported = litert_nets.bring_in(made, folder)
    files = imported.files
    path = Path(files.folder) / files.runtime_graph
    feeds = dict(np.load(Path(files.folder) / files.inputs))
    request = LowerRequest(
        model=imported.model,
        files=files,
        plan=plan,
        calibration=litert_nets.calibration(path, feeds),
        device=None,
        folder=folder,
    )
    lowered = litert_lower.lower(request)
    (truth,) = onnxruntime.InferenceSession(path).run(None, feeds)
    return (folder / lowered.files[0]).read_bytes(), feeds, truth


def near(content: bytes, feeds, truth) -> bool:
    """Say whether a file computes what the network does, to 5 % of its largest output."""
    from ai_edge_litert.interpreter import Interpreter

    found = Interpreter(model_content=content).get_signature_runner()(**feeds)["y"]
    return bool(np.abs(found - truth).max() < 0.05 * np.abs(truth).max())


def joined_with_constants() -> onnx.ModelProto:
    """Two concatenations read one constant, whose outputs have ranges of their own."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first", pads=PADS),
        helper.make_node("Concat", ["a", "k"], ["j1"], "join", axis=1),
        helper.make_node("Conv", ["j1", "w2"], ["b"], "second"),
        helper.make_node("Concat", ["b", "k"], ["j2"], "join_again", axis=1),
        helper.make_node("Conv", ["j2", "w3"], ["y"], "third"),
    ]
    shapes = {"w1": (8, 3, 3, 3), "w2": (8, 9, 1, 1), "w3": (8, 9, 1, 1)}
    weights = [weight(name, random_array(*shape, seed=seed)) for seed, (name, shape) in enumerate(shapes.items())]
    weights.append(weight("k", random_array(1, 1, 8, 8, seed=9) * 4))
    return model(nodes, [tensor("x", [1, 3, 8, 8])], [tensor("y", [1, 8, 8, 8])], weights)


def residual() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first", pads=PADS),
        helper.make_node("Relu", ["a"], ["r"], "first_relu"),
        helper.make_node("Conv", ["r", "w2"], ["b"], "second", pads=PADS),
        helper.make_node("Add", ["b", "r"], ["s"], "add"),
        helper.make_node("Conv", ["s", "w3"], ["y"], "third", pads=PADS),
    ]
    shapes = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (8, 8, 3, 3)}
    weights = [weight(name, random_array(*shape, seed=seed)) for seed, (name, shape) in enumerate(shapes.items())]
    return model(nodes, [tensor("x", [1, 3, 8, 8])], [tensor("y", [1, 8, 8, 8])], weights)


def one_layer(op: str, weights: tuple[int, ...], sizes: tuple[list[int], list[int]], **settings) -> onnx.ModelProto:
    node = helper.make_node(op, ["x", "w"], ["y"], "only", **settings)
    return model([node], [tensor("x", sizes[0])], [tensor("y", sizes[1])], [weight("w", random_array(*weights))])


def test_a_constant_is_rounded_by_the_limits_of_each_concatenation_that_reads_it(tmp_path):
    content, feeds, truth = lower(joined_with_constants(), INT8, tmp_path)
    graph = FileGraph(content)
    joins = [op for op in graph.ops if op.kind == "CONCATENATION"]
    assert len(joins) == 2
    for join in joins:
        used = (*join.inputs, *join.constants, join.output)
        assert len(join.constants) == 1
        assert {graph._kind(tensor) for tensor in used} == {"INT8"}
        assert len({float(graph._graph.tensors[tensor].quantization.scale[0]) for tensor in used}) == 1
    assert near(content, feeds, truth)


@pytest.mark.parametrize(("kept", "kind"), [({}, "INT8"), ({"add": "float"}, "FLOAT32")])
def test_an_addition_that_the_plan_keeps_in_floating_point_stays_there(tmp_path, kept, kind):
    content, feeds, truth = lower(residual(), PrecisionPlan(default="int8", layers=kept), tmp_path)
    graph = FileGraph(content)
    (add,) = (op for op in graph.ops if op.kind == "ADD")
    assert {graph._kind(tensor) for tensor in (*add.inputs, add.output)} == {kind}
    convolutions = [op for op in graph.ops if op.kind == "CONV_2D"]
    assert {graph._kind(op.inputs[0]) for op in convolutions} == {"INT8"}
    assert near(content, feeds, truth)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (one_layer("Conv", (8, 4, 3, 3, 3), ([1, 4, 6, 6, 6], [1, 8, 4, 4, 4])), "LiteRT makes CONV_3D"),
        (one_layer("ConvTranspose", (4, 4, 3, 3), ([1, 4, 8, 8], [1, 8, 17, 17]), group=2, strides=[2, 2]), "no range"),
    ],
    ids=["volume", "groups"],
)
def test_a_network_none_of_whose_layers_can_be_int8_is_refused(tmp_path, made, words):
    with pytest.raises(Unsupported, match=words):
        lower(made, INT8, tmp_path)
    assert not (tmp_path / litert_lower.FILE).exists()
