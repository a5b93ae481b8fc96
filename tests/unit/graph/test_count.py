"""Costs of nodes against counts known from elsewhere: hand arithmetic, einsum on numpy, published networks."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from hwbench.graph.count import COUNTERS, macs_of, moved_bytes_of
from hwbench.graph.layers import layers_of
from hwbench.graph.onnx_file import fix_axes, infer_shapes, read_onnx
from hwbench.graph.op_kinds import CONTROL_FLOW, NO_MACS
from hwbench.records.base import Missing

SHARED = Path(os.environ.get("HWBENCH_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
FLOAT = ir.DataType.FLOAT


def tensor(*shape, dtype=FLOAT, name=None):
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def node(op, inputs, *outputs, domain="", **attributes):
    made = ir.node(op, inputs, attributes, domain=domain, outputs=list(outputs) or [tensor(1)])
    for index, value in enumerate([*inputs, *made.outputs]):
        if value is not None and value.name is None:
            value.name = f"t{index}"
    return made


def weight(name, *shape):
    return ir.Value(
        name=name,
        shape=ir.Shape(shape),
        type=ir.TensorType(FLOAT),
        const_value=ir.tensor(np.zeros(shape, np.float32), name=name),
    )


@pytest.mark.parametrize(
    ("made", "macs"),
    [
        (node("Conv", [tensor(1, 3, 224, 224), tensor(64, 3, 7, 7)], tensor(1, 64, 112, 112)), 118_013_952),
        (node("Conv", [tensor(2, 32, 8, 8), tensor(32, 1, 3, 3)], tensor(2, 32, 8, 8), group=32), 2 * 32 * 64 * 9),
        (node("Conv", [tensor(1, 4, 10), tensor(6, 2, 3)], tensor(1, 6, 8), group=2), 6 * 8 * 2 * 3),
        (node("ConvTranspose", [tensor(1, 8, 5, 5), tensor(8, 4, 3, 3)], tensor(1, 4, 7, 7)), 8 * 25 * 4 * 9),
        (node("ConvInteger", [tensor(1, 3, 4, 4), tensor(5, 3, 3, 3)], tensor(1, 5, 2, 2)), 5 * 4 * 27),
        (
            node(
                "QLinearConv",
                [tensor(1, 3, 4, 4), tensor(), tensor(), tensor(5, 3, 3, 3), *(tensor() for _ in range(4))],
                tensor(1, 5, 2, 2),
            ),
            5 * 4 * 27,
        ),
        (node("Gemm", [tensor(4, 10), tensor(10, 7), tensor(7)], tensor(4, 7)), 280),
        (node("Gemm", [tensor(10, 4), tensor(7, 10)], tensor(4, 7), transA=1, transB=1), 280),
        (node("MatMul", [tensor(2, 1, 3, 4), tensor(5, 4, 6)], tensor(2, 5, 3, 6)), 2 * 5 * 3 * 6 * 4),
        (node("MatMul", [tensor(4), tensor(4)], tensor()), 4),
        (node("MatMul", [tensor(4), tensor(3, 4, 5)], tensor(3, 5)), 60),
        (node("MatMulInteger", [tensor(3, 4), tensor(4, 5)], tensor(3, 5)), 60),
        (node("LSTM", [tensor(7, 2, 5), tensor(2, 12, 5), tensor(2, 12, 3)], tensor(7, 2, 2, 3)), 7 * 2 * 2 * 12 * 8),
        (node("GRU", [tensor(2, 7, 5), tensor(1, 9, 5), tensor(1, 9, 3)], tensor(2, 7, 1, 3), layout=1), 14 * 9 * 8),
        (node("RNN", [tensor(7, 2, 5), tensor(1, 3, 5), tensor(1, 3, 3)], tensor(7, 1, 2, 3)), 14 * 3 * 8),
        (node("Attention", [tensor(2, 8, 10, 16), tensor(2, 2, 12, 16), tensor(2, 2, 12, 20)]), 2 * 8 * 10 * 12 * 36),
        (
            node(
                "Attention", [tensor(2, 10, 128), tensor(2, 12, 32), tensor(2, 12, 40)], q_num_heads=8, kv_num_heads=2
            ),
            2 * 8 * 10 * 12 * 36,
        ),
        (
            node("Attention", [tensor(1, 4, 1, 8), *[tensor(1, 4, 1, 8)] * 2, None, *[tensor(1, 4, 9, 8)] * 2]),
            4 * 10 * 16,
        ),
        (
            node("MultiHeadAttention", [tensor(2, 5, 32), tensor(2, 6, 32), tensor(2, 6, 48)], domain="com.microsoft"),
            2 * 5 * 6 * 80,
        ),
        (
            node("Attention", [tensor(2, 5, 32), tensor(32, 96)], tensor(2, 5, 32), domain="com.microsoft"),
            2 * 5 * 32 * 96 + 2 * 2 * 5 * 5 * 32,
        ),
        (node("MatMulNBits", [tensor(3, 64)], tensor(3, 10), domain="com.microsoft", K=64, N=10), 3 * 64 * 10),
        (node("FusedMatMul", [tensor(4, 3), tensor(4, 5)], tensor(3, 5), domain="com.microsoft", transA=1), 60),
        (node("MatMul", [tensor(2, 3), tensor(3, 4)], tensor(2, 4), domain="ai.onnx"), 24),
        (node("Relu", [tensor(4)], tensor(4)), 0),
        (node("AveragePool", [tensor(1, 8, 4, 4)], tensor(1, 8, 2, 2)), 0),
    ],
    ids=lambda value: value.op_type if isinstance(value, ir.Node) else None,
)
def test_macs(made, macs):
    assert macs_of(made) == macs


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(3, 4), (4, 5)]),
        ("bhid, bhjd -> bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("...ij,...jk->...ik", [(7, 2, 3, 4), (2, 4, 5)]),
        ("i,j->ij", [(3,), (4,)]),
        ("ij,ij", [(3, 4), (3, 4)]),
    ],
)
def test_einsum_counts_what_numpy_counts(equation, shapes):
    made = node("Einsum", [tensor(*shape) for shape in shapes], equation=equation)
    report = np.einsum_path(equation, *(np.zeros(shape) for shape in shapes), optimize=False)[1]
    naive = float(report.split("Naive FLOP count:")[1].split()[0])
    contracts = {"i,j->ij": 1}.get(equation, 2)  # numpy counts a product and a sum where something is summed
    assert macs_of(made) == pytest.approx(naive / contracts, rel=1e-3)


def test_einsum_of_one_operand_multiplies_nothing():
    assert macs_of(node("Einsum", [tensor(3, 3)], equation="ii->i")) == 0


def test_einsum_of_three_operands_depends_on_the_order():
    made = node("Einsum", [tensor(2, 3), tensor(3, 4), tensor(4, 5)], equation="ij,jk,kl->il")
    assert macs_of(made).code == "contraction_order"


def test_unknown_operator_is_missing_by_name():
    made = node("Frobnicate", [tensor(3)], domain="com.example")
    for cost in (macs_of(made), moved_bytes_of(made)):
        assert isinstance(cost, Missing)
        assert cost.code == "unknown_op"
        assert "com.example.Frobnicate" in cost.why


def test_control_flow_is_missing():
    assert macs_of(node("If", [tensor(dtype=ir.DataType.BOOL)])).code == "control_flow"


@pytest.mark.parametrize("shape", [None, ir.Shape(["N", 4])])
def test_unknown_shape_is_missing_by_tensor_name(shape):
    loose = ir.Value(name="loose", shape=shape, type=ir.TensorType(FLOAT))
    made = node("MatMul", [tensor(2, 3), tensor(3, 4)], loose)
    for cost in (macs_of(made), moved_bytes_of(made)):
        assert isinstance(cost, Missing)
        assert cost.code == "unknown_shape"
        assert "'loose'" in cost.why


@pytest.mark.parametrize(
    "made",
    [
        node("Conv", [tensor(1, 3, 4, 4)], tensor(1, 5, 2, 2)),
        node("MatMul", [tensor(), tensor(3)], tensor(3)),
        node("MatMulNBits", [tensor(3, 64)], tensor(3, 10), domain="com.microsoft"),
        node("Einsum", [tensor(3), tensor(3)], equation="ij,j->i"),
        node("Einsum", [tensor(3)], equation="i,i->"),
    ],
    ids=lambda made: made.op_type,
)
def test_nonsense_is_missing_not_a_crash(made):
    assert macs_of(made).code == "malformed_node"


@pytest.mark.parametrize(
    ("made", "moved"),
    [
        (node("Add", [tensor(2, 3), tensor(3)], tensor(2, 3)), (6 + 3 + 6) * 4),
        (node("Cast", [tensor(10)], tensor(10, dtype=ir.DataType.FLOAT16)), 40 + 20),
        (node("DequantizeLinear", [tensor(5, dtype=ir.DataType.INT4), tensor()], tensor(5)), 3 + 4 + 20),
        (node("Reshape", [tensor(2, 3), tensor(1, dtype=ir.DataType.INT64)], tensor(6)), 0),
        (node("Shape", [tensor(100, 100)], tensor(2, dtype=ir.DataType.INT64)), 16),
        (
            node("Gather", [tensor(30_000, 64), tensor(1, 7, dtype=ir.DataType.INT64)], tensor(1, 7, 64)),
            7 * 8 + 2 * 7 * 64 * 4,
        ),
        (node("Gather", [tensor(2, 4), tensor(9, dtype=ir.DataType.INT64)], tensor(9, 4)), 32 + 72 + 144),
        (node("MaxPool", [tensor(1, 1, 4, 4)], tensor(1, 1, 2, 2), ir.Value(name="")), 64 + 16),
        (node("Clip", [tensor(4), None, tensor()], tensor(4)), 16 + 4 + 16),
    ],
    ids=lambda value: value.op_type if isinstance(value, ir.Node) else None,
)
def test_moved_bytes(made, moved):
    assert moved_bytes_of(made) == moved


def test_tensor_used_twice_moves_once():
    x = tensor(8)
    assert moved_bytes_of(node("Mul", [x, x], tensor(8))) == 2 * 32


def test_strings_have_no_known_size():
    made = node("Identity", [tensor(3, dtype=ir.DataType.STRING)], tensor(3, dtype=ir.DataType.STRING))
    assert moved_bytes_of(made) == 0
    made = node("Concat", [tensor(3, dtype=ir.DataType.STRING)], tensor(3, dtype=ir.DataType.STRING), axis=0)
    assert moved_bytes_of(made).code == "unknown_dtype"


# A new ONNX operator must be sorted into one of the tables, or named here.
UNCOUNTED = {
    "BlackmanWindow",
    "CausalConvWithState",
    "Col2Im",
    "ConcatFromSequence",
    "Constant",
    "DFT",
    "Det",
    "FlexAttention",
    "HammingWindow",
    "HannWindow",
    "ImageDecoder",
    "LinearAttention",
    "MelWeightMatrix",
    "NegativeLogLikelihoodLoss",
    "Optional",
    "OptionalGetElement",
    "RegexFullMatch",
    "STFT",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SoftmaxCrossEntropyLoss",
    "SplitToSequence",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "TfIdfVectorizer",
}


def test_every_onnx_operator_is_accounted_for():
    known = {op for domain, op in (*COUNTERS, *NO_MACS, *CONTROL_FLOW) if domain == ""}
    onnx_has = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert onnx_has - known <= UNCOUNTED
    assert known & UNCOUNTED == set()
    assert not set(COUNTERS) & set(NO_MACS)


class Net:
    """Builds the convolutions of a network: enough for its multiply-adds."""

    def __init__(self, size):
        self.nodes, self.channels, self.size = [], 3, size

    def conv(self, out, kernel, stride=1, group=1):
        size = (self.size - 1) // stride + 1
        inputs = [tensor(1, self.channels, self.size, self.size), tensor(out, self.channels // group, kernel, kernel)]
        self.nodes.append(node("Conv", inputs, tensor(1, out, size, size), group=group))
        self.channels, self.size = out, size

    def linear(self, out):
        self.nodes.append(node("Gemm", [tensor(1, self.channels), tensor(self.channels, out)], tensor(1, out)))

    @property
    def macs(self):
        return sum(macs_of(made) for made in self.nodes)


def test_resnet50_has_its_published_count():
    """He et al. 2015, table 1; 4.089 G is the figure of torchvision and fvcore."""
    net = Net(224)
    net.conv(64, 7, stride=2)
    net.size = 56
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            if block == 0:
                before = net.channels, net.size
                net.conv(4 * width, 1, stride=step)
                net.channels, net.size = before
            net.conv(width, 1)
            net.conv(width, 3, stride=step)
            net.conv(4 * width, 1)
    net.linear(1000)
    assert net.macs == 4_089_184_256


def test_mobilenet_v2_has_its_published_count():
    """Sandler et al. 2018, table 2: 300 M."""
    net = Net(224)
    net.conv(32, 3, stride=2)
    for factor, out, blocks, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(blocks):
            hidden = net.channels * factor
            if factor > 1:
                net.conv(hidden, 1)
            net.conv(hidden, 3, stride=stride if block == 0 else 1, group=hidden)
            net.conv(out, 1)
    net.conv(1280, 1)
    net.linear(1000)
    assert net.macs == 300_774_272


def small_model():
    x = tensor(1, 4, name="x")
    shared = weight("shared", 4, 4)
    first = ir.node("MatMul", [x, shared], outputs=[tensor(1, 4, name="a")], name="first")
    first.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'body', 'body.0', 'matmul']"
    constant = ir.node("Constant", [], {"value_float": 2.0}, outputs=[tensor(name="two")])
    second = ir.node("MatMul", [first.outputs[0], shared], outputs=[tensor(1, 4, name="b")])
    third = ir.node("Mul", [second.outputs[0], constant.outputs[0]], outputs=[tensor(1, 4, name="y")], name="third")
    third.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'mul']"
    graph = ir.Graph(
        [x],
        [third.outputs[0]],
        nodes=[first, constant, second, third],
        initializers=[shared],
        opset_imports={"": 18},
        name="g",
    )
    second.name = ""  # onnx_ir names nodes by itself; a file need not
    return ir.Model(graph, ir_version=10)


def test_layers():
    layers = layers_of(small_model())
    assert [layer.name for layer in layers] == ["first", "b", "third"]
    assert [layer.op for layer in layers] == ["MatMul", "MatMul", "Mul"]
    assert [layer.module for layer in layers] == ["body.0", None, None]
    assert [layer.parameters for layer in layers] == [16, 0, 0]
    assert [layer.macs for layer in layers] == [16, 16, 0]
    assert layers[0].moved_bytes == (4 + 16 + 4) * 4
    assert layers[0].inputs == ("x", "shared")
    assert layers[0].outputs == ("a",)


def test_layers_count_the_weights_inside_a_branch():
    kept = weight("kept", 3)
    inner = ir.node("Identity", [kept], outputs=[tensor(3, name="inner")])
    branch = ir.Graph([], [inner.outputs[0]], nodes=[inner], initializers=[kept], name="branch")
    condition = tensor(name="condition", dtype=ir.DataType.BOOL)
    made = ir.node("If", [condition], {"then_branch": branch}, outputs=[tensor(3, name="y")], name="if")
    graph = ir.Graph([condition], [made.outputs[0]], nodes=[made], opset_imports={"": 18}, name="g")
    (layer,) = layers_of(ir.Model(graph, ir_version=10))
    assert layer.parameters == 3
    assert layer.macs.code == "control_flow"


def test_real_network():
    """SqueezeNet 1.0: torchvision's 818.9 M, and 512 x 1000 x (15^2 - 13^2) for this file's padded last layer."""
    path = SHARED / "imagenet" / "squeezenet_v1.0_deep_compressed.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    model = read_onnx(path)
    fix_axes(model, {}, 1)
    layers = layers_of(infer_shapes(model))
    assert sum(layer.macs for layer in layers) == 818_924_576 + 512_000 * 56
    assert sum(layer.parameters for layer in layers) == 1_248_424
    assert all(math.isfinite(layer.moved_bytes) for layer in layers)
