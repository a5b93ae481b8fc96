"""What ``hwbench verify`` says: how good a built network is on data, and whether that is good enough."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, check, check_finite
from hwbench.records.device import Device, Environment
from hwbench.records.measurement import NOT_SAVED, NOT_VERIFIED, Accuracy, Built, NotMeasured
from hwbench.records.model import DataFacts, Layer, Model, ModelFiles
from hwbench.records.placement import Requirements, Unmet

VERIFICATION_SCHEMA = 1

Task = Literal["classification", "regression", "embedding", "tokens", "custom", "none"]
Word = Literal["CERTIFIED", "FAILED", "NOT ENOUGH DATA"]


class Score(Record, frozen=True, kw_only=True):
    """A metric over the data with its 95 % interval: how it would come out on other data of the same kind."""

    name: str
    value: float
    low: float
    high: float
    n: int
    higher_is_better: bool
    method: str  # of the interval

    def __post_init__(self) -> None:
        check_finite(self, "value", "low", "high", minimum=None)
        check(self.low <= self.value <= self.high, f"{self.name}: the interval must contain the value")


class Agreement(Record, frozen=True, kw_only=True, tag_field="kind", tag="agreement"):
    """On how many samples the decision differs from the reference's; no labels are needed. Interval: 95 %, exact."""

    what: str  # what a decision is: the largest output, ...
    n: int
    different: int
    rate: float
    low: float
    high: float


class OutputError(Record, frozen=True, kw_only=True):
    """Difference of one output from the reference's, over all samples.

    ``sqnr_db``: 10 log10 of signal power over error power; Missing where there is no error, or no signal. ``cosine``:
    the smallest over samples. ``max_relative``: largest error over the largest reference value.
    """

    output: str
    max_absolute: float
    max_relative: float
    sqnr_db: float | Missing
    cosine: float | Missing

    def __post_init__(self) -> None:
        check_finite(self, "max_absolute", "max_relative")
        check_finite(self, "sqnr_db", "cosine", minimum=None)


class LayerError(Record, frozen=True, kw_only=True):
    """One layer's output beside the reference's; ``added_db``: SQNR lost in it, below the worst of its inputs."""

    layer: str
    op: str
    max_absolute: float | Missing
    sqnr_db: float | Missing
    cosine: float | Missing
    added_db: float | Missing


class LayerErrors(Record, frozen=True, kw_only=True, tag_field="kind", tag="layer_errors"):
    """Every layer's error on ``samples`` samples, with every layer an output, which keeps a runtime from fusing.

    ``first_diverging``: the first, in the graph's order, whose SQNR is below ``below_db``.
    """

    errors: tuple[LayerError, ...]
    first_diverging: str | Missing
    below_db: float
    samples: int


class Certificate(Record, frozen=True, kw_only=True, tag_field="kind", tag="certificate"):
    """Whether the metric is worse than the reference's by at most ``max_drop``, on the same samples.

    ``drop`` is in the metric's own unit, positive where this network is worse. ``low`` and ``high`` are the ends of its
    90 % interval: each holds with 95 %. CERTIFIED: ``high`` is at most ``max_drop``. FAILED: ``low`` is above it.
    ``enough``: about how many samples would settle it, at the rate of disagreement seen.
    """

    word: Word
    metric: str
    max_drop: float
    drop: float
    low: float
    high: float
    n: int
    worse: int | Missing  # samples right in the reference and wrong here
    better: int | Missing
    enough: int | Missing
    method: str


class Verified(Record, frozen=True, kw_only=True, tag_field="kind", tag="verified"):
    """One engine, one precision, on all samples. ``outputs_sha256`` is of everything it put out.

    ``name``: of the model, where it is not the verification's own.
    """

    name: str | None = None
    engine: str
    precision_asked: str
    artefact_sha256: str | Missing = NOT_SAVED
    built: Built
    scores: tuple[Score, ...]
    agreement: Agreement | Missing
    outputs: tuple[OutputError, ...] | Missing
    certificate: Certificate | Missing
    layers: LayerErrors | Missing
    unmet: tuple[Unmet, ...] = ()  # of what was required
    outputs_sha256: str
    finite: bool

    @property
    def label(self) -> str:
        label = f"{self.engine} {self.built.precision}"
        return label if self.name is None else f"{self.name} ({label})"


def accuracy_of(
    artefact_sha256: str | Missing, data: DataFacts, scores: tuple[Score, ...], certificate: Certificate | Missing
) -> Accuracy | Missing:
    """Return what has been found of a saved engine in one line: its first score."""
    if not isinstance(artefact_sha256, str):
        return artefact_sha256
    if not scores:
        return NOT_VERIFIED
    score = scores[0]
    return Accuracy(
        artefact_sha256=artefact_sha256,
        data_sha256=data.sha256,
        metric=score.name,
        value=score.value,
        low=score.low,
        high=score.high,
        n=score.n,
        certificate=certificate if isinstance(certificate, Missing) else certificate.word,
    )


class VerifyRequest(Record, frozen=True, kw_only=True, tag_field="kind", tag="verify"):
    """What to verify: a model, and ``more`` that take the same inputs.

    ``reference``: the model that all are held against; None: the first one itself, as it came in, unless it is a built
    engine.
    """

    model: str
    more: tuple[str, ...] = ()
    reference: str | None = None
    data: str
    device: str
    task: Task | Literal["auto"]
    metric: str | None  # module:callable
    engines: tuple[str, ...]
    precisions: tuple[str, ...]
    batch_size: int | None
    shapes: dict[str, tuple[int, ...]]
    preprocess: str | None = None  # for a folder of images
    required: Requirements = Requirements()
    max_drop: float | None
    limit: int | None
    layers: bool
    threads: int
    seed: int
    timeout_s: float


class Verification(Record, frozen=True, kw_only=True):
    """The file ``hwbench verify`` writes.

    ``model`` is the one that the others are held against, whose row is the first; where there is no reference, the
    first that was verified.
    """

    schema_version: int
    created_at: str
    request: VerifyRequest
    environment: Environment
    device: Device
    model: Model
    data: DataFacts
    task: Task
    reference: str | Missing  # label of the row that the others are held against
    rows: tuple[Verified, ...]
    not_verified: tuple[NotMeasured, ...]
    warnings: tuple[str, ...] = ()


class RunJob(Record, frozen=True, kw_only=True):
    """Run one engine over all samples."""

    engine: str
    precision: str
    model: Model
    files: ModelFiles
    device: Device
    data_folder: str
    samples: int
    expose: bool  # make every layer an output, and run one batch
    threads: int
    cpus: tuple[int, ...]


class RunResult(Record, frozen=True, kw_only=True):
    """What the run left: ``outputs.npz`` in its folder."""

    built: Built
    outputs_sha256: str
    finite: bool


class LayersJob(Record, frozen=True, kw_only=True):
    """Compare two runs of a graph whose layers are all outputs."""

    folder: str
    reference_folder: str
    layers: tuple[Layer, ...]
    samples: int


class ScoreJob(Record, frozen=True, kw_only=True):
    """Judge the outputs of one run against those of the reference, and the labels.

    ``alone``: there is no reference, and this is none. ``by_position``: outputs go with the reference's in their order,
    since the file that put them out has names of its own.
    """

    folder: str  # of the run
    reference_folder: str | None  # None: this is the reference, or there is none
    alone: bool = False
    by_position: bool = False
    data_folder: str
    labels: bool
    task: Task | Literal["auto"]
    metric: str | None
    max_drop: float | None
    seed: int


class ScoreResult(Record, frozen=True, kw_only=True):
    """What follows from the outputs of one run."""

    task: Task
    scores: tuple[Score, ...]
    agreement: Agreement | Missing
    outputs: tuple[OutputError, ...] | Missing
    certificate: Certificate | Missing
