"""LiteRT (formerly TensorFlow Lite) on the CPU: ``.tflite`` files, as they are.

Four engines share the files and differ in who runs the nodes. They can stand side by side in one result:

* ``litert``: the XNNPACK delegate, which LiteRT takes by itself, and LiteRT's own kernels for what it leaves;
* ``litert-builtin``: LiteRT's own kernels alone;
* ``litert-webgpu`` and ``litert-openvino``: the accelerators of :mod:`hwbench.engines.litert_accelerated`.

Only the first runs unasked. An artefact's ``settings["delegate"]`` makes it take another of the four.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hwbench.engines.edge import (
    artefact_of_another,
    installed,
    require_built,
    require_precision,
    threads_per_stream,
    translated,
)
from hwbench.engines.litert_costs import arithmetic_of, layers_of
from hwbench.engines.litert_describe import describe
from hwbench.engines.litert_file import FileTensor, TfliteFile, read_tflite
from hwbench.engines.litert_members import built_layers, members_of
from hwbench.engines.litert_partitions import Split, partitions, split_of
from hwbench.engines.litert_profile import profile
from hwbench.errors import EngineError
from hwbench.protocols import ArtefactFacts, BuildRequest, LayerProfile, Program, Tensors
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.measurement import Built, Partitions
from hwbench.records.memory import RuntimeMemory
from hwbench.records.model import Model, ModelFiles, TensorSpec

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

PACKAGE = "ai-edge-litert"
_ENGINE = "litert"  # the one that artefacts name
_NOT_TOLD = Missing(code="not_told", why="LiteRT has no call that tells the size of its arenas")
_XNNPACK, _BUILTIN = "xnnpack", "builtin"


class LiteRt:
    """``ai-edge-litert`` with its default delegate, XNNPACK."""

    name = _ENGINE
    delegate: ClassVar[str] = _XNNPACK
    offered: ClassVar[tuple[str, ...]] = ("auto", "fp32", "fp16", "int8", "int8-dynamic", "int16")  # by the file
    suffixes: tuple[str, ...] = (".tflite",)

    def installed(self) -> Support:
        return installed(PACKAGE, "mobile")

    def supports(self, model: Model, files: ModelFiles, device: Device) -> Support:
        if device.kind != "cpu":
            return unsupported("wrong_device", f"this engine runs on the CPU, not on '{device.name}'")
        if model.artefact is None:
            cure = f"hwbench build --engine {_ENGINE}, and name the bundle; or name a .tflite file"
            return unsupported("needs_artefact", "LiteRT runs .tflite files, and this model is none", cure)
        return artefact_of_another(model, _ENGINE) or self.installed()

    def precisions(self, device: Device) -> tuple[str, ...]:
        """``auto`` alone: the file says in what each node computes."""
        return ("auto",)

    def start(self) -> str:
        with translated("importing ai_edge_litert"):
            import ai_edge_litert
        return str(ai_edge_litert.__version__)

    def load(self, request: BuildRequest) -> Program:
        require_precision(self.name, request.precision, self.offered)
        artefact = request.model.artefact
        delegate = self.delegate
        if self.name == _ENGINE and artefact is not None:
            delegate = artefact.settings.get("delegate", delegate)
        return _program(self.name, delegate, request)

    def describe(self, path: Path, shapes: Mapping[str, tuple[int, ...]], batch_size: int | None) -> ArtefactFacts:
        return describe(path, shapes, batch_size)


class LiteRtBuiltin(LiteRt):
    """LiteRT's own kernels, with no delegate."""

    name = "litert-builtin"
    delegate = _BUILTIN
    variant_of = _ENGINE


def _program(engine: str, delegate: str, request: BuildRequest) -> Program:
    if delegate in {_XNNPACK, _BUILTIN}:
        return InterpreterProgram(engine, delegate, request)
    from hwbench.engines.litert_accelerated import ACCELERATORS, AcceleratedProgram

    if delegate not in ACCELERATORS:
        msg = f"there is no LiteRT delegate '{delegate}'"
        raise EngineError(msg, hint=f"there are: {_XNNPACK}, {_BUILTIN}, {', '.join(ACCELERATORS)}")
    return AcceleratedProgram(engine, ACCELERATORS[delegate], request)


class InterpreterProgram:
    """A file read into an interpreter, without memory for its tensors."""

    load_phase: Missing | None = None
    compile_phase: Missing | None = None

    def __init__(self, engine: str, delegate: str, request: BuildRequest) -> None:
        self.engine = engine
        self.delegate = delegate
        self.request = request
        self.path = Path(request.files.folder) / request.files.runtime_graph
        self.threads = threads_per_stream(request.threads, request.streams)
        self.interpreter = self._read()

    def _read(self) -> Interpreter:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        resolver = OpResolverType.AUTO if self.delegate == _XNNPACK else plain
        with translated("LiteRT refused the model"):
            return Interpreter(str(self.path), num_threads=self.threads, experimental_op_resolver_type=resolver)

    def compile(self) -> InterpreterRunner:
        runner = InterpreterRunner(self, read_tflite(self.path))
        runner.prepare(self.interpreter)
        if self.request.precision != "auto":
            require_built(self.engine, self.request.precision, runner.precision)
        return runner

    def another(self) -> Interpreter:
        """Return an interpreter of its own for one more bound executable: one cannot run in two threads."""
        return self._read()


@dataclass(kw_only=True)
class InterpreterBound:
    """An interpreter with its inputs set."""

    run: Callable[[], object]
    interpreter: Interpreter
    ends: dict[str, FileTensor]

    def outputs(self) -> Tensors:
        return {name: self.interpreter.get_tensor(tensor.index) for name, tensor in self.ends.items()}


class InterpreterRunner:
    """A compiled file; each bound executable has an interpreter of its own."""

    timed_region = "Interpreter.invoke: inputs in the interpreter's memory to outputs in the interpreter's memory"

    def __init__(self, program: InterpreterProgram, file: TfliteFile) -> None:
        self.program = program
        self.request = program.request
        self.file = file
        self.members = members_of(file, self.request.model, self.request.files)
        names_in, names_out = names_in_file(self.request.model, file)
        self.inputs = {name: file.inputs[own] for name, own in names_in.items()}
        self.outputs = {name: file.outputs[own] for name, own in names_out.items()}
        self.ready: list[Interpreter] = []
        self.details: list[dict[str, Any]] = []

    def prepare(self, interpreter: Interpreter) -> None:
        """Give an interpreter the model's shapes and memory for its tensors; the delegate takes its nodes here."""
        with translated("LiteRT refused the model"):
            for spec in self.request.model.inputs:
                if spec.shape != self.inputs[spec.name].shape:
                    interpreter.resize_tensor_input(self.inputs[spec.name].index, spec.shape, strict=True)
            interpreter.allocate_tensors()
        self.details = interpreter._get_ops_details()
        self.ready.append(interpreter)

    def bind(self, inputs: Tensors) -> InterpreterBound:
        if not self.ready:
            self.prepare(self.program.another())
        interpreter = self.ready.pop()
        with translated("LiteRT refused the inputs"):
            for name, tensor in self.inputs.items():
                if name not in inputs:
                    raise EngineError(f"LiteRT asks for an input '{name}', there are: {', '.join(inputs)}")
                interpreter.set_tensor(tensor.index, inputs[name])
        return InterpreterBound(run=interpreter.invoke, interpreter=interpreter, ends=self.outputs)

    @cached_property
    def split(self) -> Split:
        """Which nodes the delegate took."""
        return split_of(self.file, self.details)

    @cached_property
    def precision(self) -> str:
        """In what most multiply-adds are done, by the types of the tensors."""
        shapes = {tensor.index: tensor.shape for tensor in self.file.tensors}
        macs = (layer.macs for layer in layers_of(self.file, shapes))
        return arithmetic_of(zip(self.file.nodes, macs, strict=True), self.file.tensors)

    def built(self) -> Built:
        import ai_edge_litert

        units = [(_LABELS[_XNNPACK], self.split.parts), (_LABELS[_BUILTIN], self.split.left)]
        return Built(
            engine=self.program.engine,
            version=str(ai_edge_litert.__version__),
            precision=self.precision,
            execution_units=tuple(label for label, nodes in units if nodes) or (_LABELS[_BUILTIN],),
            threads=self.program.threads * self.request.streams,
            settings={"delegate": self.program.delegate, "num_threads": str(self.program.threads)},
            layers=built_layers(self.file, self.members, self.split, _LABELS[_XNNPACK]),
            partitions=self._partitions(),
        )

    def _partitions(self) -> Partitions | Missing:
        if self.program.delegate == _BUILTIN:
            return Missing(code="no_delegate", why="LiteRT's own kernels run the whole graph")
        return partitions(_LABELS[_XNNPACK], self.split, self.file.nodes, self.members.layers)

    def profile_layers(self, inputs: Tensors, iterations: int) -> LayerProfile | Missing:
        names_in, names_out = names_in_file(self.request.model, self.file)
        return profile(
            self.program.path,
            self.file,
            self.split,
            self.members,
            inputs={names_in[name]: array for name, array in inputs.items() if name in names_in},
            output_shapes={names_out[spec.name]: spec.shape for spec in self.request.model.outputs},
            builtin=self.program.delegate == _BUILTIN,
            threads=self.program.threads,
            iterations=iterations,
        )

    def memory(self, inputs: Tensors) -> RuntimeMemory | Missing:
        """Add up the file's constants; nothing else is told."""
        return RuntimeMemory(
            weights_bytes=sum(tensor.constant_bytes for tensor in self.file.tensors),
            activations_bytes=_NOT_TOLD,
            workspace_bytes=_NOT_TOLD,
            arena_bytes=_NOT_TOLD,
            method="LiteRT: constants of the file, without the copies that XNNPACK packs",
        )

    def close(self) -> None:
        self.ready.clear()
        with contextlib.suppress(AttributeError):  # closed before
            del self.program.interpreter


_LABELS = {_XNNPACK: "XNNPACK", _BUILTIN: "LiteRT builtin"}


def names_in_file(model: Model, file: TfliteFile) -> tuple[dict[str, str], dict[str, str]]:
    """Return what the file calls the model's inputs and outputs: by its signature's names, else by its tensors'.

    Raises:
        EngineError: the file has none of that name.
    """
    return _names(model.inputs, file.inputs, "input"), _names(model.outputs, file.outputs, "output")


def _names(specs: Sequence[TensorSpec], ends: Mapping[str, FileTensor], way: str) -> dict[str, str]:
    by_tensor = {tensor.name: name for name, tensor in ends.items()}
    found = {}
    for spec in specs:
        name = spec.name if spec.name in ends else by_tensor.get(spec.name)
        if name is None:
            raise EngineError(f"the .tflite file has no {way} '{spec.name}', it has: {', '.join(ends)}")
        found[spec.name] = name
    return found
