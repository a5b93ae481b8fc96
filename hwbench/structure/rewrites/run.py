"""Rewrites, until none of them finds a place any more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from hwbench.records.base import Missing
from hwbench.structure.rewrites.base import Bench, Place, Rewrite
from hwbench.structure.rewrites.common import common, dead
from hwbench.structure.rewrites.constants import constants
from hwbench.structure.rewrites.no_ops import chains, no_ops
from hwbench.structure.rewrites.norms import batch_norms, factors
from hwbench.structure.rewrites.pads import pads
from hwbench.structure.rewrites.parallel import gate_up, qkv

Name = Literal["dead", "constants", "no-ops", "chains", "common", "pads", "batch-norm", "factors", "qkv", "gate-up"]
NAMES: tuple[Name, ...] = get_args(Name)
_REWRITES: dict[Name, Rewrite] = {
    "dead": dead,
    "constants": constants,
    "no-ops": no_ops,
    "chains": chains,
    "common": common,
    "pads": pads,
    "batch-norm": batch_norms,
    "factors": factors,
    "qkv": qkv,
    "gate-up": gate_up,
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """A place that was rewritten, and how many nodes the graph lost by it."""

    rewrite: Name
    layers: tuple[str, ...]
    what: str
    nodes: int


@dataclass(kw_only=True)
class Rewritten:
    """What was rewritten, in order, and what is left as it is, by the name of a node."""

    made: list[Made] = field(default_factory=list)
    refused: dict[str, Missing] = field(default_factory=dict)


def rewrite(bench: Bench, names: Collection[Name], allowed: Callable[[str], bool] = lambda _: True) -> Rewritten:
    """Carry rewrites out on a network, in place, in the order of :data:`NAMES`, until nothing is left to do.

    A place is rewritten where ``allowed`` says yes to every node of it; nodes that rewrites have made are always
    allowed.
    """
    at_first = {node.name for node in bench.graph}
    result = Rewritten()
    chosen: Sequence[Name] = [name for name in NAMES if name in names]
    while True:
        before = len(result.made)
        result.refused.clear()
        for name in chosen:
            for found in _REWRITES[name](bench):
                _carry_out(bench, name, found, lambda layer: layer not in at_first or allowed(layer), result)
        if len(result.made) == before:
            return result


def _carry_out(bench: Bench, name: Name, found: Place, allowed: Callable[[str], bool], result: Rewritten) -> None:
    if found.make is None:
        assert found.refusal is not None
        result.refused.setdefault(found.layers[0], found.refusal)
    elif all(allowed(layer) for layer in found.layers):
        before = len(bench.graph)
        found.make()
        result.made.append(Made(rewrite=name, layers=found.layers, what=found.what, nodes=before - len(bench.graph)))
