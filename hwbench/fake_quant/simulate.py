"""A torch view that computes as a runtime does: integers in layers, roundings where the runtime has them.

Between nodes lie float32 numbers as before, now on grids where the runtime has integers; a node that runs on integers
takes the steps from the numbers, exactly, and gives numbers of its own grid. So the view keeps its form and its layers
their names, and whatever reads the view (scores, sensitivity) reads this one too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir
import torch

from hwbench.errors import UsageError
from hwbench.fake_quant.assign import Grids
from hwbench.fake_quant.grids import WeightSteps
from hwbench.fake_quant.modules import Clipping, IntegerLayer, IntegerMean, IntegerSum, Rounding
from hwbench.fake_quant.place import moves, place
from hwbench.fake_quant.runtimes import arithmetic
from hwbench.graph.linear import Linear, linear_of
from hwbench.records.quantization import TensorRange
from hwbench.torch_view import tables
from hwbench.torch_view.build import to_torch
from hwbench.torch_view.layer import Layer
from hwbench.torch_view.place import on_device

_INTEGER_KINDS = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What to simulate.

    ``weights``: the integers of each layer (by hub name) that has some; the others keep their floats. ``bits``: of the
    activations of each layer that runs on integers; a layer that is not named reads floats.
    """

    runtime: str
    weights: Mapping[str, WeightSteps]
    bits: Mapping[str, int] = field(default_factory=dict)


def simulate(model: ir.Model, ranges: Mapping[str, TensorRange], wanted: Simulation) -> torch.fx.GraphModule:
    """Return a view of ``model`` that computes as a runtime would, in evaluation mode, on the CPU.

    Args:
        model: BatchNorm folded, as runtimes are given it; not changed.
        ranges: of its tensors, by name, as calibration finds them.
        wanted: the runtime, the weights and the layers.

    Raises:
        UsageError: a tensor that would be rounded has no range, a layer cannot run on integers, or the runtime has no
            such activations.
        Unsupported: the network has an operator that torch cannot express.
    """
    view = on_device(to_torch(model), "cpu")
    return _Writer(view, model, ranges, wanted).write()


def integer_layers(model: ir.Model) -> dict[str, Linear]:
    """Return the layers that the runtimes have integer kernels for and this module simulates, by name."""
    found = (linear_of(node) for node in model.graph if not node.domain and node.op_type in _INTEGER_KINDS)
    return {layer.name: layer for layer in found if isinstance(layer, Linear)}


def _tensor(value: ir.Value | None) -> str:
    return "" if value is None else value.name or ""


class _Writer:
    def __init__(
        self, view: torch.fx.GraphModule, model: ir.Model, ranges: Mapping[str, TensorRange], wanted: Simulation
    ) -> None:
        self.view, self.model, self.wanted = view, model, wanted
        self.rules = arithmetic(wanted.runtime)
        self.linear = integer_layers(model)
        for name in wanted.bits:
            if name not in self.linear or name not in wanted.weights:
                raise UsageError(f"layer '{name}' cannot run on integers: it has no weights on a grid")
        self.placement = place(model, wanted.bits, wanted.runtime)
        self.grids = Grids(model, ranges, self.rules, self.placement, wanted.bits)
        self.nodes = {node.name or "": node for node in model.graph}
        self.made = {target: self.nodes[name] for target, name in tables.layer_names(view).items()}
        self.count = 0

    def write(self) -> torch.fx.GraphModule:
        for node in list(self.view.graph.nodes):
            if node.op == "call_module" and str(node.target) in self.made:
                self._node(node, self.made[str(node.target)])
        self._inputs()
        self.view.graph.lint()
        self.view.recompile()
        return self.view.eval()

    def _node(self, node: torch.fx.Node, source: ir.Node) -> None:
        name = source.name or ""
        if name in self.wanted.bits:
            self.view.add_submodule(str(node.target), self._product(node, source))
        elif name in self.placement.integer and source.op_type in {"Add", "GlobalAveragePool"}:
            module = self._sum(node, source) if source.op_type == "Add" else self._mean(source)
            if module is not None:
                self.view.add_submodule(str(node.target), module)
        elif name in self.wanted.weights:
            layer = self._layer(node)
            slot = layer.arguments[1]
            numbers = torch.from_numpy(self.wanted.weights[name].numbers())
            getattr(layer, str(slot)).data.copy_(numbers)
        self._around(node, source, rounds=name not in self.wanted.bits)

    def _layer(self, node: torch.fx.Node) -> Layer:
        layer = self.view.get_submodule(str(node.target))
        assert isinstance(layer, Layer)
        return layer

    def _product(self, node: torch.fx.Node, source: ir.Node) -> torch.nn.Module:
        linear = self.linear[source.name or ""]
        x = self.grids.read(linear.input, source.name or "")
        assert x is not None, "a layer on integers reads integers"
        y = self.grids.made(linear.output.name or "")
        return IntegerLayer(self._layer(node), linear, self.wanted.weights[source.name or ""], self.rules, (x, y))

    def _sum(self, node: torch.fx.Node, source: ir.Node) -> torch.nn.Module | None:
        read = [self.grids.read(value, source.name or "") for value in source.inputs if value is not None]
        y = self.grids.made(source.outputs[0].name or "")
        if len(read) != 2 or read[0] is None or read[1] is None or y is None or len(node.args) != 2:
            return None
        return IntegerSum(self.rules, (read[0], read[1]), y)

    def _mean(self, source: ir.Node) -> torch.nn.Module | None:
        assert source.inputs[0] is not None
        x, y = self.grids.read(source.inputs[0], source.name or ""), self.grids.made(source.outputs[0].name or "")
        return None if x is None or y is None else IntegerMean(self.rules, x, y)

    def _around(self, node: torch.fx.Node, source: ir.Node, *, rounds: bool) -> None:
        """Round what a node makes, for all or for some of its readers; a bias behind a product is in it already."""
        linear = self.linear.get(source.name or "")
        if not rounds and linear is not None and linear.add is not None:
            for user in list(node.users):
                if self.made.get(str(user.target)) is linear.add:
                    user.replace_all_uses_with(node)
        elif len(source.outputs) == 1 and not self._carries(source):
            self._round(node, source.outputs[0])

    def _carries(self, source: ir.Node) -> bool:
        """Say whether a node only moves numbers that are rounded already."""
        first = source.inputs[0] if source.inputs else None
        return moves(source, self.rules.name) and self.grids.made(_tensor(first)) is not None

    def _inputs(self) -> None:
        values = {value.name: value for value in self.model.graph.inputs}
        names = tables.input_names(self.view)
        for node, name in zip([n for n in self.view.graph.nodes if n.op == "placeholder"], names, strict=True):
            self._round(node, values[name])

    def _round(self, node: torch.fx.Node, value: ir.Value) -> None:
        name = value.name or ""
        everywhere = self.grids.made(name)
        readers = self.placement.read.get(name, set())
        if everywhere is None and not readers:
            return
        users = {
            user for user in node.users if everywhere is not None or self._name_of(user) in readers
        }  # an output of the graph is nobody's reading
        if not users:
            return
        grid = everywhere or self.grids.read(value, next(iter(readers)))
        assert grid is not None
        self.count += 1
        target = f"rounding_{self.count}"
        module = Clipping(grid) if name in self.placement.clipped else Rounding(self.rules, grid)
        self.view.add_submodule(target, module)
        with self.view.graph.inserting_after(node):
            rounded = self.view.graph.call_module(target, (node,))
        for user in users:
            user.replace_input_with(node, rounded)

    def _name_of(self, user: torch.fx.Node) -> str | None:
        source = self.made.get(str(user.target)) if user.op == "call_module" else None
        return None if source is None else source.name
