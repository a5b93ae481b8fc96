"""What ``hwbench compare`` says: a verdict a metric, what it rests on, and what became of the goals."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, check, check_finite
from hwbench.records.device import Device, Environment
from hwbench.records.energy import EnergyReading
from hwbench.records.measurement import NO_GPU_MEMORY, NOT_SAVED, Built, Memory, Parity, Phases
from hwbench.records.memory import GpuMemory

COMPARISON_SCHEMA = 1

Metric = Literal["latency", "latency_p90", "throughput", "energy", "peak_memory", "accuracy"]
METRICS: tuple[Metric, ...] = ("latency", "latency_p90", "throughput", "energy", "peak_memory", "accuracy")
Word = Literal["SAME", "FASTER", "SLOWER", "LESS", "MORE", "INCONCLUSIVE"]
Process = Literal["a", "control", "b"]


class Ratio(Record, frozen=True, kw_only=True, tag_field="kind", tag="ratio"):
    """A ratio B/A (of the control: A'/A) with its interval.

    ``confidence`` is that of this interval; where several looks were decided in advance it is higher than 0.95, so that
    all of them together hold with 0.95. ``degrees`` are the degrees of freedom behind the standard error.
    """

    value: float
    low: float
    high: float
    confidence: float
    degrees: int

    def __post_init__(self) -> None:
        check_finite(self, "value", "low", "high")
        check(self.low <= self.value <= self.high, "the interval must contain the ratio")


class Verdict(Record, frozen=True, kw_only=True, tag_field="kind", tag="verdict"):
    """One metric of B relative to A, in SI units.

    ``word``: FASTER and SLOWER for latency and throughput, LESS and MORE for energy and memory: the whole interval is
    beyond the minimum effect; SAME: it is wholly inside; else INCONCLUSIVE, and ``why`` says why and what would settle
    it. ``min_ratio`` is the minimum effect as a ratio above 1, the larger of the relative and the absolute one.
    """

    metric: Metric
    unit: str
    word: Word
    a: float
    b: float
    ratio: Ratio
    min_ratio: float
    control: Ratio | Missing
    method: str
    why: Missing | None = None

    def __post_init__(self) -> None:
        check_finite(self, "a", "b")
        check(self.min_ratio >= 1, "min_ratio must be at least 1")


class Side(Record, frozen=True, kw_only=True):
    """What stands on one side."""

    given: str  # as typed
    model: str
    hub_sha256: str
    artefact_sha256: str | Missing = NOT_SAVED
    engine: str
    precision_asked: str
    built: Built
    created_at: str
    notes: tuple[str, ...] = ()  # what speaks against its numbers


class Difference(Record, frozen=True, kw_only=True):
    """Something that is not the same on both sides.

    ``hinders``: it makes the numbers incomparable, and was waved through with ``--ignore`` or ``--force``.
    """

    name: str
    a: str
    b: str
    hinders: bool = False


class Goal(Record, frozen=True, kw_only=True):
    """One ``--fail-if``: it is missed when the change of ``metric`` goes beyond ``limit``.

    ``limit`` is a ratio B/A; of accuracy it is the difference B - A, as a share (1 pp is 0.01).
    """

    text: str
    metric: Metric
    direction: Literal["above", "below"]
    limit: float


class GoalOutcome(Record, frozen=True, kw_only=True):
    """Whether a goal is missed for sure, holds for sure, or cannot be told."""

    goal: Goal
    status: Literal["missed", "holds", "unknown"]
    why: str


class OneOff(Record, frozen=True, kw_only=True):
    """A cost that occurs once a process: too few samples for a verdict. Seconds, one a process."""

    name: Literal["load", "compile", "first_inference"]
    a_s: tuple[float, ...] | Missing
    b_s: tuple[float, ...] | Missing


class Outputs(Record, frozen=True, kw_only=True):
    """What the two sides answered to the same inputs; information, not a verdict.

    ``b``: B's outputs against A's. ``control``: those of A's second process against those of its first; where they
    differ, A is not deterministic.
    """

    b: Parity | Missing
    control: Parity | Missing


class AccuracyChange(Record, frozen=True, kw_only=True, tag_field="kind", tag="accuracy"):
    """Accuracy of both built networks on the same labelled samples, as shares; ``difference`` is B - A.

    Each of ``low`` and ``high`` holds with 95 % (Tango's interval of a paired difference). ``lost``: samples that A has
    right and B wrong; ``won``: the other way round.
    """

    data: str
    data_sha256: str
    n: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    lost: int
    won: int

    def __post_init__(self) -> None:
        check(self.low <= self.difference <= self.high, "the interval must contain the difference")


class Pair(Record, frozen=True, kw_only=True):
    """One engine and precision (of each side) compared."""

    label: str
    a: Side
    b: Side
    verdicts: tuple[Verdict, ...]
    absent: dict[str, Missing]  # metrics without a verdict, and why
    one_off: tuple[OneOff, ...]
    differences: tuple[Difference, ...]
    outputs: Outputs
    accuracy: AccuracyChange | Missing
    goals: tuple[GoalOutcome, ...] = ()

    def verdict(self, metric: str) -> Verdict | None:
        """Return the verdict on a metric, or None where ``absent`` says why there is none."""
        return next((item for item in self.verdicts if item.metric == metric), None)

    @property
    def headline(self) -> Verdict | None:
        """The verdict on speed."""
        return self.verdict("latency") or self.verdict("throughput")


class Settings(Record, frozen=True, kw_only=True):
    """What decides a verdict."""

    min_effect: float  # relative
    min_latency_s: float  # absolute
    min_memory_bytes: float  # absolute
    between_runs: float  # saved runs only: assumed standard deviation from one run to the next, relative
    seed: int

    def __post_init__(self) -> None:
        check_finite(self, "min_effect", "min_latency_s", "min_memory_bytes", "between_runs")


class Plan(Record, frozen=True, kw_only=True):
    """How two sides are measured beside each other: settled before the first block."""

    threads: int
    cpus: tuple[int, ...]
    batch_size: int | None
    budget_s: float
    restarts: int
    block_s: float
    warmup_s: float
    meter: str
    looks: tuple[int, ...]  # after how many restarts to look
    levels: tuple[float, ...]  # error probability spent at each; they add up to 0.05
    timeout_s: float

    def __post_init__(self) -> None:
        check(self.restarts >= 1 and self.threads >= 1, "restarts and threads must be at least 1")
        check(len(self.looks) == len(self.levels), "each look needs its level")


_NOT_TOLD = Missing(code="not_told", why="the worker did not tell")


class Ready(Record, frozen=True, kw_only=True):
    """A worker's first answer: warmed up; ``latency_s`` is the mean over the second half of the warm-up."""

    latency_s: float
    resident_bytes: int | Missing = _NOT_TOLD


class BlockQuestion(Record, frozen=True, kw_only=True):
    """Time at least ``count`` inferences."""

    count: int


class Block(Record, frozen=True, kw_only=True):
    """Inferences of one process in one go, in nanoseconds, in order."""

    samples_ns: tuple[int, ...]
    energy: EnergyReading | Missing

    def __post_init__(self) -> None:
        check(bool(self.samples_ns), "a block needs samples")


class ProcessRun(Record, frozen=True, kw_only=True):
    """What one worker leaves when it is let go."""

    built: Built
    phases: Phases
    memory: Memory
    gpu_memory_loading: GpuMemory | Missing = NO_GPU_MEMORY
    gpu_memory: GpuMemory | Missing = NO_GPU_MEMORY
    timed_region: str
    outputs_finite: bool  # no NaN and no infinity in the outputs of the first inference


class BlockProcess(Record, frozen=True, kw_only=True):
    """One process of one restart: what it was, and its blocks, one a round."""

    restart: int
    process: Process
    run: ProcessRun
    blocks: tuple[Block, ...]


class Interleaved(Record, frozen=True, kw_only=True, tag_field="kind", tag="interleaved"):
    """Both sides measured now, beside each other; everything that was seen."""

    plan: Plan
    processes: tuple[BlockProcess, ...]
    looked: int  # looks taken
    elapsed_s: float


class Saved(Record, frozen=True, kw_only=True, tag_field="kind", tag="saved"):
    """Two saved results; not interleaved: whatever changed on the machine between them is in the ratio."""

    a_run: str
    b_run: str


class Comparison(Record, frozen=True, kw_only=True):
    """The file ``hwbench compare`` writes."""

    schema_version: int
    created_at: str
    given_a: str
    given_b: str
    device: Device
    environment: Environment
    settings: Settings
    source: Interleaved | Saved
    pairs: tuple[Pair, ...]
    warnings: tuple[str, ...] = ()
