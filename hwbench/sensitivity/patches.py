"""A design as a patch: what is replaced in the torch view of the original, whose shapes all stay.

    depth      the branch of a block, where it enters its Add, becomes zeros
    replace    the first layer puts out what the block did; the second passes that on, and the shortcut becomes zeros
    width      readers of the channels that go get weights of zero there, the others refitted by least squares
    rank       weights that could be two factors, in place
    zeros      weights pruned as the step ``prune`` does it, what is left refitted, packed as the kernel holds it
    precision  weights on the runtime's grid, and tensors rounded where the runtime rounds them

They are composed in this order, layer by layer, so that a layer that reads two narrowed groups is refitted once, one
that is narrowed and pruned too, and one that is quantised is rounded after that. What was solved for one layer is kept,
and designs that agree there share it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from hwbench.errors import Unsupported, UsageError
from hwbench.graph.linear import Linear
from hwbench.plan.designs import widths_left
from hwbench.records.planning import Design, Space, Zeros
from hwbench.records.quantization import Scheme
from hwbench.sensitivity.masks import follows, masked_exactly
from hwbench.sensitivity.network import Network
from hwbench.sensitivity.patch import Patch, Place, Rounded
from hwbench.sensitivity.precisions import Integers, Precisions, Schemes
from hwbench.sensitivity.pruned import packed, pruned
from hwbench.sensitivity.solved import Weights, of_rank, with_zeros, without_inputs
from hwbench.sensitivity.tensorrt import RUNTIME as TENSORRT
from hwbench.sensitivity.tensorrt import TensorRt
from hwbench.structure.replace import delta

Array = np.ndarray[Any, np.dtype[Any]]
_KEPT_BYTES = 1 << 30  # of solved weights

__all__ = ["Composer", "Patch", "Rounded", "masked_exactly"]


Part = Literal["alone", "passing"]  # the layer that stands for a block, and the one that passes on what it puts out


@dataclass(frozen=True)
class _Recipe:
    """What makes the weights of one layer: the key under which they are kept."""

    layer: str
    read: tuple[tuple[str, int], ...]  # narrowed groups that it reads, and the units that stay
    made: tuple[tuple[str, int], ...]  # narrowed groups that it makes; its rank and its zeros depend on them
    rank: int | None
    zeros: Zeros | None
    scheme: Scheme
    refit: bool  # what zeros leave
    part: tuple[Part, str] | None = None  # in a block that one layer stands for, and its name


class Composer:
    """Makes patches of designs for one network; deterministic, and the same design gives the same numbers."""

    def __init__(self, network: Network, space: Space) -> None:
        self.network, self.space = network, space
        self._kept: OrderedDict[_Recipe, Weights] = OrderedDict()
        self._bytes = 0
        self._precisions: Precisions = (TensorRt if network.runtime == TENSORRT else Integers)(network, space)
        self._check()

    def gather(self) -> None:
        """Collect the statistics that patches of this space need, in one pass for each kind."""
        narrowed = [site.about for site in self.space.sites if site.kind == "width"]
        readers = {name for group in narrowed for name in self.network.groups[group].consumers}
        solved = {site.about for site in self.space.sites if site.kind == "rank"}
        if self.network.refit:
            solved |= {site.about for site in self.space.sites if any(option.zeros for option in site.options)}
        mixing = [name for name, layer in self.network.layers.items()
                  if (name in readers and self.network.refit and not follows(layer)) or name in solved]  # fmt: skip
        self.network.gather(mixing, self._precisions.corrected)
        self.network.gather_stand_ins([site.about for site in self.space.sites if site.kind == "replace"])

    def compose(self, design: Design, *, refit: bool = True) -> Patch:
        """Return the patch of a design; without ``refit`` what its zeros leave stays as it is, which takes no time.

        Raises:
            UsageError: it names what the network has not, or a precision that the runtime has not.
            Unsupported: a layer cannot be what the design says together with all else.
        """
        gone = self._gone(design)
        without = [name for name in design.zeros if name not in self.network.layers]
        if without:
            raise UsageError(f"'{without[0]}' is no layer with weights, and zeros are asked for")
        parts = self._parts(design)
        schemes = self._schemes(design, gone, parts)
        weights: dict[Place, Array] = {}
        for name, layer in self.network.layers.items():
            scheme = schemes.get(name, "float")
            recipe = None if name in gone else self._recipe(name, layer, design, scheme, refit, parts.get(name))
            if recipe is not None:
                weights |= _placed(layer, self._weights(recipe, layer))
        blocks = [self.network.replaceables[name] for name in design.replaced]
        return Patch(
            weights=weights,
            rounded=self._precisions.rounded(design, schemes),
            cut=self._cut(design),
            stands={one.first.name: (one.second.name, one.block.add.name or "") for one in blocks},
        )

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
            if site.kind == "replace" and site.about not in self.network.replaceables:
                raise UsageError(f"{site.name}: the network has no such block that a layer could stand for")
            if site.kind == "rank" and site.about not in self.network.layers:
                raise UsageError(f"{site.name}: the network has no such layer")
            if any(option.zeros for option in site.options) and site.about not in self.network.layers:
                raise UsageError(f"{site.name}: the network has no such layer with weights, and zeros are offered")

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
        for name in design.replaced:
            block = self.network.blocks[name]
            assert block.shortcut is not None
            found.add((block.add.name or "", block.shortcut))
        return frozenset(found)

    def _parts(self, design: Design) -> dict[str, tuple[Part, str]]:
        """Return by layer what it does in a block that one layer stands for."""
        found: dict[str, tuple[Part, str]] = {}
        for name in design.replaced:
            one = self.network.replaceables.get(name)
            if one is None:
                raise UsageError(f"there is no block '{name}' that a layer could stand for")
            found |= {one.first.name: ("alone", name), one.second.name: ("passing", name)}
        return found

    def _schemes(self, design: Design, gone: set[str], parts: Mapping[str, tuple[Part, str]]) -> Schemes:
        """Return the precisions of layers; what passes on has that of the layer which stands for the block."""
        passing = {block: name for name, (part, block) in parts.items() if part == "passing"}
        alone = {block: name for name, (part, block) in parts.items() if part == "alone"}
        found = dict(self._precisions.of(design, gone | set(passing.values())))
        return found | {name: found[alone[block]] for block, name in passing.items() if alone[block] in found}

    def _recipe(
        self, name: str, layer: Linear, design: Design, scheme: Scheme, refit: bool, part: tuple[Part, str] | None
    ) -> _Recipe | None:
        if part is not None and part[0] == "passing":
            return _Recipe(name, (), (), None, None, scheme, refit=True, part=part)
        groups = self.network.groups
        told = [(group, units) for group, units in sorted(widths_left(self.space, design).items())
                if group not in groups or units < groups[group].size]  # fmt: skip
        for group, units in told:
            self.network.kept(group, units)  # says what does not fit
        read = tuple(each for each in told if name in groups[each[0]].consumers and not follows(layer))
        rank, zeros = design.ranks.get(name), design.zeros.get(name)
        if rank is not None and zeros is not None:
            raise Unsupported(f"layer '{name}' cannot be two factors and have zeros for {zeros.format}")
        if part is not None and zeros is not None:
            raise Unsupported(f"layer '{name}' cannot stand for block '{part[1]}' and have zeros for {zeros.format}")
        shaped = rank is not None or zeros is not None
        made = tuple(each for each in told if name in groups[each[0]].producers) if shaped else ()
        if not (read or shaped or scheme != "float" or part is not None):
            return None
        return _Recipe(name, read, made, rank, zeros, scheme, refit or zeros is None, part)

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

    def _own(self, recipe: _Recipe, layer: Linear) -> Weights:
        """Return the weights that a layer has before anything of it is cut or rounded."""
        if recipe.part is None:
            return Weights.of(layer)
        part, block = recipe.part
        if part == "passing":
            return Weights(delta(layer), np.zeros(layer.output_channels))
        found = self.network.stand_in(block)
        return Weights(found.blocks, found.bias)

    def _solve(self, recipe: _Recipe, layer: Linear) -> Weights:
        network, name = self.network, recipe.layer
        if recipe.scheme != "float":
            before = replace(recipe, scheme="float")
            changed = before.read or before.rank is not None or before.zeros is not None
            rest = self._weights(before, layer) if changed else self._own(recipe, layer)
            return self._precisions.weights(rest, layer, recipe.scheme)
        if recipe.zeros is not None:
            rows, columns = self._outputs(recipe, layer), ~self._lost(recipe, layer)
            start = pruned(network, name, recipe.zeros, rows, columns)
            gram = network.gram(name) if network.refit and recipe.refit else None
            found = with_zeros(Weights.of(layer), start, columns, rows, gram, network.damping)
            return replace(found, blocks=packed(found.blocks, name, recipe.zeros, rows, columns))
        if recipe.rank is not None:
            before = replace(recipe, made=(), rank=None)
            rest = self._weights(before, layer) if before.read else self._own(recipe, layer)
            return of_rank(rest, recipe.rank, network.gram(name), self._outputs(recipe, layer))
        own = self._own(recipe, layer)
        if not recipe.read:
            return own
        gram = network.gram(name) if network.refit else None
        return without_inputs(own, self._lost(recipe, layer), gram, network.damping)

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


def _placed(layer: Linear, found: Weights) -> dict[Place, Array]:
    new: dict[Place, Array] = {(layer.name, 1): layer.from_blocks(found.blocks).astype(np.float32)}
    if found.bias is not None:
        holder = layer.add or layer.node
        new[holder.name or "", layer.bias_index] = found.bias.astype(np.float32)
    return new
