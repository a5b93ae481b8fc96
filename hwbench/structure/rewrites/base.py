"""What a rewrite yields, and the moves that rewrites have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hwbench.records.base import Missing

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]

DOMAINS = frozenset({"", "ai.onnx"})
BOUNDARY = Missing(
    code="graph_boundary", why="it joins an input of the network to an output, or two outputs, and each has a name"
)
HELD = Missing(
    code="held_weight", why="an earlier step keeps books of its weights", cure="simplify before anything else"
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The network, and what is to be minded: ``batch``, the size that its batch is fixed to; ``held`` initialisers."""

    model: ir.Model
    batch: int
    held: frozenset[str] = frozenset()

    @property
    def graph(self) -> ir.Graph:
        """The main graph."""
        return self.model.graph

    @property
    def opset(self) -> int:
        """The version of ONNX's operators."""
        return self.model.opset_imports.get("", self.model.opset_imports.get("ai.onnx", 1))

    def nodes(self, *operators: str) -> Iterator[ir.Node]:
        """Go through the nodes that are there now, of ONNX's own domain, as long as they are still there."""
        for node in list(self.graph):
            if node.graph is self.graph and node.domain in DOMAINS and (not operators or node.op_type in operators):
                yield node

    def holds(self, *values: ir.Value | None) -> bool:
        """Say whether one of the values is a constant that may not be rewritten."""
        return any(value is not None and value.name in self.held for value in values)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Nodes that a rewrite is about; the first one gives its name. Either ``make`` or ``refusal``."""

    layers: tuple[str, ...]
    what: str = ""
    make: Callable[[], None] | None = None
    refusal: Missing | None = None


Rewrite = Callable[[Bench], Iterator[Place]]


def place(what: str, make: Callable[[], None], *nodes: ir.Node) -> Place:
    """Return a place that can be rewritten."""
    return Place(layers=tuple(node.name or "" for node in nodes), what=what, make=make)


def refused(reason: Missing, *nodes: ir.Node) -> Place:
    """Return a place that cannot."""
    return Place(layers=tuple(node.name or "" for node in nodes), refusal=reason)


def can_replace(old: ir.Value, new: ir.Value) -> bool:
    """Say whether ``new`` can take the place of ``old``, also where that is an output of the graph."""
    if not old.is_graph_output():
        return True
    return new.producer() is not None and not new.is_graph_output() and new.producer().graph is old.producer().graph  # type: ignore[union-attr]


def replace(old: ir.Value, new: ir.Value) -> None:
    """Put ``new`` wherever ``old`` was read; as an output of the graph it takes the name, too."""
    was_output, name = old.is_graph_output(), old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if was_output:
        old.name = f"{name}.unused"
        new.name = name


def discard(node: ir.Node) -> None:
    """Take a node away that nothing reads, with the nodes and initialisers that were there for it alone."""
    graph = node.graph
    if not isinstance(graph, ir.Graph) or any(value.uses() or value.is_graph_output() for value in node.outputs):
        return
    given = [value for value in node.inputs if value is not None]
    graph.remove(node, safe=True)
    for value in given:
        drop(value)


def drop(value: ir.Value) -> None:
    """Take away what makes a value that nothing reads any more."""
    if value.uses() or value.is_graph_output() or value.is_graph_input():
        return
    producer = value.producer()
    if producer is not None:
        discard(producer)
    elif isinstance(value.graph, ir.Graph) and value.graph.initializers.get(value.name or "") is value:
        value.graph.initializers.pop(value.name or "")


def bypass(node: ir.Node, value: ir.Value) -> None:
    """Let the readers of a node's first output read ``value``, and take the node away."""
    replace(node.outputs[0], value)
    discard(node)


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the only node that reads a value, where there is one and the value is no output of the graph."""
    readers = [node for node, _ in value.uses()]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def constant(value: ir.Value | None) -> Array | None:
    """Return the numbers of an initialiser or a Constant node; None for what is computed or given."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if value is None or tensor is None or value.is_graph_input():
        return None
    array: Array = tensor.numpy()
    return array


def sizes(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return a fixed shape, else None."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(size) for size in value.shape.numpy())


def dtype(value: ir.Value | None) -> ir.DataType | None:
    """Return the element type, where it is known."""
    return None if value is None else value.dtype


def integers(node: ir.Node, index: int, attribute: str) -> list[int] | None:
    """Return a list that older operator sets have as an attribute and newer ones as an input; None where computed.

    An empty list where the node leaves it out.
    """
    if attribute in node.attributes:
        return list(node.attributes[attribute].as_ints())
    if index >= len(node.inputs) or node.inputs[index] is None:
        return []
    array = constant(node.inputs[index])
    return None if array is None else [int(entry) for entry in array.reshape(-1)]
