"""AdaRound: every weight is rounded up or down so that the layer's output, not the weight, changes least.

For one layer the mean squared error of the output is a quadratic form of the rounding errors, with the Gram matrix of
the inputs in the middle: E[(d x)^2] = d E[x x'] d'. So one pass over the inputs is enough, and the learning itself sees
a small matrix and no data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from hwbench.graph.linear import Array, Linear, Outcome, Skipped, linear_layers
from hwbench.quantize.patches import rows

Arrays = Iterable[np.ndarray[Any, Any]]
Floats = np.ndarray[Any, np.dtype[np.float32]]

_ROWS_PER_SAMPLE = 64  # drawn from an image or a sequence
_DAMPING = 0.01  # of the mean diagonal of the Gram matrix, added to it: inputs that were not seen
_STRETCH = 0.1  # the rectified sigmoid reaches this far beyond 0 and 1 before it is cut
_PULL = 6.0  # of the regulariser, against an error of 1 where rounding to nearest leaves 1
_RATE = 0.03


def adaround(
    model: ir.Model,
    inputs: Callable[[str], Arrays],
    *,
    bits: int = 8,
    steps: int = 400,
    seed: int = 0,
    only: Collection[str] | None = None,
) -> Outcome:
    """Learn the rounding of the weights of Conv, Gemm and MatMul layers, and write the rounded weights, in place.

    Nagel et al. 2020, arXiv:2004.10568: their continuous relaxation (rectified sigmoid, annealed regulariser, Adam) on
    the squared error of a layer's output before its activation, layer by layer on inputs from the float graph. The new
    weights lie on the grid of one symmetric scale for each output channel, max |w| / (2^(bits - 1) - 1), and the
    largest weight keeps its place, so that any quantiser with that scale finds the same integers. Weights that are 0
    stay 0. A channel whose learned rounding is no better than rounding to nearest is rounded to nearest.

    Args:
        model: the graph.
        inputs: batches of the tensor of a name, as the float graph has them; asked once for each layer.
        bits: of the weights, 2 to 8.
        steps: of Adam, for each layer; one costs two matrix products of the weights with the Gram matrix, whose side is
            inputs of a group * kernel positions.
        seed: of the drawing of rows from the batches.
        only: names of the layers to round; all by default.
    """
    changed: list[str] = []
    skipped: list[Skipped] = []
    for layer in linear_layers(model):
        name = layer.layer if isinstance(layer, Skipped) else layer.name
        if only is not None and name not in only:
            continue
        result = layer if isinstance(layer, Skipped) else _round_layer(layer, inputs, bits, steps, seed)
        if isinstance(result, Skipped):
            skipped.append(result)
        else:
            changed.append(name)
    return Outcome(changed=tuple(changed), skipped=tuple(skipped))


def _round_layer(layer: Linear, inputs: Callable[[str], Arrays], bits: int, steps: int, seed: int) -> Skipped | None:
    if layer.node.op_type == "ConvTranspose":
        return Skipped(layer=layer.name, reason="the rounding of a transposed convolution is not learned")
    gram = gram_matrix(layer, inputs(layer.input.name or ""), seed)
    if gram is None:
        return Skipped(layer=layer.name, reason="nothing is known about its input")
    blocks = layer.blocks()
    flat = blocks.reshape(*blocks.shape[:2], -1)
    layer.set_blocks(learn_rounding(flat, gram, bits=bits, steps=steps).reshape(blocks.shape))
    return None


def gram_matrix(layer: Linear, batches: Arrays, seed: int) -> Floats | None:
    """Return the mean of x x' over rows drawn from the batches: groups x side x side; None where there is no batch."""
    generator = np.random.default_rng(seed)
    total: Floats | None = None
    count = 0
    for batch in batches:
        found = rows(layer, batch, _ROWS_PER_SAMPLE * len(batch), generator).astype(np.float32)
        product: Floats = found.swapaxes(1, 2) @ found
        total = product if total is None else total + product
        count += found.shape[1]
    return None if total is None else total / np.float32(count)


def learn_rounding(weights: Array, gram: Floats, *, bits: int, steps: int) -> Array:
    """Return weights on the grid of their channel.

    Args:
        weights: groups x outputs x side.
        gram: groups x side x side, the mean of x x'.
        bits: of a weight.
        steps: of Adam.
    """
    top = 2 ** (bits - 1) - 1
    scale = np.abs(weights).max(axis=2, keepdims=True) / top
    scale[scale == 0] = 1.0
    exact = weights / scale
    nearest = np.clip(np.rint(exact), -top, top)
    free = (np.abs(exact) < top * (1 - 1e-9)) & (np.floor(exact) != exact)
    floor = np.where(free, np.floor(exact), nearest)
    rest = (exact - floor).astype(np.float32)
    damped = gram + _DAMPING * np.trace(gram, axis1=1, axis2=2)[:, None, None] / gram.shape[1] * np.eye(
        gram.shape[1], dtype=np.float32
    )
    near = (nearest - exact).astype(np.float32)
    worst = _errors(near, damped)
    up = _relax(rest, free, damped, worst, steps) >= 0.5
    learned = floor + np.where(free, up, False)
    better = _errors((learned - exact).astype(np.float32), damped) < worst
    return np.asarray(np.where(better, learned, nearest) * scale)


def _errors(difference: Floats, gram: Floats) -> Floats:
    """Return the mean squared error that each output channel gets: groups x outputs x 1."""
    return np.asarray(((difference @ gram) * difference).sum(axis=2, keepdims=True))


def _relax(rest: Floats, free: np.ndarray[Any, Any], gram: Floats, worst: Floats, steps: int) -> Floats:
    """Learn how far each weight goes up, from ``rest`` towards 0 or 1; ``worst``: the error of rounding to nearest.

    The error of each channel is divided by ``worst``, so that neither the unit nor the precision matters.
    """
    weigh = np.where(worst > 0, 1 / np.maximum(worst, np.finfo(np.float32).tiny), 0).astype(np.float32)
    sigmoid = np.clip((rest + _STRETCH) / (1 + 2 * _STRETCH), 1e-4, 1 - 1e-4)
    logit = np.log(sigmoid / (1 - sigmoid))
    first, second = np.zeros_like(logit), np.zeros_like(logit)
    height = rest
    for step in range(steps):
        sigmoid = 1 / (1 + np.exp(-logit))
        height = np.clip(sigmoid * (1 + 2 * _STRETCH) - _STRETCH, 0, 1)
        slope = 2 * weigh * ((height - rest) @ gram) + _pull(height, step / steps) / rest.shape[2]
        slope *= sigmoid * (1 - sigmoid) * ((height > 0) & (height < 1)) * free
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope * slope
        correction = np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
        logit -= np.float32(_RATE * correction) * first / (np.sqrt(second) + 1e-12)
    return np.asarray(height)


def _pull(height: Floats, done: float) -> Floats | float:
    """Return the slope of the regulariser, 1 - |2h - 1|^beta, which pulls every weight to one of its two places.

    It begins after a fifth of the steps, with beta falling from 20 to 2.
    """
    if done < 0.2:
        return 0.0
    beta = 2 + 18 * (1 + np.cos(np.pi * (done - 0.2) / 0.8)) / 2
    off = 2 * height - 1
    return np.asarray(-_PULL * 2 * beta * np.sign(off) * np.abs(off) ** (beta - 1), dtype=np.float32)
