"""Multiply-adds against counting one by one; bytes and precisions by the types of tensors."""

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from hwbench.engines.litert_costs import macs_of, moved_bytes_of, precision_of
from hwbench.engines.litert_file import FileNode, FileTensor, source_names, torch_module
from hwbench.records.base import Missing


def tensor(index, shape, dtype="float32", *, quantised=False):
    return FileTensor(
        index=index,
        name=f"t{index}",
        dtype=dtype,
        shape=shape,
        open_axes=(),
        constant_bytes=0,
        quantised=quantised,
    )


def node(op, count_in, *, custom=False):
    return FileNode(
        index=0, name="n", module=None, op=op, custom=custom, inputs=tuple(range(count_in)), outputs=(count_in,)
    )


def case(op, *shapes, **options):
    """Return a node whose inputs and output have these shapes, and the tensors."""
    return node(op, len(shapes) - 1, **options), [tensor(index, shape) for index, shape in enumerate(shapes)]


def macs(op, *shapes, **options):
    one, tensors = case(op, *shapes, **options)
    return macs_of(one, {item.index: item.shape for item in tensors})


def by_loops(out, kernel):
    """Count a convolution's multiply-adds one by one."""
    return sum(1 for _ in np.ndindex(*out) for _ in np.ndindex(*kernel))


@pytest.mark.parametrize(
    ("op", "shapes", "expected"),
    [
        ("CONV_2D", [(1, 5, 5, 3), (4, 3, 3, 3), (1, 3, 3, 4)], by_loops((1, 3, 3, 4), (3, 3, 3))),
        ("CONV_2D", [(1, 5, 5, 8), (4, 1, 1, 2), (1, 5, 5, 4)], by_loops((1, 5, 5, 4), (2,))),  # four groups
        ("DEPTHWISE_CONV_2D", [(1, 5, 5, 3), (1, 3, 3, 6), (1, 3, 3, 6)], by_loops((1, 3, 3, 6), (3, 3))),
        ("FULLY_CONNECTED", [(2, 7, 5), (4, 5), (2, 7, 4)], 2 * 7 * 4 * 5),
        ("BATCH_MATMUL", [(2, 3, 5), (2, 5, 4), (2, 3, 4)], 2 * 3 * 4 * 5),
        ("BATCH_MATMUL", [(2, 5, 3), (2, 5, 4), (2, 3, 4)], 2 * 3 * 4 * 5),  # adj_x
        ("BATCH_MATMUL", [(2, 3, 5), (2, 4, 5), (2, 3, 4)], 2 * 3 * 4 * 5),  # adj_y
        ("TRANSPOSE_CONV", [(4,), (6, 2, 2, 3), (1, 4, 4, 3), (1, 8, 8, 6)], by_loops((1, 4, 4, 3), (6, 2, 2))),
        ("ADD", [(1, 8), (1, 8), (1, 8)], 0),
        ("SOFTMAX", [(1, 8), (1, 8)], 0),
    ],
)
def test_multiply_adds(op, shapes, expected):
    assert macs(op, *shapes) == expected


@pytest.mark.parametrize(
    ("op", "options", "code"),
    [
        ("WHILE", {}, "control_flow"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", {}, "unknown_op"),
        ("STABLEHLO_CONVOLUTION", {}, "unknown_op"),
        ("Mine", {"custom": True}, "unknown_op"),
    ],
)
def test_what_cannot_be_counted(op, options, code):
    assert macs(op, (1, 8), (1, 8), **options).code == code


def test_a_product_of_too_few_inputs_is_malformed():
    assert macs("CONV_2D", (1, 5, 5, 3), (1, 3, 3, 4)).code == "malformed_node"


@pytest.mark.parametrize(
    ("op", "dtypes", "shapes", "expected"),
    [
        ("ADD", ["float32"] * 3, [(8,), (8,), (8,)], 3 * 8 * 4),
        ("RESHAPE", ["float32"] * 2, [(8,), (2, 4)], 0),
        ("GATHER", ["float32", "int32", "float32"], [(100, 8), (2,), (2, 8)], 64 + 8 + 64),
        ("FULLY_CONNECTED", ["float32", "int4", "float32"], [(1, 7), (3, 7), (1, 3)], 28 + 11 + 12),
    ],
)
def test_moved_bytes(op, dtypes, shapes, expected):
    tensors = [tensor(index, shape, dtype) for index, (dtype, shape) in enumerate(zip(dtypes, shapes, strict=True))]
    assert moved_bytes_of(node(op, len(shapes) - 1), tensors, dict(enumerate(shapes))) == expected


def test_a_tensor_given_twice_moves_once():
    tensors = [tensor(0, (8,)), tensor(1, (8,))]
    twice = FileNode(index=0, name="n", module=None, op="MUL", custom=False, inputs=(0, 0), outputs=(1,))
    assert moved_bytes_of(twice, tensors, {0: (8,), 1: (8,)}) == 64


def test_strings_have_no_size():
    tensors = [tensor(0, (8,), "string"), tensor(1, (8,), "string")]
    assert isinstance(moved_bytes_of(node("MUL", 1), tensors, {0: (8,), 1: (8,)}), Missing)


@pytest.mark.parametrize(
    ("op", "dtypes", "expected"),
    [
        ("CONV_2D", ["float32", "float32", "float32"], "fp32"),
        ("CONV_2D", ["int8", "int8", "int8"], "int8"),
        ("CONV_2D", ["uint8", "uint8", "uint8"], "int8"),
        ("CONV_2D", ["int16", "int8", "int16"], "int16"),
        ("CONV_2D", ["float32", "int8", "float32"], "int8-dynamic"),
        ("FULLY_CONNECTED", ["float32", "int4", "float32"], "int8-dynamic"),
        ("FULLY_CONNECTED", ["float16", "float16", "float16"], "fp16"),
        ("TRANSPOSE_CONV", ["int32", "int8", "float32", "float32"], "int8-dynamic"),
        ("TRANSPOSE_CONV", ["int32", "float32", "float32", "float32"], "fp32"),
        ("ADD", ["float32", "int8", "float32"], "fp32"),
        ("GATHER", ["int32", "float32", "float32"], "fp32"),
        ("DEQUANTIZE", ["int8", "float32"], "fp32"),
    ],
)
def test_precision(op, dtypes, expected):
    tensors = [tensor(index, (8,), dtype, quantised="int" in dtype) for index, dtype in enumerate(dtypes)]
    assert precision_of(node(op, len(dtypes) - 1), tensors) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("net.Net/torch.nn.modules.container.Sequential_blocks/net.Block_0/torch.nn.LayerNorm_norm1", "blocks.0.norm1"),
        ("__main__.Block/torch.nn.modules.linear.Linear_in_proj", "in_proj"),
        ("hwbench.models.vit_tiny.VitTiny", None),
        ("MobilenetV1/Logits/Conv2d_1c_1x1/BiasAdd", None),
        ("x", None),
    ],
)
def test_paths_of_torch_modules(name, expected):
    assert torch_module(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv1", ("conv1",)),
        ("L012|conv1", ("L012|conv1", "conv1")),
        ("L012|conv1;;relu1", ("L012|conv1;;relu1", "conv1;;relu1", "conv1", "relu1")),
        ("a/Relu;a/BiasAdd", ("a/Relu;a/BiasAdd", "a/Relu", "a/BiasAdd")),
    ],
)
def test_names_of_layers_in_a_tensors_name(name, expected):
    assert source_names(name) == expected
