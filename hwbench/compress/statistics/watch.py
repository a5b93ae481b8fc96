"""Hooks on the layers of a torch view, by their names in the hub, and passes over the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from hwbench.compress.base import Array, Subject
from hwbench.errors import ModelError
from hwbench.torch_view.tables import layer_names

if TYPE_CHECKING:
    import torch

    from hwbench.torch_view.layer import Layer

Hook = Callable[["Layer", Any, "torch.Tensor"], Any]  # module, positional inputs, output


def modules(view: torch.fx.GraphModule) -> dict[str, Layer]:
    """Return the modules of a view by the names of their layers in the hub."""
    return {hub: view.get_submodule(name) for name, hub in layer_names(view).items()}  # type: ignore[misc]


def producer(value: ir.Value) -> str:
    """Return the name of the layer that puts a tensor out.

    Raises:
        ModelError: it is an input or a constant.
    """
    node = value.producer()
    if node is None:
        raise ModelError(f"no layer puts out '{value.name}'")
    return node.name or ""


@contextmanager
def watching(view: torch.fx.GraphModule, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Call ``hooks``, by name of a layer, whenever the layer has run; what one returns takes the output's place."""
    found = modules(view)
    handles = [found[name].register_forward_hook(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def passes(subject: Subject, what: str) -> Iterator[tuple[tuple[torch.Tensor, ...], Array | None]]:
    """Go through the samples once in batches, telling how far; ``what`` needs them.

    Raises:
        UsageError: there are none.
    """
    samples = subject.need_samples(what)
    for index, (inputs, labels) in enumerate(samples.in_order()):
        subject.report(f"{what}: batch {index + 1} of {samples.batches}", index / samples.batches)
        yield subject.tensors(inputs), labels


def check_finite(layer: str, *tensors: torch.Tensor) -> None:
    """Check what data have made of a layer.

    Raises:
        ModelError: there is NaN or infinity in it.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ModelError(f"layer '{layer}' puts out NaN or infinity on the data")
