"""Which tensor of the original a layer should put out, and which of its channels are left.

A tensor keeps its name through compression, and the books of :class:`~hwbench.compress.base.Subject` say which
indices of its axes are left. What cannot be lined up is said to be so, and its layer is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Array, Subject
from hwbench.compress.repair.norm import Norm, norm_behind
from hwbench.graph.linear import Linear
from hwbench.records.base import Missing

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Source:
    """Where a tensor comes from in the original, and the channels that are left of it.

    ``node`` and ``output``: the node that makes it, and which of its outputs it is; None for an input of the network.
    """

    tensor: str
    node: str | None
    output: int
    axis: int
    left: Indices | None

    def of(self, result: Any) -> Any:
        """Return the tensor, given what the node returned."""
        return result[self.output] if isinstance(result, tuple) else result


@dataclass(frozen=True)
class Match:
    """A layer, what it read in the original, and what it should put out.

    ``norm``: the BatchNormalization behind it, whose output is compared then. ``reads``: Missing where its input is a
    tensor that the original has not.
    """

    layer: Linear
    source: Source
    reads: Source | Missing
    norm: Norm | None


def match(subject: Subject, layer: Linear) -> Match | Missing:
    """Find the tensor of the original that a layer should put out: behind its BatchNormalization, where it has one."""
    weight = layer.node.inputs[1]
    if weight is not None and len(weight.uses()) > 1:
        return Missing(code="shared", why=f"its weights '{weight.name}' are read by another layer as well")
    norm = norm_behind(layer)
    behind = layer.output if norm is None else norm.node.outputs[0]
    found = source_of(subject, behind, channel_axis(layer))
    if isinstance(found, Missing) and norm is not None:
        norm, found = None, source_of(subject, layer.output, channel_axis(layer))
    if isinstance(found, Missing):
        return found
    shape = layer.input.shape
    reads = source_of(subject, layer.input, 1 if layer.spatial or shape is None else len(shape) - 1)
    return Match(layer, found, reads, norm)


def held_biases(subject: Subject, layer: Linear) -> Array:
    """Say of each output channel whether its bias is a zero that must stay."""
    bias, holder = layer.bias(), layer.add or layer.node
    value = None if bias is None else holder.inputs[layer.bias_index]
    if bias is None or value is None or value.name not in subject.held_zeros:
        return np.zeros(layer.output_channels, bool)
    held: Array = bias == 0
    return held


def channel_axis(layer: Linear) -> int:
    """Return the axis of a layer's output that its channels lie on."""
    shape = layer.output.shape
    return 1 if layer.spatial or shape is None else len(shape) - 1


def source_of(subject: Subject, value: ir.Value, axis: int) -> Source | Missing:
    """Find a tensor in the original by its name, and line up its channels on ``axis``."""
    there = _values(subject.original).get(value.name or "")
    if there is None:
        return Missing(code="no_counterpart", why=f"the original has no tensor '{value.name}'")
    if there.shape is None or value.shape is None or not (there.shape.is_static() and value.shape.is_static()):
        return Missing(code="shape_unknown", why=f"the shape of '{value.name}' is not known")
    kept = subject.kept.get(value.name or "", {})
    if any(other != axis and len(left) != there.shape[other] for other, left in kept.items()):
        return Missing(code="other_axis", why=f"'{value.name}' was cut along another axis than that of its channels")
    before, now = list(there.shape.numpy()), list(value.shape.numpy())
    left = kept.get(axis)
    if left is not None and len(before) > axis:
        before[axis] = len(left)
    if before != now:
        why = f"'{value.name}' is {now} and was {list(there.shape.numpy())}, and nobody noted what was cut"
        return Missing(code="not_lined_up", why=why)
    node = there.producer()
    return Source(
        tensor=value.name or "",
        node=None if node is None else node.name or "",
        output=0 if node is None else node.outputs.index(there),
        axis=axis,
        left=None if left is None else np.asarray(left, np.int64),
    )


def _values(model: ir.Model) -> dict[str, ir.Value]:
    inputs = {value.name or "": value for value in model.graph.inputs if not value.is_initializer()}
    return inputs | {value.name or "": value for node in model.graph for value in node.outputs}
