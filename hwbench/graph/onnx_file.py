"""An ONNX file to the hub: read, checked, its dynamic axes fixed to numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass
from onnxscript import optimizer

from hwbench.errors import ModelError, UsageError

BATCH_NAMES = ("batch", "n", "b", "bs", "batch_size", "batchsize", "none", "unk")
_KNOWN_DOMAINS = ("", "ai.onnx")
_MAX_FOLDED = 1 << 20  # elements

Axis = int | str  # a size, or the name of a dynamic axis


def read_onnx(path: Path) -> ir.Model:
    """Read an ONNX file, and into memory whatever external data it points to.

    Raises:
        ModelError: not ONNX, cut short, external data missing or outside its folder, or an operator ONNX does not have.
    """
    try:
        model = ir.load(path)
        _embed_external(model, path.absolute().parent)
        _touch_weights(model)
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror or error}") from error
    except Exception as error:
        raise ModelError(f"'{path}' is not a valid ONNX file: {_first_line(error)}", hint=_cut_short(path)) from error
    if not model.graph.inputs and not list(model.graph):
        raise ModelError(f"'{path}' holds no graph", hint=_cut_short(path))
    _check_names(model, path)
    _check_wiring(model, path)
    _check_operators(model, path)
    return model


def _embed_external(model: ir.Model, folder: Path) -> None:
    """Read external data into memory, from inside the model's folder only."""
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if isinstance(attribute.value, ir.ExternalTensor):
                raise ModelError(
                    f"the constant in node '{node.name}' lies in '{attribute.value.location}'",
                    hint="hwbench reads external data of initialisers only; save the model with the others inside",
                )
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                _require_data(value.const_value, folder)
                value.const_value.base_dir = folder
    ir.external_data.load_to_model(model)


def _require_data(tensor: ir.ExternalTensor, folder: Path) -> None:
    data = (folder / tensor.location).resolve()
    if not data.is_relative_to(folder.resolve()):
        raise ModelError(
            f"the weight '{tensor.name}' lies in '{tensor.location}', outside the model's folder",
            hint="put the data file, itself and no link to it, beside the model",
        )
    if not data.is_file():
        raise ModelError(
            f"the weight '{tensor.name}' lies in '{tensor.location}', and there is no such file beside the model",
            hint="copy the model together with its external data",
        )
    needed, there = (tensor.offset or 0) + tensor.nbytes, data.stat().st_size
    if there < needed:
        raise ModelError(
            f"'{tensor.location}' has {there} bytes, the weight '{tensor.name}' ends at byte {needed}",
            hint="is the copy complete?",
        )


def _touch_weights(model: ir.Model) -> None:
    """Make every initialiser show its data, so that a short or missing one is found now."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None:
                raise ModelError(f"initialiser '{value.name}' has no data")
            there, said = tensor.numpy().size, math.prod(tensor.shape.numpy())
            if there != said:
                raise ModelError(f"initialiser '{value.name}' has {there} elements, its shape says {tensor.shape}")


def _check_names(model: ir.Model, path: Path) -> None:
    """Refuse names that are not UTF-8: protobuf hands those out as bytes, and whatever takes text breaks on them."""
    names: list[object] = [value.name for graph in model.graphs() for value in (*graph.inputs, *graph.outputs)]
    for node in model.graph.all_nodes():
        names += [node.name, node.op_type, node.domain, *node.attributes, *(value.name for value in node.outputs)]
    for name in names:
        if isinstance(name, bytes):
            raise ModelError(f"'{path}' is damaged: {name[:40]!r} is no name", hint=_cut_short(path))


def _check_wiring(model: ir.Model, path: Path) -> None:
    made: set[ir.Node | None] = set()
    for node in model.graph.all_nodes():
        for value in node.inputs:
            if value is not None and not _is_given(value) and value.producer() not in made:
                raise ModelError(
                    f"'{path}' is damaged: node '{node.name}' needs '{value.name}', which nothing has made"
                )
        made.add(node)
    for graph in model.graphs():
        for value in graph.outputs:
            if not _is_given(value) and value.producer() is None:
                raise ModelError(f"'{path}' is damaged: nothing makes '{value.name}', an output of '{graph.name}'")


def _is_given(value: ir.Value) -> bool:
    return value.is_graph_input() or value.is_initializer()


def _check_operators(model: ir.Model, path: Path) -> None:
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not 1 <= opset <= newest:
        raise ModelError(
            f"'{path}' is for ONNX opset {opset}, the installed onnx knows 1 to {newest}",
            hint="export the model for an older opset, or upgrade onnx",
        )
    functions = {(key[0], key[1]) for key in model.functions}
    unknown: dict[str, str] = {}
    for node in model.graph.all_nodes():
        if node.domain not in _KNOWN_DOMAINS or (node.domain, node.op_type) in functions:
            continue
        if opset is None:
            raise ModelError(f"'{path}' uses ONNX operators and imports no opset", hint="the file is damaged")
        if not onnx.defs.has(node.op_type, max_inclusive_version=opset, domain=""):
            unknown.setdefault(node.op_type, node.name or "unnamed")
    if unknown:
        listed = ", ".join(f"{op} (node '{name}')" for op, name in sorted(unknown.items()))
        raise ModelError(
            f"'{path}' uses operators that ONNX opset {opset} does not have: {listed}",
            hint="a custom operator must be in a domain of its own, and needs a runtime that knows it",
        )


def fix_axes(model: ir.Model, shapes: Mapping[str, tuple[int, ...]], batch_size: int | None) -> dict[str, int]:
    """Give every graph input a fixed shape, in place, and return the dynamic axes with the sizes they got.

    A size in ``shapes`` holds for its axis in every input. What is then still dynamic becomes ``batch_size`` or 1 if it
    is named like a batch, or is axis 0 wherever it occurs.

    Raises:
        UsageError: a name in ``shapes`` is no input, a fixed axis would change, or an axis stays unknown.
    """
    inputs = {value.name or "": value for value in graph_inputs(model)}
    for name in shapes:
        if name not in inputs:
            raise UsageError(f"--shapes names '{name}', which is no input", hint=f"inputs: {', '.join(inputs)}")
    dynamic = {name: _axes(name, value.shape, shapes.get(name)) for name, value in inputs.items()}
    fixed: dict[str, int] = {}
    for name, shape in shapes.items():
        _take(name, dynamic[name], shape, fixed)
    for symbol, position in _positions(dynamic).items():
        if symbol not in fixed and (position == {0} or symbol.lower() in BATCH_NAMES):
            fixed[symbol] = batch_size or 1
    for name, value in inputs.items():
        value.shape = ir.Shape([_size(name, axis, dynamic[name], fixed) for axis in dynamic[name]])
    if batch_size is not None:
        _require_batch(inputs, batch_size)
    if fixed:
        _forget_shapes(model)
    return fixed


def _axes(name: str, shape: ir.Shape | None, asked: tuple[int, ...] | None) -> list[Axis]:
    """Return the axes of an input; one without a name, or of a negative size, is dynamic and called ``input.axis``."""
    if shape is None and asked is None:
        raise UsageError(f"input '{name}' has no shape in the file", hint=f"give --shapes {name}:1x3x224x224")
    if shape is None:
        return list(asked or ())
    return [
        size
        if isinstance(size, int) and size >= 0
        else str((not isinstance(size, int) and size.value) or f"{name}.{axis}")
        for axis, size in enumerate(shape)
    ]


def _positions(inputs: Mapping[str, list[Axis]]) -> dict[str, set[int]]:
    """Return at which positions each dynamic axis occurs."""
    found: dict[str, set[int]] = {}
    for axes in inputs.values():
        for position, axis in enumerate(axes):
            if isinstance(axis, str):
                found.setdefault(axis, set()).add(position)
    return found


def _take(name: str, axes: list[Axis], asked: tuple[int, ...], fixed: dict[str, int]) -> None:
    """Enter the sizes asked for one input into ``fixed``."""
    if len(asked) != len(axes):
        raise UsageError(f"--shapes gives '{name}' {len(asked)} axes, the model has {len(axes)}: {_times(axes)}")
    for position, (axis, size) in enumerate(zip(axes, asked, strict=True)):
        if isinstance(axis, str):
            if fixed.setdefault(axis, size) != size:
                raise UsageError(
                    f"--shapes gives axis '{axis}' the size {fixed[axis]}, and {size} in '{name}'",
                    hint="an axis of one name has one size in all inputs",
                )
        elif axis != size:
            raise UsageError(
                f"--shapes gives '{name}' {_times(asked)}, but its axis {position} is fixed at {axis} in the file",
                hint=f"the model takes {_times(axes)}; export it with that axis dynamic to change it",
            )


def _size(name: str, axis: Axis, axes: list[Axis], fixed: Mapping[str, int]) -> int:
    if isinstance(axis, int):
        return axis
    if axis not in fixed:
        example = _times([fixed.get(other, 1) if isinstance(other, str) else other for other in axes])
        raise UsageError(
            f"input '{name}' has a dynamic axis '{axis}' and nothing says how long it is",
            hint=f"give --shapes {name}:{example} with your sizes",
        )
    return fixed[axis]


def _require_batch(inputs: Mapping[str, ir.Value], batch_size: int) -> None:
    for name, value in inputs.items():
        assert value.shape is not None
        if len(value.shape) and value.shape[0] != batch_size:
            raise UsageError(
                f"--batch-size {batch_size}: input '{name}' has axis 0 fixed at {value.shape[0]}",
                hint="export the model with a dynamic batch axis, or leave --batch-size out",
            )


def _forget_shapes(model: ir.Model) -> None:
    """Drop intermediate shapes that are not numbers; inference finds them again from the fixed inputs.

    The model's outputs keep the number of their axes, which ONNX demands; inference puts the numbers in.
    """
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.shape is None or all(isinstance(size, int) and size >= 0 for size in value.shape):
                continue
            keep = [None if isinstance(size, int) and size < 0 else size for size in value.shape]
            value.shape = ir.Shape(keep) if value.is_graph_output() else None


def graph_inputs(model: ir.Model) -> list[ir.Value]:
    """Return the graph inputs that a caller must provide (initialisers listed as inputs are none)."""
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def infer_shapes(model: ir.Model) -> ir.Model:
    """Return ``model`` with intermediate shapes filled in where they can be inferred.

    Shapes that hang on arithmetic with constants (a Pad by computed amounts) need those folded first: that is done on a
    copy, so that the graph itself stays as it came.
    """
    try:
        inferred = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model).model
        folded = inferred.clone()
        optimizer.fold_constants(folded, onnx_shape_inference=True, should_fold=_fold_shape_builders)
        folded = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(folded).model
    except Exception as error:
        raise ModelError(f"the graph contradicts itself: {_first_line(error)}") from error
    known = {value.name: value for node in folded.graph for value in node.outputs}
    known.update(folded.graph.initializers)
    for node in inferred.graph:
        for output in node.outputs:
            found = known.get(output.name)
            if found is not None and found.shape is not None and found.shape.is_static():
                output.shape = found.shape
                output.type = output.type or found.type
    return inferred


def _fold_shape_builders(node: ir.Node) -> bool | None:
    """Fold ConstantOfShape too, which the optimiser keeps to save space; never anything large or of unknown size.

    The optimiser decides about the rest (None). It looks at how large a result is only once it has been computed.
    """
    for output in node.outputs:
        if output.shape is None or not output.shape.is_static():
            return False
        if math.prod(output.shape.numpy()) > _MAX_FOLDED:
            return False
    return True if node.op_type == "ConstantOfShape" else None


def _times(sizes: object) -> str:
    return "x".join(str(size) for size in sizes)  # type: ignore[attr-defined]


def _cut_short(path: Path) -> str:
    return f"the file has {path.stat().st_size} bytes; is the copy complete?"


def _first_line(error: BaseException) -> str:
    """Return the first line of what went wrong first: the IR wraps errors in others that only say where it was."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
