"""The weights of one layer with the zeros of a design, as its step ``prune`` leaves them.

The step works on the hub, whose BatchNorm is not folded yet, on what cuts have left of the layer: which weights a block
or a strip of a format keeps depends on both. So the choice is made there, and what stays is folded after it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from hwbench.compress.format_pattern import OfFormat
from hwbench.compress.methods.prune import PruneSettings
from hwbench.compress.patterns import NofM, parse_pattern
from hwbench.compress.zeros import as_held, kept_alone
from hwbench.errors import Unsupported, UsageError
from hwbench.plan.designs import prune_settings
from hwbench.records.planning import Zeros
from hwbench.sensitivity.network import Network

Array = np.ndarray[Any, np.dtype[Any]]


def pruned(network: Network, name: str, zeros: Zeros, rows: Array, columns: Array) -> Array:
    """Return a layer's weights in blocks, pruned and folded; what is cut is zero.

    Args:
        network: the network.
        name: the layer.
        zeros: where they lie.
        rows: bool, groups x outputs of a group: those that stay.
        columns: bool, groups x inputs of a group: those that stay.

    Raises:
        Unsupported: the layer cannot have such zeros, as it is after the cuts.
    """
    settings = msgspec.convert(prune_settings(zeros), PruneSettings)
    layer, scale = network.own(name)
    small = _cut(layer.blocks(), rows, columns)
    pattern = _pattern(zeros)
    why = network.prunable[name] or pattern.refused(small.shape)
    if why is not None:
        raise Unsupported(f"layer '{name}' cannot have zeros for {zeros.format}: {why.why}", hint=why.cure)
    scores = _cut(network.scores(name, settings.criterion), rows, columns)
    kept = kept_alone(pattern, small, scores, settings.amount)
    left = _held(pattern, np.where(kept, small, 0.0), name)
    whole: Array = np.zeros(layer.blocks().shape)
    _put(whole, left, rows, columns)
    whole *= scale.reshape(*whole.shape[:2], 1, 1)
    return whole


def packed(blocks: Array, name: str, zeros: Zeros, rows: Array, columns: Array) -> Array:
    """Return weights as the kernel holds them: rounded once more, since the build packs what the repair has left."""
    whole: Array = blocks.copy()
    _put(whole, _held(_pattern(zeros), _cut(blocks, rows, columns), name), rows, columns)
    return whole


def _pattern(zeros: Zeros) -> NofM | OfFormat:
    pattern = parse_pattern(str(prune_settings(zeros)["pattern"]))
    assert isinstance(pattern, NofM | OfFormat)
    return pattern


def _held(pattern: NofM | OfFormat, blocks: Array, name: str) -> Array:
    try:
        return as_held(pattern, blocks, name)
    except UsageError as error:
        raise Unsupported(error.message, hint=error.hint) from error


def _cut(blocks: Array, rows: Array, columns: Array) -> Array:
    """Return what stays; every group keeps as many."""
    each = zip(blocks, rows, columns, strict=True)
    found: Array = np.stack([block[row][:, column] for block, row, column in each])
    return found


def _put(whole: Array, small: Array, rows: Array, columns: Array) -> None:
    for index, (row, column) in enumerate(zip(rows, columns, strict=True)):
        whole[index][np.ix_(row, column)] = small[index]
