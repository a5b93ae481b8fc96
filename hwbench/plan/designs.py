"""From a choice at every site to what is done to the network, and how large its parts are then."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import msgspec

from hwbench.records.compression import Step
from hwbench.records.planning import TWO_FOUR, Cluster, Design, Site, Sizes, Space, Zeros
from hwbench.records.quantization import Floating, PrecisionPlan, Scheme

_PIECES = (".down", ".up")  # what a layer of low rank becomes
_OF_TENSOR_CORES: frozenset[Scheme] = frozenset({"fp8", "int4-weights"})
_TILE = 32  # channels of a factor that these take, whatever they are packed by


def design_of(space: Space, choice: Mapping[str, int], *, floating: Floating = "auto") -> Design:
    """Return the design of a choice: by name of a site, the place of its option; the first where none is named."""
    schemes: dict[str, Scheme] = {}
    zeros: dict[str, Zeros] = {}
    widths: dict[str, int] = {}
    ranks: dict[str, int] = {}
    dropped: list[str] = []
    replaced: list[str] = []
    for site in space.sites:
        option = site.options[choice.get(site.name, 0)]
        if option is site.options[0]:
            continue
        if option.scheme is not None:
            schemes |= {} if option.scheme == "float" else {site.about: option.scheme}
            zeros |= {} if option.zeros is None else {site.about: option.zeros}
        elif option.units is not None:
            widths[site.about] = option.units
        elif option.rank is not None:
            ranks[site.about] = option.rank
        elif option.dropped:
            dropped.append(site.about)
        elif option.replaced:
            replaced.append(site.about)
    return Design(
        floating=floating,
        schemes=schemes,
        widths=widths,
        dropped=tuple(dropped),
        replaced=tuple(name for name in replaced if name not in dropped),
        ranks=ranks,
        zeros=zeros,
    )


def choice_of(space: Space, design: Design) -> dict[str, int]:
    """Return the choice that makes a design: the reverse of :func:`design_of`."""
    return {site.name: _place(site, design) for site in space.sites}


def key_of(design: Design) -> str:
    """Return what designs have in common that make the same network, whatever arithmetic their float layers have."""
    blocks = {"dropped": tuple(sorted(design.dropped)), "replaced": tuple(sorted(design.replaced))}
    same = msgspec.structs.replace(design, floating="auto", **blocks)
    return msgspec.json.encode(same, order="sorted").decode()


def uniform(space: Space, scheme: Scheme, *, floating: Floating = "auto") -> Design:
    """Return the design in which every layer that may has one precision, dense, and nothing else is changed."""
    schemes: dict[str, Scheme] = {} if scheme == "float" else {
        site.about: scheme for site in space.sites
        if any((option.scheme, option.zeros) == (scheme, None) for option in site.options)
    }  # fmt: skip
    return Design(floating=floating, schemes=schemes)


def steps_of(space: Space, design: Design, *, criterion: str = "l2", data: bool = True) -> tuple[Step, ...]:
    """Return the recipe that makes the structure of a design: blocks, width, low rank, zeros, then a repair.

    What was done to the network before it was planned (``space.exact``) comes first. What lies in a block that is
    dropped is left out.

    Args:
        space: what could be chosen.
        design: what was; its precisions are :func:`precision_plan`'s affair.
        criterion: by which channels are chosen.
        data: whether there are samples to repair and to factorise with.
    """
    steps: list[Step] = []
    if design.dropped:
        steps.append(Step(method="depth", settings={"blocks": list(design.dropped)}))
    if design.replaced:
        steps.append(Step(method="replace", settings={"blocks": list(design.replaced)}))
    there = [cluster for cluster in space.clusters if not _gone(cluster, design)]
    keep = _keep(there, design)
    if keep:
        steps.append(Step(method="width", settings={"keep": keep, "criterion": criterion}))
    ranks = {cluster.name: design.ranks[cluster.name] for cluster in there if cluster.name in design.ranks}
    for rank in sorted(set(ranks.values()), reverse=True):
        names = "|".join(re.escape(name) for name, each in ranks.items() if each == rank)
        settings = {"form": "channel-svd", "rank": rank, "data_aware": data}
        steps.append(Step(method="low-rank", layers=names, settings=settings))
    steps += _pruned(there, design)
    if steps and data:
        steps.append(Step(method="repair"))
    return (*space.exact, *steps)


def _pruned(there: Sequence[Cluster], design: Design) -> list[Step]:
    """Return a step for each format and sparsity; a layer that became two factors is dense."""
    layers: dict[Zeros, list[str]] = {}
    for cluster in there:
        if cluster.name in design.zeros and cluster.name not in design.ranks:
            layers.setdefault(design.zeros[cluster.name], []).append(re.escape(cluster.name))
    return [
        Step(method="prune", layers="|".join(names), settings=prune_settings(zeros))
        for zeros, names in sorted(layers.items(), key=lambda each: (each[0].format, each[0].sparsity))
    ]


def prune_settings(zeros: Zeros) -> dict[str, object]:
    """Return the settings of the step ``prune`` that makes them."""
    if zeros.format == TWO_FOUR:
        return {"pattern": TWO_FOUR}
    return {"pattern": f"format:{zeros.format}", "amount": zeros.sparsity}


def precision_plan(space: Space, design: Design, layers: Collection[str]) -> PrecisionPlan:
    """Return the precisions of a design, for ``hwbench build --plan``.

    What most layers are quantised to is asked for by default, and all else by name: what a runtime has no kernel for
    in the default then stays in float, and does not refuse the whole plan. Layers with zeros that a kernel of hwbench's
    skips name its format.

    Args:
        space: what could be chosen.
        design: what was.
        layers: the names of the layers of the network as it is to be built.
    """
    there = set(layers)
    kernels = {name: zeros.format for name, zeros in design.zeros.items() if zeros.format != TWO_FOUR and name in there}
    counted = Counter(design.schemes.values())
    if not counted:
        return PrecisionPlan(default="float", floating=design.floating, kernels=kernels)
    default = counted.most_common(1)[0][0]
    kept: dict[str, Scheme] = {}
    for cluster in space.clusters:
        scheme = design.of(cluster.name)
        if scheme != default:
            rank = design.ranks.get(cluster.name, 0)
            first = cluster.layers if scheme == "float" else (cluster.name,)  # what does not multiply has no other
            names = dict.fromkeys(first, scheme) | {cluster.name + piece: _of_piece(scheme, rank) for piece in _PIECES}
            kept.update((name, each) for name, each in names.items() if name in there)
    return PrecisionPlan(default=default, floating=design.floating, layers=kept, kernels=kernels)


def _of_piece(scheme: Scheme, rank: int) -> Scheme:
    """Return the scheme of a factor of a layer: tensor cores have none for few or odd channels."""
    return "float" if scheme in _OF_TENSOR_CORES and rank % _TILE else scheme


def layers_left(space: Space, design: Design) -> tuple[str, ...]:
    """Return the names of the layers of a design's network, as far as clusters have them: without what is dropped."""
    found = list[str]()
    for cluster in space.clusters:
        if _gone(cluster, design):
            continue
        two = cluster.name in design.ranks  # in place of one
        found += (name for name in cluster.layers if not (two and name == cluster.name))
        found += (cluster.name + piece for piece in _PIECES if two)
    return tuple(found)


def sizes_of(cluster: Cluster, space: Space, design: Design) -> Sizes | None:
    """Return how large a cluster is in a design; None where it is not there."""
    if _gone(cluster, design):
        return None
    sites = {site.name: site for site in space.sites}
    kept = {site.name: design.widths.get(site.about, _full(site)) for site in space.sites if site.kind == "width"}
    rank = design.ranks.get(sites[cluster.rank].about, 0) if cluster.rank is not None else 0
    return sizes(cluster, {name: _full(sites[name]) for name in kept}, kept, rank, alone=_alone(cluster, design))


def sizes(
    cluster: Cluster, full: Mapping[str, int], kept: Mapping[str, int], rank: int = 0, *, alone: bool = False
) -> Sizes:
    """Return how large a cluster is at given widths: ``full`` and ``kept`` units, by width site.

    ``alone``: whether its first layer stands for the block that it lies in.
    """

    def left(channels: int, units: Mapping[str, int]) -> int:
        return max(1, channels - sum((full[site] - kept[site]) * each for site, each in units.items() if site in full))

    into, out = left(cluster.channels_in, cluster.widths_in), left(cluster.channels_out, _made(cluster, alone))
    share_in, share_out = into / cluster.channels_in, out / cluster.channels_out
    shared = share_out if cluster.depthwise else share_in * share_out
    macs, weights = cluster.macs * shared, cluster.weights * shared
    if rank:
        whole = max(1, cluster.weights / max(1, cluster.channels_out))  # inputs x kernel of one output channel
        smaller = rank * (whole * share_in + out) / (whole * share_in * out)
        macs, weights = macs * smaller, weights * smaller
    return Sizes(
        channels_in=into,
        channels_out=out,
        macs=round(macs),
        elements_in=round(cluster.elements_in * share_in),
        elements_out=round(cluster.elements_out * share_out),
        weights=round(weights),
        rank=rank,
    )


def _gone(cluster: Cluster, design: Design) -> bool:
    taken = {*(f"depth:{name}" for name in design.dropped), *(f"replace:{name}" for name in design.replaced)}
    return not taken.isdisjoint(cluster.blocks)


def _alone(cluster: Cluster, design: Design) -> bool:
    return cluster.replace is not None and cluster.replace.removeprefix("replace:") in design.replaced


def _made(cluster: Cluster, alone: bool) -> Mapping[str, int]:
    return cluster.widths_alone if alone else cluster.widths_out


def passed_on(cluster: Cluster, maker: Cluster, design: Design) -> bool:
    """Say whether a cluster that is gone hands on what ``maker`` makes: not where one layer stands for its block.

    What that layer makes is read in its place, and what the block adds it to is not.
    """
    dropped = any(f"depth:{name}" in cluster.blocks for name in design.dropped)
    return dropped or (maker.replace is not None and maker.replace in cluster.blocks)


def widths_left(space: Space, design: Design) -> dict[str, int]:
    """Return the widths of a design without those of channels that are not there when one layer stands for a block."""
    inner = {
        name
        for cluster in space.clusters
        if _alone(cluster, design)
        for name in cluster.widths_out
        if name not in cluster.widths_alone
    }
    return {group: units for group, units in design.widths.items() if f"width:{group}" not in inner}


def _keep(there: Sequence[Cluster], design: Design) -> dict[str, int]:
    """Return the widths by a layer that makes the channels and is there: the one a group is named after may be gone."""
    found = {}
    for group, units in design.widths.items():
        made = [each for each in there if f"width:{group}" in _made(each, _alone(each, design))]
        makers = [each.name for each in made if each.weights]
        if makers:
            found[group if group.partition("#")[0] in makers else makers[0]] = units
    return found


def _full(site: Site) -> int:
    units = site.options[0].units
    assert units is not None
    return units


def _place(site: Site, design: Design) -> int:
    about = site.about
    for place, option in enumerate(site.options):
        chosen = {
            "precision": (option.scheme, option.zeros) == (design.of(about), design.zeros.get(about)),
            "width": option.units == design.widths.get(about, site.options[0].units),
            "depth": option.dropped == (about in design.dropped),
            "replace": option.replaced == (about in design.replaced),
            "rank": option.rank == design.ranks.get(about),
        }[site.kind]
        if chosen:
            return place
    message = f"{site.name} has no option that the design names"
    raise ValueError(message)
