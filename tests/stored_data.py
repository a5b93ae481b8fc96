"""Samples laid down as the child that reads the user's data does."""

from __future__ import annotations

from hwbench.data.store import InputWriter
from hwbench.records.model import TensorSpec


def lay_down(folder, **arrays):
    specs = [
        TensorSpec(name=name, dtype=array.dtype.name, shape=(1, *array.shape[1:])) for name, array in arrays.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with InputWriter(folder, specs) as writer:
        writer.add(arrays)
        writer.finish()
