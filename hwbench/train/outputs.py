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


def output_kinds(view: torch.fx.GraphModule, outputs: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> list[Kind]:
    """Tell from a network's last layers what each of its outputs is.

    Softmax and LogSoftmax say it. Otherwise the result of a linear layer with two axes or three, the last one longer
    than one, is taken for logits, unless it has the shape of an input (an autoencoder). This is a guess: an embedding
    that ends in a linear layer looks just like logits.
    """
    ends = next(node for node in view.graph.nodes if node.op == "output").args[0]
    shapes = {tuple(value.shape) for value in inputs}
    return [_kind(view, node, output, shapes) for node, output in zip(ends, outputs, strict=True)]


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


def rows_of_classes(output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores [rows, classes] and labels [rows]. Classes lie on the last axis, or behind the batch as in maps.

    Raises:
        UsageError: the labels' shape fits neither.
    """
    axis = class_axis(tuple(output.shape), tuple(labels.shape))
    return output.movedim(axis, -1).reshape(-1, output.shape[axis]), labels.reshape(-1)


def class_axis(shape: tuple[int, ...], labels: tuple[int, ...]) -> int:
    """Return the axis of an output that counts classes, for labels of a shape.

    Raises:
        UsageError: the labels' shape fits none.
    """
    if len(labels) > 1 and labels[-1] == 1 and len(shape) <= len(labels):
        return class_axis(shape, labels[:-1])
    if labels == shape[:-1]:
        return len(shape) - 1
    if len(shape) > 1 and (labels == (shape[0], *shape[2:]) or (len(labels) == 1 and set(shape[2:]) == {1})):
        return 1
    raise UsageError(
        f"labels of shape {labels} do not fit an output of shape {shape}",
        hint="classes lie on the output's last axis or on axis 1; the labels have the other axes",
    )


def check_classes(outputs: Outputs, labels: Array) -> None:
    """Refuse integer labels that are no classes of the first output in floating point; others pass.

    Raises:
        UsageError: says which label there is, and how many classes.
    """
    output = next((value for value in floats(outputs) if value.is_floating_point()), None)
    if output is None or not np.issubdtype(labels.dtype, np.integer):
        return
    classes = output.shape[class_axis(tuple(output.shape), (output.shape[0], *labels.shape[1:]))]
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
    classes = shaped and output.shape[1 if output.dim() == 4 else -1] > 1 and tuple(output.shape) not in inputs
    operators = _last_operators(view, node)
    if operators[-1] == "Softmax":
        return "probabilities"
    if operators[-1] == "LogSoftmax":
        return "log-probabilities"
    return "logits" if classes and operators[-1] in _SCORES else "values"


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
