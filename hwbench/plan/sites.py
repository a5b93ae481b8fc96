"""Where something can be chosen in a network, and between what.

* precision: every layer that multiplies, float or int8.
* width: every group of coupled channels, heads or hidden units, at a few widths. They sit at multiples of what
  machines compute at once; which of these are worth anything on a device is for the measured costs to say.
* depth: every residual block that can go.
* replace: every residual block that its first layer can stand for.
* rank: large layers as two smaller ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from hwbench.graph.linear import Linear, linear_layers
from hwbench.plan.clusters import Chosen, clusters_of, owners
from hwbench.records.base import Missing
from hwbench.records.compression import Step
from hwbench.records.planning import NoSite, Option, Site, SiteKind, Space
from hwbench.structure.blocks import PRODUCTS, residual_blocks
from hwbench.structure.groups import Group, channel_groups
from hwbench.structure.replace import Replaceable, replaceable

FLOAT, INT8 = Option(name="float", scheme="float"), Option(name="int8", scheme="int8")
KINDS: tuple[SiteKind, ...] = ("precision", "width", "depth", "replace", "rank")
_WIDTH_SHARES = (0.75, 0.5, 0.875, 0.625, 0.25)  # of a group, those that are wanted most first
_RANK_SHARES = (0.7, 0.5, 0.35)  # of a layer's multiply-adds
_LARGE = 2**16  # weights of a layer for which two factors are offered
_LEAST_RANK = 8


def space_of(
    model: ir.Model,
    hub_sha256: str,
    *,
    kinds: Collection[SiteKind] = KINDS,
    refused: Mapping[str, Missing] | None = None,
    exact: tuple[Step, ...] = (),
    ways: Mapping[str, tuple[Option, ...]] | None = None,
) -> Space:
    """Return all that can be chosen for a model of fixed shapes.

    Args:
        model: the hub.
        hub_sha256: its hash.
        kinds: of sites that are wanted.
        refused: sites by name (``width:layer1``) that are to be left out, and why.
        exact: the steps that have made the model what it is.
        ways: by layer that multiplies, the precisions that are offered beside float, with zeros or without; None: int8
            for every layer.
    """
    groups = channel_groups(model)
    blocks = residual_blocks(model)
    left = [NoSite(kind="width", about=name, reason=reason) for name, reason in groups.locked.items()]
    left += [NoSite(kind="depth", about=each.name, reason=each.reason) for each in blocks if each.reason is not None]
    widths = {f"width:{group.name}": group for group in groups.groups}
    depths = {f"depth:{block.name}": block for block in blocks if block.droppable}
    stands = {f"replace:{block.name}": replaceable(block) for block in depths.values()}
    replaces = {name: one for name, one in stands.items() if isinstance(one, Replaceable)}
    left += [
        NoSite(kind="replace", about=name.removeprefix("replace:"), reason=reason)
        for name, reason in stands.items()
        if isinstance(reason, Missing)
    ]
    every = [
        *_precisions(model, ways),
        *(site for group in groups.groups if (site := _width(group)) is not None),
        *(_depth(block.name) for block in depths.values()),
        *(_replace(one.name) for one in replaces.values()),
        *_ranks(model),
    ]
    sites = {site.name: site for site in every if site.kind in kinds}
    for name, reason in (refused or {}).items():
        if name in sites:
            gone = sites.pop(name)
            left.append(NoSite(kind=gone.kind, about=gone.about, reason=reason))
    chosen = Chosen(
        groups={name: group for name, group in widths.items() if name in sites},
        blocks={name: block for name, block in depths.items() if name in sites},
        replaces={name: one for name, one in replaces.items() if name in sites},
        sites=sites,
    )
    return Space(
        hub_sha256=hub_sha256,
        exact=exact,
        sites=tuple(sites.values()),
        clusters=clusters_of(model, chosen),
        left_alone=tuple(each for each in left if each.kind in kinds),
    )


def _precisions(model: ir.Model, ways: Mapping[str, tuple[Option, ...]] | None) -> list[Site]:
    firsts = set(owners(model).values())
    names = [node.name or "" for node in model.graph if node.op_type in PRODUCTS and node.name in firsts]
    offered = {name: (INT8,) if ways is None else ways.get(name, ()) for name in names}
    return [Site(kind="precision", about=name, options=(FLOAT, *some)) for name, some in offered.items() if some]


def _width(group: Group) -> Site | None:
    """Offer widths whose number of channels is a multiple of 8 (16 above 64, 32 above 256), a few at most."""
    each = next(iter(group.producers.values())).shape[1] if group.producers else 1
    counts = widths(group.size, each if group.kind == "channels" else 1, heads=group.kind == "heads")
    if not counts:
        return None
    whole = Option(name=f"{group.size} of {group.size}", units=group.size)
    fewer = tuple(Option(name=f"{count} of {group.size}", units=count) for count in counts)
    return Site(kind="width", about=group.name, options=(whole, *fewer))


def widths(size: int, each: int = 1, *, heads: bool = False) -> list[int]:
    """Return how many units a group of ``size`` may keep, most first, itself left out; a unit is ``each`` channels."""
    channels = size * each
    quantum = 1 if heads else 8 if channels <= 64 else 16 if channels <= 256 else 32
    if not heads and channels <= 16:
        quantum = 4
    counts = [count for count in range(size - 1, 0, -1) if count * each % quantum == 0]
    nearest = {min(counts, key=lambda count: abs(count - share * size)) for share in _WIDTH_SHARES} if counts else set()
    return sorted((count for count in nearest if count >= min(_WIDTH_SHARES) * size), reverse=True)


def _depth(name: str) -> Site:
    return Site(kind="depth", about=name, options=(Option(name="kept"), Option(name="dropped", dropped=True)))


def _replace(name: str) -> Site:
    return Site(kind="replace", about=name, options=(Option(name="whole"), Option(name="one layer", replaced=True)))


def _ranks(model: ir.Model) -> list[Site]:
    found = []
    for layer in linear_layers(model):
        if not isinstance(layer, Linear) or layer.groups > 1 or layer.node.op_type == "ConvTranspose":
            continue
        rows, columns, kernel = layer.blocks()[0].shape
        if rows * columns * kernel < _LARGE:
            continue
        # channel-svd: a layer with the kernel to `rank` channels, and a 1x1 behind it
        whole, each = rows * columns * kernel, columns * kernel + rows
        ranks = sorted({int(share * whole / each) // _LEAST_RANK * _LEAST_RANK for share in _RANK_SHARES}, reverse=True)
        options = tuple(
            Option(name=f"rank {rank}", rank=rank) for rank in ranks if _LEAST_RANK <= rank < min(rows, columns)
        )
        if options:
            found.append(Site(kind="rank", about=layer.name, options=(Option(name="whole"), *options)))
    return found
