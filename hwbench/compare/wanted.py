"""What a comparison is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwbench.compare.saved import Choice


@dataclass(frozen=True, kw_only=True)
class Waived:
    """Hindering differences that are accepted: some by name, or all."""

    ignore: frozenset[str] = frozenset()
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A comparison of two models, measured now. What is None is chosen here."""

    model_a: str
    model_b: str
    device: str
    choice: Choice
    batch_size: int | None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int | None
    budget_s: float
    restarts: int | None
    block_s: float
    meter: str
    data: str | None = None  # labelled, for accuracy
    timeout_s: float
