"""What the outputs of a network are: scores of classes, or values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from hwbench.errors import UsageError
from hwbench.torch_view.layer import Layer

Tensor = torch.Tensor
Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["logits", "probabilities", "log-probabilities", "values", "integers"]
Outputs = Tensor | Sequence[Tensor]

IGNORE = -100  # the label of what is not judged

_PASSED = {"Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Transpose"}
_BEFORE_LOGITS = {"Add", "GlobalAveragePool", "ReduceMean", "AveragePool", "Relu", "Dropout"}  # Relu: SqueezeNet
_SCORES = {"Gemm", "MatMul", "Conv"}
_SOFTMAX = {"Softmax", "LogSoftmax"}


def output_kinds(view: torch.fx.GraphModule, outputs: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> list[Kind]:
    """Tell from a network's last layers what each of its outputs is.

    Softmax and LogSoftmax say it. Otherwise the result of a linear layer with two axes or three, that of the classes
    (:func:`class_axes`) longer than one, is taken for logits, unless it has the shape of an input (an autoencoder).
    This is a guess: an embedding that ends in a linear layer looks just like logits.
    """
    ends = next(node for node in view.graph.nodes if node.op == "output").args[0]
    shapes = {tuple(value.shape) for value in inputs}
    return [_kind(view, node, output, shapes) for node, output in zip(ends, outputs, strict=True)]


def class_axes(view: torch.fx.GraphModule, outputs: Sequence[Tensor]) -> list[int | None]:
    """Tell from a network's last layers which axis of each output counts classes; None where they do not say it.

    A Conv puts channels behind the batch, Gemm and MatMul put them last, and a Transpose behind it changes that over.
    Softmax has its axis, along which numbers sum up to one.
    """
    ends = next(node for node in view.graph.nodes if node.op == "output").args[0]
    return [_axis(_last_operators(view, node), output) for node, output in zip(ends, outputs, strict=True)]


def classes_last(output: Tensor, axis: int | None) -> Tensor:
    """Return an output with its classes on the last axis; where ``axis`` is None, maps have them behind the batch."""
    guess = 1 if output.dim() == 4 else -1
    return output.movedim(guess if axis is None else axis, -1)


def looks_like(output: Tensor) -> Kind:
    """Tell from the numbers alone: rows that are positive and sum up to one are probabilities, the rest is logits.

    Anything but two or three axes with more than one number in a row is values.
    """
    if not output.is_floating_point():
        return "integers"
    if output.dim() not in {2, 3} or output.shape[-1] < 2:
        return "values"
    values = output.detach()
    if bool((values >= 0).all()) and bool((values.sum(-1) - 1).abs().max() < 1e-3):
        return "probabilities"
    return "logits"


def log_probabilities(output: Tensor, kind: Kind) -> Tensor:
    """Return logarithms of the classes' probabilities over the last axis, up to a constant a row."""
    if kind == "probabilities":
        return torch.log(output.clamp_min(torch.finfo(output.dtype).tiny))
    return output


def rows_of_classes(output: Tensor, labels: Tensor, axis: int | None = None) -> tuple[Tensor, Tensor]:
    """Return scores [rows, classes] and labels [rows]. Classes lie on the last axis, or behind the batch as in maps.

    ``axis`` decides where the labels' shape fits both.

    Raises:
        UsageError: the labels' shape fits neither.
    """
    axis = class_axis(tuple(output.shape), tuple(labels.shape), axis)
    return output.movedim(axis, -1).reshape(-1, output.shape[axis]), labels.reshape(-1)


def class_axis(shape: tuple[int, ...], labels: tuple[int, ...], axis: int | None = None) -> int:
    """Return the axis of an output that counts classes, for labels of a shape; ``axis``, if the labels fit it.

    Raises:
        UsageError: the labels' shape fits none.
    """
    if len(labels) > 1 and labels[-1] == 1 and len(shape) <= len(labels):
        return class_axis(shape, labels[:-1], axis)
    if axis is not None and labels == shape[:axis] + shape[axis + 1 :]:
        return axis
    if labels == shape[:-1]:
        return len(shape) - 1
    if len(shape) > 1 and (labels == (shape[0], *shape[2:]) or (len(labels) == 1 and set(shape[2:]) == {1})):
        return 1
    raise UsageError(
        f"labels of shape {labels} do not fit an output of shape {shape}",
        hint="classes lie on the output's last axis or on axis 1; the labels have the other axes",
    )


def check_classes(outputs: Outputs, labels: Array, axis: int | None = None) -> None:
    """Refuse integer labels that are no classes of the first output in floating point; others pass.

    Raises:
        UsageError: says which label there is, and how many classes.
    """
    output = next((value for value in floats(outputs) if value.is_floating_point()), None)
    if output is None or not np.issubdtype(labels.dtype, np.integer):
        return
    classes = output.shape[class_axis(tuple(output.shape), (output.shape[0], *labels.shape[1:]), axis)]
    wrong = labels[(labels != IGNORE) & ((labels < 0) | (labels >= classes))]
    if wrong.size:
        raise UsageError(
            f"there is a label {wrong.flat[0]}, and the network has {classes} classes, counted from 0",
            hint=f"{IGNORE} is for what is not judged; transfer gives the network another head",
        )


def floats(outputs: Outputs) -> list[Tensor]:
    """Return the outputs as a list, half precision widened."""
    several = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return [value.float() if value.dtype in {torch.float16, torch.bfloat16} else value for value in several]


def _kind(view: torch.fx.GraphModule, node: torch.fx.Node, output: Tensor, inputs: set[tuple[int, ...]]) -> Kind:
    if not output.is_floating_point():
        return "integers"
    shaped = output.dim() in {2, 3} or (output.dim() == 4 and set(output.shape[2:]) == {1})
    operators = _last_operators(view, node)
    axis = _axis(operators, output)
    classes = shaped and axis is not None and output.shape[axis] > 1 and tuple(output.shape) not in inputs
    if operators[-1] == "Softmax":
        return "probabilities"
    if operators[-1] == "LogSoftmax":
        return "log-probabilities"
    return "logits" if classes and operators[-1] in _SCORES else "values"


def _axis(operators: list[str], output: Tensor) -> int | None:
    last = output.dim() - 1
    if last < 1 or operators[-1] not in _SCORES | _SOFTMAX:
        return None
    if operators[-1] in _SOFTMAX:
        chances = output.detach().double()
        chances = chances.exp() if operators[-1] == "LogSoftmax" else chances
        return min(range(last, 0, -1), key=lambda axis: float((chances.sum(axis) - 1).abs().max()))
    turned = operators.count("Transpose") % 2 == 1
    return 1 if (operators[-1] == "Conv") != turned else last


def _last_operators(view: torch.fx.GraphModule, node: torch.fx.Node) -> list[str]:
    """Return the operators from an output back to the first that says what it is."""
    met: list[str] = []
    while node.op in {"call_module", "call_function"}:
        layer = view.get_submodule(str(node.target)) if node.op == "call_module" else None
        operator = layer.operator if isinstance(layer, Layer) else "Identity" if layer is None else "?"
        met.append(operator)
        through = operator in _PASSED or operator in _BEFORE_LOGITS
        if not through or len(node.all_input_nodes) != 1:
            break
        node = node.all_input_nodes[0]
    return met or ["?"]
