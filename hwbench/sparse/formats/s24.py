"""``s24``: of every four neighbouring weights of a row at most two are kept, as NVIDIA's sparse tensor cores want it.

    a row of W      a . b .   . . c d   . e . .   f . . g      two of four, "2:4" (arXiv 2104.08378)
    values          a b       c d       e 0       f g          half of the bytes
    metadata        0 2       2 3       1 3       0 3          2 bits each: which of the four

The kernel multiplies strips of 16 rows by ``mma.sp.m16n8k32`` (PTX ISA, "Sparse matrix storage"), so values and
metadata lie in the order of its operands, 64 columns (a unit) at a time:

    values    fp16[strip][unit][step of 32 columns][lane][8]      or int8[strip][unit][lane][step][8]
    metadata  int32[strip][unit][lane]: lanes 4g + 2s + {0, 1} hold rows g (low half) and g + 8 of step s
    scales    float32[M], of int8 values only

Within a step the groups of four are reordered: group ``4u + r`` is the instruction's group ``2r + u``, which lets a
lane read X by 16 bytes (``kernels/s24/kernel.cuh``). 9 bits a weight with fp16 values, 5 bits with int8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from hwbench.sparse.formats import words
from hwbench.sparse.formats.base import Packed

if TYPE_CHECKING:
    import numpy.typing as npt

UNIT = 64  # columns
# The instruction's group 2r + u takes group 4u + r of its 32 columns.
_GROUPS = np.array([4 * u + r for r in range(4) for u in range(2)])


@dataclass(frozen=True)
class S24:
    """The format ``s24`` (fp16 values) or ``s24_int8`` (int8 values with a scale per row)."""

    values: Literal["fp16", "int8"] = "fp16"

    @property
    def name(self) -> str:
        """Return the name."""
        return "s24" if self.values == "fp16" else "s24_int8"

    def refuses(self, m: int, k: int) -> str | None:
        """Return why not: K must be a multiple of 64; any M is taken, padded to 16 rows."""
        return words.refuses_shape(self.name, m, k, UNIT)

    def mask(self, scores: npt.NDArray[np.floating], sparsity: float) -> npt.NDArray[np.bool_]:
        """Keep the two best of every four; raises ``ValueError`` unless ``sparsity`` is 0.5 and K a multiple of 4."""
        if sparsity != 0.5:
            raise ValueError(f"{self.name} drops half of the weights; a sparsity of {sparsity:g} is none of its.")
        m, k = scores.shape
        if k % 4:
            raise ValueError(f"K is {k}, no multiple of four.")
        return words.keep_best(scores.reshape(m, k // 4, 4), 2).reshape(m, k)

    def pack(self, weight: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_] | None = None) -> Packed:
        """Pack; raises ``ValueError`` where three of four neighbours are not zero."""
        full = words.as_matrix(weight, mask)
        m, k = full.shape
        if why := self.refuses(m, k):
            raise ValueError(f"{why}.")
        groups = full.reshape(m, k // 4, 4)
        crowded = int(np.count_nonzero((groups != 0).sum(axis=2) > 2))
        if crowded:
            raise ValueError(f"{crowded} groups of four hold more than two weights that are not zero.")
        places = np.sort(np.argsort(groups == 0, axis=2, kind="stable")[..., :2], axis=2)
        kept = np.take_along_axis(groups, places, axis=2).reshape(m, k // 2)
        arrays: dict[str, words.Array] = {}
        if self.values == "fp16":
            arrays["values"] = _in_order(words.to_halves(kept)).ravel()
            arrays["metadata"] = _metadata(places)
        else:
            whole, scales = words.quantised(kept)
            arrays["values"] = words.biased(np.swapaxes(_in_order(whole), 2, 3).ravel())
            arrays["metadata"] = _metadata(places)
            arrays["scales"] = scales
        return Packed(format=self.name, shape=(m, k), arrays=arrays, scalars={})

    def unpack(self, packed: Packed) -> npt.NDArray[np.float32]:
        """Return the matrix (M, K)."""
        words.check_is(packed, self.name)
        m, k = packed.shape
        strips, units = -(-m // 16), k // UNIT
        values = packed.arrays["values"]
        if self.values == "int8":
            values = np.swapaxes(words.biased(values).reshape(strips, units, 32, 2, 8), 2, 3)
        kept = _out_of_order(values.reshape(strips, units, 2, 32, 8)).astype(np.float32)[:m]
        kept = words.scaled(kept, packed.arrays.get("scales"))
        groups = np.zeros((m, k // 4, 4), np.float32)
        np.put_along_axis(
            groups, _places(packed.arrays["metadata"], strips, units)[:m], kept.reshape(m, k // 4, 2), axis=2
        )
        return groups.reshape(m, k)

    def bytes_of(self, m: int, k: int, sparsity: float) -> float:
        """Return the bytes: 9/8 or 5/8 a weight whatever the sparsity, which is 0.5, and 4 a row for int8's scales."""
        words.share(sparsity)
        return m * k * 1.125 if self.values == "fp16" else m * k * 0.625 + 4 * m


def _in_order(kept: words.Array) -> words.Array:
    """Return kept values (M, K/2) as (strip, unit, step, lane, 8)."""
    full = words.padded(kept, 16)
    strips, units = full.shape[0] // 16, full.shape[1] // 32
    steps = full.reshape(strips, 16, units, 2, 8, 2)[..., _GROUPS, :].reshape(strips, 16, units, 2, 16)
    return words.to_fragments(steps.transpose(0, 2, 3, 1, 4))


def _out_of_order(fragments: words.Array) -> words.Array:
    """Return (strip, unit, step, lane, 8) as kept values (16 strips, K/2)."""
    tiles = words.from_fragments(fragments)
    strips, units = tiles.shape[:2]
    steps = tiles.transpose(0, 3, 1, 2, 4).reshape(strips, 16, units, 2, 8, 2)
    plain = np.empty_like(steps)
    plain[..., _GROUPS, :] = steps
    kept: words.Array = plain.reshape(strips * 16, units * 32)
    return kept


def _metadata(places: npt.NDArray[np.intp]) -> npt.NDArray[np.int32]:
    """Return the words (strip, unit, lane) of places (M, K/4, 2)."""
    m, groups, _ = places.shape
    nibbles = np.full((m + -m % 16, groups), 0b0100, np.uint32)  # of the padding: places 0 and 1
    nibbles[:m] = places[..., 0] | places[..., 1] << 2
    strips, units = nibbles.shape[0] // 16, groups // 16
    # (strip, row's half, g, unit, step, half of the step, group of four): the instruction's halves are of 16 columns
    steps = nibbles.reshape(strips, 2, 8, units, 2, 8)[..., _GROUPS].reshape(strips, 2, 8, units, 2, 2, 4)
    shifts = (16 * np.arange(2)[:, None] + 4 * np.arange(4)).astype(np.uint32)
    both = steps.transpose(0, 3, 2, 4, 5, 1, 6) << shifts  # (strip, unit, g, step, half, row's half, group)
    lanes: npt.NDArray[np.uint32] = np.bitwise_or.reduce(both, axis=(-2, -1))
    return lanes.ravel().view(np.int32)


def _places(metadata: words.Array, strips: int, units: int) -> npt.NDArray[np.intp]:
    """Return places (16 strips, K/4, 2) of the words."""
    lanes = metadata.view(np.uint32).reshape(strips, units, 8, 2, 2)
    shifts = (16 * np.arange(2)[:, None] + 4 * np.arange(4)).astype(np.uint32)
    nibbles = (lanes[..., None, None] >> shifts & 15).transpose(0, 5, 2, 1, 3, 4, 6).reshape(strips, 2, 8, units, 2, 8)
    plain = np.empty_like(nibbles)
    plain[..., _GROUPS] = nibbles
    flat = plain.reshape(strips * 16, units * 16)
    return np.stack([flat & 3, flat >> 2], axis=-1).astype(np.intp)
