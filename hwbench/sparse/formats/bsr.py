"""``bsr16`` and ``bsr32``: square blocks are kept or dropped as a whole (block compressed sparse rows).

    W, M x K       [ ] [#] [ ] [#]     blocks of 16 x 16 or 32 x 32
    values          #   #              the kept ones, row of blocks after row of blocks
    columns         1   3              which they were, counted in blocks, 16 bits each
    starts          0   2 ...          the first of each row of blocks, and one after the last

    values   fp16[block][16 rows][16 columns][lane][8]   or int8[block][16 rows][lane][16 columns][8]
    columns  16 bits[block], two in an int32
    starts   int32[M/size + 1]
    scales   float32[M], of int8 values only

Columns of a block are reordered so that what a lane of the kernel needs of X is contiguous
(``kernels/bsr/kernel.cuh``).
16.06 bits a kept weight with fp16 values and blocks of 16, 8.06 with int8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from hwbench.sparse.formats import words
from hwbench.sparse.formats.base import Packed

if TYPE_CHECKING:
    import numpy.typing as npt

_MOST_BLOCKS = 1 << 16


@dataclass(frozen=True)
class Bsr:
    """The format ``bsr16``, ``bsr32``, or either with int8 values and a scale per row."""

    size: Literal[16, 32] = 16
    values: Literal["fp16", "int8"] = "fp16"

    @property
    def name(self) -> str:
        """Return the name."""
        return f"bsr{self.size}" if self.values == "fp16" else f"bsr{self.size}_int8"

    def refuses(self, m: int, k: int) -> str | None:
        """Return why not: K must be a multiple of the block, up to 65536 blocks; any M is taken, padded to a block."""
        if why := words.refuses_shape(self.name, m, k, self.size):
            return why
        return f"K is {k}, and {self.name} counts blocks in 16 bits" if k > _MOST_BLOCKS * self.size else None

    def mask(self, scores: npt.NDArray[np.floating], sparsity: float) -> npt.NDArray[np.bool_]:
        """Keep, in every row of blocks, those with the highest sums of scores: as many in each, so blocks end together.

        Raises ``ValueError`` where K is no multiple of the block.
        """
        m, k = scores.shape
        if k % self.size:
            raise ValueError(f"K is {k}, no multiple of {self.size}.")
        sums = self._blocks(np.asarray(scores, np.float64)).sum(axis=(2, 3))
        kept = words.keep_best(sums, round((1 - words.share(sparsity)) * sums.shape[1]))
        return np.repeat(np.repeat(kept, self.size, axis=0), self.size, axis=1)[:m]

    def pack(self, weight: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_] | None = None) -> Packed:
        """Pack: a block is held where any of its weights is not zero."""
        full = words.as_matrix(weight, mask)
        m, k = full.shape
        if why := self.refuses(m, k):
            raise ValueError(f"{why}.")
        held, scales = (words.to_halves(full), None) if self.values == "fp16" else words.quantised(full)
        blocks = self._blocks(held)
        kept = np.any(blocks != 0, axis=(2, 3))
        row, column = np.nonzero(kept)
        chosen = blocks[row, column][..., self._order()]  # (block, row, column)
        tiles = chosen.reshape(-1, self.size // 16, 16, self.size // 16, 16).transpose(0, 1, 3, 2, 4)
        fragments = words.to_fragments(tiles)  # (block, 16 rows, 16 columns, lane, 8)
        values = fragments.ravel() if scales is None else words.biased(fragments.swapaxes(2, 3).ravel())
        arrays: dict[str, words.Array] = {
            "values": values,
            "columns": words.pairs_of_uint16(column),
            "starts": np.searchsorted(row, np.arange(len(blocks) + 1)).astype(np.int32),
        }
        if scales is not None:
            arrays["scales"] = scales
        return Packed(format=self.name, shape=(m, k), arrays=arrays, scalars={})

    def unpack(self, packed: Packed) -> npt.NDArray[np.float32]:
        """Return the matrix (M, K)."""
        words.check_is(packed, self.name)
        m, k = packed.shape
        values, starts, parts = packed.arrays["values"], packed.arrays["starts"], self.size // 16
        if self.values == "int8":
            fragments = words.biased(values).reshape(-1, parts, 32, parts, 8).swapaxes(2, 3)
        else:
            fragments = values.reshape(-1, parts, parts, 32, 8)
        tiles = words.from_fragments(fragments).transpose(0, 1, 3, 2, 4).reshape(-1, self.size, self.size)
        blocks = np.zeros((len(starts) - 1, k // self.size, self.size, self.size), np.float32)
        row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        plain = np.empty_like(tiles)
        plain[..., self._order()] = tiles
        blocks[row, words.uint16_of(packed.arrays["columns"])[: len(row)]] = plain
        full = blocks.transpose(0, 2, 1, 3).reshape(-1, k)[:m]
        return words.scaled(full, packed.arrays.get("scales"))

    def bytes_of(self, m: int, k: int, sparsity: float) -> float:
        """Return the bytes of values, columns and scales; ``starts``, 4 bytes a row of blocks, comes on top."""
        kept = m * k * (1 - words.share(sparsity))
        index = 2 / self.size**2
        return kept * (2 + index) if self.values == "fp16" else kept * (1 + index) + 4 * m

    def _blocks(self, matrix: words.Array) -> words.Array:
        """Return a matrix as (row of blocks, column of blocks, row, column)."""
        full = words.padded(matrix, self.size)
        m, k = full.shape
        blocks: words.Array = full.reshape(m // self.size, self.size, k // self.size, self.size).swapaxes(1, 2)
        return blocks

    def _order(self) -> npt.NDArray[np.intp]:
        """Return which column of a block stands at each column of its operands."""
        # Lane t of four holds columns 2t, 2t+1, 2t+8, 2t+9 of an operand; they are to be 4t.. of 16, 8t.. of 32.
        step, half, lane, one = np.unravel_index(np.arange(self.size), (self.size // 16, 2, 4, 2))
        return np.asarray(self.size // 4 * lane + 4 * step + 2 * half + one)
