"""A torch module that cannot be exported: no graph, so one layer of unknown cost, for the engines that run modules.

It is run once here, so that its outputs are known, and so that an error of its own is not taken for one of exporting.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch.utils import _pytree

from hwbench.errors import ModelError
from hwbench.graph.inputs import Arrays
from hwbench.graph.torch_source import TorchModel, user_line
from hwbench.records.base import Missing
from hwbench.records.model import Layer, TensorSpec


def run_once(source: TorchModel, arrays: Arrays) -> tuple[TensorSpec, ...]:
    """Run the module on its inputs and return what its outputs are.

    Raises:
        ModelError: forward raises, or gives something that no array can hold.
    """
    args, kwargs = source.arguments({name: torch.from_numpy(array) for name, array in arrays.items()})
    try:
        with torch.no_grad():
            made = source.module(*args, **kwargs)
    except Exception as error:
        words = str(error).strip().split("\n", maxsplit=1)[0][:300]
        raise ModelError(
            f"the module's forward failed on its inputs: {type(error).__name__}: {words}{user_line(error)}",
            hint="run it by hand with the same inputs first",
        ) from error
    tensors = [leaf for leaf in _pytree.tree_leaves(made) if isinstance(leaf, torch.Tensor)]
    if not tensors:
        raise ModelError(
            "the module's forward gives no tensor", hint="only models that give tensors can be benchmarked"
        )
    return tuple(
        TensorSpec(name=f"output_{index}", dtype=_numpy_name(tensor), shape=tuple(tensor.shape))
        for index, tensor in enumerate(tensors)
    )


def only_layer(source: TorchModel, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Layer:
    """Return the whole module as one layer, of which only the number of parameters is known."""
    unknown = Missing(code="not_exported", why="costs are counted in the exported graph, and there is none")
    kind = type(source.module).__name__
    return Layer(
        name=kind,
        op=kind,
        module=None,
        inputs=tuple(spec.name for spec in inputs),
        outputs=tuple(spec.name for spec in outputs),
        parameters=sum(parameter.numel() for parameter in source.module.parameters()),
        macs=unknown,
        moved_bytes=unknown,
    )


def weight_bytes(source: TorchModel) -> int:
    """Return the size of parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in source.module.state_dict().values())


def identity(source: TorchModel, code_sha256: str | Missing) -> str:
    """Return a hash of the source file and the weights, which stands in for that of a graph.

    Two modules that differ only in code imported from elsewhere have the same.
    """
    digest = hashlib.sha256(str(code_sha256).encode())
    for name, tensor in source.module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def warning(reason: Missing) -> str:
    """Return what a reader of the result must know."""
    return f"{reason.why}; so only PyTorch can run it, no layer is told apart, and no cost is known"


def _numpy_name(tensor: torch.Tensor) -> str:
    known = tensor.dtype != torch.bfloat16  # numpy has none; the engine hands it over as float32
    return np.dtype(tensor.numpy().dtype).name if known else "float32"
