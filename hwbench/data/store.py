"""Samples on disk, between the child that read them and those that use them.

One file of raw numbers an input, written as the samples come and mapped into memory when read, so that data larger than
memory can pass; ``inputs.json`` says what they are. ``labels.npy`` beside them, where there are labels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from hwbench.files import read_bytes, write_bytes
from hwbench.records.model import TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]

LABELS = "labels.npy"
_INDEX = "inputs.json"


class InputWriter:
    """Takes samples batch by batch; ``specs`` are the model's inputs, whose first axis is the batch."""

    def __init__(self, folder: Path, specs: Sequence[TensorSpec]) -> None:
        self.folder = folder
        self.specs = specs
        self.samples = 0
        self._digests = [hashlib.sha256() for _ in specs]
        self._streams: list[IO[bytes]] = [(folder / _file(number)).open("wb") for number in range(len(specs))]

    def add(self, inputs: Mapping[str, Array]) -> None:
        """Append a batch: an array of one length for each input, in its type and shape."""
        for spec, stream, digest in zip(self.specs, self._streams, self._digests, strict=True):
            array = np.ascontiguousarray(inputs[spec.name])
            stream.write(array.data)
            digest.update(array.data)
        self.samples += len(inputs[self.specs[0].name])

    def __enter__(self) -> InputWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            stream.close()

    def finish(self) -> None:
        """Leave the index, so that the samples can be read."""
        for stream in self._streams:
            stream.flush()
        index = [
            TensorSpec(name=spec.name, dtype=spec.dtype, shape=(self.samples, *spec.shape[1:])) for spec in self.specs
        ]
        write_bytes(self.folder / _INDEX, msgspec.json.encode(index))

    def sha256(self, labels: Array | None) -> str:
        """Return a hash of all samples and labels, whatever the batches they came in."""
        whole = hashlib.sha256()
        for spec, digest in sorted(zip(self.specs, self._digests, strict=True), key=lambda pair: pair[0].name):
            shape = (self.samples, *spec.shape[1:])
            whole.update(f"{spec.name} {spec.dtype} {shape} {digest.hexdigest()}".encode())
        if labels is not None:
            whole.update(f"labels {labels.dtype} {labels.shape}".encode() + labels.tobytes())
        return whole.hexdigest()


def stored_inputs(folder: Path) -> dict[str, Array]:
    """Return the samples that :class:`InputWriter` laid down, by input: arrays [N, ...] that are read when used."""
    index = msgspec.json.decode(read_bytes(folder / _INDEX), type=list[TensorSpec])
    return {spec.name: _mapped(folder / _file(number), spec) for number, spec in enumerate(index)}


def _mapped(path: Path, spec: TensorSpec) -> Array:
    if math.prod(spec.shape) == 0:  # an empty file cannot be mapped
        return np.empty(spec.shape, spec.dtype)
    return np.memmap(path, dtype=np.dtype(spec.dtype), mode="r", shape=spec.shape)


def _file(number: int) -> str:
    return f"input-{number}.raw"
