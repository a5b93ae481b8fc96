"""The torch view run node by node, so that a run can start in the middle from what the original had there.

The nodes of a view lie in an order in which each comes after what it reads. What a run needs to go on from place ``k``
are the values that nodes before ``k`` made and nodes from ``k`` on read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from hwbench.errors import ModelError
from hwbench.fake_quant.arithmetic import Rounds
from hwbench.sensitivity.patch import Patch, Place, Rounded
from hwbench.torch_view.layer import Layer
from hwbench.torch_view.tables import input_names, layer_names

Tensor = torch.Tensor
Values = dict[torch.fx.Node, Any]


class Flow:
    """A view, its nodes in order, and patches put in and taken out again."""

    def __init__(self, view: torch.fx.GraphModule, tensors: Mapping[str, str], rules: Rounds) -> None:
        """Take a view; ``tensors``: by layer with one output, the name of that tensor."""
        self.view, self.rules = view, rules
        self.nodes = [node for node in view.graph.nodes if node.op != "output"]
        self.results = next(node for node in view.graph.nodes if node.op == "output").args[0]
        self.place = {node: at for at, node in enumerate(self.nodes)}
        self.layer = layer_names(view)
        self.at_layer = {self.layer[str(node.target)]: at for at, node in enumerate(self.nodes) if self._named(node)}
        inputs = [node for node in self.nodes if node.op == "placeholder"]
        self.inputs = dict(zip(inputs, range(len(inputs)), strict=True))
        self.tensor = dict(zip(inputs, input_names(view), strict=True))
        self.tensor |= {self.nodes[at]: tensors[name] for name, at in self.at_layer.items() if name in tensors}
        self.at_tensor = {name: self.place[node] for node, name in self.tensor.items()}
        self._last = {node: self._last_use(node) for node in self.nodes}

    def _named(self, node: torch.fx.Node) -> bool:
        return node.op == "call_module" and str(node.target) in self.layer

    def _last_use(self, node: torch.fx.Node) -> int:
        return max((self.place.get(user, len(self.nodes)) for user in node.users), default=-1)

    def module(self, layer: str) -> Layer:
        """Return the module of a layer."""
        module = self.view.get_submodule(str(self.nodes[self.at_layer[layer]].target))
        assert isinstance(module, Layer)
        return module

    def start(self, patch: Patch) -> int:
        """Return the first place at which a patch changes anything; the number of nodes where it changes nothing."""
        touched = self.touched(patch)
        return self.place[touched[0]] if touched else len(self.nodes)

    def touched(self, patch: Patch) -> list[torch.fx.Node]:
        """Return the nodes whose results a patch changes by itself, whatever comes in."""
        layers = {name for name, _ in (*patch.weights, *patch.cut)}
        layers |= {reader for some in patch.rounded.values() for one in some for reader in one.readers or ()}
        places = {self.at_layer[name] for name in layers if name in self.at_layer}
        made = (name for name, some in patch.rounded.items() if any(one.readers is None for one in some))
        places |= {self.at_tensor[name] for name in made if name in self.at_tensor}
        return [self.nodes[at] for at in sorted(places)]

    def live(self, place: int) -> list[torch.fx.Node]:
        """Return the nodes whose values a run from ``place`` on reads."""
        return [node for node in self.nodes[:place] if self._last[node] >= place]

    @contextmanager
    def patched(self, patch: Patch) -> Iterator[None]:
        """Put the weights of a patch in, and the old ones back."""
        swapped: list[tuple[Layer, str, Tensor]] = []
        try:
            for (name, index), array in patch.weights.items():
                if name in self.at_layer:
                    module = self.module(name)
                    slot = module.arguments[index]
                    assert isinstance(slot, str)
                    old: Tensor = getattr(module, slot)
                    shape = old.shape if old.numel() == array.size else array.shape
                    swapped.append((module, slot, old))
                    _put(module, slot, torch.from_numpy(array).to(old).reshape(shape))
            yield
        finally:
            for module, slot, old in swapped:
                _put(module, slot, old)

    def run(
        self,
        values: Values,
        start: int,
        patch: Patch,
        *,
        stop: int | None = None,
        keep: bool = False,
        marked: Collection[torch.fx.Node] = (),
    ) -> Values:
        """Compute the nodes from ``start`` to before ``stop``; the weights of ``patch`` are in already.

        Args:
            values: what nodes before ``start`` made, as far as it is read; the inputs' too. Not changed.
            start: the first place that is computed.
            patch: its roundings and cut inputs are done on the way.
            stop: the first place that is not computed; None: to the end.
            keep: whether values are kept that nobody reads any more.
            marked: nodes whose values get gradients.
        """
        values = dict(values)
        end = len(self.nodes) if stop is None else stop
        for at in range(start, end):
            node = self.nodes[at]
            value = self.computed(node, values, patch)
            if node in marked and isinstance(value, Tensor) and value.is_floating_point() and not value.requires_grad:
                value = value.detach().requires_grad_()
            values[node] = value
            if not keep:
                for source in node.all_input_nodes:
                    if self._last[source] <= at:
                        values.pop(source, None)
        return values

    def outputs(self, values: Values) -> list[Tensor]:
        """Return the network's outputs of a finished run."""
        return [values[node] for node in self.results]

    def arguments(self, node: torch.fx.Node, values: Values, patch: Patch) -> list[Any]:
        """Return what a node is called with."""
        name = self.layer.get(str(node.target)) if node.op == "call_module" else None
        given: list[Any] = [values[each] if isinstance(each, torch.fx.Node) else each for each in node.args]
        if name is None:
            return given
        for at, source in enumerate(node.args):
            some = patch.rounded.get(self.tensor.get(source, ""), ()) if isinstance(source, torch.fx.Node) else ()
            for one in some:
                if one.readers is not None and name in one.readers:
                    given[at] = self._on_grid(given[at], one)
        for index in (place[1] for place in patch.cut if place[0] == name):
            at = sum(slot is True for slot in self.module(name).arguments[:index])
            given[at] = torch.zeros_like(given[at])
        return given

    def computed(self, node: torch.fx.Node, values: Values, patch: Patch) -> Any:
        """Return what a node makes of values, its own place in the patch done."""
        if node.op == "placeholder":
            value = values[node]
        elif node.op == "get_attr":
            value = getattr(self.view, str(node.target))
        elif node.op == "call_module":
            value = self.view.get_submodule(str(node.target))(*self.arguments(node, values, patch))
        else:
            value = node.target(*self.arguments(node, values, patch))  # type: ignore[operator]
        for one in patch.rounded.get(self.tensor.get(node, ""), ()):
            if one.readers is None:
                value = self._on_grid(value, one)
        return value

    def _on_grid(self, value: Tensor, one: Rounded) -> Tensor:
        return value.clamp(*one.grid.ends) if one.clipped else self.rules.round(value, one.grid)


def first_bad(flow: Flow, values: Values) -> str:
    """Return the name of the first layer whose value is not finite, of a run whose values were all kept."""
    for node in flow.nodes:
        value = values.get(node)
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return flow.layer.get(str(node.target), str(node.target))
    raise ModelError("no value is NaN or infinite any more: the network does not compute the same twice")


def _put(module: Layer, slot: str, tensor: Tensor) -> None:
    if slot in module._parameters:
        module._parameters[slot] = (
            tensor if isinstance(tensor, torch.nn.Parameter) else torch.nn.Parameter(tensor, requires_grad=False)
        )
    else:
        module._buffers[slot] = tensor


__all__ = ["Flow", "Place", "Values", "first_bad"]
