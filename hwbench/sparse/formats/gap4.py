"""``gap4``: unstructured sparsity, each kept weight as fp16 with the number of zeros before it in 4 bits.

A row is cut into panels of 4096 columns, and places are counted afresh in each. A gap above 15 takes a filler: a weight
of zero behind 15 zeros. A panel's entries are filled up to groups of 16, which is what a lane of ``gap4_mv`` reads. Of
32 groups (fewer at a panel's end) the first halves lie together, then the second halves, so that a warp reads one
stretch of memory::

    values   fp16   [step][half 0 or 1][group][8]
    gaps     int32  [group][2], eight gaps a word, from its lowest bits up
    offsets  int32  [row][panel] + 1: groups before each panel of each row

Bytes: 2.5 an entry and 4 a panel; at 50 % of weights kept 1.25 a weight (the idea of 4-bit gaps: MACKO, 2025). Kept at
random with probability p, a share ``q^16 / (1 - q^16)``, ``q = 1 - p``, of fillers is added to the kept ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hwbench.sparse.formats import words
from hwbench.sparse.formats.base import Packed, Values

PANEL: Final = 4096
GROUP: Final = 16
_STEP: Final = 32  # groups
_REACH: Final = 16  # columns a filler takes: 15 zeros and itself


@dataclass(frozen=True)
class Gap4:
    """The format; see the module."""

    name: str = "gap4"
    values: Values = "fp16"

    def refuses(self, m: int, k: int) -> str | None:
        """Return why not: K must be a multiple of 8."""
        return words.refuses_shape(self.name, m, k, 8)

    def mask(self, scores: npt.NDArray[np.floating], sparsity: float) -> npt.NDArray[np.bool_]:
        """Keep the highest scores of the whole matrix, wherever they are."""
        return words.keep_best_of_all(scores, sparsity)

    def pack(self, weight: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_] | None = None) -> Packed:
        """Pack; raises ``ValueError`` where the shape is refused or a weight is beyond fp16."""
        dense = words.to_halves(words.as_matrix(weight, mask))
        m, k = dense.shape
        if why := self.refuses(m, k):
            raise ValueError(f"{why}.")
        panels = -(-k // PANEL)
        row, column = np.nonzero(dense)
        segment = row * panels + column // PANEL
        owner, values, gaps = _with_fillers(segment, column % PANEL, dense[row, column])
        groups = -(-np.bincount(owner, minlength=m * panels) // GROUP)
        offsets = np.concatenate([[0], np.cumsum(groups)])
        if offsets[-1] * GROUP > np.iinfo(np.int32).max:
            raise ValueError(f"{offsets[-1] * GROUP} weights are more than 32 bits count.")
        place = _place(owner, offsets)
        packed_gaps = np.zeros(offsets[-1] * GROUP, np.uint8)
        packed_gaps[place] = gaps
        packed_values = np.zeros(offsets[-1] * GROUP, np.float16)
        packed_values[place] = values
        arrays: dict[str, words.Array] = {
            "values": packed_values[_order(groups, offsets)],
            "gaps": (packed_gaps[0::2] | packed_gaps[1::2] << 4).view(np.int32),
            "offsets": offsets.astype(np.int32),
        }
        return Packed(format=self.name, shape=(m, k), arrays=arrays, scalars={})

    def unpack(self, packed: Packed) -> npt.NDArray[np.float32]:
        """Return the matrix (M, K)."""
        words.check_is(packed, self.name)
        m, k = packed.shape
        panels = -(-k // PANEL)
        offsets = packed.arrays["offsets"].astype(np.int64)
        groups = np.diff(offsets)
        values = np.zeros(offsets[-1] * GROUP, np.float16)
        values[_order(groups, offsets)] = packed.arrays["values"]
        pairs = packed.arrays["gaps"].view(np.uint8)
        gaps = np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1).astype(np.int64)
        segment = np.repeat(np.arange(m * panels), groups * GROUP)
        behind = np.cumsum(gaps + 1)
        before = np.concatenate([[0], behind])[offsets[:-1] * GROUP]  # columns that all segments before have taken
        column = segment % panels * PANEL + behind - before[segment] - 1
        kept = values != 0
        dense = np.zeros((m, k), np.float32)
        dense[segment[kept] // panels, column[kept]] = values[kept]
        return dense

    def bytes_of(self, m: int, k: int, sparsity: float) -> float:
        """Return 2.5 bytes an entry, fillers included, 4 a row and panel, and half a group of filling up for each."""
        panels = -(-k // PANEL)
        filling = m * panels * GROUP / 2 if sparsity < 1 else 0.0
        return 2.5 * (m * k * entries_of(sparsity) + filling) + 4 * (m * panels + 1)


def entries_of(sparsity: float) -> float:
    """Return the entries a weight, fillers included, of a matrix whose weights are kept at random."""
    zeros = words.share(sparsity) ** _REACH
    return (1 - sparsity) / (1 - zeros) if sparsity < 1 else 0.0


def _with_fillers(
    segment: npt.NDArray[np.int64], column: npt.NDArray[np.int64], values: npt.NDArray[np.float16]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    """Return the segment, value and gap of every entry: fillers before each kept weight that is too far away."""
    last = np.concatenate([[-1], column[:-1]])
    if len(segment):
        last[np.concatenate([[True], segment[1:] != segment[:-1]])] = -1
    gap = column - last[: len(column)] - 1
    fillers = gap // _REACH
    counts = fillers + 1
    entries = np.repeat(np.arange(len(segment)), counts)
    ends = np.cumsum(counts) - 1
    gaps = np.full(len(entries), _REACH - 1, np.int64)
    gaps[ends] = gap % _REACH
    filled = np.zeros(len(entries), np.float16)
    filled[ends] = values
    return segment[entries], filled, gaps


def _place(owner: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where each entry lies when every segment is filled up to whole groups."""
    counts = np.bincount(owner, minlength=len(offsets) - 1)
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    return np.asarray(np.arange(len(owner)) - starts[owner] + offsets[owner] * GROUP, np.int64)


def _order(groups: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return, for every place of the packed values, which entry lies there: halves of groups, step by step."""
    total = int(offsets[-1])
    owner = np.repeat(np.arange(len(groups)), groups)
    within = np.arange(total) - offsets[owner]
    step, lane = within // _STEP, within % _STEP
    first = offsets[owner] + step * _STEP  # of the step, in groups
    lanes = np.minimum(_STEP, groups[owner] - step * _STEP)
    order = np.empty(total * GROUP, np.int64)
    eight = np.arange(8)
    for half in range(2):
        place = (first * GROUP + half * lanes * 8 + lane * 8)[:, None] + eight
        order[place] = (np.arange(total) * GROUP + half * 8)[:, None] + eight
    return order
