"""What a plugin must offer.

Protocols, not base classes: nothing is inherited, so a plugin cannot depend on how hwbench is built inside, and hwbench
cannot grow behaviour behind a plugin's back. They are small on purpose; a change here breaks every plugin there is.
The contract suites in ``hwbench.testing`` check an implementation.

A plugin module must import quickly and without its runtime: ``hwbench devices`` loads every one. Import the
runtime in the method that first needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from hwbench.records.base import Missing, Support
from hwbench.records.bundle import Manifest
from hwbench.records.device import Device, Found
from hwbench.records.energy import Channel, Provenance
from hwbench.records.measurement import Built, BuiltLayer
from hwbench.records.memory import RuntimeMemory
from hwbench.records.model import Layer, Model, ModelFiles, TensorSpec
from hwbench.records.quantization import Calibration, Lowered, PrecisionPlan, Scheme
from hwbench.records.transfers import Transfers

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

NOT_NOW = "not_now"  # code of a Missing of a source: no reading this time, ask again
NEEDS_ARTEFACT = "needs_artefact"  # code of a reason: the engine runs only what has been built for it
WRONG_DEVICE = "wrong_device"  # code of a reason: the engine is for another kind of device
NOT_OFFERED = "not_offered"  # code of a Missing in Built.layers: the engine never gives per-layer times

Tensors = Mapping[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]


class DeviceFinder(Protocol):
    """A way to find devices: this machine's CPU, NVML, a Jetson's device tree, adb."""

    name: str

    def find(self) -> Found:
        """Look, within a tenth of a second, without changing anything."""
        ...


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What an engine is asked to build."""

    model: Model
    files: ModelFiles
    device: Device  # where it is to run
    precision: str
    threads: int  # over all streams
    streams: int
    profile_layers: bool  # build so that per-layer times can be read
    workdir: Path  # scratch space of this build, empty


class Bound(Protocol):
    """An executable with its inputs in place."""

    run: Callable[[], object]  # one inference, finished when it returns; called in the timed loop as it is

    def outputs(self) -> Tensors:
        """Return the outputs of the last ``run`` by name, as host arrays."""
        ...


@dataclass(frozen=True, kw_only=True)
class UnitTimes:
    """Times of one executed unit, one per profiled inference, in seconds."""

    unit: BuiltLayer
    times_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """What a runtime's own profiler said over some inferences."""

    units: tuple[UnitTimes, ...]
    end_to_end_s: tuple[float, ...]  # wall time of the same inferences, seen from outside
    method: str


class Runner(Protocol):
    """A compiled model."""

    timed_region: str  # what exactly one ``run`` covers, in words

    def bind(self, inputs: Tensors) -> Bound:
        """Place ``inputs`` and return an executable; several may be bound and run from different threads."""
        ...

    def built(self) -> Built:
        """Tell what was really built, read back from the runtime."""
        ...

    def profile_layers(self, inputs: Tensors, iterations: int) -> LayerProfile | Missing:
        """Time every unit over ``iterations`` inferences, after as much warm-up as it needs."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


@runtime_checkable
class TellsMemory(Protocol):
    """A runner whose runtime tells what memory it holds; a runner need not."""

    def memory(self, inputs: Tensors) -> RuntimeMemory | Missing:
        """Ask the runtime; it may build and run the model once more for it, so after all that is timed."""
        ...


@runtime_checkable
class TimesTransfers(Protocol):
    """A runner whose inferences begin and end in a device's own memory; a runner need not."""

    def transfers(self, inputs: Tensors) -> Transfers | Missing:
        """Time bringing the inputs there and the outputs back; asked after all that is timed."""
        ...


class Program(Protocol):
    """A model that has been read into a runtime and not yet compiled.

    Where the runtime does both in one call, one of the two phases has no time of its own and says so here.
    """

    load_phase: Missing | None
    compile_phase: Missing | None

    def compile(self) -> Runner:
        """Make it executable."""
        ...


class Engine(Protocol):
    """A runtime.

    One that is another in a different setting has an attribute ``variant_of`` with the other's name: it runs only where
    it is named.
    """

    name: str

    def installed(self) -> Support:
        """Say whether the runtime is installed, from package metadata alone."""
        ...

    def supports(self, model: Model, files: ModelFiles, device: Device) -> Support:
        """Say whether this model can run here on that device; imports nothing heavy."""
        ...

    def precisions(self, device: Device) -> tuple[str, ...]:
        """Return the precisions to measure by default on this device, best-known first.

        A name such as ``fp32`` demands that arithmetic; ``auto`` leaves the choice to the runtime, and
        ``Built.precision`` tells what it chose.
        """
        ...

    def start(self) -> str:
        """Import the runtime, set its process-wide state, and return its version."""
        ...

    def load(self, request: BuildRequest) -> Program:
        """Read the model.

        Raises:
            EngineError: the runtime refuses it; the message is the runtime's own, shortened.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class LowerRequest:
    """A network that an engine is asked to write down for its runtime.

    ``files.runtime_graph`` is the float graph, after the repairs of calibration; ``calibration`` has the ranges of its
    tensors, and is None where the plan needs none.
    """

    model: Model
    files: ModelFiles
    plan: PrecisionPlan
    calibration: Calibration | None
    device: Device
    folder: Path  # empty; gets the files
    options: Mapping[str, str] = field(default_factory=dict)  # of the engine's own: --option NAME=VALUE


@runtime_checkable
class Builds(Protocol):
    """An engine that can save what it runs, so that it can be deployed; an engine need not.

    ``load`` of the engine then reads the saved files: ``request.model.artefact`` is set, ``files.runtime_graph`` is its
    first file, and ``request.precision`` is ``auto``.
    """

    schemes: tuple[str, ...]  # of :data:`hwbench.records.quantization.PRECISIONS`, what it can build here

    def lower(self, request: LowerRequest) -> Lowered:
        """Write the engine into ``request.folder``.

        Raises:
            Unsupported: a layer named in the plan cannot have what it is to have, or the default is not offered.
            EngineError: the runtime's own tools fail; the message is theirs, shortened.
        """
        ...


@runtime_checkable
class TakesKernels(Protocol):
    """An engine that builds plans with sparse kernels (:attr:`PrecisionPlan.kernels`); an engine need not.

    What it cannot give a kernel stays dense, and ``Lowered`` says which layer and why.
    """

    takes_kernels: bool  # False: its runtime has no plugins, so every one of these layers stays dense


@runtime_checkable
class TellsSchemes(Protocol):
    """An engine that knows before it builds which schemes a layer can have; an engine need not.

    Of one that does not, each layer that multiplies is offered int8, and what was built is read back.
    """

    one_of: tuple[Scheme, ...]  # schemes of which one network may have but one

    def layer_schemes(self, model: ir.Model, device: Device) -> Mapping[str, Mapping[Scheme, Missing | None]] | Missing:
        """Return by layer its schemes, each with why it is not offered or None where it is; Missing: nobody knows."""
        ...


@runtime_checkable
class BuildsElsewhere(Protocol):
    """An engine that can build for a device that is not attached; an engine need not.

    What it builds there is not loaded. :attr:`Lowered.graph <hwbench.records.quantization.Lowered>` must be set: that
    graph is run in its place, and every number says so.
    """

    def builds_for(self, device: Device) -> Support:
        """Say whether it can build for a device of which only the profile is known, with the cure when not."""
        ...


@runtime_checkable
class TakesOptions(Protocol):
    """An engine whose builds can be told more than precision; an engine need not."""

    options: Mapping[str, str]  # what each means, by name


@runtime_checkable
class ReadsRanges(Protocol):
    """An engine that wants the ranges of activations where nothing is quantised too; an engine need not.

    What overflows a half it then keeps in fp32.
    """

    reads_ranges_of: tuple[str, ...]  # of :data:`hwbench.records.quantization.Floating`


@runtime_checkable
class ShowsLayers(Protocol):
    """An engine whose saved files can be made to put out what is between their layers; an engine need not."""

    def show_layers(self, model: Model, files: ModelFiles, folder: Path) -> tuple[Model, ModelFiles]:
        """Write the file into ``folder`` with every layer's floating-point output an output too; return what it is now.

        Layers go by the names of their tensors in ``model.layers``; what the file has no longer is left out.
        """
        ...


@runtime_checkable
class BringsExample(Protocol):
    """An engine whose bundles get a ``run_example.py`` of its own; an engine need not."""

    def run_example(self, manifest: Manifest) -> str | Missing:
        """Return a program: it feeds ``inputs.npz``, holds the outputs against ``expected.npz``, exits 1 if off.

        Missing: this engine cannot be run without hwbench.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ArtefactFacts:
    """What an engine file says about itself."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[Layer, ...]  # the file's own nodes
    arithmetic: str
    parameters: int
    weight_bytes: int
    files: tuple[str, ...]  # the file and what belongs to it, by name, in its folder


@runtime_checkable
class ReadsArtefacts(Protocol):
    """An engine that takes files of its runtime as they are (``.tflite``, ``.xml``); an engine need not."""

    suffixes: tuple[str, ...]  # with the dot, in lower case

    def describe(self, path: Path, shapes: Mapping[str, tuple[int, ...]], batch_size: int | None) -> ArtefactFacts:
        """Read the file, with its open axes fixed.

        Raises:
            ModelError: it is no such file, it is broken, or an axis is open and nothing says its size.
            UsageError: ``shapes`` do not fit.
        """
        ...


class Source(Protocol):
    """Channels of an instrument that are read in one go."""

    channels: tuple[Channel, ...]
    every_s: float | None  # how often to read while work goes on; None: at the edges of windows alone

    def read(self) -> Sequence[float | Missing]:
        """Read now: a value for each channel, in its unit, or why there is none. As cheap as it can be.

        A channel that fails is not believed from then on, unless the code is ``NOT_NOW``: then nothing was read.
        """
        ...


class Instrument(Protocol):
    """A meter that has been opened: what it reads, and what is known about that."""

    meter: str
    boundary: str  # in words: what the energy is of
    provenance: Provenance
    settings: Mapping[str, str]  # the instrument's own, as found; ``flags``: words to put on every reading
    sources: tuple[Source, ...]

    def close(self) -> None:
        """Free what it holds, and put back what it changed."""
        ...


class Meter(Protocol):
    """An energy instrument. It gives readings; :mod:`hwbench.energy` makes joules of them."""

    name: str
    priority: int  # --meter auto takes the highest of those that can measure the device; 0: only when named

    def supports(self, device: Device) -> Support:
        """Say whether it can measure that device here, with the cure when not."""
        ...

    def open(self, device: Device) -> Instrument | Missing:
        """Return the instrument, ready to be read, or why there is none."""
        ...
