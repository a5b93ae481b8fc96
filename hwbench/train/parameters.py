"""The weights of a view that are trained."""

from __future__ import annotations

from functools import cache

import onnx
import torch

from hwbench.torch_view.layer import Layer
from hwbench.torch_view.tables import WEIGHTS
from hwbench.train.places import PLACES, VECTORS, is_vector


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
        return not isinstance(module, torch.fx.GraphModule)  # what lies in the view itself is an output, a constant
    if module.operator in VECTORS:
        return is_vector(tensor.shape)
    return slot in _slots(module.operator)


@cache
def _slots(operator: str) -> frozenset[str]:
    inputs = onnx.defs.get_schema(operator).inputs if operator in PLACES else ()
    names = [inputs[index].name for index in PLACES.get(operator, ())]
    return frozenset([*names, *(f"{name}_" for name in names)])  # the view adds _ to names that torch has
