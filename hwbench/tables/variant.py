"""The network of a design, built in a moment: its shapes are right, its weights are the first that come.

What a network costs does not depend on what its weights are, but for where they are zero. So the first units of each
group stay, factors of low rank and layers that stand for blocks are drawn at random, the smallest weights become zeros
where a format wants them, and nothing is repaired. Tensors keep their names, so that ranges that were found for the
whole network serve for every variant of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from hwbench.bundles.hashing import file_sha256
from hwbench.compress.factorise.forms import FORMS
from hwbench.compress.factorise.rebuild import replace
from hwbench.compress.factorise.site import Site, site_of
from hwbench.compress.format_pattern import PREFIX, OfFormat
from hwbench.compress.patterns import NofM, parse_pattern
from hwbench.errors import UsageError
from hwbench.graph.layers import layers_of
from hwbench.graph.linear import Array, Linear, linear_layers
from hwbench.graph.lower import fold_batch_norms
from hwbench.graph.onnx_file import infer_shapes
from hwbench.graph.parts import write_graph
from hwbench.plan.designs import precision_plan, widths_left
from hwbench.records.base import Missing
from hwbench.records.model import ImportResult, Model, ModelFiles
from hwbench.records.planning import TWO_FOUR, Design, Space, Zeros
from hwbench.records.quantization import Calibration, PrecisionPlan, TensorRange
from hwbench.structure.blocks import Block, residual_blocks
from hwbench.structure.cut import cut_groups
from hwbench.structure.drop import drop_block
from hwbench.structure.groups import channel_groups
from hwbench.structure.replace import Replaceable, replace_block, replaceable

_FORM = FORMS["channel-svd"]  # what the recipe of a design makes of a layer of low rank
_RANGE = TensorRange(low=-1.0, high=1.0, magnitude=1.0, seen_low=-1.0, seen_high=1.0)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A network of a design, written down, and what is needed to build an engine of it.

    ``pieces``: by layer of low rank, the layers that it became.
    """

    model: Model
    files: ModelFiles
    plan: PrecisionPlan
    calibration: Calibration | None
    pieces: dict[str, tuple[str, ...]]


def variant(
    hub: ir.Model,
    imported: ImportResult,
    space: Space,
    design: Design,
    calibration: Calibration | None,
    folder: Path,
) -> Variant:
    """Write the network of a design into ``folder``.

    Args:
        hub: the network whole, with known shapes; it stays as it is.
        imported: what it came in as.
        space: what could be chosen.
        design: what was.
        calibration: ranges of the whole network.
        folder: is made.

    Raises:
        UsageError: the design names a group, a block or a layer that the network does not have, or zeros that a layer
            of its size cannot have.
        OSError: the files cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = hub.clone()
    blocks = {block.name: block for block in residual_blocks(model)}
    alone = {name: replaceable(block) for name, block in blocks.items() if name in design.replaced}
    _cut(model, widths_left(space, design))
    _drop(model, design.dropped, blocks)
    _replace(model, design.replaced, alone)
    pieces = _factorised(model, design)
    _emptied(model, design)
    model = infer_shapes(model)
    layers = layers_of(model)
    merged = fold_batch_norms(model)
    written = write_graph(model, folder / "model.onnx")
    files = ModelFiles(folder=str(folder), merged=merged)
    shutil.copyfile(Path(imported.files.folder) / imported.files.inputs, folder / files.inputs)  # some engines run them
    described = msgspec.structs.replace(imported.model, hub_sha256=file_sha256(*written), layers=layers)
    return Variant(
        model=described,
        files=files,
        plan=precision_plan(space, design, {layer.name for layer in layers}),
        calibration=None if calibration is None else _with_new(calibration, model, pieces),
        pieces=pieces,
    )


def _cut(model: ir.Model, widths: Mapping[str, int]) -> None:
    if not widths:
        return
    groups = {group.name: group for group in channel_groups(model).groups}
    _require("group of channels", widths, groups)
    cuts = [(groups[name], np.arange(units)) for name, units in widths.items() if units < groups[name].size]
    if cuts:
        cut_groups(model, cuts)


def _drop(model: ir.Model, names: Sequence[str], blocks: Mapping[str, Block]) -> None:
    _require("block", names, blocks)
    for name in names:
        if blocks[name].add.graph is model.graph:  # else it went with another
            drop_block(model, blocks[name])


def _replace(model: ir.Model, names: Sequence[str], found: Mapping[str, Replaceable | Missing]) -> None:
    """Let one layer stand for each of some blocks, with weights at random."""
    _require("block", names, found)
    for name in names:
        one = found[name]
        if isinstance(one, Missing):
            raise UsageError(f"no layer can stand for block '{name}': {one}")
        if one.block.add.graph is not model.graph:
            continue  # it went with another
        inputs, window = one.first.blocks().shape[2:]
        outputs = one.second.blocks().shape[1]
        drawn = np.random.default_rng(0).standard_normal((1, outputs, inputs, window)) / np.sqrt(inputs * window)
        replace_block(model, one, drawn, np.zeros(outputs))


def _factorised(model: ir.Model, design: Design) -> dict[str, tuple[str, ...]]:
    """Write layers as chains, with factors at random of about the size that the weights have."""
    found: dict[str, tuple[str, ...]] = {}
    if not design.ranks:
        return found
    layers = {layer.name: layer for layer in linear_layers(model) if isinstance(layer, Linear)}
    for name in (name for name in design.ranks if name in layers):  # others went with a block
        layer = layers[name]
        site = site_of(layer)
        if not isinstance(site, Site):
            raise UsageError(f"layer '{name}' cannot have a rank: {site}")
        pieces = _FORM.pieces(site, (min(design.ranks[name], *_FORM.full(site)),))
        rng = np.random.default_rng(0)
        factors: list[Array] = []
        for piece in pieces:
            shape = (piece.groups, piece.outputs // piece.groups, piece.inputs, int(np.prod(piece.window.kernel)))
            factors.append(rng.standard_normal(shape) / np.sqrt(shape[2] * shape[3]))
        found[name] = replace(layer, pieces, factors)
    return found


def _emptied(model: ir.Model, design: Design) -> None:
    """Write zeros into the weights: TensorRT looks at the values, and a kernel's weights must pack."""
    there = {layer.name: layer for layer in linear_layers(model) if isinstance(layer, Linear)}
    for name, zeros in design.zeros.items():
        if name in there and name not in design.ranks:  # others went with a block, or became two factors
            there[name].set_blocks(_with_zeros(there[name], zeros))


def _with_zeros(layer: Linear, zeros: Zeros) -> Array:
    """Return the weights of a layer, as :meth:`Linear.blocks` has them, with the smallest of them zero."""
    pattern = parse_pattern(TWO_FOUR if zeros.format == TWO_FOUR else f"{PREFIX}{zeros.format}")
    blocks = layer.blocks()
    refused = pattern.refused(blocks.shape)
    if refused is not None:
        raise UsageError(f"layer '{layer.name}' cannot have zeros for {zeros.format}: {refused}")
    if isinstance(pattern, OfFormat):
        return pattern.held(np.where(pattern.kept(np.abs(blocks), zeros.sparsity), blocks, 0.0), layer.name)
    assert isinstance(pattern, NofM)
    return np.where(pattern.kept(np.abs(blocks)), blocks, 0.0)


def _require(what: str, names: Collection[str], known: Collection[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"the network has no {what} '{unknown[0]}'", hint=f"it has: {', '.join(known) or 'none'}")


def _with_new(calibration: Calibration, model: ir.Model, pieces: dict[str, tuple[str, ...]]) -> Calibration:
    """Return the ranges with some for the tensors between factors, which the whole network does not have."""
    inner = {name for chain in pieces.values() for name in chain[:-1]}
    new = {node.outputs[0].name or "": _RANGE for node in model.graph if node.name in inner}
    return msgspec.structs.replace(calibration, tensors=new | calibration.tensors) if new else calibration
