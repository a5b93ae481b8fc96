"""What ``hwbench search`` is asked for, every point that it tried, and which of them are worth having."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, check, check_finite
from hwbench.records.contest import Contest
from hwbench.records.device import Device, Environment
from hwbench.records.measurement import ProfileRequest, Status
from hwbench.records.verification import Score, VerifyRequest

SEARCH_SCHEMA = 1

Scalar = bool | int | float | str
Metric = Literal["latency", "latency-per-sample", "energy", "memory", "size", "accuracy"]
Sampler = Literal["grid", "random", "tpe", "gp", "nsga2", "nsga3"]
Pruner = Literal["none", "median", "halving"]
UNITS: dict[str, str] = {
    "latency": "s",
    "latency-per-sample": "s",
    "energy": "J",
    "memory": "B",
    "size": "B",
    "accuracy": "",
    "accuracy drop": "",
}


class Parameter(Record, frozen=True, kw_only=True):
    """One thing that is searched, by its name in the space file: ``runtime.engine``.

    ``values``: of a categorical one; a single value is fixed. ``low`` to ``high``, both included, of a number; on a
    logarithmic scale if ``log``. ``when``: it exists only where the parameters named have one of the values.
    """

    name: str
    kind: Literal["categorical", "integer", "real"]
    values: tuple[Scalar, ...] = ()
    low: float | int | None = None
    high: float | int | None = None
    step: float | int | None = None
    log: bool = False
    when: dict[str, tuple[Scalar, ...]] = {}

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return self.kind == "categorical" and len(self.values) == 1


class SpaceStep(Record, frozen=True, kw_only=True):
    """A compression step of the space: its method and layers; its settings are parameters ``compression.NAME.*``."""

    name: str
    method: str
    layers: str


class SearchSpace(Record, frozen=True, kw_only=True):
    """A space file, read and checked: what is searched, each after what it depends on."""

    parameters: tuple[Parameter, ...]
    steps: tuple[SpaceStep, ...] = ()

    def section(self, name: str) -> tuple[Parameter, ...]:
        """Return the parameters of a section."""
        return tuple(one for one in self.parameters if one.name.startswith(f"{name}."))


class Objective(Record, frozen=True, kw_only=True):
    """What is to be made small or large; quantities are in SI units."""

    metric: Metric
    direction: Literal["minimize", "maximize"]


class Constraint(Record, frozen=True, kw_only=True):
    """What must hold: ``quantity`` at most or at least ``limit``, in SI units; ``text`` as the user wrote it."""

    quantity: str  # a metric, or ``accuracy drop``
    sense: Literal["<=", ">="]
    limit: float
    text: str

    def violation(self, value: float) -> float:
        """Return by how much ``value`` breaks it, as a fraction of the limit (absolute where that is 0); <= 0: not."""
        over = value - self.limit if self.sense == "<=" else self.limit - value
        return over / abs(self.limit) if self.limit else over


class SearchRequest(Record, frozen=True, kw_only=True):
    """A whole ``hwbench search`` request, resolved.

    ``verify`` and ``timing`` say how points are judged and timed; their ``model`` is filled in for each. ``reference``:
    the network that a drop of accuracy is counted from. ``control_every``: after so many points the first one is timed
    again. ``rank`` untrained candidates are scored, and ``keep`` of them searched; 0: none. ``finals_s``: time in which
    the best are timed again beside each other; 0: they are not.
    """

    model: str
    space: SearchSpace
    sampler: Sampler
    pruner: Pruner
    trials: int | None  # None: all of a finite space
    time_budget_s: float | None
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    data: str | None
    preprocess: str | None
    samples: int  # at most so many of the data, to train with
    verify: VerifyRequest | Missing
    reference: str | None
    timing: ProfileRequest
    shapes: dict[str, tuple[int, ...]]
    control_every: int
    finals_s: float
    rank: int
    keep: int
    device: str
    threads: int
    seed: int
    timeout_s: float


class Quantity(Record, frozen=True, kw_only=True):
    """One measured number of a point, by metric, in SI units, with its 95 % interval where it has one."""

    metric: str
    value: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        check_finite(self, "value", "low", "high", minimum=None)


class CurvePoint(Record, frozen=True, kw_only=True):
    """How good a training was after an epoch. ``value``: what the pruner saw, larger being better."""

    epoch: int
    value: float


class Trial(Record, frozen=True, kw_only=True):
    """One point of the space, and what became of it.

    ``params`` holds what was searched, fixed values left out. ``violations``: by constraint, as
    :meth:`Constraint.violation` has it. ``same_as``: the trial whose results these are, since it tried the same point.
    ``folder`` is relative to the search's own and keeps records and logs; ``bundle`` is in it.
    """

    number: int
    state: Literal["complete", "pruned", "failed"]
    params: dict[str, Scalar]
    quantities: tuple[Quantity, ...] = ()
    violations: dict[str, float] = {}
    reason: Missing | None = None
    curve: tuple[CurvePoint, ...] = ()
    artefact_sha256: str | None = None
    parameters: int | None = None  # of the network
    validity: Status | None = None  # of the timing
    same_as: int | None = None
    folder: str
    bundle: str | None = None
    log: str | None = None
    started_at: str
    took_s: float

    def value(self, metric: str) -> float | None:
        """Return the number of a metric, where it was found."""
        return next((each.value for each in self.quantities if each.metric == metric), None)

    @property
    def feasible(self) -> bool:
        """Whether it is complete and meets every constraint."""
        return self.state == "complete" and all(value <= 0 for value in self.violations.values())


class Control(Record, frozen=True, kw_only=True):
    """The first complete point timed again: how far the machine has drifted. ``ratio``: to its first median."""

    after_trial: int
    trial: int
    median_s: float
    low_s: float
    high_s: float
    ratio: float


class Candidate(Record, frozen=True, kw_only=True):
    """An untrained network of the space, ranked without labels.

    ``score``: log-determinant of the kernel of its activation patterns (arXiv:2006.04647). ``front``: 0 where no other
    candidate has a higher score and is faster, 1 where only those of front 0 do, and so on.
    """

    params: dict[str, Scalar]
    score: float | Missing
    parameters: int | None = None
    macs: int | None = None
    median_s: float | Missing
    front: int | None = None
    kept: bool


class Candidates(Record, frozen=True, kw_only=True):
    """What ranking has found, for a search that goes on."""

    candidates: tuple[Candidate, ...]


class Reference(Record, frozen=True, kw_only=True, tag_field="kind", tag="reference"):
    """The network that drops of accuracy are counted from, and its accuracy."""

    model: str
    score: Score


class Finals(Record, frozen=True, kw_only=True, tag_field="kind", tag="finals"):
    """The best points timed beside each other in one run; entrants are called ``trial 7``.

    All of them are ``uniform`` to the contest, so ratios are to the fastest.
    """

    contest: Contest


class Importance(Record, frozen=True, kw_only=True):
    """How much of an objective's spread among the best points each parameter decides; shares that add up to 1."""

    metric: str
    shares: dict[str, float]
    method: str


class RankCheck(Record, frozen=True, kw_only=True, tag_field="kind", tag="rank_check"):
    """Whether the score without training told what training said: Kendall's tau-b between it and the accuracy."""

    tau: float
    n: int


class SearchResult(Record, frozen=True, kw_only=True):
    """The file ``hwbench search`` writes: ``search.json``.

    ``pareto``: the numbers of the feasible trials that no other beats in every objective. ``best``: the feasible trial
    with the best value of the first objective; where none is feasible, the one that breaks the constraints least.
    """

    schema_version: int
    created_at: str
    request: SearchRequest
    environment: Environment
    device: Device
    reference: Reference | Missing
    candidates: tuple[Candidate, ...] = ()
    rank_check: RankCheck | Missing = Missing(code="not_asked", why="no candidates were ranked", cure="--rank")
    trials: tuple[Trial, ...]
    pareto: tuple[int, ...]
    best: int | None
    controls: tuple[Control, ...] = ()
    finals: Finals | Missing
    importances: tuple[Importance, ...] = ()
    stopped: str  # why it ended
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        numbers = {trial.number for trial in self.trials}
        check(set(self.pareto) <= numbers, "a point of the Pareto set is no trial")

    @property
    def feasible(self) -> bool:
        """Whether any point meets the constraints."""
        return any(trial.feasible for trial in self.trials)


class ScoreCandidateJob(Record, frozen=True, kw_only=True):
    """An untrained network to score, whose batch axis is ``samples``; ``data_folder`` holds as many or more."""

    hub: str
    data_folder: str
    samples: int
    threads: int


class CandidateScore(Record, frozen=True, kw_only=True):
    """The score of an untrained network."""

    score: float | Missing
    units: int  # activations that were looked at, of one sample
    samples: int
