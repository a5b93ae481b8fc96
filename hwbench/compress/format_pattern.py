"""Zeros where a sparse format of the GPU's kernels can hold them: ``pattern=format:vw16``.

A kernel reads a layer as one matrix [outputs, inputs x kernel positions], kernel positions fastest, which is the order
of ``im2col`` (:mod:`hwbench.sparse.lowering`). Which weights stay is the format's own choice
(:meth:`hwbench.sparse.formats.Format.mask`), so that what is left packs without loss of a weight. The network then has
the weights that the format holds, rounded to fp16 or to int8 with its scales, so that what is measured of it afterwards
is measured of what the kernel multiplies by. Training after that moves them away again, until they are packed.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.sparse.formats import FORMATS, Format

Array = np.ndarray[Any, np.dtype[Any]]

PREFIX = "format:"


@dataclass(frozen=True)
class OfFormat:
    """The zeros that one sparse format can hold."""

    name: str

    @property
    def format(self) -> Format:
        """The format itself."""
        return FORMATS[self.name]

    def refused(self, shape: tuple[int, ...]) -> Missing | None:
        """Say why weights of this shape [groups, outputs, inputs, kernel] cannot be in the format."""
        groups, outputs, inputs, kernel = shape
        if groups > 1:
            return Missing(
                code="groups", why=f"it is {groups} matrices, one a group, and a kernel for {self.name} reads one"
            )
        why = self.format.refuses(outputs, inputs * kernel)
        return (
            None if why is None else Missing(code="format_refuses", why=why, cure="leave it dense, or another format")
        )

    def kept(self, scores: Array, amount: float) -> Array:
        """Return the mask that the format keeps of ``scores`` [1, outputs, inputs, kernel], none of them negative.

        Raises:
            UsageError: the format cannot have this fraction of zeros.
        """
        matrix = scores.reshape(scores.shape[1], -1)
        try:
            mask: Array = self.format.mask(matrix, amount)
        except ValueError as error:
            raise UsageError(f"pattern={self} with amount={amount:g}: {error}") from error
        shaped: Array = mask.reshape(scores.shape)
        return shaped

    def held(self, weights: Array, layer: str) -> Array:
        """Return weights [1, outputs, inputs, kernel] as the format holds them, in float64: what the kernel reads.

        Raises:
            UsageError: it cannot hold them, such as those beyond fp16; ``layer`` is named.
        """
        try:
            packed = self.format.pack(weights.reshape(weights.shape[1], -1))
        except ValueError as error:
            msg = f"{layer}: the weights cannot be packed as {self.name}: {error}"
            raise UsageError(msg, hint="leave the layer out, or take another format") from error
        held: Array = self.format.unpack(packed).astype(np.float64).reshape(weights.shape)
        return held

    def stored(self, weights: Array) -> tuple[float, str]:
        """Return the bits a weight that weights [1, outputs, inputs, kernel] take in it, and the bytes in words.

        They are weights that :meth:`held` has returned.
        """
        size = self.format.pack(weights.reshape(weights.shape[1], -1)).bytes
        return 8.0 * size / weights.size, f"; {size} bytes packed as {self.name}"

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}"


def format_pattern(text: str) -> OfFormat:
    """Return the pattern that ``format:NAME`` names.

    Raises:
        UsageError: there is no such format.
    """
    name = text.removeprefix(PREFIX)
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=3) or list(FORMATS)
        raise UsageError(f"there is no sparse format '{name}'", hint=f"known: {', '.join(near)}")
    return OfFormat(name)
