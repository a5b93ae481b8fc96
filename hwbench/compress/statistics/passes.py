"""One pass over the samples, with eyes on some layers of a view."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hwbench.torch_view.tables import layer_names

Seen = Callable[[tuple[torch.Tensor, ...], Any], None]  # what a layer was called with, and what it returned


def shortened(view: torch.fx.GraphModule, layers: Collection[str]) -> torch.fx.GraphModule:
    """Return a view of the same modules that stops behind the last of ``layers`` (names in the hub), and returns ()."""
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
def watched(view: torch.fx.GraphModule, eyes: Iterable[tuple[str, Seen]]) -> Iterator[None]:
    """Call each of ``eyes`` whenever its hub layer of the view has computed, until the block is left."""
    handles = []
    try:
        submodules = {layer: name for name, layer in layer_names(view).items()}
        for layer, seen in eyes:
            handles.append(view.get_submodule(submodules[layer]).register_forward_hook(_hook(seen)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(seen: Seen) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...], Any], None]:
    def hook(_: torch.nn.Module, given: tuple[torch.Tensor, ...], result: Any) -> None:
        seen(given, result)

    return hook
