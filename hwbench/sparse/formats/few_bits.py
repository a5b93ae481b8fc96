"""``int4`` and ``int2``: dense weights of few bits, a scale for every group of columns. What sparsity competes with.

A row is cut into groups of 128 columns (64 where K is no multiple of 128), each with a scale in fp16:

    int4   code u in 1..15, weight (u - 8) · scale       4 bits and 16 / 128: 0.516 bytes a weight
    int2   code u in 0..3, weight (u - 1.5) · scale       four levels around zero, none of them zero: 0.266 bytes

Scales are the ones with the least squared error among some that clip ever more of the group's largest weights: rounding
to nearest, no data seen. Whoever has better codes (GPTQ, AWQ, training) packs them by :meth:`FewBits.pack_codes`.

Codes lie as the operand of ``mma.m16n8k16`` wants them, 16 rows (a strip) and 64 columns at a time: lane ``4g + t``
has columns ``16t`` to ``16t + 15`` of rows ``g`` and ``g + 8``; its codes of four columns (two neighbours in the halves
of a register, rows ``g``, ``g + 8``, then the next two columns) are a 32-bit word of 4-bit codes, or half of one of 2::

    codes    int32 [strip][16 bytes of a lane: 64 columns of 4 bits, 128 of 2][lane][4]
    scales   fp16  [strip][group][g][row g, row g + 8]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from hwbench.sparse.formats import words
from hwbench.sparse.formats.base import Packed

_GROUPS: Final = (128, 64)
_BLOCK: Final = 64  # columns
_SHRINK: Final = tuple(1 - step / 20 for step in range(13))  # of the scale that holds a group's largest weight


@dataclass(frozen=True)
class FewBits:
    """Dense weights of 4 or 2 bits; see the module."""

    bits: Literal[4, 2]

    @property
    def name(self) -> Literal["int4", "int2"]:
        """Return the name."""
        return "int4" if self.bits == 4 else "int2"

    @property
    def values(self) -> Literal["int4", "int2"]:
        """Return the type that weights are held in."""
        return self.name

    def refuses(self, m: int, k: int) -> str | None:
        """Return why not: K must be a multiple of 64; any M is taken, padded to 16 rows."""
        return words.refuses_shape(self.name, m, k, _BLOCK)

    def mask(self, scores: npt.NDArray[np.floating], sparsity: float) -> npt.NDArray[np.bool_]:
        """Keep everything; raises ``ValueError`` at a sparsity other than zero."""
        if words.share(sparsity):
            raise ValueError(f"{self.name} is dense; a sparsity of {sparsity:g} is none of its.")
        return np.ones(scores.shape, np.bool_)

    def pack(self, weight: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_] | None = None) -> Packed:
        """Quantise and pack; raises ``ValueError`` where the mask drops a weight and 2 bits have no zero."""
        if mask is not None and not mask.all() and self.bits == 2:
            raise ValueError("int2 has no zero, so it drops no weight.")
        full = words.as_matrix(weight, mask)
        m, k = full.shape
        if why := self.refuses(m, k):
            raise ValueError(f"{why}.")
        if not np.isfinite(full).all():
            raise ValueError("A weight that is not finite has no scale.")
        group = self.group(k)
        grouped = full.reshape(m, k // group, group)
        scales = self._scales(grouped)
        codes = self._codes(grouped, scales).reshape(m, k)
        return self.pack_codes(codes, scales)

    def pack_codes(self, codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.float16]) -> Packed:
        """Pack codes (M, K) with scales (M, K / group), both as the module has them.

        Raises ``ValueError`` where a code has too many bits, or the groups are neither of 128 nor of 64 columns.
        """
        m, k = codes.shape
        if why := self.refuses(m, k):
            raise ValueError(f"{why}.")
        if codes.max(initial=0) >= 1 << self.bits:
            raise ValueError(f"A code of {codes.max()} has more than {self.bits} bits.")
        group = k // scales.shape[1] if scales.ndim == 2 and scales.shape[1] else 0
        if group not in _GROUPS or scales.shape != (m, k // group):
            raise ValueError(f"Scales of {scales.shape} for codes of {codes.shape} are not one for 128 or 64 columns.")
        rows = words.padded(scales.astype(np.float16), 16)
        strips = rows.reshape(-1, 2, 8, k // group).transpose(0, 3, 2, 1)
        arrays: dict[str, words.Array] = {
            "codes": self._in_order(words.padded(codes, 16, 256 // self.bits)),
            "scales": np.ascontiguousarray(strips).ravel(),
        }
        return Packed(format=self.name, shape=(m, k), arrays=arrays, scalars={"group": group})

    def unpack(self, packed: Packed) -> npt.NDArray[np.float32]:
        """Return the matrix (M, K)."""
        words.check_is(packed, self.name)
        (m, k), group = packed.shape, packed.scalars["group"]
        codes = self._out_of_order(packed.arrays["codes"], m, k)
        strips = packed.arrays["scales"].reshape(-1, k // group, 8, 2)
        scales = strips.transpose(0, 3, 2, 1).reshape(-1, k // group)[:m].astype(np.float32)
        return np.asarray((codes - np.float32(self._offset)) * np.repeat(scales, group, axis=1), np.float32)

    def bytes_of(self, m: int, k: int, sparsity: float) -> float:  # noqa: ARG002 - dense at any sparsity
        """Return the bytes: bits a weight and a scale a group, whatever the sparsity; rows are padded to 16."""
        return m * k * (self.bits / 8 + 2 / self.group(k))

    @staticmethod
    def group(k: int) -> int:
        """Return the columns that share a scale: 128, or 64 where K is no multiple of 128."""
        return 64 if k % 128 else 128

    @property
    def _offset(self) -> float:
        return 8.0 if self.bits == 4 else 1.5

    def _codes(self, grouped: npt.NDArray[np.float32], scales: npt.NDArray[np.float16]) -> npt.NDArray[np.uint8]:
        steps = grouped / np.where(scales == 0, 1, scales).astype(np.float32)[..., None]
        low = 1 if self.bits == 4 else 0  # int4 leaves out -8, for which there is no 8
        return np.asarray(np.clip(np.rint(steps + self._offset), low, (1 << self.bits) - 1), np.uint8)

    def _scales(self, grouped: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
        most = np.max(np.abs(grouped), axis=2) / (7 if self.bits == 4 else 1.5)
        if (most > words.MOST_HALF).any():
            raise ValueError("A weight is too large for a scale in fp16.")
        best = np.zeros(most.shape, np.float16)
        least = np.full(most.shape, np.inf, np.float32)
        for shrink in _SHRINK:
            scales = (most * shrink).astype(np.float16)
            weights = (self._codes(grouped, scales) - self._offset) * scales.astype(np.float32)[..., None]
            errors = np.square(weights - grouped).sum(axis=2, dtype=np.float32)
            best = np.where(errors < least, scales, best)
            least = np.minimum(errors, least)
        return best

    @property
    def _shifts(self) -> npt.NDArray[np.uint32]:
        """Where the codes of a word begin: (fours of columns in it, column of a pair, register)."""
        fours = 4 // self.bits
        bits = 8 * np.arange(fours)[:, None, None] + 16 * np.arange(2)[:, None] + self.bits * np.arange(4)
        return bits.astype(np.uint32)

    def _in_order(self, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        (m, k), fours = codes.shape, 4 // self.bits
        # (strip, row's half, g, block, t, four columns, pair of columns, column)
        parts = codes.reshape(m // 16, 2, 8, k // _BLOCK, 4, 4, 2, 2)
        # (strip, block, g, t, four columns, column, pair, row's half): register 2 · pair + half
        lanes = parts.transpose(0, 3, 2, 4, 5, 7, 6, 1).astype(np.uint32)
        shifted = lanes.reshape(m // 16, -1, 8, 4, 4 // fours, fours, 2, 4) << self._shifts
        joined = np.bitwise_or.reduce(shifted.reshape(*shifted.shape[:5], -1), axis=-1)
        # a lane's 16 bytes are of as many blocks as there are fours in a word
        units = joined.reshape(m // 16, -1, fours, 8, 4, 4 // fours).transpose(0, 1, 3, 4, 2, 5)
        return np.ascontiguousarray(units, np.uint32).view(np.int32).ravel()

    def _out_of_order(self, packed: words.Array, m: int, k: int) -> npt.NDArray[np.uint8]:
        strips, fours = -(-m // 16), 4 // self.bits
        units = packed.view(np.uint32).reshape(strips, -1, 8, 4, fours, 4 // fours).transpose(0, 1, 4, 2, 3, 5)
        joined = units.reshape(strips, -1, 8, 4, 4 // fours)
        shifted = joined[..., None, None, None] >> self._shifts & ((1 << self.bits) - 1)
        lanes = shifted.reshape(strips, -1, 8, 4, 4, 2, 2, 2)
        parts = lanes.transpose(0, 7, 2, 1, 3, 4, 6, 5).astype(np.uint8)
        matrix: npt.NDArray[np.uint8] = parts.reshape(strips * 16, -1)[:m, :k]
        return matrix
