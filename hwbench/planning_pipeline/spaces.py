"""The spaces of several runtimes: what each can be run as, what all of them together.

Losses are measured in the space of all together. A runtime is solved for in its own part of it; where one network may
not mix two of its schemes, in one part for each of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from hwbench.planning_pipeline.ways import Ways
from hwbench.records.base import Missing
from hwbench.records.planning import NoSite, Option, Site, Space
from hwbench.records.quantization import Scheme
from hwbench.tables.edges import Parts

Keeps = Callable[[Site, Option], bool]
_NO_OTHER = Missing(code="no_other", why="nothing but floating point is offered for it")


def own(space: Space, ways: Ways) -> Space:
    """Return the part of a space that one runtime has: its precisions and zeros; why others are not there."""
    reasons = {each.layer: each.reason for each in ways.not_offered if each.way != "zeros"}

    def keeps(site: Site, option: Option) -> bool:
        return site.kind != "precision" or option in ways.options.get(site.about, ())

    return kept(space, keeps, reasons)


def shared(space: Space, other: Space) -> Space:
    """Return the part of a space that another one has too, by the names of sites and options."""
    names = {(site.name, option.name) for site in other.sites for option in site.options}
    reasons = {each.about: each.reason for each in other.left_alone if each.kind == "precision"}
    return kept(space, lambda site, option: (site.name, option.name) in names, reasons)


def alternatives(space: Space, one_of: Sequence[Scheme]) -> tuple[Space, ...]:
    """Return the parts of a space in which a network has at most one of some schemes; all of it, where it has one."""
    there = [scheme for scheme in one_of if any(o.scheme == scheme for site in space.sites for o in site.options)]
    if len(there) < 2:
        return (space,)
    reason = Missing(code="not_mixed", why=f"one network cannot have {' and '.join(there)} both")

    def without(scheme: Scheme) -> Space:
        others = set(there) - {scheme}
        reasons = {site.about: reason for site in space.sites if site.kind == "precision"}
        return kept(space, lambda _, option: option.scheme not in others, reasons)

    return tuple(without(scheme) for scheme in there)


def timed(space: Space, costs: Parts) -> Space:
    """Return a space without the precisions of which no network was timed: what they cost is not known."""
    clusters = {cluster.name: cluster for cluster in space.clusters}
    reason = Missing(code="not_timed", why="no network was timed in which such a layer has another precision")

    def keeps(site: Site, option: Option) -> bool:
        return option.scheme is None or costs.knows(clusters[site.about], option.scheme)

    return kept(space, keeps, {site.about: reason for site in space.sites})


def kept(space: Space, keeps: Keeps, reasons: Mapping[str, Missing]) -> Space:
    """Return a space with the first options of its sites and those others that are kept.

    Sites without any of these are left out; ``reasons``: why, of those of precisions, by layer.
    """
    sites: list[Site] = []
    left: list[NoSite] = []
    for site in space.sites:
        options = (site.options[0], *(option for option in site.options[1:] if keeps(site, option)))
        if len(options) > 1:
            sites.append(msgspec.structs.replace(site, options=options))
        elif site.kind == "precision":
            left.append(NoSite(kind=site.kind, about=site.about, reason=reasons.get(site.about, _NO_OTHER)))
    return msgspec.structs.replace(space, sites=tuple(sites), left_alone=(*space.left_alone, *left))
