"""Whether two models are one network, or one before and after a change: a layer diff of anything else means nothing.

Names alone do not tell: exporters number layers, so that any two networks have a ``Conv_3``. So layers are weighed by
their multiply-adds, and the smaller network's share counts: half of a network may be edited away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.records.model import Layer, Model

_SAME_MODEL = 0.5

Alike = Callable[[Layer, Layer], bool]


def check_alike(a: Model, b: Model) -> None:
    """Refuse networks that have too little in common.

    Raises:
        UsageError: less than half of the layers, or of the multiply-adds, lies in layers of the same name and op.
    """
    if a.hub_sha256 == b.hub_sha256:
        return
    names = {layer.name for layer in a.layers}, {layer.name for layer in b.layers}
    common, smaller = len(names[0] & names[1]), min(len(names[0]), len(names[1]))
    if common < _SAME_MODEL * smaller or not common:
        raise _refusal(a, b, f"{common} of {smaller} layers bear the same name in both")
    share = _share(a, b, lambda one, other: one.op == other.op)
    if share < _SAME_MODEL:
        raise _refusal(a, b, f"{share:.0%} of the multiply-adds lie in layers of the same name and op")


def unlike(a: Model, b: Model) -> Iterator[str]:
    """Tell when layers bear the same names and do other work: another network, or one that was slimmed throughout."""
    if a.hub_sha256 == b.hub_sha256:
        return
    share = _share(a, b, lambda one, other: (one.op, one.parameters) == (other.op, other.parameters))
    if share < _SAME_MODEL:
        yield (
            f"ARE THESE ONE NETWORK? Only {share:.0%} of the multiply-adds lie in layers that have the same name, op "
            "and number of parameters in both: most rows set unlike work side by side, and their differences say "
            "nothing about runtimes"
        )


def _share(a: Model, b: Model, alike: Alike) -> float:
    """Return how much of the multiply-adds lies in layers that are alike, for the side where it is more."""
    others = {layer.name: layer for layer in b.layers}
    matched = {layer.name for layer in a.layers if layer.name in others and alike(layer, others[layer.name])}
    return max(_part(a, matched), _part(b, matched))


def _part(model: Model, matched: set[str]) -> float:
    """Return the share of ``matched`` in the multiply-adds, or in the layers of a model that has none."""
    work = {layer.name: 0 if isinstance(layer.macs, Missing) else layer.macs for layer in model.layers}
    if not any(work.values()):
        work = dict.fromkeys(work, 1)
    return sum(macs for name, macs in work.items() if name in matched) / max(1, sum(work.values()))


def _refusal(a: Model, b: Model, why: str) -> UsageError:
    return UsageError(
        f"A is of {a.name} and B of {b.name}: {why}",
        hint="a layer diff is between two measurements of one network, or of one before and after a change",
    )
