"""LiteRT's interpreter: XNNPACK for what it takes, LiteRT's own kernels for the rest, or for all."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.engines.edge import require_built, threads_per_stream, translated
from hwbench.engines.litert_costs import arithmetic_of, layers_of
from hwbench.engines.litert_ends import names_in_file
from hwbench.engines.litert_file import FileTensor, TfliteFile, read_tflite
from hwbench.engines.litert_members import built_layers, members_of
from hwbench.engines.litert_partitions import Split, partitions, split_of
from hwbench.engines.litert_profile import profile
from hwbench.errors import EngineError
from hwbench.protocols import BuildRequest, LayerProfile, Tensors
from hwbench.records.base import Missing
from hwbench.records.measurement import Built, Partitions
from hwbench.records.memory import RuntimeMemory

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

XNNPACK, BUILTIN = "xnnpack", "builtin"
_LABELS = {XNNPACK: "XNNPACK", BUILTIN: "LiteRT builtin"}  # both run on the CPU
_NOT_TOLD = Missing(code="not_told", why="LiteRT has no call that tells the size of its arenas")


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
        resolver = OpResolverType.AUTO if self.delegate == XNNPACK else plain
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
        interpreter.reset_all_variables()
        with translated("LiteRT refused the inputs"):
            for name, tensor in self.inputs.items():
                if name not in inputs:
                    raise EngineError(f"LiteRT asks for an input '{name}', there are: {', '.join(inputs)}")
                interpreter.set_tensor(tensor.index, inputs[name])
        run = functools.partial(interpreter.invoke)
        weakref.finalize(run, self.ready.append, interpreter).atexit = False  # to be used again: making one is slow
        return InterpreterBound(run=run, interpreter=interpreter, ends=self.outputs)

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

        units = [(_LABELS[XNNPACK], self.split.parts), (_LABELS[BUILTIN], self.split.left)]
        return Built(
            engine=self.program.engine,
            version=str(ai_edge_litert.__version__),
            precision=self.precision,
            execution_units=tuple(f"CPU ({label})" for label, nodes in units if nodes)
            or (f"CPU ({_LABELS[BUILTIN]})",),
            threads=self.program.threads * self.request.streams,
            settings={"delegate": self.program.delegate, "num_threads": str(self.program.threads)},
            layers=built_layers(self.file, self.members, self.split, _LABELS[XNNPACK]),
            partitions=self._partitions(),
        )

    def _partitions(self) -> Partitions | Missing:
        if self.program.delegate == BUILTIN:
            return Missing(code="no_delegate", why="LiteRT's own kernels run the whole graph")
        return partitions(_LABELS[XNNPACK], self.split, self.file.nodes, self.members.layers)

    def profile_layers(self, inputs: Tensors, iterations: int) -> LayerProfile | Missing:
        names_in, _ = names_in_file(self.request.model, self.file)
        return profile(
            self.program.path,
            self.file,
            self.split,
            self.members,
            inputs={names_in[name]: array for name, array in inputs.items() if name in names_in},
            builtin=self.program.delegate == BUILTIN,
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
