"""Simplify: the same network from fewer operators. What it computes stays as it is, up to rounding.

Which rewrites there are, and what each of them asks for, is in :mod:`hwbench.structure.rewrites`. Runtimes do many of
them themselves when they load a network; docs/compress/simplify.md says which of them change a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import ClassVar

from hwbench.compress.base import Outcome, Settings, Subject
from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.records.compression import Change
from hwbench.structure.rewrites.base import Bench
from hwbench.structure.rewrites.run import NAMES, Made, Name, Rewritten, rewrite


class SimplifySettings(Settings, frozen=True, kw_only=True):
    """Settings of ``simplify``."""

    rewrites: tuple[Name, ...] = NAMES
    """Which rewrites to carry out; the order is always the same."""

    def __post_init__(self) -> None:
        if not self.rewrites:
            raise UsageError("simplify was given no rewrites", hint=f"there are: {', '.join(NAMES)}")


class Simplify:
    """Fewer operators that compute the same."""

    stage: ClassVar[str] = "simplify"
    summary: ClassVar[str] = "take out and merge operators without changing what the network computes"
    settings_type: ClassVar[type[Settings]] = SimplifySettings

    def legal(self, subject: Subject, settings: SimplifySettings) -> dict[str, Missing | None]:
        """Try the rewrites on a copy: one makes room for another, so that nothing else tells what can be done."""
        found = rewrite(_bench(subject, copy=True), settings.rewrites)
        touched = {layer for made in found.made for layer in made.layers}
        return {
            name: None if name in touched else found.refused[name]
            for node in subject.model.graph
            if (name := node.name or "") in touched or name in found.refused
        }

    def apply(self, subject: Subject, layers: Collection[str], settings: SimplifySettings) -> Outcome:
        before = len(subject.model.graph)
        wanted = frozenset(layers)
        found = rewrite(_bench(subject, copy=False), settings.rewrites, wanted.__contains__)
        after = len(subject.model.graph)
        return Outcome(changes=_changes(found), figures=_figures(found, before, after))


def _bench(subject: Subject, *, copy: bool) -> Bench:
    model = subject.model.clone() if copy else subject.model
    return Bench(model=model, batch=subject.batch, held=frozenset({*subject.held_zeros, *subject.bits}))


def _changes(found: Rewritten) -> list[Change]:
    """Return one change for each node that gave a place its name, with all that happened to it."""
    said: dict[str, list[Made]] = {}
    for made in found.made:
        said.setdefault(made.layers[0], []).append(made)
    return [
        Change(layer=layer, kind="rewritten", what="; ".join(f"{made.rewrite}: {made.what}" for made in of_layer))
        for layer, of_layer in said.items()
    ]


def _figures(found: Rewritten, before: int, after: int) -> dict[str, float]:
    counts = Counter(made.rewrite for made in found.made)
    return {"nodes before": before, "nodes after": after, **{name: counts[name] for name in NAMES if counts[name]}}
