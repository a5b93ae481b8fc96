"""What the formats of tensor-core kernels share: rounding, quantising, padding, the order of an instruction's operand.

``mma.m16n8k16`` (PTX ISA, "Matrix fragments for mma.m16n8k16") takes its 16 x 16 operand as eight halves a lane: lane
``4g + t`` holds rows ``g`` and ``g + 8``, columns ``2t``, ``2t + 1``, ``2t + 8``, ``2t + 9``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.sparse.formats.base import Packed

if TYPE_CHECKING:
    import numpy.typing as npt

Array = np.ndarray[Any, Any]
MOST_HALF = 65504.0
_BIASED = 0x80  # int8 values are held as value + 128, which is cheap to turn into a half (kernels/include/hwb/half.cuh)

_LANES = np.arange(32)
_HALVES = np.arange(8)
# Row and column of each of the eight halves of each lane.
FRAGMENT_ROWS: npt.NDArray[np.intp] = _LANES[:, None] // 4 + 8 * (_HALVES // 2 % 2)
FRAGMENT_COLUMNS: npt.NDArray[np.intp] = _LANES[:, None] % 4 * 2 + _HALVES % 2 + 8 * (_HALVES // 4)


def to_fragments(tiles: Array) -> Array:
    """Return tiles (..., 16, 16) in the order of the operand: (..., 32 lanes, 8 halves)."""
    return tiles[..., FRAGMENT_ROWS, FRAGMENT_COLUMNS]


def from_fragments(fragments: Array) -> Array:
    """Return the tiles (..., 16, 16) that :func:`to_fragments` ordered."""
    tiles = np.empty((*fragments.shape[:-2], 16, 16), fragments.dtype)
    tiles[..., FRAGMENT_ROWS, FRAGMENT_COLUMNS] = fragments
    return tiles


def padded(weight: Array, rows: int, columns: int = 1) -> Array:
    """Return the matrix with zeros below and to the right, up to multiples of ``rows`` and ``columns``."""
    m, k = weight.shape
    return np.pad(weight, ((0, -m % rows), (0, -k % columns)))


def as_matrix(weight: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.float32]:
    """Return a weight with what the mask drops set to zero; raises ``ValueError`` at a wrong shape."""
    if weight.ndim != 2:
        raise ValueError(f"A weight of {weight.ndim} dimensions is no matrix (M, K).")
    if mask is None:
        return np.asarray(weight, np.float32)
    if mask.shape != weight.shape:
        raise ValueError(f"The mask is {mask.shape}, the weight {weight.shape}.")
    return np.where(mask, np.asarray(weight, np.float32), np.float32(0))


def to_halves(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Return the weight in fp16; raises ``ValueError`` where a finite one is beyond fp16."""
    too_large = np.isfinite(weight) & (np.abs(weight) >= MOST_HALF + 16)  # what rounds to infinity
    if too_large.any():
        raise ValueError(f"{int(too_large.sum())} weights are beyond fp16's largest, {MOST_HALF:g}.")
    return weight.astype(np.float16)


def quantised(weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return int8 values from -127 to 127 and a scale per row: weight ≈ values · scale, symmetric around zero."""
    if not np.isfinite(weight).all():
        raise ValueError("A weight that is not finite has no scale.")
    scales = (np.max(np.abs(weight), axis=1, initial=0) / 127).astype(np.float32)
    scales[scales == 0] = 1
    values = np.clip(np.rint(weight / scales[:, None]), -127, 127)
    return values.astype(np.int8), scales


def biased(values: Array) -> npt.NDArray[np.int8]:
    """Return int8 values as the kernels hold them: the bits of value + 128; the same call turns them back."""
    flipped: npt.NDArray[np.uint8] = values.view(np.uint8) ^ np.uint8(_BIASED)
    return flipped.view(np.int8)


def scaled(values: npt.NDArray[np.float32], scales: Array | None) -> npt.NDArray[np.float32]:
    """Return rows times their scales, if there are any."""
    return values if scales is None else np.asarray(values * scales[:, None], np.float32)


def pairs_of_uint16(values: Array) -> npt.NDArray[np.int32]:
    """Return 16-bit numbers as int32 words, two in each, low first: TensorRT has no constants of 16-bit integers."""
    flat = np.ascontiguousarray(values, np.uint16).ravel()
    return np.pad(flat, (0, flat.size % 2)).view(np.int32)


def uint16_of(words: Array) -> npt.NDArray[np.uint16]:
    """Return the numbers that :func:`pairs_of_uint16` packed, with the padding at the end if there was one."""
    return words.view(np.uint16)


def keep_best(scores: Array, keep: int) -> npt.NDArray[np.bool_]:
    """Return which ``keep`` of the last axis have the highest scores; of equals the first."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    kept = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(kept, order[..., :keep], True, axis=-1)
    return kept


def keep_best_of_all(scores: Array, sparsity: float) -> npt.NDArray[np.bool_]:
    """Return which have the highest scores of all: a share ``1 - sparsity``, rounded; of equals the first."""
    kept = round(scores.size * (1 - share(sparsity)))
    return np.asarray(keep_best(scores.reshape(-1), kept).reshape(scores.shape), dtype=np.bool_)


def refuses_shape(name: str, m: int, k: int, multiple: int) -> str | None:
    """Return why a format that takes K in multiples, and any M, cannot hold a matrix; ``None`` when it can."""
    if m < 1 or k < 1:
        return f"{m} x {k} holds nothing"
    return f"K is {k}, and {name} takes multiples of {multiple}" if k % multiple else None


def check_is(packed: Packed, name: str) -> None:
    """Raise ``ValueError`` unless ``packed`` is of a format."""
    if packed.format != name:
        raise ValueError(f"This is packed as {packed.format}, not as {name}.")


def share(sparsity: float) -> float:
    """Return a sparsity, a share from 0 to 1; raises ``ValueError`` at anything else."""
    if not 0 <= sparsity <= 1:
        raise ValueError(f"A sparsity of {sparsity} is no share from 0 to 1.")
    return sparsity
