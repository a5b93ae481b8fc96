"""What was measured: raw samples first, everything computed from them beside, and the verdict on both."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, check, check_finite
from hwbench.records.device import Device, Environment, HostState
from hwbench.records.energy import EnergyEstimate, EnergyReading, EnergyRun
from hwbench.records.memory import GpuMemory, RuntimeMemory
from hwbench.records.model import Model
from hwbench.records.modes import BuildVariance, ColdRun, PresetCheck, Series, ServerRun, SteadyState
from hwbench.records.placement import Requirements, Unmet
from hwbench.records.transfers import Transfers

PROFILE_RESULT_SCHEMA = 1

Mode = Literal[
    "latency",
    "throughput",
    "burst",
    "steady",
    "sustained",
    "server",
    "cold",
    "energy",
]
FEWEST = 6  # samples: fewer have no 95 % interval of the median; even all of them hold it with 1 - 2 / 2^n only
STREAMING: frozenset[Mode] = frozenset({"throughput", "server"})  # several requests may be in flight
NOT_THIS_MODE = "other_mode"  # code of a Missing: another mode measures it


class StopRule(Record, frozen=True, kw_only=True):
    """When to stop: ``name`` of the rule and its settings, as they were used."""

    name: str
    settings: dict[str, float]


class RunSettings(Record, frozen=True, kw_only=True):
    """How an engine is to be run. Nothing optional is left: this is the resolved request for one run.

    ``mode_settings``: what the mode has beside the stop rules, by names with units, such as ``rate_per_s``.
    """

    mode: Mode
    threads: int  # over all streams
    streams: int
    cpus: tuple[int, ...]  # logical CPUs the process is pinned to; empty where the OS cannot pin
    warmup: StopRule
    stop: StopRule
    layers: bool
    meter: str
    seed: int
    mode_settings: dict[str, float] = {}
    preset: str | None = None

    def __post_init__(self) -> None:
        check(self.threads >= 1 and self.streams >= 1, "threads and streams must be at least 1")
        check(self.mode in STREAMING or self.streams == 1, f"{self.mode} mode runs one stream")


class LatencySummary(Record, frozen=True, kw_only=True, tag_field="kind", tag="latency"):
    """Statistics of ``samples_ns``; how each is computed is documented in ``hwbench.stats``.

    A percentile is a value only when the sample supports it: n >= 10/(1-p).
    """

    n: int
    n_effective: float  # after autocorrelation
    median_s: float
    median_low_s: float  # 95 % confidence interval of the median; of fewer than 6 samples the whole range
    median_high_s: float
    mean_s: float
    min_s: float
    max_s: float
    stdev_s: float
    iqr_s: float
    p90_s: float | Missing
    p95_s: float | Missing
    p99_s: float | Missing
    p999_s: float | Missing
    outliers: int  # kept in the samples and in every statistic

    def __post_init__(self) -> None:
        check(self.n > 0, "a summary needs samples")
        check_finite(self, "median_s", "median_low_s", "median_high_s", "mean_s", "min_s", "max_s", "stdev_s", "iqr_s")
        check(self.median_low_s <= self.median_s <= self.median_high_s, "the interval must contain the median")

    @property
    def interval_s(self) -> tuple[float, float] | Missing:
        """The 95 % interval of the median, or why so few samples hold none: then the bounds are just their range."""
        if self.n >= FEWEST:
            return self.median_low_s, self.median_high_s
        why = f"{self.n} samples hold no 95 % interval of the median; {FEWEST} is the least"
        return Missing(code="too_few_samples", why=why, cure="take more")


class Throughput(Record, frozen=True, kw_only=True, tag_field="kind", tag="throughput"):
    """Inferences completed per second with ``streams`` requests in flight; never mixed with latency."""

    streams: int
    batch_size: int | Missing
    inferences: int
    window_s: float
    inferences_per_s: float
    low_per_s: float  # 95 % confidence interval over the sub-windows
    high_per_s: float
    items_per_s: float | Missing  # inferences_per_s x batch_size
    sub_window_per_s: tuple[float, ...]  # rate in each of the equal parts of the window


class Phases(Record, frozen=True, kw_only=True):
    """One-off costs, each in its own right; none of them is in the latency samples.

    ``load``: read the model into the runtime. ``compile``: make it executable. ``first_inference``: the first one after
    that. A runtime that does two of them in one call reports one, and why the other has no value.
    """

    load_s: float | Missing
    compile_s: float | Missing
    first_inference_s: float


class Memory(Record, frozen=True, kw_only=True):
    """Memory of the worker process, in bytes.

    ``baseline``: runtime imported, no model. ``loaded``: model compiled. ``peak_load`` and ``peak_run``:
    high-water marks while loading and while running. PSS counts shared pages by share; RSS counts them whole.
    """

    baseline_rss_bytes: int | Missing
    baseline_pss_bytes: int | Missing
    loaded_rss_bytes: int | Missing
    loaded_pss_bytes: int | Missing
    peak_load_rss_bytes: int | Missing
    peak_run_rss_bytes: int | Missing
    model_file_bytes: int
    method: str


class BuiltLayer(Record, frozen=True, kw_only=True):
    """One unit that the runtime really executes."""

    name: str  # the runtime's own name
    op: str
    members: tuple[str, ...]  # source layers it stands for; empty for what the runtime inserted (reorders, casts)
    kernel: str | Missing
    precision: str | Missing


class LeftNode(Record, frozen=True, kw_only=True):
    """A node that a delegate did not take."""

    name: str
    op: str
    why: str | Missing


class Partitions(Record, frozen=True, kw_only=True, tag_field="kind", tag="partitions"):
    """How a runtime split the graph between a delegate and its own kernels.

    ``parts``: for each partition of the delegate, in order, the source layers in it (a partition may stand for none).
    A delegate may tell how many nodes it took and not which.
    """

    delegate: str
    nodes: int
    delegated: int
    parts: tuple[tuple[str, ...], ...] | Missing
    left: tuple[LeftNode, ...] | Missing

    def __post_init__(self) -> None:
        check(0 <= self.delegated <= self.nodes, "more nodes delegated than there are")


class Built(Record, frozen=True, kw_only=True, tag_field="kind", tag="built"):
    """What the engine really built, read back from the runtime, to be held against what was asked."""

    engine: str
    version: str
    precision: str  # of the arithmetic, as the runtime reports it
    execution_units: tuple[str, ...]  # providers or devices that got work
    threads: int | Missing
    settings: dict[str, str]
    layers: tuple[BuiltLayer, ...] | Missing
    notes: tuple[str, ...] = ()
    partitions: Partitions | Missing = Missing(code="no_delegate", why="this runtime runs the whole graph itself")


class UnitSamples(Record, frozen=True, kw_only=True):
    """One executed unit and its time in each profiled inference."""

    unit: BuiltLayer
    times_s: tuple[float, ...]


class LayerRun(Record, frozen=True, kw_only=True):
    """What the per-layer run brings back: raw times per unit, or why there are none."""

    units: tuple[UnitSamples, ...] | Missing
    end_to_end_s: tuple[float, ...]
    method: str


class LayerTime(Record, frozen=True, kw_only=True):
    """Time of one executed unit, scaled so that the table adds up to the end-to-end median."""

    unit: BuiltLayer
    measured_s: float  # mean over the quiet inferences of the profiling run
    scaled_s: float  # share of the profiling run's end-to-end, applied to the timed median
    share: float
    macs: int | Missing
    moved_bytes: int | Missing


class LayerTable(Record, frozen=True, kw_only=True, tag_field="kind", tag="layers"):
    """Per-layer times from a run of its own, reconciled with the timed run.

    ``sum(scaled_s) + unattributed_s == median_s`` of the timed run. ``unattributed_s`` is what the runtime's own clock
    does not see (dispatch, Python, copies), and is negative where units overlap in time.
    ``profiling_overhead`` is the profiling run's end-to-end median over the timed one's, minus one.
    """

    iterations: int
    median_s: float
    profiled_median_s: float
    profiling_overhead: float
    rows: tuple[LayerTime, ...]
    unattributed_s: float
    method: str


class Parity(Record, frozen=True, kw_only=True, tag_field="kind", tag="parity"):
    """Difference of this engine's outputs from the reference engine's, on the same inputs.

    ``max_relative`` is ``max|y - r| / max|r|`` over all outputs: an error on the scale of the output.
    """

    reference: str
    reference_precision: str
    max_absolute: float
    max_relative: float
    finite: bool  # this engine's outputs; the reference's are, or there is no comparison


class Finding(Record, frozen=True, kw_only=True):
    """Something that speaks against the numbers, why, and what to do."""

    severity: Literal["warning", "invalid"]
    code: str
    why: str
    cure: str


Status = Literal["valid", "suspect", "invalid"]


class Validity(Record, frozen=True, kw_only=True):
    """May these numbers be believed? ``suspect``: with the stated reserve. ``invalid``: no."""

    status: Status
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        check(self.status == _status(self.findings), "status must follow from the findings")


def validity(findings: tuple[Finding, ...]) -> Validity:
    """Return the verdict that follows from ``findings``."""
    return Validity(status=_status(findings), findings=findings)


def _status(findings: tuple[Finding, ...]) -> Status:
    if any(finding.severity == "invalid" for finding in findings):
        return "invalid"
    return "suspect" if findings else "valid"


NOT_SAVED = Missing(
    code="not_saved", why="built in memory from the hub and not saved", cure="hwbench build, and measure the bundle"
)


def artefact_hash(model: Model) -> str | Missing:
    """Return the hash of the engine that a model is, or that it is none."""
    return NOT_SAVED if model.artefact is None else model.artefact.sha256


NO_TRANSFERS = Missing(code="no_transfers", why="this engine does not time copies to a device and back apart")
NO_GPU_MEMORY = Missing(code="not_recorded", why="memory of a GPU was not looked at")


class TimedRun(Record, frozen=True, kw_only=True):
    """What one worker process brings back: raw samples and everything read around them."""

    built: Built
    started_at: str  # UTC
    phases: Phases
    warmup_ns: tuple[int, ...]
    samples_ns: tuple[int, ...]  # one per inference, in order; in throughput mode per request, one stream after another
    timed_region: str
    clock: str
    stopped_by: str
    target_reached: bool  # False: the longest allowed time ended the run before the stop rule's own goal
    window_s: float  # from the first timed inference to the end of the last
    process_cpu_s: float  # CPU time of the worker in that window
    throughput: Throughput | Missing = Missing(
        code=NOT_THIS_MODE, why="measured in another mode", cure="--mode throughput"
    )
    steady_state: SteadyState | Missing = Missing(
        code=NOT_THIS_MODE, why="no plateau was waited for", cure="--mode steady"
    )
    series: Series | Missing = Missing(
        code=NOT_THIS_MODE, why="measured in a mode without a course over time", cure="--mode sustained"
    )
    server: ServerRun | Missing = Missing(code=NOT_THIS_MODE, why="measured in another mode", cure="--mode server")
    cold: ColdRun | Missing = Missing(code=NOT_THIS_MODE, why="measured in another mode", cure="--mode cold")
    energy_run: EnergyRun | Missing = Missing(
        code=NOT_THIS_MODE, why="energy over one window only, not by the plateau method", cure="--mode energy"
    )
    outputs_finite: bool  # no NaN and no infinity in the outputs of the first inference
    memory: Memory
    runtime_memory: RuntimeMemory | Missing
    transfers: Transfers | Missing = NO_TRANSFERS
    gpu_memory_loading: GpuMemory | Missing = NO_GPU_MEMORY  # until the first inference was finished
    gpu_memory: GpuMemory | Missing = NO_GPU_MEMORY  # while inferences ran
    energy: EnergyReading | Missing
    host_before: HostState
    host_after: HostState

    def __post_init__(self) -> None:
        check(bool(self.samples_ns), "a run needs samples")
        check(all(sample >= 0 for sample in self.samples_ns), "samples must not be negative")


class Accuracy(Record, frozen=True, kw_only=True, tag_field="kind", tag="accuracy"):
    """What a verification says of the saved engine that was timed: the first metric, with its 95 % interval.

    ``certificate``: its word, where one was asked for.
    """

    artefact_sha256: str
    data_sha256: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    certificate: str | Missing


NOT_VERIFIED = Missing(
    code="not_verified",
    why="nobody has run this engine over labelled data",
    cure="hwbench verify it with --data, and give what that writes to hwbench report --accuracy",
)


class Measurement(TimedRun, frozen=True, kw_only=True):
    """One engine, one precision, one mode, in a process of its own; the run and what follows from it.

    Where it was built several times, the run is that of the first build, ``more_builds`` holds those of the others, and
    ``latency`` is over the samples of all of them: its median is the mean of the builds' medians, its interval holds
    both that of the samples and what ``builds`` found.
    """

    engine: str
    precision_asked: str
    artefact_sha256: str | Missing = NOT_SAVED
    accuracy: Accuracy | Missing = NOT_SAVED
    settings: RunSettings
    latency: LatencySummary | Missing
    energy_per_inference_j: float | Missing
    energy_estimate: EnergyEstimate | Missing
    parity: Parity | Missing
    layers: LayerTable | Missing
    more_builds: tuple[TimedRun, ...] = ()
    builds: BuildVariance | Missing = Missing(code="one_build", why="built once only", cure="--repeat-build 5")
    unmet: tuple[Unmet, ...] = ()  # of what was required
    preset: PresetCheck | Missing = Missing(code="not_asked", why="no preset was asked for", cure="--preset")
    validity: Validity

    @property
    def label(self) -> str:
        return f"{self.engine} {self.built.precision}"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            isinstance(self.latency, Missing) or isinstance(self.throughput, Missing),
            "latency and throughput are different modes: one measurement holds one of them",
        )


class NotMeasured(Record, frozen=True, kw_only=True):
    """An engine that was considered and gave no numbers. ``failed`` means it should have."""

    engine: str
    precision: str
    reason: Missing
    failed: bool
    log: str | None = None


class ProfileRequest(Record, frozen=True, kw_only=True, tag_field="kind", tag="profile"):
    """A whole ``hwbench profile`` request, resolved: rerunning it asks for the same thing."""

    model: str
    device: str
    engines: tuple[str, ...]
    precisions: tuple[str, ...]  # empty: each engine's own list
    mode: Mode
    batch_size: int | None
    shapes: dict[str, tuple[int, ...]]
    input_data: str | None
    threads: int
    streams: int
    warmup: StopRule
    stop: StopRule
    layers: bool
    meter: str
    seed: int
    timeout_s: float
    mode_settings: dict[str, float] = {}
    repeat_build: int = 1
    preset: str | None = None
    required: Requirements = Requirements()


class ProfileResult(Record, frozen=True, kw_only=True):
    """The file ``hwbench profile`` writes. ``status`` is ``partial`` until the last engine is done."""

    schema_version: int
    run_id: str
    created_at: str
    status: Literal["partial", "interrupted", "complete"]
    request: ProfileRequest
    environment: Environment
    device: Device
    model: Model
    measurements: tuple[Measurement, ...]
    not_measured: tuple[NotMeasured, ...]
    peak_ops_per_s: dict[str, float] = {}  # of the calibration or profile in force, for the roofline
    bandwidth_bytes_per_s: dict[str, float] = {}
    roofline_source: str | Missing
