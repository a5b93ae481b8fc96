"""What is computed twice, and what nobody reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from hwbench.structure.rewrites.base import BOUNDARY, Bench, Place, can_replace, discard, place, refused, replace

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
)


def common(bench: Bench) -> Iterator[Place]:
    """Yield nodes that compute what an earlier one has computed.

    Constants are the same where their contents are, except weights: two of those that happen to be equal may be
    trained apart.
    """
    seen: dict[object, ir.Node] = {}
    for node in bench.nodes():
        key = _key(node)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        if first is node:
            continue
        pairs = list(zip(node.outputs, first.outputs, strict=True))
        if all(can_replace(old, new) for old, new in pairs):
            yield place(f"'{first.name}' computes the same", _merged(node, pairs), node)
        else:
            yield refused(BOUNDARY, node)


def dead(bench: Bench) -> Iterator[Place]:
    """Yield nodes whose outputs nothing reads."""
    for node in reversed(list(bench.graph)):
        if node.graph is bench.graph and not any(v.uses() or v.is_graph_output() for v in node.outputs):
            yield place(f"{node.op_type} that nothing reads taken out", _discarded(node), node)


def _discarded(node: ir.Node) -> Callable[[], None]:
    return lambda: discard(node)


def _merged(node: ir.Node, pairs: list[tuple[ir.Value, ir.Value]]) -> Callable[[], None]:
    def make() -> None:
        for old, new in pairs:
            replace(old, new)
        discard(node)

    return make


def _key(node: ir.Node) -> object:
    """Return what decides about a node's outputs; None where that is more than its inputs and attributes."""
    if node.op_type in RANDOM or node.op_type == "Constant":
        return None
    attributes: list[object] = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
            return None
        value = attribute.value
        if isinstance(value, ir.TensorProtocol):
            attributes.append((name, str(value.dtype), str(value.shape), value.tobytes()))
        else:
            attributes.append((name, tuple(value) if isinstance(value, (list, tuple)) else value))
    return (
        node.domain, node.op_type, node.overload, len(node.outputs), tuple(attributes),
        tuple(_identity(value) for value in node.inputs),
    )  # fmt: skip


def _identity(value: ir.Value | None) -> object:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or (tensor.dtype.is_floating_point() and tensor.size > 1):
        return id(value)
    return str(tensor.dtype), str(tensor.shape), tensor.tobytes()
