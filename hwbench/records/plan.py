"""What ``hwbench plan`` is asked for, and the file it writes."""

from __future__ import annotations

from hwbench.records.base import Missing, Record, check, check_finite
from hwbench.records.compression import Step
from hwbench.records.device import Device, Environment
from hwbench.records.model import DataFacts, Model
from hwbench.records.planning import Design, Interval, Objective, Platform, Sensitivity, SiteKind, Solved, Space
from hwbench.records.quantization import CalibrationSettings, Floating, PrecisionPlan

PLAN_RESULT_SCHEMA = 1


class PlanRequest(Record, frozen=True, kw_only=True):
    """A whole ``hwbench plan`` request, resolved.

    ``data`` is what ranges, Gram matrices and losses are taken from. ``max_drop``: of the share of right decisions;
    where there are no labels, of the share of decisions that stay as they were. ``costs_s`` and ``losses_s``: how long
    all engines together may be sampled, and losses be measured.
    """

    model: str
    device: str
    engines: tuple[str, ...]  # empty: every one that can build here
    kinds: tuple[SiteKind, ...]
    floating: tuple[Floating, ...]
    objective: Objective
    max_drop: float
    data: str
    preprocess: str | None
    samples: int
    criterion: str
    calibration: CalibrationSettings
    batch_size: int | None
    shapes: dict[str, tuple[int, ...]]
    threads: int
    costs_s: float
    losses_s: float
    budgets: int
    seed: int
    timeout_s: float
    replace: bool = False
    probe: str | None = None  # of a device that is not attached: what was measured there

    def __post_init__(self) -> None:
        check(self.budgets >= 2, f"a front needs two budgets, got {self.budgets}")
        check(self.max_drop >= 0, f"max_drop must not be negative, got {self.max_drop}")


class Joint(Record, frozen=True, kw_only=True, tag_field="kind", tag="joint"):
    """What a whole design loses, stitched together and run: before anything is built.

    ``divergence``: as :class:`hwbench.records.planning.Loss` has it. ``agreement``: the share of decisions that stay.
    ``accuracy`` and ``before``: of the design and of the network as it is, where there are labels.
    """

    divergence: float
    agreement: float | Missing
    accuracy: float | Missing
    before: float | Missing
    n: int

    def __post_init__(self) -> None:
        check_finite(self, "divergence", "agreement", "accuracy", "before")

    @property
    def drop(self) -> float | Missing:
        """The share of right decisions lost, or, without labels, of decisions that changed."""
        if not isinstance(self.accuracy, Missing) and not isinstance(self.before, Missing):
            return self.before - self.accuracy
        return self.agreement if isinstance(self.agreement, Missing) else 1 - self.agreement


class Planned(Record, frozen=True, kw_only=True):
    """One design that was solved for: what it is predicted to take, and what it loses as a whole.

    ``steps`` make its structure (`hwbench compress`), ``precision`` its precisions (`hwbench build --plan`).
    """

    solved: Solved
    latency: Interval
    joint: Joint | Missing
    steps: tuple[Step, ...]
    precision: PrecisionPlan

    @property
    def design(self) -> Design:
        return self.solved.design


class EnginePlan(Record, frozen=True, kw_only=True):
    """The front of one runtime: designs from the most careful to the fastest, and which of them the budget allows.

    ``baselines``: what the unchanged network is predicted to take in each uniform precision, and ``measured`` where it
    was. ``chosen``: number of the design in ``front``.
    """

    platform: Platform
    samples: int  # networks that were built and timed for it, now or earlier
    sampled_now: int
    baselines: dict[str, Interval]
    front: tuple[Planned, ...]
    chosen: int | Missing
    notes: tuple[str, ...] = ()


class NoPlan(Record, frozen=True, kw_only=True):
    """A runtime for which there is no plan, and why."""

    engine: str
    reason: Missing


class PlanResult(Record, frozen=True, kw_only=True):
    """The file ``hwbench plan`` writes: ``plan.json``.

    ``exact``: rewrites that were done first, since they change no output and so need no choice.
    """

    schema_version: int
    created_at: str
    request: PlanRequest
    environment: Environment
    device: Device
    model: Model
    data: DataFacts
    exact: tuple[str, ...]
    space: Space
    sensitivity: Sensitivity
    engines: tuple[EnginePlan, ...]
    not_planned: tuple[NoPlan, ...]
    took_s: dict[str, float]
    warnings: tuple[str, ...] = ()
