"""Which tensors of a view are weights to train, and which are constants of the computation that only look so.

The hub holds everything in initialisers: weights, but also exponents, epsilons, masks of minus infinity and tables of
sines. All floating-point ones are parameters of the view. Trained are those in a place for weights.
"""

from __future__ import annotations

import torch

from hwbench.torch_view.layer import Layer
from hwbench.torch_view.tables import WEIGHTS

_PLACES = {
    "Conv": {"W", "B"},
    "ConvTranspose": {"W", "B"},
    "Gemm": {"A", "B", "C"},
    "MatMul": {"A", "B"},
    "BatchNormalization": {"scale", "B"},
    "InstanceNormalization": {"scale", "B"},
    "GroupNormalization": {"scale", "bias"},
    "LayerNormalization": {"Scale", "B"},
    "RMSNormalization": {"scale"},
    "PRelu": {"slope"},
    "Gather": {"data"},
    "LSTM": {"W", "R", "B", "P"},
    "GRU": {"W", "R", "B"},
    "RNN": {"W", "R", "B"},
}
_SCALES_AND_SHIFTS = {"Add", "Sub", "Mul", "Div"}


def trainable(view: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the weights to train by their name in the view, each once; frozen and non-float ones are left out.

    Weights of Conv, Gemm, MatMul, norms, embeddings, recurrent layers, PRelu; and vectors that Add, Sub, Mul or Div
    apply along one axis, such as the bias behind a MatMul. Other constants stay as they are. Of modules that are no
    layers of the hub (put in by whoever changed the view) all parameters count.
    """
    found: dict[str, torch.nn.Parameter] = {}
    seen: set[int] = set()
    for prefix, module in view.named_modules():
        for slot, tensor in module.named_parameters(recurse=False):
            if id(tensor) not in seen and tensor.requires_grad and _trains(module, slot, tensor):
                seen.add(id(tensor))
                found[f"{prefix}.{slot}" if prefix else slot] = tensor
    return found


def by_initializer(view: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the parameters of a view by the name of the initialiser that they came from."""
    parameters = dict(view.named_parameters(remove_duplicate=False))
    names: dict[str, str] = view.meta[WEIGHTS]  # type: ignore[index, assignment]
    return {initializer: parameters[name] for name, initializer in names.items() if name in parameters}


def _trains(module: torch.nn.Module, slot: str, tensor: torch.Tensor) -> bool:
    if not isinstance(module, Layer):
        return not hasattr(module, "graph")  # what lies in the view itself is an output that is constant
    if module.operator in _SCALES_AND_SHIFTS:
        return tensor.numel() > 1 and tensor.numel() == max(tensor.shape) and bool(torch.isfinite(tensor).all())
    return slot.rstrip("_") in _PLACES.get(module.operator, ())
