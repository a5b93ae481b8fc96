"""Input tensors: the user's, the model's own example, or random ones that the model can accept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import psutil

from hwbench.errors import ModelError, UsageError
from hwbench.records.model import TensorSpec
from hwbench.units import format_bytes

Arrays = dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]

_PASS_THROUGH = {"Cast", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Identity", "Slice", "Expand", "Transpose"}
_MEMORY_SHARE = 0.25


def input_specs(values: list[ir.Value]) -> tuple[TensorSpec, ...]:
    """Return :func:`specs_of` graph inputs, all of which a numpy file and every runtime can hold.

    Raises:
        ModelError: an input is no tensor, or its elements are strings or of a type numpy does not have.
    """
    specs = specs_of(values)
    for spec in specs:
        if np.dtype(spec.dtype).kind not in "biuf":
            kind = "string" if spec.dtype == "object" else spec.dtype
            raise ModelError(
                f"input '{spec.name}' holds {kind} elements, which hwbench cannot feed to a runtime",
                hint="give the model an input of booleans, integers, float16, float32 or float64",
            )
    return specs


def specs_of(values: list[ir.Value]) -> tuple[TensorSpec, ...]:
    """Return name, dtype and shape of graph inputs or outputs; an unknown output axis is written 0.

    Raises:
        ModelError: one of them is no tensor (a sequence, an optional), or has a type that numpy cannot hold.
    """
    specs = []
    for value in values:
        if value.dtype is None:
            raise ModelError(f"tensor '{value.name}' has no type")
        if not isinstance(value.type, ir.TensorType):
            raise ModelError(
                f"'{value.name}' is of type {type(value.type).__name__.removesuffix('Type').lower()}, not a tensor",
                hint="only models that take and give tensors can be benchmarked",
            )
        try:
            dtype = value.dtype.numpy()
        except TypeError as error:
            raise ModelError(f"tensor '{value.name}' is {value.dtype}, which numpy cannot hold") from error
        sizes = () if value.shape is None else tuple(value.shape)
        shape = tuple(size if isinstance(size, int) and size >= 0 else 0 for size in sizes)
        specs.append(TensorSpec(name=value.name or "", dtype=dtype.name, shape=shape))
    return tuple(specs)


def read_inputs(path: Path, specs: tuple[TensorSpec, ...]) -> Arrays:
    """Read the inputs from an ``.npz`` whose arrays bear the inputs' names.

    An array may have a narrower type than its input where every value survives (uint8 for float32); any other
    difference in type is an error, since a silent conversion would feed other numbers than the file holds.

    Raises:
        UsageError: the file is unreadable, or an array is missing, of another shape or of a type that does not fit;
            the message lists both sides.
    """
    arrays = _load_arrays(path)
    chosen: Arrays = {}
    for spec in specs:
        if spec.name not in arrays:
            raise UsageError(
                f"--input-data '{path}' has no array '{spec.name}'", hint=f"it has: {', '.join(arrays) or 'nothing'}"
            )
        array = arrays[spec.name]
        if tuple(array.shape) != spec.shape:
            raise UsageError(
                f"--input-data gives '{spec.name}' {list(array.shape)}, the model takes {list(spec.shape)}"
            )
        wanted = np.dtype(spec.dtype)
        if not np.can_cast(array.dtype, wanted, casting="safe"):
            raise UsageError(
                f"--input-data gives '{spec.name}' as {array.dtype}, the model takes {wanted}",
                hint=f"save it converted: {spec.name}.astype('{wanted}')",
            )
        chosen[spec.name] = np.array(array, dtype=wanted, order="C")
    return chosen


def specs_in(path: Path) -> dict[str, TensorSpec]:
    """Return the names, types and shapes of the arrays in an ``.npz``, to fix the model's dynamic axes by them."""
    return {
        name: TensorSpec(name=name, dtype=array.dtype.name, shape=tuple(array.shape))
        for name, array in _load_arrays(path).items()
    }


def _load_arrays(path: Path) -> Arrays:
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.lib.npyio.NpzFile):
                with archive:
                    return {name: archive[name] for name in archive.files}
    except Exception as error:
        raise UsageError(f"--input-data '{path}' cannot be read: {error}", hint="write it with numpy.savez") from error
    raise UsageError(f"--input-data '{path}' holds one array without a name", hint="write it with numpy.savez")


def random_inputs(model: ir.Model, specs: tuple[TensorSpec, ...], seed: int) -> Arrays:
    """Make inputs the model can accept.

    Floats are standard normal; booleans and masks are ones; integers that index a table (token ids) are drawn from
    its rows; other integers are zeros.

    Raises:
        UsageError: they would not fit in memory.
    """
    values = {value.name: value for value in model.graph.inputs}
    rows = {spec.name: table_rows(values[spec.name]) for spec in specs if np.dtype(spec.dtype).kind in "iu"}
    return random_arrays(specs, rows, seed)


def random_arrays(specs: tuple[TensorSpec, ...], rows: Mapping[str, int | None], seed: int) -> Arrays:
    """Make inputs as :func:`random_inputs`; ``rows``: of the table that an integer input indexes, where it does.

    Raises:
        UsageError: they would not fit in memory.
    """
    total = sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in specs)
    available = psutil.virtual_memory().available
    if total > available * _MEMORY_SHARE:
        raise UsageError(f"the inputs would take {format_bytes(total)}, {format_bytes(available)} of memory are free")
    generator = np.random.default_rng(seed)
    try:
        return {spec.name: _random_array(spec, rows.get(spec.name), generator) for spec in specs}
    except MemoryError as error:
        raise UsageError(f"the inputs take {format_bytes(total)}, and memory has run out: {error}") from error


def _random_array(
    spec: TensorSpec, rows: int | None, generator: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f" or dtype.name == "bfloat16":
        return generator.standard_normal(spec.shape, dtype=np.float32).astype(dtype)
    if dtype.kind == "b" or "mask" in spec.name.lower():
        return np.ones(spec.shape, dtype=dtype)
    if dtype.kind in "iu":
        if rows is not None:
            return generator.integers(0, rows, spec.shape).astype(dtype)
        if dtype.itemsize == 1:  # quantised pixels
            info = np.iinfo(dtype)
            return generator.integers(info.min, info.max + 1, spec.shape).astype(dtype)
        return np.zeros(spec.shape, dtype=dtype)
    raise UsageError(f"input '{spec.name}' is {spec.dtype}: no random values for it", hint="give --input-data x.npz")


def table_rows(value: ir.Value) -> int | None:
    """Return the size of the smallest table that ``value`` indexes through a Gather, or None."""
    sizes: list[int] = []
    frontier, seen = [value], {value}
    while frontier:
        for node, position in frontier.pop().uses():
            if node.op_type == "Gather" and position == 1:
                sizes += _gathered_rows(node)
            elif node.op_type in _PASS_THROUGH and position == 0:
                fresh = [output for output in node.outputs if output not in seen]
                seen.update(fresh)
                frontier.extend(fresh)
    return min(sizes, default=None)


def _gathered_rows(node: ir.Node) -> list[int]:
    table, axis = node.inputs[0], node.attributes.get_int("axis", 0)
    if table is None or table.shape is None or not -len(table.shape) <= axis < len(table.shape):
        return []
    rows = table.shape[axis]
    return [rows] if isinstance(rows, int) and rows > 0 else []


def override_example(
    example: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]],
    shapes: Mapping[str, tuple[int, ...]],
    batch_size: int | None,
) -> dict[str, tuple[int, ...]]:
    """Return the shapes that example inputs take under ``--shapes`` and ``--batch-size``.

    Raises:
        UsageError: a name in ``shapes`` is no input, has another number of axes, or another size than ``batch_size`` on
            axis 0.
    """
    for name, shape in shapes.items():
        if name not in example:
            raise UsageError(f"--shapes names '{name}', which is no input", hint=f"inputs: {', '.join(example)}")
        if len(shape) != example[name].ndim:
            raise UsageError(f"--shapes gives '{name}' {len(shape)} axes, its example has {example[name].ndim}")
        if batch_size is not None and shape and shape[0] != batch_size:
            raise UsageError(
                f"--batch-size {batch_size}: --shapes gives '{name}' the size {shape[0]} on axis 0",
                hint="give one of the two, or the same size in both",
            )
    return {
        name: shapes.get(name, (batch_size, *array.shape[1:]) if batch_size and array.ndim else array.shape)
        for name, array in example.items()
    }
