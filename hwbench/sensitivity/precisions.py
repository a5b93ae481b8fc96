"""What a runtime makes of the precisions of a design: which layers get them, their weights, which tensors are rounded.

The runtimes of CPUs have int8 here, with the arithmetic of :mod:`hwbench.fake_quant`; those of NVIDIA's GPUs have more
(:mod:`hwbench.sensitivity.tensorrt`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from hwbench.errors import UsageError
from hwbench.fake_quant.assign import Grids
from hwbench.fake_quant.place import moves, place
from hwbench.fake_quant.runtimes import arithmetic
from hwbench.fake_quant.simulate import integer_layers
from hwbench.graph.linear import Linear
from hwbench.records.planning import Design, Space
from hwbench.records.quantization import Scheme
from hwbench.sensitivity.network import Network
from hwbench.sensitivity.patch import Rounded
from hwbench.sensitivity.solved import Weights, rounded_to_int8

Schemes = Mapping[str, Scheme]  # by layer
Roundings = dict[str, tuple[Rounded, ...]]  # by tensor


class Precisions(Protocol):
    """The precisions of one runtime, for one network."""

    @property
    def corrected(self) -> Collection[str]:
        """The layers whose bias takes up what rounding does to the mean: E[x] of what they read is wanted."""
        ...

    def of(self, design: Design, gone: Collection[str]) -> Schemes:
        """Return what layers get, but for floats; none of those that are ``gone``.

        Raises:
            UsageError: the runtime has no such precision here, or ranges are wanting.
            Unsupported: a layer cannot have what the design says.
        """
        ...

    def weights(self, old: Weights, layer: Linear, scheme: Scheme) -> Weights:
        """Return weights in a scheme."""
        ...

    def rounded(self, design: Design, schemes: Schemes) -> Roundings:
        """Return the tensors that are rounded when layers have ``schemes``, which :meth:`of` has told."""
        ...


class Integers:
    """int8 as ONNX Runtime, OpenVINO or LiteRT has it."""

    def __init__(self, network: Network, space: Space) -> None:
        self.network = network
        layers = {
            name: layer for name, layer in integer_layers(network.model).items() if layer.input.name in network.ranges
        }
        self.corrected = [
            cluster.name for cluster in space.clusters if cluster.precision is not None and cluster.name in layers
        ]

    def of(self, design: Design, gone: Collection[str]) -> Schemes:
        """See :meth:`Precisions.of`; a layer that is not simulated stays in floating point."""
        others = sorted(set(design.schemes.values()) - {"float", "int8"})
        if others:
            runtime = self.network.runtime
            raise UsageError(f"losses on {runtime} are known of float and int8, not of {', '.join(others)}")
        need_ranges(self.network, design)
        return {name: "int8" for name in self.corrected if design.of(name) == "int8" and name not in gone}

    def weights(self, old: Weights, layer: Linear, scheme: Scheme) -> Weights:  # noqa: ARG002 - there is but one
        """See :meth:`Precisions.weights`."""
        network = self.network
        found = network.ranges[layer.input.name or ""]
        return rounded_to_int8(old, layer, network.runtime, found, network.mean(layer.name))

    def rounded(self, design: Design, schemes: Schemes) -> Roundings:
        """See :meth:`Precisions.rounded`, and :mod:`hwbench.fake_quant.place`."""
        if not schemes:
            return {}
        network = self.network
        ranges = network.ranges_with(design.replaced)
        rules, bits = arithmetic(network.runtime), dict.fromkeys(schemes, 8)
        placed = place(network.model, bits, network.runtime)
        there = {value.name or "" for node in network.model.graph for value in node.outputs}
        there |= {value.name or "" for value in network.model.graph.inputs}
        unknown = [name for name in placed.tensors if name in there and name not in ranges]
        for name in unknown:  # an addition or a mean of what calibration has not seen stays in floating point
            placed.made.discard(name)
            placed.read.pop(name, None)
        grids = Grids(network.model, ranges, rules, placed, bits)
        moved = {
            output.name
            for node in network.model.graph
            if moves(node, rules.name) and node.inputs[0] is not None and grids.made(node.inputs[0].name or "")
            for output in node.outputs
        }
        found: Roundings = {}
        for name, grid in grids.all().items():
            if name not in moved:
                readers = None if grids.made(name) is not None else frozenset(placed.read.get(name, ()))
                found[name] = (Rounded(grid=grid, readers=readers, clipped=name in placed.clipped),)
        return found


def need_ranges(network: Network, design: Design) -> None:
    """Refuse a design whose activations are rounded where calibration has found no ranges.

    Raises:
        UsageError: so it is.
    """
    rounding = sorted({"int8", "fp8"} & set(design.schemes.values()))
    if rounding and not network.ranges:
        raise UsageError(f"{rounding[0]} needs ranges of the activations, and there are none", hint="calibrate first")
