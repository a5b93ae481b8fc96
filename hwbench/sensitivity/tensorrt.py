"""What TensorRT makes of the precisions of a design: the rules of its lowering, asked and not repeated.

Which layers a plan quantises, which inputs are read through a pair, weights and scales are those that
:mod:`hwbench.engines.tensorrt_lower` writes, with scales in fp32: in fp16 they are larger by 2^-11 at most, in bf16 by
2^-8. What is not quantised stays in fp32 here, whatever floats the design names.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from hwbench.engines.tensorrt_graph import range_of
from hwbench.engines.tensorrt_legal import Carrier, carriers, refused, slow
from hwbench.engines.tensorrt_quantize import averages, residual_inputs
from hwbench.engines.tensorrt_weights import FP8_LARGEST, activation_scale, stored
from hwbench.errors import Unsupported, UsageError
from hwbench.fake_quant.grids import FloatGrid, Grid
from hwbench.graph.linear import Linear
from hwbench.plan.designs import precision_plan
from hwbench.records.planning import Design, Space
from hwbench.records.quantization import PrecisionPlan, Scheme, TensorRange
from hwbench.sensitivity.network import Network
from hwbench.sensitivity.patch import Rounded
from hwbench.sensitivity.precisions import Roundings, Schemes, need_ranges
from hwbench.sensitivity.solved import Weights, with_mean_kept

RUNTIME = "tensorrt"
_ROUNDING: tuple[Scheme, ...] = ("int8", "fp8")  # schemes whose activations are rounded
_CORRECTED = frozenset({"int8", "int8-weights"})  # schemes of eight bits whose biases calibration corrects
_KIND = "fp32"  # of the scales


class TensorRt:
    """The precisions of TensorRT and TensorRT for RTX."""

    def __init__(self, network: Network, space: Space) -> None:
        self.network, self.space = network, space
        self._carriers = {carrier.name: carrier for carrier in carriers(network.model.graph)}
        self._names = [node.name or "" for node in network.model.graph]
        offered = {site.about: {option.scheme for option in site.options} for site in space.sites}
        self.corrected = [name for name, schemes in offered.items() if schemes & _CORRECTED and name in network.layers]

    def of(self, design: Design, gone: Collection[str]) -> Schemes:
        """See :meth:`~hwbench.sensitivity.precisions.Precisions.of`: what the lowering writes."""
        if "int8-dynamic" in design.schemes.values():
            raise UsageError("TensorRT has no int8-dynamic: its scales are fixed when it builds")
        need_ranges(self.network, design)
        plan, found = self._plan(design), dict[str, Scheme]()
        for name, carrier in self._carriers.items():
            asked = plan.of(name)
            if asked == "float" or name in gone:
                continue
            why = self._refusal(carrier, asked, named=name in plan.layers)
            if why is None:
                found[name] = asked
            elif name in plan.layers:
                raise Unsupported(f"TensorRT cannot build layer '{name}' in {asked}: {why}")
        return found

    def weights(self, old: Weights, layer: Linear, scheme: Scheme) -> Weights:
        """See :meth:`~hwbench.sensitivity.precisions.Precisions.weights`."""
        weight = layer.from_blocks(old.blocks).astype(np.float32)
        numbers = stored(self._carriers[layer.name], weight, scheme, _KIND).numbers()
        mean = self.network.mean(layer.name) if scheme in _CORRECTED else None
        return with_mean_kept(old, layer.to_blocks(numbers.astype(np.float64)), mean)

    def rounded(self, design: Design, schemes: Schemes) -> Roundings:
        """See :meth:`~hwbench.sensitivity.precisions.Precisions.rounded`: what is read through a pair."""
        kept = {name for name, scheme in self._plan(design).layers.items() if scheme == "float"}
        readers: dict[tuple[str, Scheme], set[str]] = {}
        ranges: dict[str, TensorRange] = {}
        known = self.network.ranges_with(design.replaced)
        for node, index, scheme in self._reads(schemes, kept):
            value = node.inputs[index]
            found = None if value is None else range_of(value, known)
            if value is not None and found is not None:
                ranges[value.name or ""] = found
                readers.setdefault((value.name or "", scheme), set()).add(node.name or "")
        roundings: Roundings = {}
        for (tensor, scheme), nodes in readers.items():
            one = Rounded(grid=_grid(ranges[tensor], scheme), readers=frozenset(nodes))
            roundings[tensor] = (*roundings.get(tensor, ()), one)
        return roundings

    def _reads(self, schemes: Schemes, kept: Collection[str]) -> list[tuple[ir.Node, int, Scheme]]:
        graph, found = self.network.model.graph, list[tuple[ir.Node, int, Scheme]]()
        for scheme in _ROUNDING:
            chosen = [self._carriers[name] for name, each in schemes.items() if each == scheme]
            nodes = {carrier.node for carrier in chosen}
            found += [(carrier.node, index, scheme) for carrier in chosen for index in carrier.data]
            found += [(node, index, scheme) for node, index in residual_inputs(graph, nodes, kept)]
            if scheme == "int8":
                found += [(node, 0, scheme) for node in averages(graph, nodes, kept)]
        return found

    def _plan(self, design: Design) -> PrecisionPlan:
        return precision_plan(self.space, design, self._names)

    def _refusal(self, carrier: Carrier, scheme: Scheme, *, named: bool) -> str | None:
        why = refused(carrier, scheme, named=named) or (None if named else slow(carrier, scheme))
        if why is None and scheme in _ROUNDING:
            values = [carrier.node.inputs[index] for index in carrier.data]
            lacking = [each for each in values if each is not None and range_of(each, self.network.ranges) is None]
            why = f"calibration found no range for tensor '{lacking[0].name}'" if lacking else None
        if why is None and carrier.weight is not None and carrier.name not in self.network.layers:
            why = "its weights are not such as can be replaced"
        return why


def _grid(found: TensorRange, scheme: Scheme) -> Grid | FloatGrid:
    scale = float(activation_scale(found, scheme, _KIND))
    if scheme == "fp8":
        return FloatGrid(scale=scale, largest=FP8_LARGEST)
    return Grid(scale=scale, zero_point=0, low=-128, high=127)
