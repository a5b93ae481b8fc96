"""The operators of an OpenVINO file as layers, with their costs by the conventions of :mod:`hwbench.graph.count`.

What is computed from constants alone (the unpacking of weights) runs once, when the model is compiled; it is no layer,
and the constants behind it are the weights of the layer that reads it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hwbench.engines.openvino_units import NAMES
from hwbench.records.base import Missing
from hwbench.records.model import Layer

if TYPE_CHECKING:
    import openvino as ov

_ENDS = frozenset({"Parameter", "Constant", "Result"})
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze"})
_MOVES = _VIEWS | {"Transpose", "MaxPool", "Concat"}
_SELECTIONS = frozenset({"Gather", "GatherElements", "GatherND", "Slice", "StridedSlice"})
_CONTROL_FLOW = frozenset({"Loop", "TensorIterator", "If"})
_UNCOUNTED = _CONTROL_FLOW | {
    "BinaryConvolution", "DeformableConvolution", "Einsum", "GRUCell", "GRUSequence", "LSTMCell", "LSTMSequence",
    "RNNCell", "RNNSequence", "ScaledDotProductAttention", "PagedAttentionExtension",
}  # fmt: skip
_LEADING = {  # axes of the weights that are no part of what one result sums over
    "Convolution": 1,
    "GroupConvolution": 2,
    "ConvolutionBackpropData": 1,
    "GroupConvolutionBackpropData": 2,
}
_INTEGERS = frozenset({"i8", "u8", "i4", "u4"})
_WEIGHTS = _INTEGERS | {"f32", "f16", "bf16", "f64", "u2", "u1", "nf4", "f8e4m3", "f8e5m2", "f4e2m1"}


def layers_of(model: ov.Model) -> tuple[Layer, ...]:
    """Return the operators that depend on an input, in the order they can run, each under a name of its own."""
    live: set[str] = set()
    counted: set[str] = set()
    names: Counter[str] = Counter()
    layers = []
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Parameter" or any(_source(value) in live for value in _values(node)):
            live.add(node.get_name())
            if node.get_type_name() not in _ENDS:
                layers.append(_layer(node, live, counted, names))
    return tuple(layers)


def _layer(node: Any, live: set[str], counted: set[str], names: Counter[str]) -> Layer:
    name = node.get_friendly_name()
    names[name] += 1
    constants = [weight for value in _values(node) if _source(value) not in live for weight in weights_behind(value)]
    fresh = {constant.get_name(): constant for constant in constants if constant.get_name() not in counted}
    counted.update(fresh)
    weighing = [one for one in fresh.values() if _type(one.output(0)) in _WEIGHTS and one.get_output_shape(0)]
    return Layer(
        name=name if names[name] == 1 else f"{name}_{names[name]}",
        op=node.get_type_name(),
        module=None,
        inputs=tuple(_tensor(value) for value in _values(node) if _source(value) in live),
        outputs=tuple(_tensor(output) for output in node.outputs()),
        parameters=max((math.prod(_shape(one.output(0))) for one in weighing), default=0),
        macs=_macs(node),
        moved_bytes=_moved_bytes(node, live),
    )


def arithmetic_of(model: ov.Model, layers: Sequence[Layer]) -> str:
    """Return the precision in which most multiply-adds are written down; fp32 where there are none."""
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    weighed: Counter[str] = Counter()
    for layer in layers:
        if not isinstance(layer.macs, Missing) and layer.macs > 0 and layer.name in nodes:
            weighed[_written(nodes[layer.name])] += layer.macs
    return weighed.most_common(1)[0][0] if weighed else "fp32"


def weight_bytes_of(model: ov.Model) -> int:
    """Return the bytes of all constants of the file."""
    return sum(_bytes(node.output(0)) for node in model.get_ordered_ops() if node.get_type_name() == "Constant")


def weights_behind(value: Any) -> list[Any]:
    """Return the constants that ``value`` is computed from, where it is computed from constants alone."""
    todo, found, seen = [value.get_node()], [], set()
    while todo:
        node = todo.pop()
        if node.get_name() in seen:
            continue
        seen.add(node.get_name())
        if node.get_type_name() == "Constant":
            found.append(node)
        todo.extend(source.get_node() for source in _values(node))
    return found


def _written(node: Any) -> str:
    """Return int8 for a product of two quantised factors, else the type of the result."""
    if all(_quantised(node.input_value(index)) for index in (0, 1)):
        return "int8"
    kind = _type(node.output(0))
    return NAMES.get(kind, kind)


def _quantised(value: Any) -> bool:
    """Say whether a factor is quantised: by a FakeQuantize, or unpacked from small integers."""
    node = value.get_node()
    while node.get_type_name() in _MOVES:
        node = node.input_value(0).get_node()
    if node.get_type_name() == "FakeQuantize":
        return True
    while node.get_type_name() in {"Multiply", "Subtract"} | _VIEWS:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Convert" and _type(node.input_value(0)) in _INTEGERS)


def _macs(node: Any) -> int | Missing:
    kind = node.get_type_name()
    if kind in _CONTROL_FLOW:
        return Missing(code="control_flow", why=f"what {kind} costs depends on the data")
    if kind in _UNCOUNTED:
        return Missing(code="unknown_op", why=f"hwbench does not count OpenVINO's {kind}")
    if kind not in _LEADING and kind != "MatMul":
        return 0
    if any(value.get_partial_shape().is_dynamic for value in (*_values(node), *node.outputs())):
        return _open(node)
    if kind == "MatMul":
        shape = _shape(node.input_value(0))
        transposed = node.get_attributes()["transpose_a"] and len(shape) > 1
        return math.prod(_shape(node.output(0))) * shape[-2 if transposed else -1]
    positions = node.output(0) if "Backprop" not in kind else node.input_value(0)
    return math.prod(_shape(positions)) * math.prod(_shape(node.input_value(1))[_LEADING[kind] :])


def _moved_bytes(node: Any, live: Iterable[str]) -> int | Missing:
    kind = node.get_type_name()
    if kind in _CONTROL_FLOW:
        return Missing(code="control_flow", why=f"what {kind} costs depends on the data")
    if any(value.get_partial_shape().is_dynamic for value in (*_values(node), *node.outputs())):
        return _open(node)
    if kind in _VIEWS:
        return 0
    written = sum(_bytes(output) for output in node.outputs())
    if kind == "ShapeOf":
        return written
    read = [_read_bytes(value, live) for value in _distinct(_values(node))]
    if kind in _SELECTIONS:
        read[0] = min(read[0], written)
    return sum(read) + written


def _read_bytes(value: Any, live: Iterable[str]) -> int:
    """Return what must be read for an input: the tensor, or the constants as they are stored."""
    if _source(value) in live:
        return _bytes(value)
    return sum(_bytes(constant.output(0)) for constant in weights_behind(value))


def _open(node: Any) -> Missing:
    why = f"a shape of {node.get_type_name()} '{node.get_friendly_name()}' is not fixed"
    return Missing(code="unknown_shape", why=why, cure="give open inputs a size with --shapes")


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in value.get_shape())


def _bytes(value: Any) -> int:
    count = math.prod(_shape(value))
    return (count * int(value.get_element_type().bitwidth) + 7) // 8 if count else 0


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list({(_source(value), value.get_index()): value for value in values}.values())


def _values(node: Any) -> list[Any]:
    return [node.input_value(index) for index in range(node.get_input_size())]


def _source(value: Any) -> str:
    return str(value.get_node().get_name())


def _type(value: Any) -> str:
    return str(value.get_element_type().get_type_name())


def _tensor(output: Any) -> str:
    """Return the name of a tensor, or one made of its node's and its position."""
    return str(min(output.get_names(), default=f"{output.get_node().get_friendly_name()}:{output.get_index()}"))
