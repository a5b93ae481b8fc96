"""``bitmap``: unstructured sparsity, one bit a weight for whether it is kept, and the kept ones as fp16.

Sixteen rows are a strip, 64 columns of it a step. Lane ``4g + t`` of a warp has 32 weights of a step: columns ``16t``
to ``16t + 15`` of rows ``g`` and ``g + 8``, in the order of the operands of four ``mma.m16n8k16``. Its bits are one
word, its values lie together in the same order, lane after lane; a step's values begin at a multiple of 16 bytes::

    bits     int32 [strip][four steps][lane][step of the four]   K padded to 256 columns
    values   fp16  [step's values, filled up to eights]
    offsets  int32 [strip][step] + 1: values before each step, in eights

Bytes: 1/8 a weight, 2 a kept one, 4 a step of 1024 weights and 7 of filling up on average: 1.136 a weight at 50 %. One
bit a weight is also SpInfer's idea (EuroSys 2025), whose order of values is another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hwbench.sparse.formats import words
from hwbench.sparse.formats.base import Packed, Values

_STEP: Final = 64  # columns
_BATCH: Final = 256
_EIGHT: Final = 8  # values, 16 bytes


@dataclass(frozen=True)
class Bitmap:
    """The format; see the module."""

    name: str = "bitmap"
    values: Values = "fp16"

    def refuses(self, m: int, k: int) -> str | None:
        """Return why not: K must be a multiple of 8; any M is taken, padded to 16 rows."""
        return words.refuses_shape(self.name, m, k, 8)

    def mask(self, scores: npt.NDArray[np.floating], sparsity: float) -> npt.NDArray[np.bool_]:
        """Keep the highest scores of the whole matrix, wherever they are."""
        return words.keep_best_of_all(scores, sparsity)

    def pack(self, weight: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_] | None = None) -> Packed:
        """Pack; raises ``ValueError`` where the shape is refused or a weight is beyond fp16."""
        full = words.to_halves(words.as_matrix(weight, mask))
        m, k = full.shape
        if why := self.refuses(m, k):
            raise ValueError(f"{why}.")
        elements = _in_order(words.padded(full, 16, _BATCH))  # (strip, step, lane, 32)
        kept = elements != 0
        counts = np.count_nonzero(kept, axis=(2, 3)).ravel()
        offsets = np.concatenate([[0], np.cumsum(-(-counts // _EIGHT))])
        values = np.zeros(offsets[-1] * _EIGHT, np.float16)
        values[_places(counts, offsets)] = elements[kept]
        bits = np.packbits(kept, axis=-1, bitorder="little").view(np.uint32)[..., 0]  # (strip, step, lane)
        batches = bits.reshape(len(bits), -1, _BATCH // _STEP, 32).swapaxes(2, 3)
        arrays: dict[str, words.Array] = {
            "bits": np.ascontiguousarray(batches).view(np.int32).ravel(),
            "values": values,
            "offsets": offsets.astype(np.int32),
        }
        return Packed(format=self.name, shape=(m, k), arrays=arrays, scalars={})

    def unpack(self, packed: Packed) -> npt.NDArray[np.float32]:
        """Return the matrix (M, K)."""
        words.check_is(packed, self.name)
        m, k = packed.shape
        strips = -(-m // 16)
        batches = packed.arrays["bits"].view(np.uint32).reshape(strips, -1, 32, _BATCH // _STEP)
        bits = np.ascontiguousarray(batches.swapaxes(2, 3)).reshape(strips, -1, 32, 1).view(np.uint8)
        kept = np.unpackbits(bits, axis=-1, bitorder="little").astype(np.bool_)
        counts = np.count_nonzero(kept, axis=(2, 3)).ravel()
        elements = np.zeros(kept.shape, np.float32)
        elements[kept] = packed.arrays["values"][_places(counts, packed.arrays["offsets"].astype(np.int64))]
        return _out_of_order(elements)[:m, :k]

    def bytes_of(self, m: int, k: int, sparsity: float) -> float:
        """Return a bit a weight, 2 bytes a kept one, and 4 a step with 7 of filling up; K is padded to 256."""
        steps = -(-m // 16) * -(-k // _BATCH) * (_BATCH // _STEP)
        used = -(-m // 16) * -(-k // _STEP)
        filling = 7 * used if sparsity < 1 else 0
        return steps * (128 + 4) + filling + 2 * m * k * (1 - words.share(sparsity)) + 4


def _in_order(full: words.Array) -> words.Array:
    """Return a matrix as (strip, step, lane, 32 elements in the order of the operands)."""
    m, k = full.shape
    # (strip, row's half, g, step, t, four columns, pair, column) -> (strip, step, g, t, four, pair, row's half, column)
    parts = full.reshape(m // 16, 2, 8, k // _STEP, 4, 4, 2, 2).transpose(0, 3, 2, 4, 5, 6, 1, 7)
    return np.ascontiguousarray(parts).reshape(m // 16, k // _STEP, 32, 32)


def _out_of_order(elements: words.Array) -> words.Array:
    """Return the matrix that :func:`_in_order` took apart."""
    strips, steps = elements.shape[:2]
    parts = elements.reshape(strips, steps, 8, 4, 4, 2, 2, 2).transpose(0, 6, 2, 1, 3, 4, 5, 7)
    matrix: words.Array = parts.reshape(strips * 16, steps * _STEP)
    return matrix


def _places(counts: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where each kept value lies, given how many each step has."""
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    owner = np.repeat(np.arange(len(counts)), counts)
    return np.asarray(np.arange(len(owner)) - starts[owner] + offsets[owner] * _EIGHT, np.int64)
