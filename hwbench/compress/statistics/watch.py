"""Hooks on the layers of a torch view, by their names in the hub, and passes over the samples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
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


def shortened(view: torch.fx.GraphModule, layers: Collection[str]) -> torch.fx.GraphModule:
    """Return a view of the same modules that stops behind the last of ``layers`` (names in the hub), and returns ()."""
    import torch

    named = layer_names(view)
    graph = torch.fx.Graph()
    graph.graph_copy(view.graph, {})
    for node in reversed(list(graph.nodes)):
        if node.op == "call_module" and named.get(str(node.target)) in layers:
            break
        if node.op == "placeholder":
            continue
        graph.erase_node(node)
    graph.output(())
    short = torch.fx.GraphModule(view, graph, "ShortView")
    short.meta.update(view.meta)
    short.train(view.training)
    return short


@contextmanager
def watching(view: torch.fx.GraphModule, hooks: Iterable[tuple[str, Hook]]) -> Iterator[None]:
    """Call each hook whenever its layer, named as in the hub, has run; what one returns takes the output's place."""
    names = {hub: name for name, hub in layer_names(view).items()}
    handles = []
    try:
        for layer, hook in hooks:
            handles.append(view.get_submodule(names[layer]).register_forward_hook(hook))
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
