"""The original network as patches see it: BatchNorm folded, a bias everywhere, and what its layers read.

Statistics are gathered once, in one streaming pass each: Gram matrices of the layers whose inputs may be cut or whose
rank may be lowered, means of what the others read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Report, Subject
from hwbench.compress.narrow.choose import best, unit_scores
from hwbench.compress.repair.match import Match
from hwbench.compress.repair.stand_in import LEAST_ROWS, StandIn, matched, stand_in
from hwbench.compress.scores.criteria import channel_criterion, refused, score_blocks, score_channels
from hwbench.compress.statistics.grams import Gram, input_grams, no_gram
from hwbench.compress.statistics.pairs import paired
from hwbench.compress.zeros import prunable
from hwbench.data.samples import Samples
from hwbench.errors import UsageError
from hwbench.graph.linear import Linear, linear_layers
from hwbench.graph.lower import fold_batch_norms, norm_scale
from hwbench.records.base import Missing
from hwbench.records.quantization import TensorRange
from hwbench.sensitivity.means import input_means
from hwbench.structure.blocks import Block, residual_blocks
from hwbench.structure.groups import Group, channel_groups
from hwbench.structure.replace import Replaceable, replaceable

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Network:
    """A network, the samples that patches are judged on, and how they are made.

    ``hub``: as it came in, its batch fixed to that of the samples. ``learn``: what patches are refitted to, in the same
    batches; others than those that they are judged on, since a wide layer fits a few samples exactly. None: the same.
    ``ranges``: of the folded network's tensors, where activations are to be rounded. ``runtime``: whose precisions are
    followed. ``damping``: of least squares in units of the mean square of what a layer reads, as for ``repair``.
    """

    hub: ir.Model
    samples: Samples
    learn: Samples | None = None
    ranges: Mapping[str, TensorRange] = field(default_factory=dict)
    runtime: str = "onnxruntime"
    criterion: str = "l2"
    damping: float = 0.01
    refit: bool = True
    seed: int = 0
    threads: int = 1
    report: Report = lambda what, fraction: None  # noqa: ARG005 - nobody listens

    def __post_init__(self) -> None:
        channel_criterion(self.criterion)
        self.model, self._scales = _prepared(self.hub)
        self.layers: dict[str, Linear] = {
            layer.name: layer for layer in linear_layers(self.model) if isinstance(layer, Linear)
        }
        self.groups: dict[str, Group] = {group.name: group for group in channel_groups(self.model).groups}
        self.blocks: dict[str, Block] = {block.name: block for block in residual_blocks(self.model)}
        found = {name: replaceable(block) for name, block in self.blocks.items()}
        self.replaceables = {name: one for name, one in found.items() if isinstance(one, Replaceable)}
        self._stand_ins: dict[str, StandIn] = {}
        self._grams: dict[str, Gram] = {}
        self._means: dict[str, Array] = {}

    @cached_property
    def batch(self) -> int:
        """How many samples go through the network at once."""
        return self.samples.batch

    def view(self) -> torch.fx.GraphModule:
        """Return a fresh torch view of the folded network."""
        return self._subject(self.model).view()

    def gather(self, grams: Collection[str], means: Collection[str]) -> None:
        """Collect the statistics of layers that patches will ask for; a layer whose rows cannot be cut out has none."""
        wanted = [name for name in grams if name not in self._grams and self._can(name)]
        subject = self._subject(self.model)
        if wanted:
            self._grams |= input_grams(subject, wanted)
        rest = [name for name in means if name not in self._grams and name not in self._means and self._can(name)]
        if rest:
            self._means |= input_means(subject, rest)

    def gather_stand_ins(self, blocks: Collection[str]) -> None:
        """Solve for the layers that stand for blocks, in one pass over the samples."""
        subject = self._subject(self.model)
        matches: dict[str, Match] = {}
        for name in blocks:
            found = matched(subject, self.replaceables[name])
            if isinstance(found, Missing):
                raise UsageError(f"no layer can stand for block '{name}': {found.why}")
            matches[name] = found
        names = {one.layer.name: name for name, one in matches.items()}
        for one, pair in paired(subject, list(matches.values()), own=False, least=LEAST_ROWS):
            name = names[one.layer.name]
            self._stand_ins[name] = stand_in(self.replaceables[name], pair)

    def stand_in(self, block: str) -> StandIn:
        """Return the layer that stands for a block, fitted to what the block puts out in the original."""
        if block not in self._stand_ins:
            self.gather_stand_ins([block])
        return self._stand_ins[block]

    def ranges_with(self, replaced: Collection[str]) -> Mapping[str, TensorRange]:
        """Return the ranges of tensors where layers stand for blocks: their outputs are those of the blocks."""
        found = dict(self.ranges)
        for name in replaced:
            one = self.replaceables[name]
            inside = {one.first.output: one.target, one.activation.outputs[0]: one.block.end,
                      one.second.output: one.block.end}  # fmt: skip
            for tensor, like in inside.items():
                found.pop(tensor.name or "", None)
                if (like.name or "") in self.ranges:
                    found[tensor.name or ""] = self.ranges[like.name or ""]
        return found

    def gram(self, layer: str) -> Gram | None:
        """Return E[x x^T] of a layer's inputs in the original, or None where its rows cannot be cut out."""
        if layer not in self._grams:
            self.gather([layer], [])
        return self._grams.get(layer)

    def mean(self, layer: str) -> Array | None:
        """Return E[x] of a layer's inputs in the original, groups x d, or None where its rows cannot be cut out."""
        if layer in self._grams:
            return self._grams[layer].mean
        if layer not in self._means:
            self.gather([], [layer])
        return self._means.get(layer)

    def kept(self, group: str, units: int) -> Array:
        """Return the ``units`` units of a group that stay by the criterion, in order of place.

        Raises:
            UsageError: there is no such group, or it has fewer units.
        """
        found = self.groups.get(group)
        if found is None:
            raise UsageError(f"there is no group of channels '{group}'", hint=f"groups: {', '.join(self.groups)}")
        if not 1 <= units <= found.size:
            raise UsageError(f"group '{group}' has {found.size} units, and {units} were to stay")
        return best(self._importance[group], units)

    def own(self, layer: str) -> tuple[Linear, Array]:
        """Return a layer of the hub, whose BatchNorm is still behind it, and what folding multiplies outputs by."""
        found = self._own[layer]
        return found, self._scales.get(layer, np.ones(found.output_channels))

    def scores(self, layer: str, criterion: str) -> Array:
        """Return the importance of each weight of a layer of the hub, in the form of its blocks."""
        rng = np.random.default_rng(self.seed)
        return score_blocks(self._subject(self.hub), [layer], criterion, rng=rng)[layer]

    @cached_property
    def prunable(self) -> dict[str, Missing | None]:
        """The layers of the hub with weights: None, or why single weights of it cannot become zero."""
        return prunable(self.hub)

    @cached_property
    def _own(self) -> dict[str, Linear]:
        return self._subject(self.hub).layers()

    @cached_property
    def _importance(self) -> dict[str, Array]:
        """The importance of the units of every group, as ``width`` of ``hwbench compress`` sees it."""
        subject = self._subject(self.hub)
        there = subject.layers()
        makers = [name for name in there if any(name in group.producers for group in self.groups.values())]
        unscored = refused(subject, makers, self.criterion, "channels")
        asked = [name for name in makers if name not in unscored]
        scores = score_channels(subject, asked, self.criterion, rng=np.random.default_rng(self.seed))
        return {
            name: unit_scores(group, scores)
            for name, group in self.groups.items()
            if any(layer in scores for layer in group.producers)
        }

    def _can(self, name: str) -> bool:
        return name in self.layers and no_gram(self.layers[name]) is None

    def _subject(self, model: ir.Model) -> Subject:
        return Subject(
            model=model,
            original=model,
            batch=self.samples.batch,
            samples=self.learn or self.samples,
            folder=Path(),
            report=self.report,
            seed=self.seed,
            threads=self.threads,
        )


def _prepared(hub: ir.Model) -> tuple[ir.Model, dict[str, Array]]:
    """Return a copy with BatchNorm folded, and a bias of zeros where a layer could have one and has none.

    Returns:
        The copy, and by layer what folding has multiplied its output channels by.
    """
    model = hub.clone()
    scales: dict[str, Array] = {}
    norms = {node.name or "": node for node in hub.graph if node.op_type == "BatchNormalization"}
    for norm, layer_name in fold_batch_norms(model).items():
        scales[layer_name] = scales.get(layer_name, 1.0) * norm_scale(norms[norm])
    for layer in linear_layers(model):
        if isinstance(layer, Linear) and layer.takes_bias and layer.bias() is None:
            layer.set_bias(np.zeros(layer.output_channels), name=f"{layer.name}.no_bias")
    return model, scales
