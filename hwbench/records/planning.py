"""What can be chosen for the parts of a network, what that costs and loses, and what was chosen.

A *site* is a place where something is chosen: the precision of a layer, the width of a group of channels, whether a
block stays, whether one layer stands for it, the rank of a layer. A *design* is one choice at every site. A *cluster*
is a layer that multiplies with the layers behind it that do not: what runtimes tend to fuse, and what a cost is known
of.
"""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, check, check_finite
from hwbench.records.compression import Step
from hwbench.records.energy import Provenance
from hwbench.records.quantization import Floating, Scheme

SiteKind = Literal["precision", "width", "depth", "replace", "rank"]
Objective = Literal["latency", "energy", "memory", "accuracy"]  # what plans are solved for
TWO_FOUR = "2:4"  # two of four neighbours are zero, for a runtime that has kernels of its own for it


class Zeros(Record, frozen=True, kw_only=True):
    """That a layer is pruned for a kernel that skips zeros.

    ``format``: of :data:`hwbench.sparse.formats.FORMATS`, whose kernel is hwbench's, or :data:`TWO_FOUR`, whose kernels
    are the runtime's own. ``sparsity``: the fraction of its weights that is zero.
    """

    format: str
    sparsity: float

    def __post_init__(self) -> None:
        check(0 < self.sparsity < 1, "sparsity is a fraction between 0 and 1")


def name_of(zeros: Zeros, scheme: Scheme = "float") -> str:
    """Return the name of the option of some zeros: ``vw16 at 70 %``, ``int8, 2:4``."""
    name = TWO_FOUR if zeros.format == TWO_FOUR else f"{zeros.format} at {100 * zeros.sparsity:.0f} %"
    return name if scheme == "float" else f"{scheme}, {name}"


class Option(Record, frozen=True, kw_only=True):
    """One way for a site; the first option of every site leaves the network as it is.

    ``name`` is for people: ``int8``, ``vw16 at 70 %``, ``48 of 64``, ``dropped``, ``rank 32``. The field of the site's
    kind is set.
    """

    name: str
    scheme: Scheme | None = None  # precision
    zeros: Zeros | None = None  # precision: with it, since a kernel takes values of one kind in one format
    units: int | None = None  # width: how many units of the group stay
    dropped: bool = False  # depth
    replaced: bool = False  # replace: the first layer of the block does the work of all of it
    rank: int | None = None  # rank: of the two factors; None: the layer stays one

    @property
    def takes_out(self) -> bool:
        """Whether the clusters that lie in what the site is about go."""
        return self.dropped or self.replaced


class Site(Record, frozen=True, kw_only=True):
    """A place where something is chosen. ``about``: the layer, the group of channels or the block, by its hub name."""

    kind: SiteKind
    about: str
    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        check(len(self.options) > 1, f"{self.name}: a site needs two options")

    @property
    def name(self) -> str:
        """What it goes by: ``width:layer1.0.conv1``."""
        return f"{self.kind}:{self.about}"


class NoSite(Record, frozen=True, kw_only=True):
    """A layer, group or block at which nothing can be chosen, and why."""

    kind: SiteKind
    about: str
    reason: Missing


class Cluster(Record, frozen=True, kw_only=True):
    """A layer that multiplies (the first of ``layers``), and the layers behind it that do not.

    ``kind`` says what shares a cost curve: operator, kernel, stride, and what follows. Counts are of one inference at
    full size. ``widths_in`` and ``widths_out``: by width site, the channels that one unit of the group stands for at
    the input and the output of the first layer. ``depthwise``: input and output channels are the same ones.
    ``readers``: the clusters that read the result, with the elements of the tensor that lies between. ``blocks``: the
    depth and replace sites that take it out. ``replace``: the site that lets its first layer stand for a whole block,
    and ``widths_alone`` the ``widths_out`` that it has then.
    """

    name: str  # of the first layer
    layers: tuple[str, ...]
    kind: str
    channels_in: int
    channels_out: int
    groups: int
    macs: int
    elements_in: int
    elements_out: int
    weights: int
    depthwise: bool
    widths_in: dict[str, int]
    widths_out: dict[str, int]
    precision: str | None  # its sites, by name
    rank: str | None
    blocks: tuple[str, ...]
    readers: dict[str, int] = {}
    replace: str | None = None
    widths_alone: dict[str, int] = {}


class Sizes(Record, frozen=True, kw_only=True):
    """How large a cluster is in a design. ``rank``: of its two factors; 0: it is one layer."""

    channels_in: int
    channels_out: int
    macs: int
    elements_in: int
    elements_out: int
    weights: int
    rank: int = 0


class Design(Record, frozen=True, kw_only=True):
    """What a network is to become, by the hub's names.

    ``schemes``: by cluster, where it is not float; ``floating`` is the arithmetic of what is. ``widths``: by group, the
    units that stay. ``dropped``: blocks; ``replaced``: those that one layer stands for. ``ranks``: by layer.
    ``zeros``: by cluster, whose first layer has them.
    """

    floating: Floating = "auto"
    schemes: dict[str, Scheme] = {}
    widths: dict[str, int] = {}
    dropped: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    ranks: dict[str, int] = {}
    zeros: dict[str, Zeros] = {}

    @property
    def cuts(self) -> bool:
        """Whether the network itself is changed, and not its precisions alone."""
        return bool(self.widths or self.dropped or self.replaced or self.ranks or self.zeros)

    def of(self, cluster: str) -> Scheme:
        """Return the scheme of a cluster."""
        return self.schemes.get(cluster, "float")


class Space(Record, frozen=True, kw_only=True):
    """All that can be chosen for one network: sites in graph order, and the clusters whose cost depends on them.

    ``exact``: steps that were done before, without changing what the network computes; every design begins with them.
    """

    hub_sha256: str
    exact: tuple[Step, ...] = ()
    sites: tuple[Site, ...]
    clusters: tuple[Cluster, ...]
    left_alone: tuple[NoSite, ...] = ()


class Platform(Record, frozen=True, kw_only=True):
    """What a cost is of: a device, a runtime in one version, and how it is run. Costs of others are never mixed in."""

    device: str  # fingerprint
    title: str
    engine: str
    version: str
    isa: tuple[str, ...]
    threads: int
    batch_size: int | Missing
    floating: Floating
    power_mode: str | Missing


class ClusterTime(Record, frozen=True, kw_only=True):
    """What one cluster took in one built network. ``scheme``: what was built, not what was asked for.

    ``kernel``: of the unit that its first layer ran in, where the runtime tells. ``units``: how many were booked on it.
    ``shared``: over how many clusters a unit of it was shared out, 1 where each was its own; the sum over those is
    measured, and what each has of it goes by its work. ``spread_s``: standard deviation over the profiled inferences
    that ``time_s`` is the mean of.
    """

    cluster: str
    kind: str
    scheme: Scheme
    sizes: Sizes
    time_s: float
    kernel: str | None = None
    units: int = 1
    shared: int = 1
    spread_s: float | Missing = Missing(code="not_kept", why="how times vary between inferences was not kept")

    def __post_init__(self) -> None:
        check_finite(self, "time_s", "spread_s")


class BorderTime(Record, frozen=True, kw_only=True):
    """Units that a runtime inserted (conversions, reorders): their whole time, and between which schemes elements pass.

    ``elements``: by ``float>int8`` and the like, how many elements the design takes from one scheme to the other.
    """

    elements: dict[str, int]
    time_s: float
    units: int = 0

    def __post_init__(self) -> None:
        check_finite(self, "time_s")


class Drawn(Record, frozen=True, kw_only=True, tag_field="kind", tag="drawn"):
    """What a network drew from a meter: ``energy_j`` of one inference, of so many one after the other in ``window_s``.

    ``relative_uncertainty`` is k=2, of the meter; ``provenance`` and ``flags`` as
    :class:`hwbench.records.energy.EnergyReading` has them.
    """

    energy_j: float
    inferences: int
    window_s: float
    relative_uncertainty: float
    meter: str
    boundary: str
    provenance: Provenance
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_finite(self, "energy_j", "window_s", "relative_uncertainty")
        check(self.inferences > 0, "a window without inferences says nothing")


class CostSample(Record, frozen=True, kw_only=True):
    """One network built and timed: ``median_s`` of ``samples_ns``, from end to end, and where the time went.

    ``reference_s``: of the unchanged network in float, timed in turn with this one, so that ``median_s / reference_s``
    is the median of the ratios of the two in each turn. A machine that is slower for a while is so for both.
    ``profiled_s``: from end to end while its ``units`` were timed; what that is more is the profiler's, or the machine
    was slower.
    """

    platform: Platform
    hub_sha256: str
    design: Design
    clusters: tuple[ClusterTime, ...]
    border: BorderTime
    samples_ns: tuple[int, ...]
    median_s: float
    reference_s: float | Missing = Missing(code="not_timed", why="no other network was timed beside this one")
    profiled_s: float | Missing = Missing(code="not_timed", why="the profiled inferences were not timed as a whole")
    units: int = 0
    energy: Drawn | Missing = Missing(code="not_asked", why="its energy was not asked for")

    def __post_init__(self) -> None:
        check_finite(self, "median_s", "reference_s", "profiled_s")


class Interval(Record, frozen=True, kw_only=True, tag_field="kind", tag="interval"):
    """A prediction with the interval that holds the truth with ``coverage``.

    ``tier``: ``A`` measured on this device, ``B`` adapted from a probe of it, ``C`` from data sheets. ``n``: how many
    residuals the interval rests on.
    """

    value: float
    low: float
    high: float
    coverage: float
    tier: Literal["A", "B", "C"]
    n: int
    method: str

    def __post_init__(self) -> None:
        check(self.low <= self.value <= self.high, "the interval must contain the value")


class Loss(Record, frozen=True, kw_only=True):
    """What the outputs lose with one option, everything else as it was.

    ``divergence``: KL(original || changed) of the class probabilities, in nats, as a mean over ``n`` samples; where the
    outputs are no scores of classes, ||y' - y||^2 / ||y||^2.
    """

    site: str
    option: str
    divergence: float
    n: int
    how: Literal["forward", "prefix", "screened"]  # run whole, run from where it changes, or told by the pre-screen


class PairLoss(Record, frozen=True, kw_only=True):
    """What two options lose together beyond the sum of what each loses (CLADO, arXiv:2307.05657); may be negative."""

    site: str
    option: str
    other_site: str
    other_option: str
    extra: float


class Sensitivity(Record, frozen=True, kw_only=True):
    """What every option loses."""

    hub_sha256: str
    measure: Literal["kl", "relative"]
    n: int
    losses: tuple[Loss, ...]
    pairs: tuple[PairLoss, ...]
    took_s: float
    notes: tuple[str, ...] = ()


class SparseCost(Record, frozen=True, kw_only=True):
    """What a cluster takes with zeros, over what it takes dense in the same arithmetic: below 1 is a gain.

    ``basis``: ``network`` timed in this network on this device; ``table`` read from a table of products that was
    measured on this GPU (``hwbench kernels``); ``model`` from its data sheet, not measured. ``why``: in words.
    ``scheme``: of what is not zero, in both. ``error``: how far the ratio may be off by the noise of the two timings; 0
    where it was not timed in this network.
    """

    cluster: str
    zeros: Zeros
    ratio: float
    basis: Literal["network", "table", "model"]
    why: str
    scheme: Scheme = "float"
    error: float = 0.0

    def __post_init__(self) -> None:
        check_finite(self, "ratio", "error")

    @property
    def gains(self) -> bool:
        """Whether it is faster with zeros, by more than chance."""
        return self.ratio < 1 - self.error


class NotOffered(Record, frozen=True, kw_only=True):
    """What a layer is not offered for one runtime, and why. ``way``: a scheme, or ``zeros``."""

    layer: str
    way: str
    reason: Missing


class Decision(Record, frozen=True, kw_only=True):
    """What was chosen at one site, what came second, and what that would cost.

    ``latency_s`` and ``loss``: of the runner-up, minus those of the plan, everything else the same.
    """

    site: str
    option: str
    runner_up: str | Missing
    latency_s: float | Missing
    loss: float | Missing
    why: str


class Solved(Record, frozen=True, kw_only=True):
    """The answer of the solver for one budget. ``gap``: how far the bound is from the objective, as a fraction.

    ``memory_bytes``: the peak of weights and of the activations that are alive together; a runtime takes more.
    """

    budget: float
    design: Design
    latency_s: float  # the sum of the parts and the start, as the solver had them
    loss: float
    weight_bytes: int
    memory_bytes: int | Missing = Missing(code="not_told", why="an older hwbench did not write it down")
    status: Literal["optimal", "time_limit", "infeasible"]
    gap: float
    took_s: float
    decisions: tuple[Decision, ...] = ()
