"""A network gone through layer by layer: all samples through one layer before any goes through the next.

So a layer can be changed with all that it reads in hand, and what lies behind it is computed with the change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import torch

from hwbench.torch_view.layer import Layer
from hwbench.torch_view.tables import input_names, layer_names

Tensor = torch.Tensor
Batches = list[Any]  # what a node makes of each batch


class Walk:
    """The way through a view. Values are freed behind their last reader, those of ``kept`` layers when let go."""

    def __init__(
        self, view: torch.fx.GraphModule, batches: Sequence[Sequence[Tensor]], kept: Collection[str] = ()
    ) -> None:
        """Begin; ``batches``: the inputs of each, in the view's order; ``kept``: names of layers, once for each use."""
        self.view = view
        self.nodes = [node for node in view.graph.nodes if node.op != "output"]
        self.place = {node: at for at, node in enumerate(self.nodes)}
        named = layer_names(view)
        self.layer = {node: named[str(node.target)] for node in self.nodes if node.op == "call_module"}
        self.node = {name: node for node, name in self.layer.items()}
        inputs = [node for node in self.nodes if node.op == "placeholder"]
        self.inputs = dict(zip(input_names(view), inputs, strict=True))
        self.count = len(batches)
        self.values: dict[torch.fx.Node, Batches] = {
            node: [batch[at] for batch in batches] for at, node in enumerate(inputs)
        }
        self.at = 0
        self.most_bytes = 0
        self._kept = Counter(kept)
        self._readers = {node: sum(user in self.place for user in node.users) for node in self.nodes}

    def until(self, layer: str) -> None:
        """Compute all that comes before a layer."""
        self._go(self.place[self.node[layer]])

    def through(self, layer: str) -> None:
        """Compute a layer too."""
        self._go(self.place[self.node[layer]] + 1)

    def read(self, layer: str) -> Batches | None:
        """Return the first thing that a layer, which is next, reads; None where that is no value of the walk."""
        first = self.node[layer].args[0]
        return self.values.get(first) if isinstance(first, torch.fx.Node) else None

    def made(self, name: str) -> Batches | None:
        """Return what a layer, or an input of the network, is; None where it is not computed yet, or gone."""
        node = self.node.get(name, self.inputs.get(name))
        return None if node is None else self.values.get(node)

    def let_go(self, layer: str) -> None:
        """Say that a kept value has been used."""
        self._kept[layer] -= 1
        node = self.node.get(layer)
        if node is not None:
            self._free(node)

    def module(self, layer: str) -> Layer:
        """Return the module of a layer."""
        module = self.view.get_submodule(str(self.node[layer].target))
        assert isinstance(module, Layer)
        return module

    def _go(self, end: int) -> None:
        while self.at < end:
            node = self.nodes[self.at]
            self.at += 1
            if node.op != "placeholder":
                self.values[node] = [self._computed(node, index) for index in range(self.count)]
                self.most_bytes = max(self.most_bytes, self._bytes())
            for source in node.all_input_nodes:
                self._readers[source] -= 1
                self._free(source)

    def _computed(self, node: torch.fx.Node, index: int) -> Any:
        given = [self.values[each][index] if isinstance(each, torch.fx.Node) else each for each in node.args]
        if node.op == "get_attr":
            return getattr(self.view, str(node.target))
        if node.op == "call_module":
            return self.view.get_submodule(str(node.target))(*given)
        return node.target(*given)  # type: ignore[operator]

    def _free(self, node: torch.fx.Node) -> None:
        if self._readers[node] <= 0 and self._kept[self.layer.get(node, "")] <= 0:
            self.values.pop(node, None)

    def _bytes(self) -> int:
        every = (value for batches in self.values.values() for value in batches)
        return sum(each.nbytes for each in every if isinstance(each, Tensor))
