"""What the loop asks of whoever proposes designs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hwbench.intake import Watch
from hwbench.inventory import Target
from hwbench.records.model import ImportResult
from hwbench.records.optimization import Candidate, Feedback, OptimizeRequest, Parts, Proposal
from hwbench.records.planning import Space


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a proposer starts from. ``folder``: its own, kept while the run goes on; ``left_s``: of the time budget."""

    request: OptimizeRequest
    target: Target
    imported: ImportResult
    parts: Parts
    baselines: Sequence[Candidate]
    folder: Path
    left_s: float
    watch: Watch


class Proposer(Protocol):
    """Proposes designs, and learns from what became of those that it proposed before."""

    @property
    def space(self) -> Space:
        """What can be chosen: the space that its designs are of."""
        ...

    def propose(self, feedback: Sequence[Feedback]) -> Sequence[Proposal]:
        """Return the next three to five designs, fitted to all that has been measured; none: it has no more."""
        ...

    def swaps(self, feedback: Sequence[Feedback]) -> Sequence[Proposal]:
        """Return designs that differ from the best measured one at a site; none: it has no more."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


ProposerOf = Callable[[Given], Proposer]
