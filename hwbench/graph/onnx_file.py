"""An ONNX file to the hub: read, checked, its dynamic axes fixed to numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass
from onnxscript import optimizer

from hwbench.errors import ModelError, UsageError

BATCH_NAMES = ("batch", "n", "b", "bs", "batch_size", "batchsize", "none", "unk")
_KNOWN_DOMAINS = ("", "ai.onnx")


def read_onnx(path: Path) -> ir.Model:
    """Read an ONNX file and whatever external data it points to.

    Raises:
        ModelError: not ONNX, cut short, external data missing or outside its folder, or an operator ONNX does not have.
    """
    try:
        model = ir.load(path)
        _touch_weights(model)
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error}", hint="is its external data file beside it?") from error
    except Exception as error:
        raise ModelError(f"'{path}' is not a valid ONNX file: {_first_line(error)}", hint=_cut_short(path)) from error
    if not model.graph.inputs and not list(model.graph):
        raise ModelError(f"'{path}' holds no graph", hint=_cut_short(path))
    _check_operators(model, path)
    return model


def _touch_weights(model: ir.Model) -> None:
    """Make every initialiser show its data, so that a short or missing one is found now."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            raise ModelError(f"initialiser '{value.name}' has no data")
        if tensor.numpy().size != math.prod(tensor.shape.numpy()):
            raise ModelError(
                f"initialiser '{value.name}' has {tensor.numpy().size} elements, its shape says {tensor.shape}"
            )


def _check_operators(model: ir.Model, path: Path) -> None:
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
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

    A shape from ``shapes`` wins; an axis 0 that is dynamic, or any axis named like a batch, becomes ``batch_size`` or
    1.

    Raises:
        UsageError: a name in ``shapes`` is no input, a fixed axis would change, or an axis stays unknown.
    """
    inputs = {value.name or "": value for value in graph_inputs(model)}
    for name in shapes:
        if name not in inputs:
            raise UsageError(f"--shapes names '{name}', which is no input", hint=f"inputs: {', '.join(inputs)}")
    fixed: dict[str, int] = {}
    for name, value in inputs.items():
        if value.shape is None:
            if name not in shapes:
                raise UsageError(f"input '{name}' has no shape in the file", hint=f"give --shapes {name}:1x3x224x224")
            value.shape = ir.Shape(shapes[name])
            continue
        value.shape = ir.Shape(_fixed_shape(name, value.shape, shapes.get(name), batch_size, fixed))
    if batch_size is not None:
        _require_batch(inputs, batch_size)
    if fixed:
        _forget_shapes(model)
    return fixed


def _fixed_shape(
    name: str, shape: ir.Shape, asked: tuple[int, ...] | None, batch_size: int | None, fixed: dict[str, int]
) -> list[int]:
    if asked is not None and len(asked) != len(shape):
        raise UsageError(f"--shapes gives '{name}' {len(asked)} axes, the model has {len(shape)}: {_axes(shape)}")
    sizes: list[int] = []
    for axis, size in enumerate(shape):
        if isinstance(size, int):
            if asked is not None and asked[axis] != size:
                raise UsageError(
                    f"--shapes gives '{name}' {_times(asked)}, but its axis {axis} is fixed at {size} in the file",
                    hint=f"the model takes {_axes(shape)}; export it with that axis dynamic to change it",
                )
            sizes.append(size)
            continue
        symbol = str(size.value or f"{name}.{axis}")
        is_batch = axis == 0 or symbol.lower() in BATCH_NAMES
        chosen = asked[axis] if asked is not None else fixed.get(symbol, (batch_size or 1) if is_batch else None)
        if chosen is None:
            raise UsageError(
                f"input '{name}' has a dynamic axis '{symbol}' and nothing says how long it is",
                hint=f"give --shapes {name}:{_times([s if isinstance(s, int) else 1 for s in shape])} with your sizes",
            )
        if fixed.setdefault(symbol, chosen) != chosen:
            raise UsageError(f"axis '{symbol}' would be {fixed[symbol]} in one input and {chosen} in '{name}'")
        sizes.append(chosen)
    return sizes


def _require_batch(inputs: Mapping[str, ir.Value], batch_size: int) -> None:
    for name, value in inputs.items():
        assert value.shape is not None
        if len(value.shape) and value.shape[0] != batch_size:
            raise UsageError(
                f"--batch-size {batch_size}: input '{name}' has axis 0 fixed at {value.shape[0]}",
                hint="export the model with a dynamic batch axis, or leave --batch-size out",
            )


def _forget_shapes(model: ir.Model) -> None:
    """Drop intermediate shapes that held symbols; inference finds them again from the fixed inputs."""
    produced = {output for node in model.graph.all_nodes() for output in node.outputs}
    for value in produced:
        if value.shape is not None and not value.shape.is_static():
            value.shape = None


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
    """Fold ConstantOfShape too, which the optimiser keeps to save space; it decides about everything else."""
    return True if node.op_type == "ConstantOfShape" else None


def non_finite_weights(model: ir.Model) -> list[str]:
    """Return the names of floating-point initialisers that hold NaN or infinity."""
    return [
        name
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype.is_floating_point()
        and not np.isfinite(value.const_value.numpy().astype(np.float32, copy=False)).all()
    ]


def _axes(shape: ir.Shape) -> str:
    return _times([size if isinstance(size, int) else size.value or "?" for size in shape])


def _times(sizes: object) -> str:
    return "x".join(str(size) for size in sizes)  # type: ignore[attr-defined]


def _cut_short(path: Path) -> str:
    return f"the file has {path.stat().st_size} bytes; is the copy complete?"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
