"""Quantisation-aware training: a view whose weights and activations are rounded, so that training sees it.

BatchNormalization is frozen: it computes with its running statistics, as the runtimes do after they have folded it into
the layer before. A scale for each output channel makes rounding before and after that folding the same. Activations are
rounded where the folded graph has them, by the names of tensors, and there for all who read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from hwbench.fake_quant.grids import Grid, Tensor
from hwbench.fake_quant.straight import RoundedActivations, RoundedWeights
from hwbench.torch_view import tables
from hwbench.torch_view.layer import Layer

_QUANTISER = "quantiser"  # the submodule of a layer that rounds its weights


@dataclass(frozen=True, kw_only=True)
class WeightScheme:
    """How the weights of a layer are rounded; the fields of :class:`~hwbench.fake_quant.straight.RoundedWeights`."""

    scales: Any  # numpy, float32
    largest: int
    group: int | None = None
    axis: int = 0


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A view with rounding in it: which module rounds which layer's weights, and which tensor."""

    view: torch.fx.GraphModule
    weights: Mapping[str, tuple[Layer, str, RoundedWeights]]
    activations: Mapping[str, RoundedActivations]

    @torch.no_grad()
    def settle(self) -> dict[str, Tensor]:
        """Put the weights where they are rounded to, and return the scales of each layer.

        The view computes the same before and after.
        """
        found: dict[str, Tensor] = {}
        for name, (layer, slot, rounding) in self.weights.items():
            weights = getattr(layer, slot)
            found[name] = rounding.scales(weights).detach().clone()
            weights.copy_(rounding(weights))
        return found


def prepare(
    view: torch.fx.GraphModule,
    model: ir.Model,
    weights: Mapping[str, WeightScheme],
    activations: Mapping[str, Grid],
    *,
    learned: bool,
) -> Prepared:
    """Put rounding into a view of ``model``, in place.

    Args:
        view: of the hub, BatchNorm not folded.
        model: the hub.
        weights: by the name of a layer with weights.
        activations: by the name of a tensor; one that the view does not have is passed over.
        learned: scales are trained (LSQ), otherwise those of activations stay and those of weights follow the weights.
    """
    names = tables.layer_names(view)
    nodes = {node.name or "": node for node in model.graph}
    rounded: dict[str, tuple[Layer, str, RoundedWeights]] = {}
    for target, name in names.items():
        layer = view.get_submodule(target)
        assert isinstance(layer, Layer)
        if layer.operator == "BatchNormalization":
            layer.told = False
        if name in weights:
            rounded[name] = _round_weights(layer, weights[name], learned=learned)
    placed = _round_activations(view, nodes, activations, learned=learned)
    return Prepared(view=view, weights=rounded, activations=placed)


def _round_weights(layer: Layer, scheme: WeightScheme, *, learned: bool) -> tuple[Layer, str, RoundedWeights]:
    slot = str(layer.arguments[1])
    tensor = getattr(layer, slot)
    scales = torch.from_numpy(scheme.scales).to(tensor)
    rounding = RoundedWeights(
        scales, scheme.largest, tensor.detach(), group=scheme.group, axis=scheme.axis, learned=learned
    )
    layer.add_module(_QUANTISER, rounding)
    plain = layer.function

    def function(x: Tensor, weights: Tensor, *rest: Tensor | None) -> Any:
        return plain(x, rounding(weights), *rest)

    layer.function = function
    return layer, slot, rounding


def _round_activations(
    view: torch.fx.GraphModule, nodes: Mapping[str, ir.Node], grids: Mapping[str, Grid], *, learned: bool
) -> dict[str, RoundedActivations]:
    names = tables.layer_names(view)
    found: dict[str, RoundedActivations] = {}
    inputs = iter(tables.input_names(view))
    for node in list(view.graph.nodes):
        if node.op == "placeholder":
            tensor = next(inputs)
        elif node.op == "call_module" and str(node.target) in names:
            tensor = nodes[names[str(node.target)]].outputs[0].name or ""
        else:
            continue
        if tensor in grids and node.users:
            found[tensor] = _insert(view, node, grids[tensor], len(found), learned=learned)
    view.graph.lint()
    view.recompile()
    return found


def _insert(
    view: torch.fx.GraphModule, node: torch.fx.Node, grid: Grid, count: int, *, learned: bool
) -> RoundedActivations:
    low, high = grid.low - grid.zero_point, grid.high - grid.zero_point
    module = RoundedActivations(grid.scale, low, high, learned=learned)
    target = f"rounded_activation_{count}"
    view.add_submodule(target, module)
    users = list(node.users)
    with view.graph.inserting_after(node):
        rounded = view.graph.call_module(target, (node,))
    for user in users:
        if user.op != "output":
            user.replace_input_with(node, rounded)
    return module
