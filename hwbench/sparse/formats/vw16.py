"""``vw16``: a strip of 16 rows keeps whole columns of 16 weights, at any sparsity ("vector-wise").

    a strip, 16 x K     | . | . . | | . |      kept columns
    fragments           ||||| |0               side by side, 16 to a fragment (32 of int8), the rest filled with zeros
    columns             0 2 5 6 8 8            which they were, 16 bits each

    values   fp16[fragment][lane][8]           or int8[fragment][lane][step of 16 columns][8]
    columns  16 bits[fragment][16 or 32], two in an int32; the filling repeats the fragment's last column
    starts   int32[strip][K/256 + 1]: the first fragment that ends in each quarter (256 columns), and one after the last
    scales   float32[M], of int8 values only

A fragment spans no more than two neighbouring quarters, because the kernel holds two tiles of X in shared memory; where
fewer than 16 columns lie in them it is filled up sooner. 17 bits a kept weight with fp16 values, 9 bits with int8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from hwbench.sparse.formats import words
from hwbench.sparse.formats.base import Packed

if TYPE_CHECKING:
    import numpy.typing as npt

STRIP = 16  # rows
QUARTER = 256  # columns
_MOST_COLUMNS = 1 << 16


@dataclass(frozen=True)
class Vw16:
    """The format ``vw16`` (fp16 values) or ``vw16_int8`` (int8 values with a scale per row)."""

    values: Literal["fp16", "int8"] = "fp16"

    @property
    def name(self) -> str:
        """Return the name."""
        return "vw16" if self.values == "fp16" else "vw16_int8"

    @property
    def columns(self) -> int:
        """Return how many kept columns a fragment has."""
        return 16 if self.values == "fp16" else 32

    def refuses(self, m: int, k: int) -> str | None:
        """Return why not: K must be a multiple of 8, up to 65536; any M is taken, padded to 16 rows."""
        if why := words.refuses_shape(self.name, m, k, 8):
            return why
        return f"K is {k}, and {self.name} counts columns in 16 bits" if k > _MOST_COLUMNS else None

    def mask(self, scores: npt.NDArray[np.floating], sparsity: float) -> npt.NDArray[np.bool_]:
        """Keep, in every strip, the columns with the highest sums of scores; as many in each: blocks end together."""
        m, k = scores.shape
        keep = round((1 - words.share(sparsity)) * k)
        sums = words.padded(np.asarray(scores, np.float64), STRIP).reshape(-1, STRIP, k).sum(axis=1)
        return np.repeat(words.keep_best(sums, keep), STRIP, axis=0)[:m]

    def pack(self, weight: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_] | None = None) -> Packed:
        """Pack: a column of a strip is held where any of its weights is not zero."""
        full = words.as_matrix(weight, mask)
        m, k = full.shape
        if why := self.refuses(m, k):
            raise ValueError(f"{why}.")
        held, scales = (words.to_halves(full), None) if self.values == "fp16" else words.quantised(full)
        strips = words.padded(held, STRIP).reshape(-1, STRIP, k)
        lists = [_fragments(np.flatnonzero(np.any(strip != 0, axis=0)), self.columns) for strip in strips]
        columns = np.concatenate([each for each, _ in lists])
        counts = np.concatenate([filled for _, filled in lists])
        owner = np.repeat(np.arange(len(strips)), [len(each) for each, _ in lists])
        dense = strips.transpose(0, 2, 1)[owner[:, None], columns]  # (fragment, column, row)
        dense[np.arange(self.columns) >= counts[:, None]] = 0
        tiles = dense.reshape(len(owner), self.columns // 16, 16, 16).transpose(0, 1, 3, 2)
        fragments = words.to_fragments(tiles).swapaxes(1, 2).ravel()  # (fragment, lane, step, 8)
        arrays: dict[str, words.Array] = {
            "values": fragments if scales is None else words.biased(fragments),
            "columns": words.pairs_of_uint16(columns),
            "starts": _starts(owner, columns[:, -1] if len(columns) else owner, len(strips), -(-k // QUARTER)),
        }
        if scales is not None:
            arrays["scales"] = scales
        return Packed(format=self.name, shape=(m, k), arrays=arrays, scalars={})

    def unpack(self, packed: Packed) -> npt.NDArray[np.float32]:
        """Return the matrix (M, K)."""
        words.check_is(packed, self.name)
        m, k = packed.shape
        values, quarters = packed.arrays["values"], -(-k // QUARTER)
        if self.values == "int8":
            values = words.biased(values)
        fragments = values.reshape(-1, 32, self.columns // 16, 8).swapaxes(1, 2)
        dense = words.from_fragments(fragments).transpose(0, 1, 3, 2).reshape(-1, self.columns, 16).astype(np.float32)
        columns = words.uint16_of(packed.arrays["columns"]).reshape(-1, self.columns)
        starts = packed.arrays["starts"].reshape(-1, quarters + 1)
        owner = np.repeat(np.arange(len(starts)), starts[:, -1] - starts[:, 0])
        strips = np.zeros((len(starts), k, STRIP), np.float32)
        np.add.at(strips, (owner[:, None], columns), dense)  # the filling adds zeros to a column that is there
        full = strips.transpose(0, 2, 1).reshape(-1, k)[:m]
        return words.scaled(full, packed.arrays.get("scales"))

    def bytes_of(self, m: int, k: int, sparsity: float) -> float:
        """Return the bytes of values, columns and scales; ``starts`` and filling come on top.

        ``starts`` is 4 bytes per 4096 weights; filling at most one fragment per strip above 1/16 density.
        """
        kept = m * k * (1 - words.share(sparsity))
        return kept * (2 + 2 / 16) if self.values == "fp16" else kept * (1 + 2 / 16) + 4 * m


def _fragments(kept: npt.NDArray[np.intp], most: int) -> tuple[words.Array, words.Array]:
    """Return the columns (fragment, ``most``) of a strip's fragments, and how many of each are no filling."""
    spans: list[tuple[int, int]] = []
    at = 0
    while at < len(kept):
        behind = int(np.searchsorted(kept, (kept[at] // QUARTER + 2) * QUARTER))
        spans.append((at, min(at + most, behind)))
        at = spans[-1][1]
    if not spans:
        return np.zeros((0, most), np.intp), np.zeros(0, np.intp)
    first, behind_last = np.array(spans).T
    return kept[np.minimum(first[:, None] + np.arange(most), behind_last[:, None] - 1)], behind_last - first


def _starts(owner: words.Array, last: words.Array, strips: int, quarters: int) -> npt.NDArray[np.int32]:
    """Return, per strip, the first fragment that ends in each quarter or later, and the one after the strip's last."""
    place = owner * (quarters + 1) + last // QUARTER
    return np.searchsorted(place, np.arange(strips * (quarters + 1))).astype(np.int32)
