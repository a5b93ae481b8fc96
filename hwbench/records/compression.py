"""What is done to a network to make it smaller, and what was done to each layer."""

from __future__ import annotations

from typing import Any, Literal

from hwbench.records.base import Missing, Record, check, check_finite
from hwbench.records.device import Environment
from hwbench.records.model import DataFacts, ImportResult, Model
from hwbench.records.verification import Verification, VerifyRequest

COMPRESSION_SCHEMA = 1

Kind = Literal[
    "zeroed",  # weights set to zero, in place
    "cut",  # channels, heads or whole layers taken out
    "factorised",  # one layer became several smaller ones
    "shared",  # weights took one of few values
    "quantised",  # weights or activations were rounded
    "rewritten",  # another operator, or fewer, doing the same or nearly
    "trained",  # weights learned on data
    "repaired",  # weights or statistics adapted to what was done before
]


class Step(Record, frozen=True, kw_only=True):
    """One method, the layers it may touch, and its settings as the user gave them.

    ``layers`` is a regular expression that must match a layer's whole name in the hub. ``settings`` are read by the
    method's own typed settings.
    """

    method: str
    layers: str = ".*"
    settings: dict[str, Any] = {}


class Change(Record, frozen=True, kw_only=True):
    """What a method did to one layer.

    ``removed`` names what is gone: by tensor (an initialiser, as it was called before) and axis (``conv1.weight/0``),
    the indices in the tensor as it was before this change. ``zeros``: the fraction of the layer's weights that is zero
    afterwards. ``error``: ||Y' - Y||^2 / ||Y||^2 of the layer's output on the data, where it was measured.
    """

    layer: str
    kind: Kind
    what: str  # in words and numbers: "64 of 256 output channels", "rank 32 of 512"
    removed: dict[str, tuple[int, ...]] = {}
    shape_before: tuple[int, ...] | None = None  # of the weight
    shape_after: tuple[int, ...] | None = None
    zeros: float | None = None
    error: float | None = None
    bits_per_weight: float | None = None  # as it could be stored, with codebooks, scales or masks counted in

    def __post_init__(self) -> None:
        check_finite(self, "zeros", "error", "bits_per_weight")
        check(self.zeros is None or self.zeros <= 1, f"zeros must be a fraction, got {self.zeros}")


class LeftAlone(Record, frozen=True, kw_only=True):
    """A layer that a method was asked to change and did not, and why."""

    layer: str
    reason: Missing


class Applied(Record, frozen=True, kw_only=True):
    """One step, carried out. ``figures``: what the method tells of itself beside the layers (losses, thresholds)."""

    step: Step
    settings: dict[str, Any]  # resolved: defaults filled in
    changes: tuple[Change, ...]
    left_alone: tuple[LeftAlone, ...]
    figures: dict[str, float] = {}
    notes: tuple[str, ...] = ()
    took_s: float


class NetworkFacts(Record, frozen=True, kw_only=True):
    """How large a network is. ``macs``: multiply-adds of one sample.

    ``weight_bytes``: as the graph stores them. ``packed_bytes``: as they could be stored with what the steps tell of
    sparsity, codebooks and bits; no runtime needs to be able to run that.
    """

    parameters: int
    nonzero_parameters: int
    weight_bytes: int
    packed_bytes: int
    macs: int
    layers: int  # nodes that compute

    @property
    def zeros(self) -> float:
        """The fraction of the parameters that is zero."""
        return 1 - self.nonzero_parameters / self.parameters if self.parameters else 0.0


class LayerFacts(Record, frozen=True, kw_only=True):
    """One layer before or after. ``macs``: multiply-adds of one sample."""

    layer: str
    op: str
    weight_shape: tuple[int, ...]
    parameters: int
    nonzero_parameters: int
    macs: int | Missing


class GraphCheck(Record, frozen=True, kw_only=True):
    """The compressed graph held against itself: ONNX Runtime beside the torch view, on the first batch of the data.

    ``max_relative``: the largest difference over the largest value of the output.
    """

    outputs: int
    max_relative: float
    layers: int  # nodes that compute


class CompressRequest(Record, frozen=True, kw_only=True):
    """A whole ``hwbench compress`` request, resolved: repairs are among the steps.

    ``verify`` says how before and after are to be judged; its ``model`` is filled in.
    """

    model: str
    steps: tuple[Step, ...]
    data: str | None  # to learn from
    preprocess: str | None
    samples: int  # at most so many of the data
    batch_size: int  # of training and statistics
    shapes: dict[str, tuple[int, ...]]
    verify: VerifyRequest | Missing = Missing(code="not_asked", why="nobody asked for it")
    emit: tuple[Literal["onnx", "torch"], ...] = ("onnx",)
    training_device: str = "cpu"  # torch's name
    replace: bool = False
    resume: bool = False
    device: str
    threads: int
    seed: int
    timeout_s: float


class CompressJob(Record, frozen=True, kw_only=True):
    """A network to compress, in a child; ``target`` gets the files."""

    imported: ImportResult
    other_batch: ImportResult | None  # the same network at another batch size: tells what depends on it
    request: CompressRequest
    data: DataFacts | None
    data_folder: str | None
    target: str


class Compressed(Record, frozen=True, kw_only=True):
    """What the child leaves: the files, relative to the target, and what was done.

    ``transferred``: the network has another task now, so that it cannot be held against the original.
    """

    files: tuple[str, ...]
    sha256: str  # over the files
    applied: tuple[Applied, ...]
    before: NetworkFacts
    after: NetworkFacts
    layers_before: tuple[LayerFacts, ...]
    layers_after: tuple[LayerFacts, ...]
    check: GraphCheck
    transferred: bool = False
    batch_size: int | Missing  # what the compressed graph's batch axis is fixed to; Missing: it is open
    warnings: tuple[str, ...] = ()


class LearnedFrom(Record, frozen=True, kw_only=True, tag_field="kind", tag="learned_from"):
    """The data that statistics, repairs and training have seen."""

    facts: DataFacts


class Judged(Record, frozen=True, kw_only=True, tag_field="kind", tag="judged"):
    """Before and after on data: the first row of ``found`` is the original's, unless the network has a new task."""

    found: Verification


class CompressionResult(Record, frozen=True, kw_only=True):
    """The file ``hwbench compress`` writes: ``compression.json``."""

    schema_version: int
    created_at: str
    request: CompressRequest
    environment: Environment
    model: Model
    learned_from: LearnedFrom | Missing
    compressed: Compressed
    verification: Judged | Missing
    took_s: float
    warnings: tuple[str, ...] = ()
