"""One matrix product as an ONNX graph: ``y = a b``, square, with a constant ``b`` as in a linear layer."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET = 19
_IR_VERSION = 9  # what goes with that opset: read by every runtime hwbench supports


def float_graph(size: int) -> bytes:
    """Return ``y = a b`` in fp32, as ONNX."""
    generator = np.random.default_rng(0)
    weight = numpy_helper.from_array(generator.standard_normal((size, size), dtype=np.float32), "b")
    return _graph(
        size, TensorProto.FLOAT, TensorProto.FLOAT, [helper.make_node("MatMul", ["a", "b"], ["y"], "product")], [weight]
    )


def integer_graph(size: int) -> bytes:
    """Return ``y = a b`` with a in uint8, b in int8 and y in int32, as ONNX."""
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"], "product")
    return _graph(size, TensorProto.UINT8, TensorProto.INT32, [node], [_int8_weight(size)])


def quantised_graph(size: int) -> bytes:
    """Return ``y = dq(q(a)) dq(b)`` with q to uint8 and b in int8, as ONNX."""
    constants = [
        _int8_weight(size),
        numpy_helper.from_array(np.float32(0.03), "a_scale"),
        numpy_helper.from_array(np.uint8(128), "a_zero"),
        numpy_helper.from_array(np.float32(0.01), "b_scale"),
        numpy_helper.from_array(np.int8(0), "b_zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["a", "a_scale", "a_zero"], ["a_int"], "quantise"),
        helper.make_node("DequantizeLinear", ["a_int", "a_scale", "a_zero"], ["a_real"], "dequantise_a"),
        helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["b_real"], "dequantise_b"),
        helper.make_node("MatMul", ["a_real", "b_real"], ["y"], "product"),
    ]
    return _graph(size, TensorProto.FLOAT, TensorProto.FLOAT, nodes, constants)


def _int8_weight(size: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.random.default_rng(0).integers(-127, 128, (size, size), dtype=np.int8), "b")


def _graph(size: int, taken: int, given: int, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> bytes:
    inputs = [helper.make_tensor_value_info("a", taken, [size, size])]
    outputs = [helper.make_tensor_value_info("y", given, [size, size])]
    graph = helper.make_graph(nodes, "product", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    return bytes(model.SerializeToString())


def left_operand(size: int, kind: type[np.generic]) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """Return a matrix for ``a``, uint8 or float32."""
    generator = np.random.default_rng(1)
    if kind is np.uint8:
        return generator.integers(0, 256, (size, size), dtype=np.uint8)
    return generator.standard_normal((size, size), dtype=np.float32)
