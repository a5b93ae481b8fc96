"""What a ``.tflite`` file says about itself, once the runtime has accepted it and its open axes are fixed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwbench.engines.litert_costs import arithmetic_of, layers_of
from hwbench.engines.litert_file import FileTensor, TfliteFile, read_tflite
from hwbench.errors import ModelError, UsageError
from hwbench.protocols import ArtefactFacts
from hwbench.records.model import TensorSpec

_LONGEST = 300
_FED = {"float32", "float64", "float16", "bool"} | {f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)}
_BROKEN = "not a valid Flatbuffer"
_OTHER_VERSION = "model identifier"


def describe(path: Path, shapes: Mapping[str, tuple[int, ...]], batch_size: int | None) -> ArtefactFacts:
    """Read the file with LiteRT's own kernels, which know every shape, and return what it holds.

    Raises:
        ModelError: it is no such file, it is broken, or it needs what the runtime does not have.
        UsageError: ``shapes`` or ``batch_size`` do not fit its inputs.
    """
    interpreter = _interpreter(path)
    file = read_tflite(path)
    wanted = _wanted(file, shapes, batch_size)
    try:
        for name, shape in wanted.items():
            if shape != file.inputs[name].shape:
                interpreter.resize_tensor_input(file.inputs[name].index, shape)
        interpreter.allocate_tensors()
    except Exception as error:
        raise _model_error(path, error) from error
    found = {int(one["index"]): tuple(int(size) for size in one["shape"]) for one in interpreter.get_tensor_details()}
    layers = layers_of(file, found)
    costed = zip(file.nodes, (layer.macs for layer in layers), strict=True)
    return ArtefactFacts(
        inputs=_specs(file.inputs, found, fed=True),
        outputs=_specs(file.outputs, found, fed=False),
        layers=layers,
        arithmetic=arithmetic_of(costed, file.tensors),
        parameters=sum(layer.parameters for layer in layers),
        weight_bytes=sum(tensor.constant_bytes for tensor in file.tensors),
        files=(path.name,),
    )


def _interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        with path.open("rb") as stream:
            start = stream.read(8)
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror}") from error
    if start[4:8] != b"TFL3":
        raise ModelError(f"'{path}' is no .tflite file: it does not start like one", hint="give the file itself")
    try:
        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        return Interpreter(str(path), experimental_op_resolver_type=resolver)
    except Exception as error:
        raise _model_error(path, error) from error


def _model_error(path: Path, error: Exception) -> ModelError:
    """Say in people's words what LiteRT has against a file; what is not known keeps LiteRT's."""
    text = " ".join(str(error).split())
    if _BROKEN in text or _OTHER_VERSION in text:
        return ModelError(
            f"'{path}' is broken: it starts like a .tflite file, and its tables do not hold together",
            hint="it may be cut off: copy or download it again, and compare sizes",
        )
    if "unresolved custom op" in text.lower():
        name = text.partition("custom op:")[2].strip(" .").split(" ")[0].rstrip(".")
        return ModelError(
            f"'{path}' needs the custom operator {name or 'of a library'}, which LiteRT does not have by itself",
            hint="convert the model without it",
        )
    return ModelError(f"LiteRT cannot prepare '{path}': {text[:_LONGEST]}")


def _wanted(
    file: TfliteFile, shapes: Mapping[str, tuple[int, ...]], batch_size: int | None
) -> dict[str, tuple[int, ...]]:
    """Return the shape of every input. An open axis that nothing speaks of keeps the size it is stored with.

    That is what LiteRT itself would run, and converters store 1.
    """
    for name in shapes:
        if name not in file.inputs:
            raise UsageError(f"--shapes names '{name}', which is no input", hint=f"inputs: {', '.join(file.inputs)}")
    return {name: _shape(name, tensor, shapes.get(name), batch_size) for name, tensor in file.inputs.items()}


def _shape(name: str, tensor: FileTensor, asked: tuple[int, ...] | None, batch_size: int | None) -> tuple[int, ...]:
    shape = list(tensor.shape)
    if asked is not None and len(asked) != len(shape):
        raise UsageError(f"--shapes gives '{name}' {len(asked)} axes, the file has {len(shape)}: {shape}")
    batch = (batch_size, *shape[1:]) if batch_size is not None and shape else shape
    for axis, size in enumerate(batch if asked is None else asked):
        if size != shape[axis] and axis not in tensor.open_axes:
            flag = "--shapes" if asked is not None else "--batch-size"
            raise UsageError(
                f"{flag} gives axis {axis} of '{name}' the size {size}, it is fixed at {shape[axis]} in the file",
                hint="convert the model again with that size, or with the axis left open",
            )
        shape[axis] = size
    if batch_size is not None and asked is not None and shape and shape[0] != batch_size:
        raise UsageError(f"--batch-size {batch_size}: --shapes gives '{name}' the size {shape[0]} on axis 0")
    return tuple(shape)


def _specs(
    ends: Mapping[str, FileTensor], shapes: Mapping[int, tuple[int, ...]], *, fed: bool
) -> tuple[TensorSpec, ...]:
    specs = []
    for name, tensor in ends.items():
        if tensor.dtype not in _FED:
            way = "input" if fed else "output"
            raise ModelError(f"{way} '{name}' holds {tensor.dtype} elements, which hwbench cannot pass on as numbers")
        specs.append(TensorSpec(name=name, dtype=tensor.dtype, shape=shapes.get(tensor.index, tensor.shape)))
    return tuple(specs)
