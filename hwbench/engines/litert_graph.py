"""A ``.tflite`` model opened for editing: its operators and tensors, names, and writing it again.

The converter of litert-torch writes one subgraph; so do the zoo files of TensorFlow. A file with more is refused, since
nothing here looks inside a loop or a call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwbench.errors import EngineError

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]

# Numpy's names of the types that a weight or a shape can be stored in.
_NUMPY = {
    "FLOAT32": "float32",
    "FLOAT16": "float16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "BOOL": "bool",
}


@dataclass(frozen=True, kw_only=True)
class Op:
    """One operator: ``inputs`` are the tensors that are computed, ``constants`` those that are stored in the file."""

    index: int
    kind: str  # CONV_2D
    inputs: tuple[int, ...]
    constants: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def output(self) -> int:
        """The first output: what the operator goes by."""
        return self.outputs[0]


class FileGraph:
    """A model with one subgraph. Tensors are numbers; operators are in the order they run."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert.tools import flatbuffer_utils

        self._model: Any = flatbuffer_utils.read_model_from_bytearray(memoryview(content))
        if len(self._model.subgraphs) != 1:
            raise EngineError(
                f"the LiteRT file has {len(self._model.subgraphs)} subgraphs, and only one can be lowered"
            )
        self._graph: Any = self._model.subgraphs[0]
        self.ops = self._read()

    def _read(self) -> tuple[Op, ...]:
        from ai_edge_litert.tools import flatbuffer_utils

        ops: list[Op] = []
        for index, op in enumerate(self._graph.operators):
            used = [int(tensor) for tensor in op.inputs if tensor >= 0]
            ops.append(
                Op(
                    index=index,
                    kind=flatbuffer_utils.opcode_to_name(self._model, op.opcodeIndex) or "UNKNOWN",
                    inputs=tuple(tensor for tensor in used if not self.is_constant(tensor)),
                    constants=tuple(tensor for tensor in used if self.is_constant(tensor)),
                    outputs=tuple(int(tensor) for tensor in op.outputs),
                )
            )
        return tuple(ops)

    @property
    def inputs(self) -> tuple[int, ...]:
        """The model's inputs, in order."""
        return tuple(int(tensor) for tensor in self._graph.inputs)

    @property
    def outputs(self) -> tuple[int, ...]:
        """The model's outputs, in order."""
        return tuple(int(tensor) for tensor in self._graph.outputs)

    def name(self, tensor: int) -> str:
        """Return a tensor's name."""
        return str(self._graph.tensors[tensor].name.decode())

    def is_float(self, tensor: int) -> bool:
        """Say whether a tensor is in 32-bit floating point."""
        return self._kind(tensor) == "FLOAT32"

    def is_wide(self, tensor: int) -> bool:
        """Say whether a tensor is of 64-bit integers."""
        return self._kind(tensor) == "INT64"

    def is_constant(self, tensor: int) -> bool:
        """Say whether a tensor is stored in the file."""
        data = self._model.buffers[self._graph.tensors[tensor].buffer].data
        return data is not None and len(data) > 0

    def rank(self, tensor: int) -> int:
        """Return how many axes a tensor has."""
        shape = self._graph.tensors[tensor].shape
        return 0 if shape is None else len(shape)

    def constant(self, tensor: int) -> Array:
        """Return the values of a tensor that is stored in the file, in its own shape."""
        stored = self._graph.tensors[tensor]
        data = bytes(self._model.buffers[stored.buffer].data)
        shape = [] if stored.shape is None else [int(size) for size in stored.shape]
        return np.frombuffer(data, _NUMPY[self._kind(tensor)]).reshape(shape)

    def weight_of(self, op: Op) -> int | None:
        """Return the stored tensor that an operator multiplies with, or None where both factors are computed."""
        place = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1, "BATCH_MATMUL": 1}
        tensor = int(self._graph.operators[op.index].inputs[place[op.kind]]) if op.kind in place else -1
        return tensor if tensor in op.constants else None

    def bias_of(self, op: Op) -> int | None:
        """Return the stored tensor that an operator with a weight adds to its products, or None."""
        place = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
        used = self._graph.operators[op.index].inputs
        tensor = int(used[place[op.kind]]) if op.kind in place and len(used) > place[op.kind] else -1
        return tensor if tensor in op.constants else None

    def rename(self, tensor: int, name: str) -> None:
        """Give a tensor a name."""
        self._graph.tensors[tensor].name = name.encode()

    def sign(self, inputs: Iterable[str], outputs: Iterable[str]) -> None:
        """Call the model's inputs and outputs, in order, by these names: in its signature, and the inputs' tensors."""
        (signature,) = self._model.signatureDefs
        for names, places, entries in (
            (tuple(inputs), self.inputs, signature.inputs),
            (tuple(outputs), self.outputs, signature.outputs),
        ):
            entry_of = {int(entry.tensorIndex): entry for entry in entries}
            if len(names) != len(places) or set(places) != set(entry_of):
                raise EngineError(f"the LiteRT file has {len(entries)} inputs or outputs where there should be {names}")
            for name, place in zip(names, places, strict=True):
                entry_of[place].name = name.encode()
        for name, place in zip(tuple(inputs), self.inputs, strict=True):
            self.rename(place, name)

    def bypass(self, ops: Iterable[Op]) -> None:
        """Take out operators that hand their one input on, so that their consumers read it directly."""
        instead = {op.output: op.inputs[0] for op in ops}
        gone = {op.index for op in ops}

        def read(tensor: int) -> int:
            while tensor in instead:
                tensor = instead[tensor]
            return tensor

        kept = [op for index, op in enumerate(self._graph.operators) if index not in gone]
        for op in kept:
            op.inputs = [read(int(tensor)) for tensor in op.inputs]
        self._graph.operators = kept
        self.ops = self._read()

    def pad_with_zeros(self, op: Op) -> None:
        """Make a PADV2, which pads with a value of its own, a PAD."""
        from ai_edge_litert import schema_py_generated as schema

        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.PAD
        code.version = 1
        self._model.operatorCodes.append(code)
        stored = self._graph.operators[op.index]
        stored.opcodeIndex = len(self._model.operatorCodes) - 1
        stored.inputs = list(stored.inputs[:2])
        stored.builtinOptionsType = schema.BuiltinOptions.PadOptions
        stored.builtinOptions = schema.PadOptionsT()
        self.ops = self._read()

    def narrow(self, tensor: int) -> None:
        """Store a constant of 64-bit integers in 32 bits.

        Raises:
            EngineError: a value does not fit.
        """
        from ai_edge_litert import schema_py_generated as schema

        wide = self.constant(tensor).astype(np.int64)
        if np.abs(wide).max(initial=0) > np.iinfo(np.int32).max:
            raise EngineError(f"the constant '{self.name(tensor)}' does not fit 32 bits")
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(wide.astype(np.int32).tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        self._graph.tensors[tensor].buffer = len(self._model.buffers) - 1
        self._graph.tensors[tensor].type = schema.TensorType.INT32

    def activation(self, op: Op) -> str:
        """Return the activation that an operator ends with: ``RELU`` and so on, ``NONE`` where it has none."""
        from ai_edge_litert import schema_py_generated as schema

        number = getattr(self._graph.operators[op.index].builtinOptions, "fusedActivationFunction", 0)
        return next(str(name) for name, value in vars(schema.ActivationFunctionType).items() if value == number)

    def keep_outputs(self, before: FileGraph) -> None:
        """Make the outputs what they were in ``before``, in name and type.

        litert-quantizer hands out the rounded form of an output that an int8 operator reads as well.
        """
        (signature,) = self._model.signatureDefs
        entry_of = {entry.name: entry for entry in signature.outputs}
        names = {entry.tensorIndex: entry.name for entry in before._model.signatureDefs[0].outputs}
        outputs = list(self.outputs)
        for place, wanted in enumerate(before.outputs):
            kind = before._kind(wanted)
            if self._kind(outputs[place]) != kind:
                alike = [t for t in range(len(self._graph.tensors)) if self.name(t) == before.name(wanted)]
                outputs[place] = next((t for t in alike if self._kind(t) == kind), outputs[place])
            if self._kind(outputs[place]) != kind:
                raise EngineError(f"output '{before.name(wanted)}' is no longer in {kind} after quantisation")
            entry_of[names[wanted]].tensorIndex = outputs[place]
        self._graph.outputs = outputs

    def to_bytes(self) -> bytes:
        """Return the model as the content of a file."""
        from ai_edge_litert.tools import flatbuffer_utils

        return bytes(flatbuffer_utils.convert_object_to_bytearray(self._model))

    def _kind(self, tensor: int) -> str:
        from ai_edge_litert.tools import flatbuffer_utils

        return str(flatbuffer_utils.type_to_name(self._graph.tensors[tensor].type))
