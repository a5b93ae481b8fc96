"""What a model is once it has come in: its hub file, its inputs, its layers."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, check

InputOrigin = Literal["random", "file", "example"]


class TensorSpec(Record, frozen=True, kw_only=True):
    """A named tensor with a fixed shape; ``dtype`` is numpy's name (``float32``, ``int64``)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        check(all(size >= 0 for size in self.shape), f"shape of '{self.name}' must not be negative: {self.shape}")


class Layer(Record, frozen=True, kw_only=True):
    """One node of the hub graph, under the name it keeps in every runtime.

    ``module`` is the path of the torch module it came from, where there was one. ``macs`` counts multiply-adds;
    ``moved_bytes`` is what must cross memory at least once: inputs + weights + outputs.
    """

    name: str
    op: str
    module: str | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: int
    macs: int | Missing
    moved_bytes: int | Missing


class DataFacts(Record, frozen=True, kw_only=True):
    """The data: what the user named, its hash, and whether it has labels."""

    source: str
    sha256: str
    samples: int
    labels: bool


class Artefact(Record, frozen=True, kw_only=True):
    """An engine that has been built and saved: only its runtime can run it, as it is.

    ``sha256`` is over its ``files`` (the first is what the runtime is given to read), each with its name and length
    before it, in order of name: speed and accuracy that carry the same hash are of the same thing. ``label`` says what
    was asked for (``int8``, ``mixed``), or the suffix of a file that came as it is. ``settings`` are the runtime's.
    ``isa``: the CPU extensions without which it does not run, or not as it was built to; ``a|b`` is either of the two.
    """

    engine: str
    sha256: str
    files: tuple[str, ...]
    label: str
    settings: dict[str, str] = {}
    isa: tuple[str, ...] = ()


class Model(Record, frozen=True, kw_only=True):
    """A model in the hub, or one that is an engine already.

    An engine that came as a bundle (``artefact`` is set, kind ``bundle``) has the description of the network that it
    was built from: ``hub_sha256``, layers and costs are the network's. One that came as a file of its runtime (kind
    ``engine``) has what the runtime tells; its ``hub_sha256`` is the artefact's.

    ``source`` is what the user typed. ``source_sha256`` is the hash of the file(s) given, ``hub_sha256`` of the
    hub's graph and weights: two results with the same ``hub_sha256`` ran the same network. ``weights`` says
    whether accuracy may be read into this model: zoo models without training are ``untrained``.
    """

    name: str
    source: str
    kind: Literal["onnx", "torch", "pt2", "zoo", "bundle", "engine"]
    source_sha256: str | Missing
    hub_sha256: str
    weights: Literal["trained", "untrained", "as_given"]
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    input_origin: InputOrigin
    inputs_sha256: str  # of the input values every engine was given
    arithmetic: str  # of most multiply-adds, as the graph has them: fp32, fp16, bf16, fp64, int8
    batch_size: int | Missing
    fixed_axes: dict[str, int] = {}  # dynamic axes of the source, and what they were fixed to
    layers: tuple[Layer, ...]
    parameters: int
    weight_bytes: int
    warnings: tuple[str, ...] = ()
    artefact: Artefact | None = None

    @property
    def macs(self) -> int:
        """Multiply-adds of one inference, over the layers that could be counted."""
        return sum(layer.macs for layer in self.layers if not isinstance(layer.macs, Missing))

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Op types whose cost is not known, sorted."""
        return tuple(sorted({layer.op for layer in self.layers if isinstance(layer.macs, Missing)}))


class ModelFiles(Record, frozen=True, kw_only=True):
    """Where the parts of an imported model lie, all inside one folder.

    ``hub`` is the model as it came in; ``runtime_graph`` is what runtimes build from: the hub after the exact
    rewrites of ``hwbench.graph.lower``, with ``merged`` naming each layer that went into another. ``torch_source``
    names the callable (``file.py:net``, ``pkg.mod:net``, ``zoo:resnet50``) or ``.pt2`` file from which a torch engine
    makes the module again; ``torch_state`` holds the weights it must then load, so that every engine runs the same
    numbers. Where torch could not export the module, ``no_graph`` says why: ``hub`` is not there, and
    ``runtime_graph`` is what the engines that run modules read, the weights.
    """

    folder: str
    hub: str = "model.onnx"
    runtime_graph: str = "model.onnx"
    merged: dict[str, str] = {}
    inputs: str = "inputs.npz"
    torch_source: str | None = None
    torch_state: str | None = None
    no_graph: Missing | None = None


class ImportJob(Record, frozen=True, kw_only=True):
    """A model to bring in, and how its inputs are to be."""

    model: str
    batch_size: int | None
    shapes: dict[str, tuple[int, ...]]
    input_data: str | None
    seed: int


class ImportResult(Record, frozen=True, kw_only=True):
    """The model's description and where its parts lie."""

    model: Model
    files: ModelFiles
