"""A graph that tells the statistics of its own activations: small nodes and outputs beside every tensor.

The extremes and means of a tensor are computed inside the runtime, where the tensor is, and so is the choice of which
values go into the histogram: what comes out is a few kilobytes, and never a tensor as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from hwbench.quantize.tensors import Observed

_AXES_ARE_INPUTS = 18  # the opset from which the axes of these reductions are an input


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The outputs that tell about one tensor; ``sample`` is None where its values are not wanted."""

    tensor: str
    low: str
    high: str
    mean: str
    sample: str | None
    axis: int | None
    mask: bool


class Instrumented:
    """A copy of a model with probes.

    Args:
        model: with shapes inferred.
        observed: of ``model``.
        sampled: names of the tensors whose values are wanted.
        limit: how many values of a tensor, at most; the places are drawn once, one in each of ``limit`` equal pieces.
        seed: of the places.
    """

    def __init__(
        self, model: ir.Model, observed: tuple[Observed, ...], sampled: frozenset[str], *, limit: int, seed: int
    ) -> None:
        self.model = model.clone()
        self._graph = self.model.graph
        self._limit, self._generator = limit, np.random.default_rng(seed)
        self._constants: dict[tuple[str, object], ir.Value] = {}
        self._count = 0
        values = {value.name: value for node in self._graph for value in node.outputs}
        values.update({value.name: value for value in self._graph.inputs})
        self.probes = tuple(self._probe(values[seen.value.name], seen, sampled) for seen in observed)

    def _probe(self, value: ir.Value, seen: Observed, sampled: frozenset[str]) -> Probe:
        name = value.name or ""
        if value.dtype != ir.DataType.FLOAT:
            value = self._node("Cast", [value], ir.AttrInt64("to", int(ir.DataType.FLOAT)))
        axes = None if seen.axis is None else tuple(axis for axis in range(seen.rank or 0) if axis != seen.axis)
        low, high, mean = (self._reduced(op, value, axes) for op in ("ReduceMin", "ReduceMax", "ReduceMean"))
        sample = self._told(self._sampled(value)) if name in sampled else None
        return Probe(tensor=name, low=low, high=high, mean=mean, sample=sample, axis=seen.axis, mask=seen.mask)

    def _reduced(self, op: str, value: ir.Value, axes: tuple[int, ...] | None) -> str:
        """Reduce a tensor over some of its axes, or over all where ``axes`` is None."""
        inputs, attributes = [value], [ir.AttrInt64("keepdims", 0)]
        if axes == ():  # nothing to reduce: a tensor of channels alone
            return self._told(self._node("Identity", inputs))
        if axes is not None and self.model.opset_imports.get("", 0) >= _AXES_ARE_INPUTS:
            inputs.append(self._constant("axes", axes, np.array(axes, dtype=np.int64)))
        elif axes is not None:
            attributes.append(ir.AttrInt64s("axes", list(axes)))
        return self._told(self._node(op, inputs, *attributes))

    def _sampled(self, value: ir.Value) -> ir.Value:
        flat = self._node("Flatten", [value], ir.AttrInt64("axis", 0))
        if value.shape is None or not value.shape.is_static():
            return flat
        size = prod(value.shape.numpy())
        if size <= self._limit:
            return flat
        places = self._constant("places", size, self._places(size))
        return self._node("Gather", [flat, places], ir.AttrInt64("axis", 1))

    def _places(self, size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        starts = np.arange(self._limit) * (size / self._limit)
        drawn = starts + self._generator.random(self._limit) * (size / self._limit)
        return np.minimum(drawn.astype(np.int64), size - 1)

    def _constant(self, kind: str, key: object, array: np.ndarray[tuple[int], np.dtype[np.int64]]) -> ir.Value:
        if (kind, key) not in self._constants:
            name = f"hwbench.calibration/{kind}{len(self._constants)}"
            value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.INT64)
            self._graph.initializers[name] = value
            self._constants[kind, key] = value
        return self._constants[kind, key]

    def _node(self, op: str, inputs: list[ir.Value], *attributes: ir.Attr) -> ir.Value:
        self._count += 1
        node = ir.Node("", op, inputs, attributes=attributes, name=f"hwbench.calibration/{self._count}")
        node.outputs[0].name = f"hwbench.calibration/{self._count}:0"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        if op == "Cast":
            node.outputs[0].shape = inputs[0].shape
        self._graph.append(node)
        return node.outputs[0]

    def _told(self, value: ir.Value) -> str:
        """Make a value an output of the graph, and return its name."""
        self._graph.outputs.append(value)
        return value.name or ""
