"""A model of LiteRT's ``CompiledModel`` with buffers of its own for what goes in and comes out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwbench.engines.litert_file import FileTensor, TfliteFile
from hwbench.errors import EngineError
from hwbench.protocols import Tensors
from hwbench.records.model import Model, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from ai_edge_litert.compiled_model import CompiledModel


class BufferedModel:
    """A compiled model with its inputs written; ``run`` ends with the outputs in numpy arrays.

    Reading them is part of an inference: a GPU's ``run_by_index`` returns when the work is queued.
    """

    def __init__(self, compiled: CompiledModel, file: TfliteFile, model: Model, inputs: Tensors) -> None:
        import numpy as np

        self._compiled = compiled
        self._index = file.signature_index
        self._given = compiled.create_input_buffers(self._index)
        self._read = compiled.create_output_buffers(self._index)
        names_in, names_out = names_in_file(model, file)
        for own, buffer in zip(order_of(compiled, file, "inputs"), self._given, strict=True):
            name = next(name for name, found in names_in.items() if found == own)
            if name not in inputs:
                raise EngineError(f"LiteRT asks for an input '{name}', there are: {', '.join(inputs)}")
            buffer.write(np.ascontiguousarray(inputs[name]))
        order = order_of(compiled, file, "outputs")
        self._shapes = {spec.name: spec.shape for spec in model.outputs}
        self._plan = [
            (spec.name, self._read[order.index(names_out[spec.name])], math.prod(spec.shape), np.dtype(spec.dtype))
            for spec in model.outputs
        ]
        self._last: dict[str, np.ndarray[Any, Any]] = {}

    def run(self) -> object:
        """Run one inference and read its outputs."""
        self._compiled.run_by_index(self._index, self._given, self._read)
        self._last = {name: buffer.read(count, kind) for name, buffer, count, kind in self._plan}
        return self._last

    def outputs(self) -> Tensors:
        return {name: array.reshape(self._shapes[name]) for name, array in self._last.items()}


def order_of(compiled: CompiledModel, file: TfliteFile, way: str) -> list[str]:
    """Return the file's names of the ``inputs`` or ``outputs``, in the order of the compiled model's buffers."""
    ends = file.inputs if way == "inputs" else file.outputs
    by_tensor = {tensor.name: name for name, tensor in ends.items()}
    told = list(compiled.get_signature_list().values())[file.signature_index][way]
    return [name if name in ends else by_tensor[name] for name in told]


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
