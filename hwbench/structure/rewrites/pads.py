"""Padding with zeros, into the convolution behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from hwbench.records.base import Missing
from hwbench.structure.rewrites.base import Bench, Place, bypass, constant, integers, only_reader, place, refused, sizes


def pads(bench: Bench) -> Iterator[Place]:
    """Yield Pad nodes whose zeros the convolution behind can put there itself."""
    for node in bench.nodes("Pad"):
        reader = only_reader(node.outputs[0])
        if reader is None or reader.op_type != "Conv" or reader.inputs[0] is not node.outputs[0]:
            continue
        amounts = _amounts(node)
        source = node.inputs[0]
        if isinstance(amounts, Missing):
            yield refused(amounts, node, reader)
        elif source is not None and _automatic(reader) in {"NOTSET", "VALID"}:
            yield place(f"taken over by '{reader.name}'", _taken_over(node, source, reader, amounts), node, reader)


def _amounts(node: ir.Node) -> list[int] | Missing:
    """Return the zeros before and behind each spatial axis, as a convolution counts them; or why it is not that."""
    shape, given, mode = sizes(node.inputs[0]), integers(node, 1, "pads"), node.attributes.get("mode")
    if shape is None or not given or len(node.inputs) > 3:
        return Missing(code="not_constant", why="its amounts are not constant, or its axes are chosen")
    value = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    number = node.attributes.get_float("value", 0.0) if value is None else float(value.reshape(-1)[0])
    computed = len(node.inputs) > 2 and node.inputs[2] is not None and value is None
    if (mode is not None and mode.as_string() != "constant") or number != 0 or computed:
        return Missing(code="not_zeros", why="it does not pad with zeros")
    rank = len(shape)
    before, behind = given[:rank], given[rank:]
    if any(before[:2]) or any(behind[:2]) or min(given) < 0:
        return Missing(code="not_spatial", why="it pads the batch or the channels, or crops")
    return [*before[2:], *behind[2:]]


def _automatic(node: ir.Node) -> str:
    return node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"


def _taken_over(node: ir.Node, source: ir.Value, conv: ir.Node, amounts: list[int]) -> Callable[[], None]:
    def make() -> None:
        explicit = _automatic(conv) == "NOTSET" and "pads" in conv.attributes
        own = list(conv.attributes["pads"].as_ints()) if explicit else [0] * len(amounts)
        conv.attributes.pop("auto_pad", None)
        conv.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, amounts, strict=True)])
        bypass(node, source)

    return make
