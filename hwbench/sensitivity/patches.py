"""A design as a patch: what is replaced in the torch view of the original, whose shapes all stay.

    depth      the branch of a block, where it enters its Add, becomes zeros
    width      readers of the channels that go get weights of zero there, the others refitted by least squares
    rank       weights that could be two factors, in place
    precision  weights on their 8-bit grid, and tensors rounded where the runtime rounds them

They are composed in this order, layer by layer, so that a layer that reads two narrowed groups is refitted once, and
one that is narrowed and quantised is rounded after the refit. What was solved for one layer is kept, and designs that
agree there share it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwbench.errors import UsageError
from hwbench.fake_quant.assign import Grids
from hwbench.fake_quant.grids import Grid
from hwbench.fake_quant.place import moves, place
from hwbench.fake_quant.runtimes import arithmetic
from hwbench.fake_quant.simulate import integer_layers
from hwbench.graph.linear import Linear
from hwbench.records.planning import Design, Space
from hwbench.sensitivity.masks import follows, masked_exactly
from hwbench.sensitivity.network import Network
from hwbench.sensitivity.solved import Weights, of_rank, rounded_to_int8, without_inputs

Array = np.ndarray[Any, np.dtype[Any]]
Place = tuple[str, int]  # a node by its name, and which of its inputs
_KEPT_BYTES = 1 << 30  # of solved weights

__all__ = ["Composer", "Patch", "Rounded", "masked_exactly"]


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A tensor on a grid; ``readers``: only these read it so; ``clipped``: cut off at the grid's ends, not rounded."""

    grid: Grid
    readers: frozenset[str] | None = None
    clipped: bool = False


@dataclass(frozen=True, kw_only=True)
class Patch:
    """What is replaced. ``weights``: constants as single nodes read them, float32. ``cut``: inputs that are zero."""

    weights: Mapping[Place, Array] = field(default_factory=dict)
    rounded: Mapping[str, Rounded] = field(default_factory=dict)
    cut: frozenset[Place] = frozenset()


@dataclass(frozen=True)
class _Recipe:
    """What makes the weights of one layer: the key under which they are kept."""

    layer: str
    read: tuple[tuple[str, int], ...]  # narrowed groups that it reads, and the units that stay
    made: tuple[tuple[str, int], ...]  # narrowed groups that it makes; only its rank depends on them
    rank: int | None
    int8: bool


class Composer:
    """Makes patches of designs for one network; deterministic, and the same design gives the same numbers."""

    def __init__(self, network: Network, space: Space) -> None:
        self.network, self.space = network, space
        self._kept: OrderedDict[_Recipe, Weights] = OrderedDict()
        self._bytes = 0
        self._integer = {
            name: layer for name, layer in integer_layers(network.model).items() if layer.input.name in network.ranges
        }
        self._quantisable = [
            cluster.name
            for cluster in space.clusters
            if cluster.precision is not None and cluster.name in self._integer
        ]
        self._check()

    def gather(self) -> None:
        """Collect the statistics that patches of this space need, in one pass for each kind."""
        narrowed = [site.about for site in self.space.sites if site.kind == "width"]
        readers = {name for group in narrowed for name in self.network.groups[group].consumers}
        ranked = {site.about for site in self.space.sites if site.kind == "rank"}
        mixing = [name for name, layer in self.network.layers.items()
                  if (name in readers and self.network.refit and not follows(layer)) or name in ranked]  # fmt: skip
        self.network.gather(mixing, self._quantisable)

    def compose(self, design: Design) -> Patch:
        """Return the patch of a design.

        Raises:
            UsageError: it names what the network has not, or a precision other than float and int8.
        """
        gone = self._gone(design)
        int8 = self._int8(design, gone)
        weights: dict[Place, Array] = {}
        for name, layer in self.network.layers.items():
            recipe = None if name in gone else self._recipe(name, layer, design, name in int8)
            if recipe is not None:
                weights |= _placed(layer, self._weights(recipe, layer))
        return Patch(weights=weights, rounded=self._rounded(int8), cut=self._cut(design))

    def _check(self) -> None:
        for site in self.space.sites:
            if site.kind == "width":
                group = self.network.groups.get(site.about)
                if group is None:
                    raise UsageError(f"{site.name}: the network has no such group of channels")
                reason = masked_exactly(group, self.network.layers)
                if reason is not None:
                    raise UsageError(f"{site.name}: {reason.why}", hint="leave the site out of the space")
            if site.kind == "depth" and site.about not in self.network.blocks:
                raise UsageError(f"{site.name}: the network has no such block")
            if site.kind == "rank" and site.about not in self.network.layers:
                raise UsageError(f"{site.name}: the network has no such layer")

    def _gone(self, design: Design) -> set[str]:
        """Return the nodes of blocks that are dropped."""
        unknown = [name for name in design.dropped if name not in self.network.blocks]
        if unknown:
            raise UsageError(f"there is no block '{unknown[0]}'", hint=f"blocks: {', '.join(self.network.blocks)}")
        return {node.name or "" for name in design.dropped for node in self.network.blocks[name].nodes}

    def _cut(self, design: Design) -> frozenset[Place]:
        found = set()
        for name in design.dropped:
            block = self.network.blocks[name]
            if block.reason is not None or block.shortcut is None:
                raise UsageError(f"block '{name}' cannot be dropped: {block.reason}")
            found.add((block.add.name or "", 1 - block.shortcut))
        return frozenset(found)

    def _int8(self, design: Design, gone: Collection[str]) -> list[str]:
        others = set(design.schemes.values()) - {"float", "int8"}
        if others:
            raise UsageError(f"losses are known of float and int8, not of {', '.join(sorted(others))}")
        chosen = [name for name in self._quantisable if design.of(name) == "int8" and name not in gone]
        if "int8" in design.schemes.values() and not self.network.ranges:
            raise UsageError("int8 needs ranges of the activations, and there are none", hint="calibrate first")
        return chosen

    def _recipe(self, name: str, layer: Linear, design: Design, int8: bool) -> _Recipe | None:
        groups = self.network.groups
        told = [(group, units) for group, units in sorted(design.widths.items())
                if group not in groups or units < groups[group].size]  # fmt: skip
        for group, units in told:
            self.network.kept(group, units)  # says what does not fit
        read = tuple(each for each in told if name in groups[each[0]].consumers and not follows(layer))
        rank = design.ranks.get(name)
        made = () if rank is None else tuple(each for each in told if name in groups[each[0]].producers)
        if not (read or int8 or rank is not None):
            return None
        return _Recipe(name, read, made, rank, int8)

    def _weights(self, recipe: _Recipe, layer: Linear) -> Weights:
        found = self._kept.get(recipe)
        if found is None:
            found = self._solve(recipe, layer)
            self._kept[recipe] = found
            self._bytes += found.blocks.nbytes
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].blocks.nbytes
        self._kept.move_to_end(recipe)
        return found

    def _solve(self, recipe: _Recipe, layer: Linear) -> Weights:
        network = self.network
        if recipe.int8:
            before = _Recipe(recipe.layer, recipe.read, recipe.made, recipe.rank, int8=False)
            found = network.ranges[layer.input.name or ""]
            rest = self._weights(before, layer) if before.read or before.rank is not None else Weights.of(layer)
            return rounded_to_int8(rest, layer, network.runtime, found, network.mean(recipe.layer))
        if recipe.rank is not None:
            before = _Recipe(recipe.layer, recipe.read, (), None, int8=False)
            rest = self._weights(before, layer) if before.read else Weights.of(layer)
            return of_rank(rest, recipe.rank, network.gram(recipe.layer), self._outputs(recipe, layer))
        gram = network.gram(recipe.layer) if network.refit else None
        return without_inputs(Weights.of(layer), self._lost(recipe, layer), gram, network.damping)

    def _lost(self, recipe: _Recipe, layer: Linear) -> Array:
        """Return which inputs go, groups x inputs of a group."""
        gone = np.zeros(layer.input_channels, bool)
        for name, units in recipe.read:
            gone[self._removed(name, units, self.network.groups[name].consumers[recipe.layer])] = True
        return gone.reshape(layer.groups, -1)

    def _outputs(self, recipe: _Recipe, layer: Linear) -> Array:
        """Return which outputs stay, groups x outputs of a group."""
        there = np.ones(layer.output_channels, bool)
        for name, units in recipe.made:
            there[self._removed(name, units, self.network.groups[name].producers[recipe.layer])] = False
        return there.reshape(layer.groups, -1)

    def _removed(self, group: str, units: int, indices: Array) -> Array:
        gone: Array = np.delete(indices, self.network.kept(group, units), axis=0).reshape(-1)
        return gone

    def _rounded(self, int8: Collection[str]) -> dict[str, Rounded]:
        """Return what the runtime rounds when these layers run on integers (:mod:`hwbench.fake_quant.place`)."""
        if not int8:
            return {}
        network = self.network
        rules, bits = arithmetic(network.runtime), dict.fromkeys(int8, 8)
        placed = place(network.model, bits, network.runtime)
        there = {value.name or "" for node in network.model.graph for value in node.outputs}
        there |= {value.name or "" for value in network.model.graph.inputs}
        unknown = [name for name in placed.tensors if name in there and name not in network.ranges]
        for name in unknown:  # an addition or a mean of what calibration has not seen stays in floating point
            placed.made.discard(name)
            placed.read.pop(name, None)
        grids = Grids(network.model, network.ranges, rules, placed, bits)
        moved = {
            output.name
            for node in network.model.graph
            if moves(node, rules.name) and node.inputs[0] is not None and grids.made(node.inputs[0].name or "")
            for output in node.outputs
        }
        return {
            name: Rounded(
                grid=grid,
                readers=None if grids.made(name) is not None else frozenset(placed.read.get(name, ())),
                clipped=name in placed.clipped,
            )
            for name, grid in grids.all().items()
            if name not in moved
        }


def _placed(layer: Linear, found: Weights) -> dict[Place, Array]:
    new: dict[Place, Array] = {(layer.name, 1): layer.from_blocks(found.blocks).astype(np.float32)}
    if found.bias is not None:
        holder = layer.add or layer.node
        new[holder.name or "", layer.bias_index] = found.bias.astype(np.float32)
    return new
