"""Weights of few values, packed: each value once, and an index of a few bits for every weight.

The hub keeps the values themselves, since no runtime executes codebooks. What is packed here is what could be stored
or sent; unpacked, it is the same bits again.

A file of codebooks is an ``.npz``: ``layout``, JSON as bytes, lists the tensors; ``book0`` ... are the values as their
bit patterns [books, codes], ``indices0`` ... the packed indices.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from hwbench.errors import ModelError, StorageError

Array = np.ndarray[Any, np.dtype[Any]]

MOST_CODES = 256


@dataclass(frozen=True, kw_only=True)
class Codebook:
    """Where the values of a tensor come from: tensors of one ``name`` share a codebook.

    ``axes``: those along which it differs, so that there is one for each index on them; none: one for all.
    ``codes``: how many values it has at most.
    """

    name: str
    axes: tuple[int, ...] = ()
    codes: int = MOST_CODES


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Tensors that share codebooks. ``values`` [books, codes]; short books are filled up with their last value."""

    values: Array
    bits: int  # of an index
    indices: tuple[Array, ...]  # one array of bytes a tensor
    shapes: tuple[tuple[int, ...], ...]
    axes: tuple[int, ...]

    @property
    def stored_bits(self) -> int:
        """All that needs to be kept: indices and codebooks, without the padding of the last byte."""
        return self.bits * sum(math.prod(shape) for shape in self.shapes) + 8 * self.values.nbytes


def pack(arrays: Sequence[Array], axes: tuple[int, ...] = ()) -> Packed | None:
    """Return tensors that share codebooks in packed form; None where a book would need more than 256 values.

    With ``axes`` there is one tensor, and a book for each index on them. Values are told apart by their bits: 0 and -0
    are two.
    """
    rows = as_rows(arrays[0], axes) if axes else np.concatenate([array.reshape(-1) for array in arrays])[None]
    patterns = np.ascontiguousarray(rows).view(f"u{rows.dtype.itemsize}")
    found = [np.unique(row, return_inverse=True) for row in patterns]
    codes = max(len(values) for values, _ in found)
    if codes > MOST_CODES:
        return None
    books = np.stack([np.pad(values, (0, codes - len(values)), mode="edge") for values, _ in found])
    bits = (codes - 1).bit_length()
    flat = from_rows(np.stack([indices for _, indices in found]), arrays[0].shape, axes) if axes else found[0][1]
    ends = np.cumsum([array.size for array in arrays])[:-1]
    return Packed(
        values=books.view(rows.dtype),
        bits=bits,
        indices=tuple(_to_bytes(part, bits) for part in np.split(flat.reshape(-1), ends)),
        shapes=tuple(array.shape for array in arrays),
        axes=axes,
    )


def unpack(packed: Packed) -> list[Array]:
    """Return the tensors, bit by bit as they were."""
    tensors = []
    for data, shape in zip(packed.indices, packed.shapes, strict=True):
        indices = _from_bytes(data, packed.bits, math.prod(shape)).reshape(shape)
        rows = as_rows(indices, packed.axes)
        tensors.append(from_rows(np.take_along_axis(packed.values, rows, axis=1), shape, packed.axes))
    return tensors


def index_counts(packed: Packed) -> Array:
    """Return how often each index occurs, over all tensors and books."""
    totals = np.zeros(packed.values.shape[1], np.int64)
    for data, shape in zip(packed.indices, packed.shapes, strict=True):
        totals += np.bincount(_from_bytes(data, packed.bits, math.prod(shape)), minlength=len(totals))
    return totals


def as_rows(array: Array, axes: tuple[int, ...]) -> Array:
    """Return an array as books x the rest, where each index on ``axes`` is a book."""
    moved = np.moveaxis(array, axes, range(len(axes)))
    return moved.reshape(math.prod(moved.shape[: len(axes)]), -1)


def from_rows(rows: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """Return what :func:`as_rows` was made of."""
    front = [shape[axis] for axis in axes] + [size for axis, size in enumerate(shape) if axis not in axes]
    return np.ascontiguousarray(np.moveaxis(rows.reshape(front), range(len(axes)), axes))


def write(model: ir.Model, books: Mapping[str, Codebook], path: Path) -> tuple[str, ...]:
    """Write the tensors of a model that have codebooks to a file, and return their names.

    What is gone from the model is left out.

    Raises:
        ModelError: a tensor has more values than its codebook: something changed it since.
        StorageError: the file cannot be written.
    """
    groups: dict[Codebook, list[str]] = {}
    for name, book in books.items():
        if name in model.graph.initializers:
            groups.setdefault(book, []).append(name)
    layout: list[dict[str, Any]] = []
    arrays: dict[str, Array] = {}
    for names in groups.values():
        packed = pack([_tensor(model, name) for name in names], books[names[0]].axes)
        if packed is None or packed.values.shape[1] > books[names[0]].codes:
            raise ModelError(
                f"{', '.join(names)}: more values than the {books[names[0]].codes} of their codebook",
                hint="a later step changed them; please report this",
            )
        at = len(arrays)
        arrays[f"book{at}"] = packed.values.view(f"u{packed.values.dtype.itemsize}")
        for name, indices, shape in zip(names, packed.indices, packed.shapes, strict=True):
            arrays[f"indices{len(layout)}"] = indices
            layout.append({
                "name": name, "book": f"book{at}", "indices": f"indices{len(layout)}", "shape": shape,
                "axes": packed.axes, "bits": packed.bits, "dtype": packed.values.dtype.name,
            })  # fmt: skip
    encoded = np.frombuffer(json.dumps(layout).encode(), np.uint8)
    try:
        np.savez_compressed(path, layout=encoded, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise StorageError(f"cannot write the codebooks to {path}: {error.strerror or error}") from error
    return tuple(entry["name"] for entry in layout)


def read(path: Path) -> dict[str, Array]:
    """Return the tensors of a file of codebooks, by name; bfloat16 needs ml_dtypes, which onnx_ir brings.

    Raises:
        StorageError: there is no such file, or it is none of codebooks.
    """
    try:
        with np.load(path) as file:
            layout = json.loads(file["layout"].tobytes())
            return {entry["name"]: _unpacked(file, entry) for entry in layout}
    except (OSError, ValueError, KeyError) as error:
        raise StorageError(f"{path} cannot be read as codebooks: {error}") from error


def mean_code_length(counts: Array) -> float:
    """Return the bits per symbol of a Huffman code for symbols that occur ``counts`` times; its table is not in it."""
    heap = [int(count) for count in counts if count > 0]
    total, bits = sum(heap), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        bits += joined
        heapq.heappush(heap, joined)
    return bits / total if total else 0.0


def _tensor(model: ir.Model, name: str) -> Array:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def _unpacked(file: Any, entry: dict[str, Any]) -> Array:
    packed = Packed(
        values=file[entry["book"]].view(ir.DataType[_ONNX.get(entry["dtype"], "UNDEFINED")].numpy()),
        bits=entry["bits"],
        indices=(file[entry["indices"]],),
        shapes=(tuple(entry["shape"]),),
        axes=tuple(entry["axes"]),
    )
    return unpack(packed)[0]


_ONNX = {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16", "float64": "DOUBLE"}


def _to_bytes(indices: Array, bits: int) -> Array:
    planes = (indices.astype(np.uint8)[:, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(planes.reshape(-1), bitorder="little")


def _from_bytes(data: Array, bits: int, count: int) -> Array:
    planes = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    indices: Array = planes @ (1 << np.arange(bits, dtype=np.int64))
    return indices.astype(np.int64)
