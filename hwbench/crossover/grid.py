"""What is measured: products, sparsities and formats, with the defaults of ``hwbench kernels``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hwbench.errors import UsageError
from hwbench.sparse.formats import FORMATS

SHAPES = ((4096, 4096), (4096, 14336), (8192, 8192), (8192, 28672))
"""Rows and columns of W: attention and MLP of decoders of 8 to 70 billion parameters; three above 100 MB in fp16."""
ROWS = (1, 4, 8, 16, 32)
SPARSITIES = (0.5, 0.7, 0.9)


@dataclass(frozen=True, order=True)
class Product:
    """``Y[n, m] = X[n, k] · W[m, k]ᵀ``."""

    m: int
    k: int
    n: int

    def __str__(self) -> str:
        return f"{self.m}x{self.k}, N = {self.n}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every combination of these is a point, where the format takes it."""

    shapes: tuple[tuple[int, int], ...] = SHAPES
    rows: tuple[int, ...] = ROWS
    sparsities: tuple[float, ...] = SPARSITIES
    formats: tuple[str, ...] = ()  # none: every one that there is

    def __post_init__(self) -> None:
        for name in self.formats:
            if name not in FORMATS:
                raise UsageError(f"there is no sparse format '{name}'", hint=f"known: {', '.join(FORMATS)}")
        for sparsity in self.sparsities:
            if not 0 < sparsity < 1:
                raise UsageError(f"a sparsity is a fraction between 0 and 1, got {sparsity:g}")

    @property
    def named(self) -> tuple[str, ...]:
        """The formats by name."""
        return self.formats or tuple(FORMATS)

    def products(self) -> Iterator[Product]:
        """Go through the products, shape by shape."""
        for m, k in self.shapes:
            for n in self.rows:
                yield Product(m, k, n)


def parse_shapes(texts: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return shapes of W from ``MxK``.

    Raises:
        UsageError: one is none.
    """
    found = []
    for text in texts:
        match = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,6})", text)
        if match is None:
            raise UsageError(f"--shape {text}: not rows x columns of W", hint="such as --shape 4096x14336")
        found.append((int(match[1]), int(match[2])))
    return tuple(dict.fromkeys(found))
