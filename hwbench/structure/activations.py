"""Activation functions, however they are spelled, and cheaper ones in their place.

Exporters write GELU as five operators, in several orders. So a function is not told by its operators but by its
values: the elementwise operators between two tensors are run on a grid, and held against functions that are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from hwbench.graph.initializers import add_initializer
from hwbench.structure.rewrites.base import DOMAINS, constant, discard, replace, sizes

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Cheaper = Literal["hard-sigmoid", "hard-swish", "gelu-tanh", "quick-gelu", "relu"]
CHEAPER: tuple[Cheaper, ...] = get_args(Cheaper)

STANDS_FOR: dict[Cheaper, tuple[str, ...]] = {
    "hard-sigmoid": ("sigmoid",),
    "hard-swish": ("silu", "mish"),
    "gelu-tanh": ("gelu",),
    "quick-gelu": ("gelu", "gelu-tanh"),
    "relu": ("gelu", "gelu-tanh", "silu", "mish"),
}
"""What each of the cheaper functions may take the place of."""

_ANCHORS = ("Erf", "Sigmoid", "Tanh", "Gelu", "Softplus", "Mish", "Swish")
_ELEMENTWISE = frozenset(
    {*_ANCHORS, "Add", "Sub", "Mul", "Div", "Pow", "Neg", "Exp", "Log", "Sqrt", "Reciprocal", "Abs", "Relu"}
)
_GRID = np.linspace(-9, 9, 181)
_SAME = 1e-4  # GELU and its tanh form are 5e-4 apart
_UPSTREAM = 8  # operators between an anchor and the function's input, at most


@dataclass(frozen=True, kw_only=True)
class Activation:
    """``output`` = ``function`` (``input``), by ``nodes``; ``name`` is that of the node that tells it, an Erf."""

    name: str
    function: str
    input: ir.Value
    output: ir.Value
    nodes: tuple[ir.Node, ...]


def activations(model: ir.Model, *, only: str | None = None) -> Iterator[Activation]:
    """Go through the activations of a network that something cheaper could stand for, in graph order.

    Values inside, such as x (1 + erf x), must be read by nobody else. ``only``: the name of the one that is wanted.
    """
    taken: set[ir.Node] = set()
    for anchor in model.graph:
        wanted = only is None or anchor.name == only
        if wanted and anchor.op_type in _ANCHORS and anchor.domain in DOMAINS and anchor not in taken:
            found = _largest(model, anchor)
            if found is not None:
                taken.update(found.nodes)
                yield found


def substitute(model: ir.Model, activation: Activation, cheaper: Cheaper) -> None:
    """Put a cheaper function in an activation's place; the output keeps its name."""
    graph, anchor = model.graph, activation.nodes[0]
    before = {id(node) for node in graph}
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
    writer = _Writer(graph, activation, f"{activation.name}.{cheaper}", activation.nodes[-1])
    value = _WRITTEN[cheaper](writer, activation.input, opset)
    for node in graph:
        if id(node) not in before:
            node.metadata_props.update(anchor.metadata_props)
    old = activation.output
    name, value.type, value.shape = old.name, old.type, old.shape
    replace(old, value)
    old.name, value.name = f"{name}.unused", name
    discard(activation.nodes[-1])


def _largest(model: ir.Model, anchor: ir.Node) -> Activation | None:
    """Return the largest region around a node that is a known function of one value."""
    for source in _sources(anchor):
        known = _follow(source)
        if anchor not in known:
            continue
        for last in reversed(known):
            inside = _inside(known, last)
            if anchor not in inside or not _closed(inside, last):
                continue
            function = _function(model, source, inside, last.outputs[0])
            if function is not None:
                return Activation(
                    name=anchor.name or "", function=function, input=source, output=last.outputs[0], nodes=tuple(inside)
                )
    return None


def _sources(anchor: ir.Node) -> list[ir.Value]:
    """Return values that an anchor may be a function of, the farthest first."""
    found: list[ir.Value] = []
    frontier = [value for value in anchor.inputs[:1] if value is not None]
    while frontier and len(found) < _UPSTREAM:
        value = frontier.pop(0)
        found.append(value)
        producer = value.producer()
        if producer is not None and producer.op_type in _ELEMENTWISE and producer.domain in DOMAINS:
            frontier += [given for given in _computed(producer) if given not in found]
    return found[::-1]


def _follow(source: ir.Value) -> list[ir.Node]:
    """Return the elementwise nodes that compute with ``source`` and single numbers alone, in the order of the graph."""
    made, found, frontier = {source}, set[ir.Node](), [source]
    while frontier:
        for node, _ in frontier.pop().uses():
            if node in found or node.op_type not in _ELEMENTWISE or node.domain not in DOMAINS:
                continue
            if set(_computed(node)) <= made and _single_numbers(node) and len(node.outputs) == 1:
                found.add(node)
                made.add(node.outputs[0])
                frontier += [node.outputs[0], *made]  # a node with two inputs may have waited for this one
                if len(found) > 4 * _UPSTREAM:
                    return []
    graph = source.graph
    return [node for node in graph if node in found] if isinstance(graph, ir.Graph) else []


def _computed(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None and constant(value) is None]


def _single_numbers(node: ir.Node) -> bool:
    arrays = [constant(value) for value in node.inputs if value is not None]
    return all(array is None or array.size == 1 for array in arrays)


def _inside(known: Sequence[ir.Node], last: ir.Node) -> list[ir.Node]:
    """Return the nodes that ``last`` needs, itself included."""
    needed, frontier = {last}, [last]
    while frontier:
        for value in frontier.pop().inputs:
            producer = None if value is None else value.producer()
            if producer is not None and producer in known and producer not in needed:
                needed.add(producer)
                frontier.append(producer)
    return [node for node in known if node in needed]


def _closed(inside: Sequence[ir.Node], last: ir.Node) -> bool:
    """Say whether nobody else reads what is computed on the way."""
    for node in inside:
        value = node.outputs[0]
        if node is not last and (value.is_graph_output() or any(user not in inside for user, _ in value.uses())):
            return False
    return True


def _function(model: ir.Model, source: ir.Value, inside: Sequence[ir.Node], result: ir.Value) -> str | None:
    if sizes(source) is None or sizes(source) != sizes(result) or source.dtype != ir.DataType.FLOAT:
        return None
    values = _on_grid(model, source, inside, result)
    if values is None:
        return None
    return next((name for name, known in _KNOWN.items() if np.abs(known(_GRID) - values).max() < _SAME), None)


def _on_grid(model: ir.Model, source: ir.Value, inside: Sequence[ir.Node], result: ir.Value) -> Array | None:
    numbers = {
        value.name or "": array.reshape(())
        for node in inside
        for value in node.inputs
        if value is not None and (array := constant(value)) is not None
    }
    given = [onnx.numpy_helper.from_array(array, name) for name, array in numbers.items()]
    entry = onnx.helper.make_tensor_value_info(source.name or "", onnx.TensorProto.FLOAT, [len(_GRID)])
    out = onnx.helper.make_tensor_value_info(result.name or "", onnx.TensorProto.FLOAT, [len(_GRID)])
    graph = onnx.helper.make_graph([ir.to_proto(node) for node in inside], "activation", [entry], [out], given)
    opsets = [onnx.helper.make_opsetid("", model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1)))]
    try:
        with np.errstate(all="ignore"):
            (values,) = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets)).run(
                None, {source.name: _GRID.astype(np.float32)}
            )
    except Exception:  # noqa: BLE001 - the reference implementation raises what numpy raises
        return None
    found: Array = np.asarray(values, np.float64).reshape(-1)
    return found if found.size == _GRID.size and np.isfinite(found).all() else None


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _gelu(x: Array) -> Array:
    return np.array([0.5 * t * (1 + math.erf(t / math.sqrt(2))) for t in x])


def _gelu_tanh(x: Array) -> Array:
    bent: Array = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return 0.5 * x * (1 + bent)


def _mish(x: Array) -> Array:
    bent: Array = np.tanh(np.log1p(np.exp(x)))
    return x * bent


_KNOWN: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu-tanh": _gelu_tanh,
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
    "mish": _mish,
}


class _Writer:
    """Adds nodes and numbers for one activation, before a node."""

    def __init__(self, graph: ir.Graph, activation: Activation, name: str, before: ir.Node) -> None:
        self.graph, self.name, self.before = graph, name, before
        self.type, self.shape = activation.output.type, activation.output.shape
        self.count = 0

    def __call__(self, op: str, *inputs: ir.Value | float, **attributes: float | str) -> ir.Value:
        self.count += 1
        name = self.name if self.count == 1 else f"{self.name}_{self.count}"
        given = [value if isinstance(value, ir.Value) else self._number(value, f"{name}.number") for value in inputs]
        node = ir.node(op, given, attributes, name=name)
        out = node.outputs[0]
        out.name, out.type, out.shape = f"{name}.out", self.type, self.shape
        self.graph.insert_before(self.before, node)
        return out

    def _number(self, number: float, name: str) -> ir.Value:
        return add_initializer(self.graph, name, np.array(number, np.float32))


def _write_hard_swish(write: _Writer, x: ir.Value, opset: int) -> ir.Value:
    if opset >= 14:
        return write("HardSwish", x)
    return write("Mul", x, write("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def _write_gelu_tanh(write: _Writer, x: ir.Value, opset: int) -> ir.Value:
    """Write tanh-GELU: one operator since opset 20, before that in the spelling that runtimes know and fuse."""
    if opset >= 20:
        return write("Gelu", x, approximate="tanh")
    cubic = write("Mul", write("Pow", x, 3.0), 0.044715)
    bent = write("Tanh", write("Mul", write("Add", x, cubic), math.sqrt(2 / math.pi)))
    return write("Mul", write("Mul", x, 0.5), write("Add", bent, 1.0))


_WRITTEN: dict[Cheaper, Callable[[_Writer, ir.Value, int], ir.Value]] = {
    "hard-sigmoid": lambda write, x, _: write("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "hard-swish": _write_hard_swish,
    "gelu-tanh": _write_gelu_tanh,
    "quick-gelu": lambda write, x, _: write("Mul", x, write("Sigmoid", write("Mul", x, 1.702))),
    "relu": lambda write, x, _: write("Relu", x),
}
