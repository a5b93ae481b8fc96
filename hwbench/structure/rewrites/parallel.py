"""Projections that read the same tensor, as one: queries, keys and values of attention, gate and up of a gated MLP.

One product with the weights side by side and a Split take the place of several products. The outputs keep their names;
the products' own outputs, before a bias, are gone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from hwbench.graph.initializers import add_initializer
from hwbench.graph.linear import Array, Linear, linear_layers
from hwbench.records.base import Missing
from hwbench.structure.rewrites.base import (
    HELD,
    Bench,
    Place,
    discard,
    only_reader,
    place,
    refused,
    replace,
    sizes,
)

_ELEMENTWISE = frozenset(
    {"Sigmoid", "HardSigmoid", "HardSwish", "Relu", "Gelu", "Swish", "Tanh", "Erf", "Mul", "Div", "Add"}
)
_BETWEEN = _ELEMENTWISE | {"MatMul", "Reshape", "Transpose", "Slice", "Concat", "Unsqueeze", "Squeeze", "Expand", "Sub",
                           "Neg", "Split", "Where"}  # fmt: skip


def qkv(bench: Bench) -> Iterator[Place]:
    """Yield projections with one input of which at least two reach the same Softmax."""
    for group in _groups(bench):
        reached = [_reached(layer.output, "Softmax", _BETWEEN) for layer in group]
        if any(one & other for i, one in enumerate(reached) for other in reached[:i]):
            yield _place(bench, group)


def gate_up(bench: Bench) -> Iterator[Place]:
    """Yield two projections of one input that are multiplied with each other, as in SwiGLU (arXiv:2002.05202)."""
    for group in _groups(bench):
        reached = [_reached(layer.output, "Mul", _ELEMENTWISE) for layer in group]
        pairs = [(one, other) for other in range(len(group)) for one in range(other) if reached[one] & reached[other]]
        if pairs:
            yield _place(bench, [group[index] for index in pairs[0]])


def _groups(bench: Bench) -> list[list[Linear]]:
    """Return the projections that could be one: same input, operator and element type, no layer in two groups."""
    found: dict[object, list[Linear]] = defaultdict(list)
    for layer in linear_layers(bench.model):
        if isinstance(layer, Linear) and layer.node.op_type in {"MatMul", "Gemm"}:
            weight = layer.node.inputs[1]
            assert weight is not None
            found[layer.input, layer.node.op_type, weight.dtype].append(layer)
    return [group for group in found.values() if len(group) > 1]


def _reached(value: ir.Value, wanted: str, through: frozenset[str]) -> set[ir.Node]:
    """Return the nodes of one kind that a value reaches, without going through another layer or another such node."""
    found: set[ir.Node] = set()
    seen, frontier = {value}, [value]
    while frontier:
        for node, _ in frontier.pop().uses():
            if node.op_type == wanted:
                found.add(node)
            weighted = node.op_type in {"MatMul", "Gemm"} and any(
                v is not None and v.is_initializer() for v in node.inputs
            )
            if node.op_type not in through or weighted or (node.op_type == wanted and wanted != "Mul"):
                continue
            fresh = [output for output in node.outputs if output not in seen]
            seen.update(fresh)
            frontier.extend(fresh)
    return found


def _place(bench: Bench, group: Sequence[Linear]) -> Place:
    nodes = [layer.node for layer in group]
    weights = [layer.node.inputs[1] for layer in group]
    biases = [_bias_value(layer) for layer in group]
    if bench.holds(*weights, *biases):
        return refused(HELD, *nodes)
    if any(value is not None and len(value.uses()) > 1 for value in weights):
        return refused(Missing(code="shared_weight", why="another node reads one of the weights too"), *nodes)
    if any(layer.add is not None and only_reader(layer.node.outputs[0]) is not layer.add for layer in group):
        return refused(Missing(code="second_consumer", why="a product is also read without its bias"), *nodes)
    if len({len(sizes(layer.output) or ()) for layer in group}) > 1 or any(
        sizes(layer.output) is None for layer in group
    ):
        return refused(Missing(code="dynamic_shape", why="the shape of an output is not known"), *nodes)
    columns = " + ".join(str(layer.output_channels) for layer in group)
    others = ", ".join(f"'{node.name}'" for node in nodes[1:])
    return place(f"one product of {columns} columns with {others}, and a Split", _merged(bench, group), *nodes)


def _merged(bench: Bench, group: Sequence[Linear]) -> Callable[[], None]:
    def make() -> None:
        graph, first = bench.graph, group[0]
        dtype = _array(first.node.inputs[1]).dtype
        name = first.name
        weight = np.concatenate([layer.blocks()[0, :, :, 0].T for layer in group], axis=1).astype(dtype)
        biases = [layer.bias() for layer in group]
        bias = None
        if any(one is not None for one in biases):
            filled = [np.zeros(layer.output_channels) if one is None else one
                      for one, layer in zip(biases, group, strict=True)]  # fmt: skip
            bias = add_initializer(graph, f"{name}.merged_bias", np.concatenate(filled).astype(dtype))
        new_weight = add_initializer(graph, f"{name}.merged_weight", weight)
        result = _product(graph, first, new_weight, bias)
        _split(bench, first, result, group)
        for layer in group:
            discard(layer.add or layer.node)

    return make


def _product(graph: ir.Graph, first: Linear, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
    """Put the merged product where the first one is; the old nodes go when nothing reads them."""
    given: list[ir.Value | None] = [first.input, weight]
    gemm = first.node.op_type == "Gemm"
    node = ir.node(first.node.op_type, [*given, bias] if gemm and bias is not None else given, name=first.name)
    node.metadata_props.update(first.node.metadata_props)
    result = node.outputs[0]
    result.name, result.type = f"{first.name}.merged", first.output.type
    result.shape = _wide(first, int(weight.shape[1]))  # type: ignore[index, arg-type]
    graph.insert_before(first.node, node)
    if gemm or bias is None:
        return result
    add = ir.node("Add", [result, bias], name=f"{first.name}.merged_add" if first.add is None else first.add.name)
    result.name = f"{first.name}.merged_product"
    out = add.outputs[0]
    out.name, out.type, out.shape = f"{first.name}.merged", first.output.type, result.shape
    graph.insert_before(first.node, add)
    return out


def _wide(first: Linear, columns: int) -> ir.Shape:
    known = sizes(first.output)
    assert known is not None
    return ir.Shape((*known[:-1], columns))


def _split(bench: Bench, first: Linear, result: ir.Value, group: Sequence[Linear]) -> None:
    counts = [layer.output_channels for layer in group]
    rank = len(result.shape or ())
    attributes: dict[str, int | list[int]] = {"axis": rank - 1}
    given = [result]
    if bench.opset < 13:
        attributes["split"] = counts
    else:
        given.append(add_initializer(bench.graph, f"{first.name}.split.sizes", np.array(counts, np.int64)))
    node = ir.node("Split", given, attributes, num_outputs=len(group), name=f"{first.name}.split")
    bench.graph.insert_before(first.node, node)
    for out, layer in zip(node.outputs, group, strict=True):
        old = layer.output
        name, out.type, out.shape = old.name, old.type, old.shape
        replace(old, out)
        old.name = f"{name}.unused"
        out.name = name


def _bias_value(layer: Linear) -> ir.Value | None:
    holder = layer.add or layer.node
    if layer.add is None and (layer.node.op_type == "MatMul" or len(layer.node.inputs) < 3):
        return None
    return holder.inputs[layer.bias_index]


def _array(value: ir.Value | None) -> Array:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    assert tensor is not None
    array: Array = tensor.numpy()
    return array
