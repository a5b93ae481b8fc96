"""Zeros written into a layer, and into the books; which layers may get them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Subject
from hwbench.compress.format_pattern import OfFormat
from hwbench.compress.patterns import NofM, Pattern, stored_bits
from hwbench.graph.linear import Linear, linear_layers, uses
from hwbench.records.base import Missing
from hwbench.records.compression import Change

Array = np.ndarray[Any, np.dtype[Any]]


def prunable(model: ir.Model) -> dict[str, Missing | None]:
    """Return the layers with weights, in graph order: None, or why single weights of it must not become zero."""
    found: dict[str, Missing | None] = {}
    for layer in linear_layers(model):
        if not isinstance(layer, Linear):
            found[layer.layer] = Missing(code="unfit_weights", why=layer.reason)
            continue
        weight = layer.node.inputs[1]
        assert weight is not None
        readers = sorted({node.name or node.op_type for node, _ in uses(weight)} - {layer.name})
        found[layer.name] = None
        if readers:
            found[layer.name] = Missing(
                code="shared_weights", why=f"its weights are those of {', '.join(readers[:3])} too"
            )
    return found


def kept_alone(pattern: NofM | OfFormat, blocks: Array, scores: Array, amount: float | None) -> Array:
    """Return which weights of a layer stay where the pattern itself chooses; those that are zero go first.

    Args:
        pattern: N:M, or a sparse format.
        blocks: the weights, as :meth:`Linear.blocks` has them.
        scores: of the same shape, none negative.
        amount: the fraction that is to be zero, which N:M says itself.

    Raises:
        UsageError: the format cannot have this fraction of zeros.
    """
    if isinstance(pattern, NofM):
        return pattern.kept(np.where(blocks == 0, -1.0, scores))
    return pattern.kept(np.where(blocks == 0, 0.0, scores), amount or 0.0)


def as_held(pattern: Pattern, blocks: Array, layer: str) -> Array:
    """Return weights as a sparse format holds them; of other patterns as they are.

    Raises:
        UsageError: the format cannot hold them; ``layer`` is named.
    """
    return pattern.held(blocks, layer) if isinstance(pattern, OfFormat) else blocks


def zeroed(
    subject: Subject, layer: Linear, blocks: Array, pattern: Pattern, label: str, *, error: float | None = None
) -> Change:
    """Write weights with zeros in them and return what to tell of it; the zeros are held from now on.

    Args:
        subject: gets the zeros and what the layer's weights could be stored in.
        layer: of its model.
        blocks: the new weights, as :meth:`Linear.blocks` has them.
        pattern: what the zeros obey; of a sparse format, the weights become what it holds.
        label: what has been done, in words.
        error: ||Y' - Y||^2 / ||Y||^2 of the layer's output, where it is known.
    """
    blocks = as_held(pattern, blocks, layer.name)
    layer.set_blocks(blocks)
    value = layer.node.inputs[1]
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    assert value is not None
    assert tensor is not None
    weights = tensor.numpy()
    zeros = float((weights == 0).mean())
    if isinstance(pattern, OfFormat):
        bits, told = pattern.stored(blocks)
    else:
        bits, told = stored_bits(pattern, 1 - zeros, 8 * tensor.dtype.itemsize), ""
    name = value.name or ""
    subject.held_zeros.add(name)
    subject.bits[name] = bits
    shape = tuple(weights.shape)
    return Change(
        layer=layer.name,
        kind="zeroed",
        what=f"{int((weights == 0).sum())} of {weights.size} weights are zero: {label}{told}",
        shape_before=shape,
        shape_after=shape,
        zeros=zeros,
        error=error,
        bits_per_weight=bits,
    )
