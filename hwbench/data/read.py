"""Bring data in: read what the user named, hold it against the model's inputs, and lay it down for other children.

Runs as a child, since it runs the user's code and parses foreign files. No more than one batch is in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.children import Emit, Throttle, serve
from hwbench.data.sources import open_source
from hwbench.data.store import LABELS, Array, InputWriter
from hwbench.errors import StorageError, UsageError
from hwbench.records.base import Missing
from hwbench.records.data import DataJob, DataResult
from hwbench.records.model import DataFacts, Model, TensorSpec

_PROGRESS_PERIOD_S = 0.5


def work(job: DataJob, folder: Path, emit: Emit) -> DataResult:
    """Read the data, check that they fit the model, and write them into ``folder``.

    Raises:
        UsageError: they cannot be read or do not fit; the message lists both sides.
        StorageError: they cannot be written.
    """
    emit({"event": "phase", "phase": "data"})
    if isinstance(job.model.batch_size, Missing):
        raise UsageError(f"the inputs of '{job.model.name}' share no batch axis: {job.model.batch_size.why}")
    try:
        return _laid_down(job, folder, emit)
    except OSError as error:
        raise StorageError(f"cannot read '{job.data}' into {folder}: {error.strerror or error}") from error


def _laid_down(job: DataJob, folder: Path, emit: Emit) -> DataResult:
    with InputWriter(folder, job.model.inputs) as writer:
        labels = _written(job, writer, emit)
        writer.finish()
    if labels is not None:
        np.save(folder / LABELS, labels)
    facts = DataFacts(source=job.data, sha256=writer.sha256(labels), samples=writer.samples, labels=labels is not None)
    return DataResult(facts=facts, folder=str(folder.resolve()))


def _written(job: DataJob, writer: InputWriter, emit: Emit) -> Array | None:
    """Write the samples, and return the labels."""
    parts: list[Array | None] = []
    throttle = Throttle(_PROGRESS_PERIOD_S)
    names = [spec.name for spec in job.model.inputs]
    for arrays, given in open_source(job.data, job.preprocess, names):
        inputs = _inputs(arrays, job.model, job.data)
        count = _count(inputs, job.data)
        labels = None if given is None else _labels_of(given, count, job.data)
        parts.append(labels)
        left = count if job.limit is None else job.limit - writer.samples
        writer.add({name: array[:left] for name, array in inputs.items()} if left < count else inputs)
        if throttle.ready():
            emit({"event": "progress", "phase": "data"})
        if left <= count and job.limit is not None:
            parts[-1] = None if labels is None else labels[: max(1, left * len(labels) // count)]
            break
    if not writer.samples:
        raise UsageError(f"'{job.data}' gave no data")
    return _labels(parts, writer.samples, job.data)


def _inputs(arrays: dict[str, Array], model: Model, source: str) -> dict[str, Array]:
    """Return an array for each input of the model, in its type."""
    names = [spec.name for spec in model.inputs]
    fitting = [key for key, array in arrays.items() if array.ndim == len(model.inputs[0].shape)]
    if len(names) == 1 and names[0] not in arrays and len(fitting) == 1:
        arrays = {names[0]: arrays[fitting[0]]}
    absent = [name for name in names if name not in arrays]
    if absent:
        has = ", ".join(f"{key or 'one array'} {list(array.shape)}" for key, array in arrays.items()) or "nothing"
        raise UsageError(f"'{source}' has no array for the input '{absent[0]}'", hint=f"it has: {has}")
    return {spec.name: _fitted(arrays[spec.name], spec, source) for spec in model.inputs}


def _fitted(array: Array, spec: TensorSpec, source: str) -> Array:
    if array.ndim != len(spec.shape) or array.shape[1:] != spec.shape[1:]:
        raise UsageError(
            f"'{source}' gives '{spec.name}' {list(array.shape)}, the model takes [N, {str(list(spec.shape[1:]))[1:]}"
        )
    wanted = np.dtype(spec.dtype)
    if not np.can_cast(array.dtype, wanted, casting="safe"):
        raise UsageError(
            f"'{source}' gives '{spec.name}' as {array.dtype}, the model takes {wanted}",
            hint=_conversion(array, spec.name, wanted),
        )
    array = np.ascontiguousarray(array, dtype=wanted)
    if wanted.kind == "f" and not np.isfinite(array).all():
        raise UsageError(f"'{source}': '{spec.name}' holds NaN or infinity")
    return array


def _conversion(array: Array, name: str, wanted: np.dtype[Any]) -> str:
    """Return what to do about a type that does not fit; ``astype`` only where it keeps the values.

    A cast between types of integers wraps around without a word (uint8 200 is int8 -56), and ``same_kind`` of
    :func:`numpy.can_cast` lets that pass.
    """
    if wanted.kind in "iu":
        keeps = array.dtype.kind == wanted.kind and np.array_equal(array.astype(wanted), array)
    else:
        keeps = np.can_cast(array.dtype, wanted, casting="same_kind")
    if keeps:
        return f"save it converted: {name}.astype('{wanted}')"
    return (
        f"bring it into the range of {wanted} as the model was quantised" if wanted.kind in "iu" else f"give {wanted}"
    )


def _count(inputs: Mapping[str, Array], source: str) -> int:
    counts = {name: len(array) for name, array in inputs.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise UsageError(f"'{source}' has different numbers of samples, or none: {counts}")
    return next(iter(counts.values()))


def _labels_of(given: Array, count: int, source: str) -> Array:
    """Return the labels of a batch of ``count`` samples: one for each, or one for every two."""
    labels = np.atleast_1d(given)
    if len(labels) not in {count, count // 2}:
        raise UsageError(f"'{source}' gave {count} samples and {len(labels)} labels in one batch")
    return labels


def _labels(parts: list[Array | None], count: int, source: str) -> Array | None:
    given = [labels for labels in parts if labels is not None]
    if not given:
        return None
    if len(given) != len(parts):
        raise UsageError(f"'{source}' gave labels for some batches and none for others")
    labels = np.concatenate(given)
    if labels.dtype.kind not in "iufb":
        raise UsageError(f"labels are {labels.dtype}, not numbers", hint="give class numbers, or values to be met")
    if len(labels) not in {count, count // 2}:
        raise UsageError(f"there are {count} samples and {len(labels)} labels")
    return labels


if __name__ == "__main__":
    serve(work, DataJob)
