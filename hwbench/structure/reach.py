"""What leads to what in a graph: for each value the nodes before and behind it, as sets of bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

_READS_SHAPE = {"Shape", "Size"}  # the result is fixed with the shapes, whatever the numbers are


class Reach:
    """Which nodes of a graph a value is computed from, and which are computed from it. Reading a shape is neither.

    Sets of nodes are integers with one bit a node, in graph order.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.nodes = list(graph)
        self._inputs = {value for value in graph.inputs if not value.is_initializer()}
        self._before: dict[ir.Value, int] = {}
        self._roots: dict[ir.Value, frozenset[ir.Value]] = {value: frozenset({value}) for value in self._inputs}
        self._behind: dict[ir.Value, int] = {}
        for index, node in enumerate(self.nodes):
            self._forward(index, node)
        for index, node in reversed(list(enumerate(self.nodes))):
            self._backward(index, node)

    def before(self, value: ir.Value) -> int:
        """Return the nodes that a value is computed by."""
        return self._before.get(value, 0)

    def between(self, start: ir.Value, end: ir.Value) -> int:
        """Return the nodes on the ways from one value to another."""
        return self._behind.get(start, 0) & self.before(end)

    def computed(self, *values: ir.Value) -> bool:
        """Say whether all values depend on the network's inputs."""
        return all(self._roots.get(value) for value in values)

    def named(self, nodes: int) -> tuple[ir.Node, ...]:
        """Return a set's nodes, in graph order."""
        return tuple(node for index, node in enumerate(self.nodes) if nodes >> index & 1)

    def last_common(self, one: ir.Value, other: ir.Value) -> ir.Value | None:
        """Return the last value that both are computed from, an input of the network at the worst, or None."""
        for node in reversed(self.named(self.before(one) & self.before(other))):
            for output in node.outputs:
                if self.computed(output):
                    return output
        roots = [value for value in self._inputs if value in self._roots[one] & self._roots[other]]
        return roots[0] if roots else None

    def _forward(self, index: int, node: ir.Node) -> None:
        bits, roots = 1 << index, frozenset[ir.Value]()
        if node.op_type not in _READS_SHAPE:
            for value in used_values(node):
                bits |= self.before(value)
                roots |= self._roots.get(value, frozenset())
        for output in node.outputs:
            self._before[output], self._roots[output] = bits, roots

    def _backward(self, index: int, node: ir.Node) -> None:
        if node.op_type in _READS_SHAPE:
            return
        bits = 1 << index
        for output in node.outputs:
            bits |= self._behind.get(output, 0)
        for value in used_values(node):
            self._behind[value] = self._behind.get(value, 0) | bits


def readers(value: ir.Value) -> list[ir.Node]:
    """Return the nodes that read a value, each once, those in subgraphs too."""
    return list(dict.fromkeys(node for node, _ in value.uses()))


def known(*values: ir.Value) -> bool:
    """Say whether the shapes of all values are known numbers."""
    return all(value.shape is not None and value.shape.is_static() for value in values)


def dead_without(nodes: Sequence[ir.Node], gone: Sequence[ir.Node], living: ir.Value) -> tuple[ir.Node, ...]:
    """Return ``gone`` and the nodes that nobody reads any more without them, in graph order; ``living`` is read on."""
    dead = set(gone)
    for node in reversed(nodes):
        outputs = node.outputs
        if node not in dead and any(readers(output) for output in outputs):
            kept = any(output.is_graph_output() or output is living for output in outputs)
            if not kept and all(reader in dead for output in outputs for reader in readers(output)):
                dead.add(node)
    return tuple(node for node in nodes if node in dead)


def remove_nodes(model: ir.Model, nodes: Sequence[ir.Node]) -> dict[str, ir.Value]:
    """Take out nodes that nobody else reads, and the initialisers that only they read; return those."""
    weights = {
        value.name or "": value
        for node in nodes
        for value in used_values(node)
        if value.is_initializer() and value.name in model.graph.initializers
    }
    model.graph.remove(nodes, safe=True)
    gone = {name: value for name, value in weights.items() if not value.uses() and not value.is_graph_output()}
    for name, value in gone.items():
        del model.graph.initializers[name]
        if value.is_graph_input():
            model.graph.inputs.remove(value)
    return gone


def nodes_of(node: ir.Node) -> Iterator[ir.Node]:
    """Go through a node and the nodes of its subgraphs."""
    yield node
    for graph in _subgraphs(node):
        for inner in graph:
            yield from nodes_of(inner)


def used_values(node: ir.Node) -> Iterator[ir.Value]:
    """Go through the values that a node or its subgraphs read."""
    for inner in nodes_of(node):
        yield from (value for value in inner.inputs if value is not None)
    for graph in _subgraphs(node):
        yield from graph.outputs


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
