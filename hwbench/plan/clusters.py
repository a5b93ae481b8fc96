"""A network as clusters: each layer that multiplies, with the layers behind it that do not.

Runtimes fuse what follows a convolution or a product into it. Which layers a runtime has really fused is read back from
it; clusters say where a time is booked, whatever was fused. A layer that does not multiply belongs to the last cluster,
in graph order, that it reads; what stands before the first one belongs to that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from hwbench.graph.count import macs_of
from hwbench.graph.linear import Linear, integer, linear_layers
from hwbench.records.base import Missing
from hwbench.records.planning import Cluster, Site
from hwbench.structure.blocks import PRODUCTS, Block
from hwbench.structure.drop import going_with
from hwbench.structure.groups import Group
from hwbench.structure.reach import Reach
from hwbench.structure.replace import Replaceable


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What the sites of a network are about: groups and blocks by the name of their site."""

    groups: Mapping[str, Group]
    blocks: Mapping[str, Block]
    replaces: Mapping[str, Replaceable]
    sites: Mapping[str, Site]


def owners(model: ir.Model) -> dict[str, str]:
    """Return for each layer the first layer of its cluster, both by name, in graph order; empty if nothing multiplies.

    Layers that are computed from constants alone are in none.
    """
    found: dict[str, str] = {}
    place: dict[str, int] = {}
    waiting: list[str] = []
    reach = Reach(model.graph)
    for node in model.graph:
        name = _name(node)
        if not reach.computed(node.outputs[0]):
            continue  # from constants alone: runtimes fold it away
        before = [place[_name(source)] for source in _sources(node) if _name(source) in place]
        if node.op_type in PRODUCTS:
            place[name] = len(place)
            found.update(dict.fromkeys((*waiting, name), name))
            waiting = []
        elif before:
            place[name] = max(before)
            found[name] = next(owner for owner, at in place.items() if at == max(before) and found[owner] == owner)
        elif found:
            found[name] = next(iter(found.values()))
        else:
            waiting.append(name)
    return found


def clusters_of(model: ir.Model, chosen: Chosen) -> tuple[Cluster, ...]:
    """Return the clusters of a model of known shapes, in graph order."""
    owner = owners(model)
    nodes = {_name(node): node for node in model.graph if node.op_type != "Constant"}
    members: dict[str, list[ir.Node]] = {}
    for name, first in owner.items():
        members.setdefault(first, []).append(nodes[name])
    gone = {
        site: {_name(node) for node in going_with(model, block)} | {_name(node) for node in block.nodes}
        for site, block in chosen.blocks.items()
    }
    gone |= {site: {one.second.name} for site, one in chosen.replaces.items()}
    linear = {layer.name: layer for layer in linear_layers(model) if isinstance(layer, Linear)}
    return tuple(
        _cluster(nodes[first], inside, linear.get(first), chosen, gone, owner)
        for first, inside in sorted(members.items(), key=lambda item: list(nodes).index(item[0]))
    )


def _cluster(
    node: ir.Node,
    inside: Sequence[ir.Node],
    linear: Linear | None,
    chosen: Chosen,
    gone: Mapping[str, set[str]],
    owner: Mapping[str, str],
) -> Cluster:
    name = _name(node)
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    followers = [each for each in inside if each is not node]
    joint = linear is None or _depthwise(linear)
    axis_in, axis_out = _axis(node, source), _axis(node, result)
    widths_in, axis_in = _widths(chosen.groups, source, axis_in)
    widths_out, axis_out = _widths(chosen.groups, result, axis_out)
    macs = macs_of(node)
    replace, alone = next(
        ((site, one) for site, one in chosen.replaces.items() if one.first.node is node), (None, None)
    )
    return Cluster(
        name=name,
        layers=(name, *(_name(each) for each in followers)),
        kind=_kind(node, followers),
        channels_in=_size(source, axis_in),
        channels_out=_size(result, axis_out),
        groups=1 if linear is None else linear.groups,
        macs=0 if isinstance(macs, Missing) else macs,
        elements_in=_elements(source),
        elements_out=_elements(result),
        weights=0 if linear is None else math.prod(linear.weight.shape),
        depthwise=joint,
        widths_in=widths_in,
        widths_out=widths_out,
        precision=_site(f"precision:{name}", chosen),
        rank=_site(f"rank:{name}", chosen),
        blocks=tuple(site for site, names in gone.items() if name in names),
        readers=_readers(inside, name, owner),
        replace=replace,
        widths_alone={} if alone is None else _widths(chosen.groups, alone.second.node.outputs[0], 1)[0],
    )


def _site(name: str, chosen: Chosen) -> str | None:
    return name if name in chosen.sites else None


def _widths(groups: Mapping[str, Group], value: ir.Value, axis: int) -> tuple[dict[str, int], int]:
    """Return by site what a unit of its group stands for in a tensor, and the axis where."""
    found: dict[str, int] = {}
    for site, group in groups.items():
        for member in group.members:
            if member.value is value and member.reader is None:
                found[site], axis = member.indices.shape[1], member.axis
                break
    return found, axis


def _readers(inside: Sequence[ir.Node], name: str, owner: Mapping[str, str]) -> dict[str, int]:
    """Return the other clusters that read what this one makes, and the elements that they read."""
    found: dict[str, int] = {}
    for node in inside:
        for value in node.outputs:
            for reader in {_name(use.node) for use in value.uses()}:
                other = owner.get(reader)
                if other is not None and other != name:
                    found[other] = found.get(other, 0) + _elements(value)
    return found


def _kind(node: ir.Node, followers: Sequence[ir.Node]) -> str:
    shape = [node.op_type]
    if node.op_type in {"Conv", "ConvTranspose"}:
        weight = node.inputs[1]
        kernel = [] if weight is None or weight.shape is None else list(weight.shape.numpy()[2:])
        strides = node.attributes.get_ints("strides", (1,) * len(kernel))
        dilations = node.attributes.get_ints("dilations", (1,) * len(kernel))
        shape.append("x".join(map(str, kernel)))
        shape.append("/".join(map(str, strides)))
        if any(size > 1 for size in dilations):
            shape.append("d" + "/".join(map(str, dilations)))
        if integer(node, "group", 1) > 1:
            shape.append("grouped")
    behind = sorted({each.op_type for each in followers} - {"Identity", "Dropout", "BatchNormalization"})
    return " ".join(shape) + ("" if not behind else " + " + " ".join(behind))


def _depthwise(layer: Linear) -> bool:
    return layer.spatial and layer.groups > 1 and layer.input_channels == layer.groups


def _axis(node: ir.Node, value: ir.Value) -> int:
    rank = 0 if value.shape is None else len(value.shape)
    return min(1, rank - 1) if node.op_type in {"Conv", "ConvTranspose"} else max(0, rank - 1)


def _size(value: ir.Value, axis: int) -> int:
    return 1 if value.shape is None or not len(value.shape) else int(value.shape.numpy()[axis])


def _elements(value: ir.Value) -> int:
    return 0 if value.shape is None or not value.shape.is_static() else math.prod(value.shape.numpy())


def _sources(node: ir.Node) -> list[ir.Node]:
    return [producer for value in node.inputs if value is not None and (producer := value.producer()) is not None]


def _name(node: ir.Node) -> str:
    return node.name or next((value.name for value in node.outputs if value.name), node.op_type)
