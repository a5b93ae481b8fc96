"""Numbers put to the nearest value of their codebook."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwbench.compress.base import Array
from hwbench.compress.codebooks import as_rows, from_rows
from hwbench.compress.sharing.cluster import Init, centres, nearest


def shared_values(
    arrays: Sequence[Array], importance: Sequence[Array] | None, axes: tuple[int, ...], *, bits: int, init: Init,
    hold_zeros: bool, rng: np.random.Generator,
) -> list[Array]:  # fmt: skip
    """Return the arrays, all of one type, with each number replaced by one of at most 2^bits of its codebook.

    ``axes``: those along which codebooks differ; then there is one array. Zeros stay zeros, and zero is one of the
    values, where ``hold_zeros`` says so or there are so many that they are worth a fair share of the values.
    """
    rows = joined(arrays, axes)
    counts = None if importance is None else joined(importance, axes)
    zeros = hold_zeros or int((rows == 0).sum()) * 2**bits > rows.size
    shared = np.zeros_like(rows)
    for index, row in enumerate(rows):
        live = row != 0 if zeros else np.ones(len(row), bool)
        if not live.any():
            continue
        values = row[live].astype(np.float64)
        found = centres(
            values, 2**bits - int(not live.all()), weights=None if counts is None else counts[index][live], init=init,
            rng=rng, problems=len(rows),
        )  # fmt: skip
        stored = np.unique(found.astype(rows.dtype))
        shared[index, live] = stored[nearest(values, stored.astype(np.float64))]
    return parted(shared, [array.shape for array in arrays], axes)


def joined(arrays: Sequence[Array], axes: tuple[int, ...]) -> Array:
    """Return arrays as books x numbers."""
    return as_rows(arrays[0], axes) if axes else np.concatenate([array.reshape(-1) for array in arrays])[None]


def parted(rows: Array, shapes: Sequence[tuple[int, ...]], axes: tuple[int, ...]) -> list[Array]:
    """Return what :func:`joined` was given."""
    if axes:
        return [from_rows(rows, shapes[0], axes)]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(rows[0], ends), shapes, strict=True)]
