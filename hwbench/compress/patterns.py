"""Where zeros may lie in the weights of a layer: anywhere, N of M along the inputs, in blocks, as a format has it.

A layer's weights are seen as :meth:`hwbench.graph.linear.Linear.blocks` gives them: groups x outputs x inputs x kernel
positions. A pattern says which weights are kept or zeroed together (a unit), and what it costs to store where the
zeros are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

import numpy as np

from hwbench.compress.format_pattern import PREFIX, OfFormat, format_pattern
from hwbench.errors import UsageError
from hwbench.records.base import Missing

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Unstructured:
    """Every weight for itself. Stored as the weights that are left and a mask of one bit a weight."""

    def refused(self, shape: tuple[int, ...]) -> Missing | None:
        """Say why weights of this shape cannot have the pattern."""
        return None

    def units(self, shape: tuple[int, ...]) -> Array:
        """Return the number of the unit that each weight belongs to; units are numbered from 0 without gaps."""
        return np.arange(np.prod(shape), dtype=np.int64).reshape(shape)

    def overhead(self) -> float:
        """Return the bits a weight of the layer that telling where the zeros are takes."""
        return 1.0

    def __str__(self) -> str:
        return "unstructured"


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``rows`` x ``columns`` of the matrix [outputs of a group, inputs x kernel positions].

    Columns are in the order in which ONNX stores them: kernel positions fastest. What is left over at the lower and
    the right edge forms smaller blocks, which compete by the mean of their scores as all do. No block reaches over two
    groups. Stored as the blocks that are left and a mask of one bit a block.
    """

    rows: int
    columns: int

    def refused(self, shape: tuple[int, ...]) -> Missing | None:
        """Say why weights of this shape cannot have the pattern."""
        groups, outputs, inputs, kernel = shape
        count = groups * ceil(outputs / self.rows) * ceil(inputs * kernel / self.columns)
        if count > 1:
            return None
        return Missing(
            code="one_block",
            why=f"its {outputs} x {inputs * kernel} weights are a single block of {self}",
            cure="smaller blocks",
        )

    def units(self, shape: tuple[int, ...]) -> Array:
        """Return the number of the unit that each weight belongs to; units are numbered from 0 without gaps."""
        groups, outputs, inputs, kernel = shape
        down, across = ceil(outputs / self.rows), ceil(inputs * kernel / self.columns)
        row, column = np.arange(outputs) // self.rows, np.arange(inputs * kernel) // self.columns
        one = row[:, None] * across + column[None, :]
        return (np.arange(groups)[:, None, None] * (down * across) + one).reshape(shape)

    def overhead(self) -> float:
        """Return the bits a weight of the layer that telling where the zeros are takes."""
        return 1.0 / (self.rows * self.columns)

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


@dataclass(frozen=True)
class NofM:
    """At most ``keep`` of every ``of`` consecutive inputs, for each output and kernel position, are not zero.

    That is the axis along which sparse kernels want it: the channels that a dot product runs over. Inputs that do not
    fill a last group of ``of`` obey the rule as if zeros followed. Stored as the weights that are left with the place
    of each in its group: ceil(log2(``of``)) bits.
    """

    keep: int
    of: int

    def refused(self, shape: tuple[int, ...]) -> Missing | None:
        """Say why weights of this shape cannot have the pattern."""
        if shape[2] >= self.of:
            return None
        return Missing(
            code="too_few_inputs", why=f"{self} goes along the inputs, and its outputs read {shape[2]} channels each"
        )

    def kept(self, scores: Array) -> Array:
        """Return the mask that keeps the highest of ``scores`` [groups, outputs, inputs, kernel] in every group."""
        inputs = scores.shape[2]
        missing = -inputs % self.of
        padded = np.pad(scores, ((0, 0), (0, 0), (0, missing), (0, 0)), constant_values=-np.inf)
        split = padded.reshape(*scores.shape[:2], -1, self.of, scores.shape[3])
        order = np.argsort(-split, axis=3, kind="stable")
        mask = np.zeros(split.shape, bool)
        np.put_along_axis(mask, order[:, :, :, : self.keep], True, axis=3)
        return mask.reshape(padded.shape)[:, :, :inputs]

    def __str__(self) -> str:
        return f"{self.keep}:{self.of}"


Pattern = Unstructured | Blocks | NofM | OfFormat


def parse_pattern(text: str) -> Pattern:
    """Return what ``text`` names: ``unstructured``, ``2:4`` (keep N of M), ``16x1`` (rows x columns), ``format:vw16``.

    Raises:
        UsageError: it names none.
    """
    if text == "unstructured":
        return Unstructured()
    if text.startswith(PREFIX):
        return format_pattern(text)
    found = re.fullmatch(r"(\d{1,6})([:x])(\d{1,6})", text)
    if found:
        first, second = int(found[1]), int(found[3])
        if found[2] == ":" and 0 < first < second:
            return NofM(first, second)
        if found[2] == "x" and first > 0 and second > 0:
            return Unstructured() if first == second == 1 else Blocks(first, second)
    raise UsageError(
        f"there is no pattern '{text}'",
        hint="unstructured, N:M such as 2:4 (0 < N < M), blocks of rows x columns such as 16x1, or format:vw16",
    )


def stored_bits(pattern: Unstructured | Blocks | NofM, density: float, value_bits: float) -> float:
    """Return the bits a weight that a layer takes when only what is not zero is stored, and where it is.

    Unstructured: ``density * value_bits + 1``. Blocks: ``density * value_bits + 1 / (rows * columns)``. N:M:
    ``N / M * (value_bits + ceil(log2 M))``, whatever the density, since the format has N places. Where that is more
    than storing every weight, every weight is stored.
    """
    if isinstance(pattern, NofM):
        stored = pattern.keep / pattern.of * (value_bits + ceil(log2(pattern.of)))
    else:
        stored = density * value_bits + pattern.overhead()
    return min(stored, value_bits)


def unit_scores(scores: Array, units: Array, zero: Array) -> tuple[Array, Array]:
    """Return the mean score and the size of every unit; a unit whose weights are all zero already has -infinity.

    Args:
        scores: one number, not negative, for each weight.
        units: the number of the unit of each weight.
        zero: which weights are zero already; they count as score 0.
    """
    flat, index = np.where(zero, 0.0, scores).ravel(), units.ravel()
    sizes = np.bincount(index)
    means = np.bincount(index, weights=flat) / sizes
    means[np.bincount(index, weights=~zero.ravel()) == 0] = -np.inf
    return means, sizes


def lowest(scores: Array, sizes: Array, target: int) -> Array:
    """Return the mask of the units to take: in increasing order of score, as long as ``target`` weights allow.

    Units of +infinity are never taken. Of equal scores the first goes first.
    """
    order = np.argsort(scores, kind="stable")
    order = order[scores[order] < np.inf]
    taken = np.zeros(len(scores), bool)
    taken[order[np.cumsum(sizes[order]) <= target]] = True
    return taken
