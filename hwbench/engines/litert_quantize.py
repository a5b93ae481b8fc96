"""A float LiteRT file quantised by a choice of schemes, with our ranges, through litert-quantizer.

Every operator gets a rule of its own. Activations in int8 are asymmetric with one scale a tensor, weights symmetric in
[-127, 127] with one scale an output channel, biases int32 (the LiteRT 8-bit specification); the quantiser ties the
scales of padding, pooling and reshaping, and fixes those of the logistic function. Inputs and outputs stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hwbench.engines import edge
from hwbench.engines.litert_choose import Ranges
from hwbench.engines.litert_graph import FileGraph, Op
from hwbench.engines.litert_kinds import MOVES, TOOL_NAMES
from hwbench.quantize.weights import INT8_LARGEST, scales_for_bias, weight_scales
from hwbench.records.quantization import Scheme

_SMALLEST = 1e-9  # range that litert-quantizer takes for a tensor of zeros
_BLOCK = 32  # weights of four bits share a scale in blocks of this many inputs, where they divide by it

Extremes = dict[str, Any]  # min and max, as litert-quantizer takes them


def quantized(graph: FileGraph, schemes: Mapping[int, Scheme], ranges: Ranges, *, half: bool) -> bytes:
    """Return the file with each operator in its scheme; ``half``: the other weights in 16-bit floating point.

    Raises:
        EngineError: litert-quantizer refuses.
    """
    from litert_quantizer import qtyping, quantizer

    chosen = [op for op in graph.ops if schemes.get(op.index, "float") != "float"]
    with edge.translated("litert-quantizer"):
        tool: Any = quantizer.Quantizer(bytearray(graph.to_bytes()))
        if half:  # first, since of the rules that fit an operator the last holds
            casting = quantizer.AlgorithmName.FLOAT_CASTING
            tool.update_quantization_recipe(".*", qtyping.TFLOperationName.ALL_SUPPORTED, _half(qtyping), casting)
        for op in chosen:
            _rule(tool, qtyping, graph, op, schemes[op.index])
        static = [op for op in chosen if schemes[op.index] == "int8"]
        extremes = _extremes(graph, static, ranges) if static else None
        result = tool.quantize(extremes, enable_progress_bar=False, enable_progress_report=False)
    done = FileGraph(bytes(result.quantized_model))
    done.keep_outputs(graph)
    return done.to_bytes()


def _half(qtyping: Any) -> Any:
    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    return qtyping.OpQuantizationConfig(
        weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
    )


def _rule(tool: Any, qtyping: Any, graph: FileGraph, op: Op, scheme: Scheme) -> None:
    where = f"^{re.escape(graph.name(op.output))}"
    kind = qtyping.TFLOperationName(TOOL_NAMES.get(op.kind, op.kind))
    if scheme == "int8":
        tool.add_static_config(where, kind, activation_num_bits=8, weight_num_bits=8)
    elif scheme == "int8-dynamic":
        tool.add_dynamic_config(where, kind, num_bits=8)
    elif scheme == "int8-weights":
        tool.add_weight_only_config(where, kind, num_bits=8)
    else:
        grain = qtyping.QuantGranularity
        in_blocks = op.kind == "FULLY_CONNECTED" and graph.constant(_weight(graph, op)).shape[-1] % _BLOCK == 0
        granularity = grain.BLOCKWISE_32 if in_blocks else grain.CHANNELWISE
        tool.add_dynamic_config(where, kind, num_bits=4, granularity=granularity)


def _weight(graph: FileGraph, op: Op) -> int:
    weight = graph.weight_of(op)
    assert weight is not None, "a scheme of weights needs them"
    return weight


def _extremes(graph: FileGraph, ops: Iterable[Op], ranges: Ranges) -> dict[str, Extremes]:
    """Return the limits of every tensor that is in int8: activations, and the weights whose bias would not fit."""
    ops = list(ops)
    limits: dict[int, tuple[float, float]] = {}
    for op in ops:
        for tensor in (*op.inputs, *op.outputs):
            found = ranges.of(tensor) if graph.is_float(tensor) else None
            if found is not None:
                limits[tensor] = (min(found.low, 0.0), max(found.high, 0.0))
    _tie(ops, limits)
    extremes: dict[str, Extremes] = {
        graph.name(tensor): _extremes_of(low, high, graph.rank(tensor)) for tensor, (low, high) in limits.items()
    }
    for op in ops:
        weight, bias = graph.weight_of(op), graph.bias_of(op)
        if weight is None or bias is None:
            continue
        low, high = limits[op.inputs[0]]
        widened = _widened(op, graph.constant(weight), graph.constant(bias), max(high - low, _SMALLEST) / 255)
        if widened is not None:
            extremes[graph.name(weight)] = {"min": -widened, "max": widened}
    return extremes


def _extremes_of(low: float, high: float, rank: int) -> Extremes:
    """Return one tensor's limits with as many axes as it has.

    A concatenation rounds the constants it reads by its output's limits, and litert-quantizer refuses those of any
    other rank.
    """
    shape = (1,) * rank
    return {"min": np.full(shape, low, np.float32), "max": np.full(shape, high, np.float32)}


def _tie(ops: Iterable[Op], limits: dict[int, tuple[float, float]]) -> None:
    """Give all inputs of a concatenation the limits of its output: LiteRT copies bytes there, and rescales nothing."""
    ops = list(ops)
    writers = {op.output: op for op in ops}
    for op in reversed(ops):
        if op.kind != "CONCATENATION":
            continue
        for tensor in op.inputs:
            source = tensor
            while True:
                limits[source] = limits[op.output]
                writer = writers.get(source)
                if writer is None or writer.kind not in MOVES:
                    break
                source = writer.inputs[0]


def _widened(op: Op, weight: Any, bias: Any, input_scale: float) -> Any | None:
    """Return the magnitude to quantise each channel's weights by, where a bias would not fit int32 else, or None."""
    axis = weight.ndim - 1 if op.kind == "DEPTHWISE_CONV_2D" else 0
    scales = weight_scales(weight, axis)
    enlarged = scales_for_bias(bias, input_scale, scales)
    if np.array_equal(enlarged, scales):
        return None
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    return (enlarged * INT8_LARGEST).astype(np.float32).reshape(shape)
