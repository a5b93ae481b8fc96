"""Which part of a view is which part of the hub, and trained weights brought back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from hwbench.errors import ModelError

if TYPE_CHECKING:
    import torch

LAYERS, WEIGHTS, INPUTS, OUTPUTS = (f"hwbench.{name}" for name in ("layers", "weights", "inputs", "outputs"))


def layer_names(view: torch.fx.GraphModule) -> dict[str, str]:
    """Return the hub layer's name for the name of each submodule."""
    return dict(view.meta[LAYERS])


def weight_names(view: torch.fx.GraphModule) -> dict[str, str]:
    """Return the initialiser's name for each name in ``view.state_dict()``; a shared one occurs several times."""
    return dict(view.meta[WEIGHTS])


def input_names(view: torch.fx.GraphModule) -> tuple[str, ...]:
    """Return the hub's names of the arguments of ``view(...)``, in order."""
    return tuple(view.meta[INPUTS])


def output_names(view: torch.fx.GraphModule) -> tuple[str, ...]:
    """Return the hub's names of the tuple that ``view(...)`` returns, in order."""
    return tuple(view.meta[OUTPUTS])


def weights_back(view: torch.fx.GraphModule, model: ir.Model) -> None:
    """Write the view's weights and statistics into the initialisers of ``model`` that they came from.

    Raises:
        ModelError: the model is not the one that the view was made of, or a weight has another shape now.
    """
    from hwbench.torch_view.dtypes import to_onnx_tensor  # noqa: PLC0415 - the names above need no torch

    state = view.state_dict()
    for name, initializer in weight_names(view).items():
        value = model.graph.initializers.get(initializer)
        tensor = None if value is None else value.const_value
        if value is None or tensor is None:
            raise ModelError(f"the model has no weight '{initializer}', which the view's '{name}' came from")
        there, new = tuple(tensor.shape.numpy()), tuple(state[name].shape)
        if there != new:
            raise ModelError(f"the weight '{initializer}' has shape {there}, the view's '{name}' has {new}")
        value.const_value = to_onnx_tensor(state[name], tensor)
