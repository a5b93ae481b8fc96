"""What ``hwbench optimize`` is asked for, what it has made and measured on the way, and what it leaves."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, check
from hwbench.records.build import EngineBuilt
from hwbench.records.compression import NetworkFacts, Step
from hwbench.records.contest import Choice, Contest, Objective
from hwbench.records.device import Device, Environment
from hwbench.records.goals import PlanGoal, PlanGoalOutcome
from hwbench.records.measurement import NotMeasured
from hwbench.records.model import DataFacts, ImportResult, Model
from hwbench.records.planning import Decision, Design, Interval
from hwbench.records.planning import Objective as PlanObjective
from hwbench.records.quantization import CalibrationSettings, PrecisionPlan
from hwbench.records.verification import Agreement, Certificate, Score, Task

OPTIMIZATION_SCHEMA = 1

PartName = Literal["learn", "select", "certify"]


class Shares(Record, frozen=True, kw_only=True):
    """How one set of samples is divided, as shares of it; they add up to 1."""

    learn: float = 0.4
    select: float = 0.2
    certify: float = 0.4

    def __post_init__(self) -> None:
        given = (self.learn, self.select, self.certify)
        check(all(0 <= share <= 1 for share in given), f"shares must lie between 0 and 1, got {given}")
        check(abs(sum(given) - 1) < 1e-9, f"shares must add up to 1, got {sum(given)}")


class OptimizeRequest(Record, frozen=True, kw_only=True):
    """A whole ``hwbench optimize`` request, resolved.

    ``max_drop``: what accuracy may fall by; a goal that says so is in it already. ``goals``: all of them, as given.
    ``verify_data``: to select and to certify with; None: parts of ``data``. ``recover``: the
    training after each cut, on ``recover_data``; where that is None, on what is learnt from of ``data``.
    """

    model: str
    device: str
    data: str
    verify_data: str | None
    preprocess: str | None
    samples: int | None  # at most so many of each of the data
    task: Task | Literal["auto"]
    metric: str | None
    max_drop: float
    goals: tuple[PlanGoal, ...] = ()
    objective: PlanObjective
    engines: tuple[str, ...]  # empty: every one that can build
    precisions: tuple[str, ...]  # of the uniform baselines; empty: every one that an engine offers
    recover: Step | None = None
    recover_data: str | None = None
    calibration: CalibrationSettings
    time_budget_s: float
    batch_size: int | None
    training_batch_size: int
    shapes: dict[str, tuple[int, ...]]
    memory_limit_bytes: int
    threads: int
    seed: int
    resume: bool
    replace: bool
    timeout_s: float

    @property
    def measured(self) -> Objective:
        """What contests are held in: the objective; where that is accuracy, what the most important goal bounds."""
        if self.objective != "accuracy":
            return self.objective
        bounds = sorted((goal for goal in self.goals if goal.metric != "accuracy"), key=lambda goal: goal.priority)
        able: tuple[Objective, ...] = ("energy", "memory")
        return next((name for name in able if bounds and bounds[0].metric == name), "latency")

    @property
    def needs_energy(self) -> bool:
        """Whether joules are to be small or bounded."""
        return self.objective == "energy" or any(goal.metric == "energy" for goal in self.goals)


class Part(Record, frozen=True, kw_only=True):
    """Samples that serve one end. ``folder`` holds them; ``taken``: how they were taken from the source, in words."""

    name: PartName
    facts: DataFacts
    folder: str
    taken: str


class Parts(Record, frozen=True, kw_only=True):
    """The data divided: what is learnt from, what is selected by, and what certifies and has chosen nothing."""

    learn: Part
    select: Part
    certify: Part
    seed: int


class Proposal(Record, frozen=True, kw_only=True):
    """A design to realise with an engine, and what the planner expects of it (in the objective's unit)."""

    engine: str
    design: Design
    predicted: Interval | Missing
    decisions: tuple[Decision, ...] = ()


class Proposals(Record, frozen=True, kw_only=True):
    """What the planner proposed in one round, kept so that a run that goes on proposes the same."""

    proposals: tuple[Proposal, ...]


class Made(Record, frozen=True, kw_only=True, tag_field="kind", tag="made"):
    """A built network. ``bundle``: relative to the folder; ``network``: where a step changed its structure."""

    engine: EngineBuilt
    plan: PrecisionPlan
    steps: tuple[Step, ...]
    network: NetworkFacts | None
    imported: ImportResult  # the bundle's own
    bundle: str
    took_s: float
    warnings: tuple[str, ...] = ()


class Drop(Record, frozen=True, kw_only=True, tag_field="kind", tag="drop"):
    """How far a network falls below the original on some samples, and what that lets expect of others.

    ``drop``, ``low`` and ``high`` are in the metric's own unit, positive where it is worse; each end holds with 95 %.
    Without labels ``metric`` is the share of other decisions, which accuracy cannot fall by more than. ``expected``:
    the upper end on as many samples as there are to certify with, at the rates seen here.
    """

    metric: str
    drop: float
    low: float
    high: float
    n: int
    expected: float


class Scored(Record, frozen=True, kw_only=True, tag_field="kind", tag="scored"):
    """A built network on samples."""

    part: PartName
    task: Task
    scores: tuple[Score, ...]
    agreement: Agreement | Missing
    certificate: Certificate | Missing
    drop: Drop | Missing
    finite: bool


class Candidate(Record, frozen=True, kw_only=True):
    """A uniform baseline or a proposal, realised or not.

    ``precision``: of a baseline, whose ``design`` changes nothing; None: it was planned, in ``round``. ``counts``: it
    may be chosen; ``why``: how that was settled on the selection split.
    """

    name: str
    engine: str
    precision: str | None
    round: int
    design: Design
    predicted: Interval | Missing
    decisions: tuple[Decision, ...]
    made: Made | Missing
    selected: Scored | Missing
    counts: bool
    why: str

    @property
    def uniform(self) -> bool:
        """Whether every layer has one precision, and nothing else was changed."""
        return self.precision is not None


class Feedback(Record, frozen=True, kw_only=True):
    """What a planner learns of a candidate: ``value`` is of the objective, as the contest of its round measured it.

    ``also``: what else was measured in it.
    """

    name: str
    engine: str
    precision: str | None  # of a uniform baseline
    design: Design
    round: int
    predicted: Interval | Missing
    value: float | Missing
    ratio: float | Missing  # to the best uniform one
    also: dict[str, float] = {}
    drop: Drop | Missing
    counts: bool


class Stage(Record, frozen=True, kw_only=True):
    """One stage of a run, over all of its runs. ``skipped``: there was nothing to do in it."""

    name: str
    state: Literal["done", "left", "skipped"]
    took_s: float


class Progress(Record, frozen=True, kw_only=True):
    """What a run keeps of itself, so that it can go on: ``spent_s`` is over all of its runs."""

    request: OptimizeRequest
    stages: tuple[Stage, ...]
    spent_s: float


class Baselines(Record, frozen=True, kw_only=True):
    """The uniform candidates, and what could not be built."""

    candidates: tuple[Candidate, ...]
    not_built: tuple[NotMeasured, ...]


class Round(Record, frozen=True, kw_only=True):
    """One round of proposals: what was made of them, and how they stood in its contest."""

    number: int
    kind: Literal["proposals", "swaps"]
    candidates: tuple[Candidate, ...]
    contest: Contest | Missing


class Certified(Record, frozen=True, kw_only=True, tag_field="kind", tag="certified"):
    """One candidate on the split that chose nothing. ``number``: how many have been tried, with this one."""

    entrant: str
    number: int
    found: Scored
    word: Literal["CERTIFIED", "FAILED", "NOT ENOUGH DATA"]
    enough: int | Missing  # about how many samples would settle it


class Verdicts(Record, frozen=True, kw_only=True):
    """What was chosen, and how that was certified; the last of ``certified`` is of what was chosen."""

    choice: Choice
    certified: tuple[Certified, ...]


class ParetoPoint(Record, frozen=True, kw_only=True):
    """A candidate that no other beats in both: ``value`` of the objective, and the drop seen on the selection split."""

    entrant: str
    value: float
    drop: float


class Binding(Record, frozen=True, kw_only=True):
    """A constraint that stands between what was built and the goal, and what would relax it."""

    constraint: str
    why: str
    relax: str


class OptimizationResult(Record, frozen=True, kw_only=True):
    """The file ``hwbench optimize`` writes: ``optimization.json``.

    ``word``: MET, the goals hold and are certified; MISSED, they do not; UNSETTLED, there is not enough data to tell.
    """

    schema_version: int
    created_at: str
    request: OptimizeRequest
    environment: Environment
    device: Device
    model: Model
    parts: Parts
    task: Task
    original: tuple[Score, ...]  # of the model as it came in, on the selection split
    candidates: tuple[Candidate, ...]
    not_built: tuple[NotMeasured, ...]
    rounds: tuple[Round, ...]
    contest: Contest
    verdicts: Verdicts
    goals: tuple[PlanGoalOutcome, ...] = ()  # held against what was chosen
    word: Literal["MET", "MISSED", "UNSETTLED"]
    bundle: str
    pareto: tuple[ParetoPoint, ...]
    binding: tuple[Binding, ...]
    stages: tuple[Stage, ...]
    took_s: float
    warnings: tuple[str, ...] = ()

    def candidate(self, name: str) -> Candidate:
        """Return the candidate called so."""
        return next(each for each in self.candidates if each.name == name)

    @property
    def winner(self) -> Candidate:
        """What was chosen."""
        return self.candidate(self.verdicts.choice.entrant)


class PredictedMeasured(Record, frozen=True, kw_only=True):
    """What was expected of a candidate and what was seen, both in the objective's unit."""

    name: str
    predicted: Interval
    measured: float | Missing
    inside: bool | Missing


class PlanFile(Record, frozen=True, kw_only=True):
    """The file ``plan.json``: what the bundle was made by, for whoever wants to make it again or to doubt it."""

    schema_version: int
    created_at: str
    hub_sha256: str
    artefact_sha256: str
    engine: str
    engine_version: str
    environment: Environment
    design: Design
    plan: PrecisionPlan
    steps: tuple[Step, ...]
    decisions: tuple[Decision, ...]
    predictions: tuple[PredictedMeasured, ...]
    data: dict[str, str]  # by part, the hash of its samples
    seed: int
