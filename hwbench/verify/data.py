"""Labelled data for a model: an ``.npz``, or a function of the user's. Runs as a child, since it runs the user's code.

In an ``.npz``, an array named like each input holds the samples along its first axis, already preprocessed; ``labels``
(or ``y``) holds the labels. With one input, the one other array is taken whatever its name. A function
(``file.py:function``, ``package.module:function``) returns ``(inputs, labels)``, or yields such pairs, batch by batch;
``inputs`` is an array, or a dictionary of arrays by name; ``labels`` may be None.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.children import Emit, serve
from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.records.model import DataFacts, Model, TensorSpec
from hwbench.records.verification import DataJob, DataResult
from hwbench.verify.metrics import load_callable
from hwbench.verify.stores import INPUTS, LABELS, Array

_LABEL_NAMES = ("labels", "label", "y")


def work(job: DataJob, folder: Path, emit: Emit) -> DataResult:
    """Read the data, check that they fit the model, and write them into ``folder``.

    Raises:
        UsageError: they cannot be read or do not fit; the message lists both sides.
    """
    emit({"event": "phase", "phase": "data"})
    if isinstance(job.model.batch_size, Missing):
        raise UsageError(f"the inputs of '{job.model.name}' share no batch axis: {job.model.batch_size.why}")
    arrays, labels = _read(job.data)
    inputs = _inputs(arrays, job.model, job.data)
    count = _count(inputs, job.data)
    if labels is not None:
        labels = _labels(labels, count)
    if job.limit is not None and job.limit < count:
        labels = None if labels is None else labels[: max(1, job.limit * len(labels) // count)]
        count = job.limit
        inputs = {name: array[:count] for name, array in inputs.items()}
    np.savez(folder / INPUTS, **inputs)  # type: ignore[arg-type]
    if labels is not None:
        np.save(folder / LABELS, labels)
    facts = DataFacts(source=job.data, sha256=_hash(inputs, labels), samples=count, labels=labels is not None)
    return DataResult(facts=facts, folder=str(folder.resolve()))


def _read(name: str) -> tuple[dict[str, Array], Array | None]:
    if Path(name).suffix.lower() == ".npz":
        return _from_file(Path(name))
    if ":" in name:
        return _from_function(name)
    raise UsageError(
        f"'{name}' is neither an .npz file nor a function", hint="give data.npz, or file.py:function returning arrays"
    )


def _from_file(path: Path) -> tuple[dict[str, Array], Array | None]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:
        raise UsageError(f"'{path}' cannot be read: {error}", hint="write it with numpy.savez") from error
    found = [name for name in _LABEL_NAMES if name in arrays]
    return arrays, arrays.pop(found[0]) if found else None


def _from_function(name: str) -> tuple[dict[str, Array], Array | None]:
    try:
        made = load_callable(name)()
        pairs: Iterable[Any] = made if inspect.isgenerator(made) else [made]
        batches = [_pair(pair, name) for pair in pairs]
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"'{name}' failed: {type(error).__name__}: {error}") from error
    if not batches:
        raise UsageError(f"'{name}' gave no data")
    arrays = {key: np.concatenate([inputs[key] for inputs, _ in batches]) for key in batches[0][0]}
    labels = [label for _, label in batches if label is not None]
    if labels and len(labels) != len(batches):
        raise UsageError(f"'{name}' gave labels for some batches and none for others")
    return arrays, np.concatenate(labels) if labels else None


def _pair(pair: Any, name: str) -> tuple[dict[str, Array], Array | None]:
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise UsageError(f"'{name}' gave a {type(pair).__name__}", hint="return (inputs, labels); labels may be None")
    inputs, labels = pair
    named = inputs if isinstance(inputs, Mapping) else {"": inputs}
    return {key: np.asarray(value) for key, value in named.items()}, None if labels is None else np.asarray(labels)


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
            hint=f"save it converted: {spec.name}.astype('{wanted}')",
        )
    array = np.ascontiguousarray(array, dtype=wanted)
    if wanted.kind == "f" and not np.isfinite(array).all():
        raise UsageError(f"'{source}': '{spec.name}' holds NaN or infinity")
    return array


def _count(inputs: dict[str, Array], source: str) -> int:
    counts = {name: len(array) for name, array in inputs.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise UsageError(f"'{source}' has different numbers of samples, or none: {counts}")
    return next(iter(counts.values()))


def _labels(labels: Array, count: int) -> Array:
    if labels.dtype.kind not in "iufb" or labels.ndim == 0:
        raise UsageError(f"labels are {labels.dtype}, not numbers", hint="give class numbers, or values to be met")
    if len(labels) not in {count, count // 2}:
        raise UsageError(f"there are {count} samples and {len(labels)} labels")
    return labels


def _hash(inputs: dict[str, Array], labels: Array | None) -> str:
    digest = hashlib.sha256()
    for name in sorted(inputs):
        digest.update(f"{name} {inputs[name].dtype} {inputs[name].shape}".encode())
        digest.update(inputs[name].tobytes())
    if labels is not None:
        digest.update(f"labels {labels.dtype} {labels.shape}".encode() + labels.tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    serve(work, DataJob)
