"""A sparse format and its kernel made for tests, small enough to be seen through; weights that fit it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwbench.sparse.formats import FORMATS, Packed
from hwbench.sparse.manifest import Kernel, Shape


@dataclass(frozen=True)
class Strips:
    """Columns of strips of four rows are kept or dropped together; as many in each strip. Values in fp16."""

    name: str = "strips"
    values: str = "fp16"
    rows: int = 4

    def refuses(self, m, k):
        return f"{m} rows are no multiple of {self.rows}" if m % self.rows else None

    def mask(self, scores, sparsity):
        if sparsity > 0.95:
            raise ValueError(f"strips keep a twentieth at least, and {sparsity:g} was asked")
        strips = scores.reshape(-1, self.rows, scores.shape[1]).sum(1)
        kept = np.zeros(strips.shape, bool)
        count = scores.shape[1] - round(sparsity * scores.shape[1])
        np.put_along_axis(kept, np.argsort(-strips, axis=1, kind="stable")[:, :count], True, axis=1)
        return kept.repeat(self.rows, axis=0)

    def pack(self, weight, mask=None):
        m, k = weight.shape
        if why := self.refuses(m, k):
            raise ValueError(why)
        held = np.where(mask, weight, 0) if mask is not None else weight
        strips = held.reshape(-1, self.rows, k)
        used = (strips != 0).any(1)
        width = int(used.sum(1).max())
        if width == k:
            raise ValueError("no column of a strip is zero: nothing was pruned for strips")
        columns = np.argsort(~used, axis=1, kind="stable")[:, :width]
        values = np.take_along_axis(strips, columns[:, None, :], axis=2)
        arrays = {"values": values.astype(np.float16), "columns": columns.astype(np.uint16)}
        return Packed(format=self.name, shape=(m, k), arrays=arrays, scalars={"width": width})

    def unpack(self, packed):
        m, k = packed.shape
        dense = np.zeros((m // self.rows, self.rows, k), np.float32)
        columns = packed.arrays["columns"].astype(np.int64)
        np.put_along_axis(
            dense, columns[:, None, :].repeat(self.rows, 1), packed.arrays["values"].astype(np.float32), 2
        )
        return dense.reshape(m, k)

    def bytes_of(self, m, k, sparsity):
        return m * k * (1 - sparsity) * (2 + 2 / self.rows)


def strips_kernel(**other) -> Kernel:
    """Return the manifest's entry of a kernel that would read strips."""
    told = {
        "name": "strips", "summary": "for tests", "source": "strips/kernel.cu", "entry": "hwb_strips",
        "format": "strips", "values": "fp16", "inputs": ("values", "columns"), "scalars": ("width",),
        "tile_n": (8, 16, 32),
        "archs": (80, 90), "threads": 128, "rows_per_block": 4, "shared_bytes": 1024, "registers": 64,
        "shape": Shape(m_multiple=4, n_most=1 << 20),
    }  # fmt: skip
    return Kernel(**{**told, **other})


def with_strips(monkeypatch) -> None:
    """Register the format for one test."""
    monkeypatch.setitem(FORMATS, "strips", Strips())


def pruned(rng, m, k, sparsity=0.5, format_name="strips"):
    """Return weights [m, k] in fp32, zero where the format drops them, representable in fp16."""
    weight = rng.normal(size=(m, k)).astype(np.float16).astype(np.float32)
    return np.where(FORMATS[format_name].mask(np.abs(weight), sparsity), weight, 0)
