"""What ``hwbench plan`` is asked for, and the file it writes."""

from __future__ import annotations

from hwbench.records.base import Missing, Record, check, check_finite
from hwbench.records.compression import Step
from hwbench.records.device import Device, Environment
from hwbench.records.goals import PlanGoal, PlanGoalOutcome
from hwbench.records.model import DataFacts, Model
from hwbench.records.planning import (
    Design,
    Interval,
    NotOffered,
    Objective,
    Platform,
    Sensitivity,
    SiteKind,
    Solved,
    Space,
    SparseCost,
)
from hwbench.records.quantization import CalibrationSettings, Floating, PrecisionPlan

PLAN_RESULT_SCHEMA = 1


class PlanRequest(Record, frozen=True, kw_only=True):
    """A whole ``hwbench plan`` request, resolved.

    ``data`` is what ranges, Gram matrices and losses are taken from. ``max_drop``: of the share of right decisions;
    where there are no labels, of the share of decisions that stay as they were; a goal that says so is in it already.
    ``goals``: all of them, as given. ``costs_s`` and ``losses_s``: how long
    all engines together may be sampled, and losses be measured. ``trained``: what is chosen will be trained, so that
    normalisations stay what they are, and are not folded into the layers before them. ``pairs``: where there is a label
    for every two samples, they are pairs of an embedding, and what may be lost is of Spearman's correlation.
    """

    model: str
    device: str
    engines: tuple[str, ...]  # empty: every one that can build here
    kinds: tuple[SiteKind, ...]
    floating: tuple[Floating, ...]
    objective: Objective
    max_drop: float
    goals: tuple[PlanGoal, ...] = ()
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
    trained: bool = False
    pairs: bool = True
    probe: str | None = None  # of a device that is not attached: what was measured there

    def __post_init__(self) -> None:
        check(self.budgets >= 2, f"a front needs two budgets, got {self.budgets}")
        check(self.max_drop >= 0, f"max_drop must not be negative, got {self.max_drop}")

    @property
    def needs_energy(self) -> bool:
        """Whether joules are to be small or bounded."""
        return self.objective == "energy" or any(goal.metric == "energy" for goal in self.goals)


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
        check_finite(self, "divergence", "agreement")
        check_finite(self, "accuracy", "before", minimum=-1)  # a correlation can be less than nothing

    @property
    def drop(self) -> float | Missing:
        """The share of right decisions lost, or, without labels, of decisions that changed."""
        if not isinstance(self.accuracy, Missing) and not isinstance(self.before, Missing):
            return self.before - self.accuracy
        return self.agreement if isinstance(self.agreement, Missing) else 1 - self.agreement


class Planned(Record, frozen=True, kw_only=True):
    """One design that was solved for: what it is predicted to take, and what it loses as a whole.

    ``energy``: of one inference, where it was to be small or bounded.

    ``steps`` make its structure (`hwbench compress`), ``precision`` its precisions (`hwbench build --plan`).
    """

    solved: Solved
    latency: Interval
    energy: Interval | Missing = Missing(code="not_asked", why="energy was neither to be small nor bounded")
    joint: Joint | Missing
    steps: tuple[Step, ...]
    precision: PrecisionPlan

    @property
    def design(self) -> Design:
        return self.solved.design


class EnginePlan(Record, frozen=True, kw_only=True):
    """The front of one runtime: designs from the most careful to the fastest, and which of them the budget allows.

    ``baselines``: what the unchanged network is predicted to take in each uniform precision. ``chosen``: number of the
    design in ``front``; ``commands`` build it, ``here`` or on the device itself. ``drop_kept``: False where it loses
    more than is allowed, since other goals come first. ``goals``: held against what is predicted of it. ``sparse``: the
    kernels for zeros that layers were offered, with what they make of the time; ``not_offered``: what they were not,
    and why.
    """

    platform: Platform
    samples: int  # networks that were built and timed for it, now or earlier
    sampled_now: int
    baselines: dict[str, Interval]
    front: tuple[Planned, ...]
    chosen: int | Missing
    drop_kept: bool = True
    goals: tuple[PlanGoalOutcome, ...] = ()
    commands: tuple[str, ...] = ()
    here: bool = True
    sparse: tuple[SparseCost, ...] = ()
    not_offered: tuple[NotOffered, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        """Whether a design was chosen that is predicted to meet all goals, within the drop that is allowed."""
        return not isinstance(self.chosen, Missing) and self.drop_kept and all(each.met for each in self.goals)


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
