"""What a task's metrics are: from outputs and labels to numbers, a sample at a time where that is what they are.

A metric with per-sample values is their mean, and is compared sample by sample. One without (F1, rank correlation) is a
number of a whole set, and is compared by resampling the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwbench.data.callables import load_callable
from hwbench.errors import UsageError
from hwbench.records.verification import Task

Array = np.ndarray[Any, np.dtype[Any]]
Outputs = Mapping[str, Array]

IGNORED_LABEL = -100  # torch's cross_entropy ignore_index: padding
_TOP = 5


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of outputs already brought into the form it needs.

    ``per_sample``: one value a sample; its mean is the metric. ``whole``: a number of the samples with given numbers.
    ``binary``: the per-sample values are 0 and 1.
    """

    name: str
    higher_is_better: bool
    n: int
    per_sample: Array | None = None
    whole: Callable[[Array], float] | None = None
    binary: bool = False
    span: float = 1.0  # how far two values of a metric of the whole can lie apart

    def value(self) -> float:
        if self.per_sample is not None:
            return float(np.mean(self.per_sample))
        assert self.whole is not None
        return self.whole(np.arange(self.n))


def guess_task(outputs: Outputs, labels: Array | None) -> Task:
    """Return the task that labels and outputs speak for.

    Raises:
        UsageError: they speak for none; the message says what was there.
    """
    if labels is None:
        return "none"
    first = next(iter(outputs.values()))
    if labels.dtype.kind in "iub" and labels.ndim == 1 and first.ndim == 2 and len(labels) == len(first):
        return "classification"
    if labels.dtype.kind in "iu" and labels.ndim == 2 and first.ndim == 3 and labels.shape == first.shape[:2]:
        return "tokens"
    if labels.dtype.kind == "f" and labels.shape == first.shape:
        return "regression"
    raise UsageError(
        f"labels of shape {list(labels.shape)} ({labels.dtype}) and outputs of shape {list(first.shape)} fit no task",
        hint="name it: --task classification, regression, embedding or tokens, or give --metric file.py:function",
    )


def metrics_of(task: Task, outputs: Outputs, labels: Array | None, custom: str | None) -> tuple[Metric, ...]:
    """Return the metrics of a task, the one that decides first; none without labels.

    Raises:
        UsageError: outputs and labels do not fit the task.
    """
    if custom is not None:
        return (_custom(custom, outputs, labels),)
    if labels is None or task == "none":
        return ()
    first = next(iter(outputs.values()))
    makers = {
        "classification": _classification,
        "regression": _regression,
        "embedding": _embedding,
        "tokens": _tokens,
    }
    return makers[task](first, labels)


def _classification(logits: Array, labels: Array) -> tuple[Metric, ...]:
    logits = logits.reshape(len(logits), -1)
    _fit(len(labels) == len(logits) and labels.ndim == 1, "classification needs one label a sample", logits, labels)
    classes = logits.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise UsageError(f"labels go from {labels.min()} to {labels.max()}, and the network has {classes} classes")
    labels = labels.astype(np.int64)
    chosen, n = logits.argmax(axis=1), len(labels)
    found = [Metric(name="accuracy", higher_is_better=True, n=n, per_sample=chosen == labels, binary=True)]
    if classes > _TOP:
        among = _rank(logits, labels) < _TOP
        found.append(Metric(name=f"top-{_TOP}", higher_is_better=True, n=n, per_sample=among, binary=True))
    f1 = Metric(name="macro F1", higher_is_better=True, n=n, whole=lambda at: macro_f1(chosen[at], labels[at]))
    return (*found, f1)


def _rank(logits: Array, labels: Array) -> Array:
    """Return how many classes come before the label's; of equal ones the first, as ``argmax`` has it."""
    at = labels[:, None]
    own = np.take_along_axis(logits, at, axis=1)
    earlier = np.arange(logits.shape[1]) < at
    before: Array = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return before


def macro_f1(chosen: Array, labels: Array) -> float:
    """Return the mean over the classes that occur of the harmonic mean of precision and recall."""
    size = int(max(chosen.max(), labels.max())) + 1
    right = np.bincount(labels[chosen == labels], minlength=size)
    either = np.bincount(chosen, minlength=size) + np.bincount(labels, minlength=size)
    return float(np.mean(2 * right[either > 0] / either[either > 0]))


def _regression(values: Array, labels: Array) -> tuple[Metric, ...]:
    labels = labels.reshape(values.shape) if labels.size == values.size else labels
    _fit(labels.shape == values.shape, "regression needs labels in the shape of the output", values, labels)
    n = len(values)
    error = (values.astype(np.float64) - labels).reshape(n, -1)
    squared = np.mean(error**2, axis=1)
    return (
        Metric(name="mean absolute error", higher_is_better=False, n=n, per_sample=np.mean(np.abs(error), axis=1)),
        Metric(
            name="root mean square error",
            higher_is_better=False,
            n=n,
            whole=lambda at: float(np.sqrt(np.mean(squared[at]))),
            span=float(np.sqrt(squared.max())),
        ),
    )


def _embedding(vectors: Array, labels: Array) -> tuple[Metric, ...]:
    vectors = vectors.reshape(len(vectors), -1).astype(np.float64)
    _fit(
        len(vectors) == 2 * len(labels), "embedding needs pairs: rows 2i and 2i+1, and a label a pair", vectors, labels
    )
    a, b = vectors[::2], vectors[1::2]
    similarity = cosine(a, b)
    return (
        Metric(
            name="Spearman of cosine",
            higher_is_better=True,
            n=len(labels),
            whole=lambda at: spearman(similarity[at], labels[at]),
            span=2.0,
        ),
    )


def cosine(a: Array, b: Array) -> Array:
    """Return the cosine of each row of ``a`` with that of ``b``; 0 where one of them is nothing."""
    product = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    safe: Array = np.divide(np.sum(a * b, axis=1), product, out=np.zeros(len(a)), where=product > 0)
    return safe


def spearman(x: Array, y: Array) -> float:
    """Return the rank correlation, equal values sharing their mean rank; 0 where one side is constant."""
    ranks_x, ranks_y = _ranks(x), _ranks(y)
    if np.ptp(ranks_x) == 0 or np.ptp(ranks_y) == 0:
        return 0.0
    return float(np.corrcoef(ranks_x, ranks_y)[0, 1])


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse])


def _tokens(logits: Array, labels: Array) -> tuple[Metric, ...]:
    _fit(
        logits.ndim == 3 and labels.shape == logits.shape[:2], "tokens needs a label for each position", logits, labels
    )
    counted = labels != IGNORED_LABEL
    if not counted.any(axis=1).all():
        raise UsageError(f"a sample has no label that counts ({IGNORED_LABEL} marks padding)")
    if labels[counted].min() < 0 or labels[counted].max() >= logits.shape[2]:
        raise UsageError(
            f"labels go from {labels[counted].min()} to {labels[counted].max()}, the vocabulary has {logits.shape[2]}",
            hint=f"mark padding with {IGNORED_LABEL}",
        )
    judged = [
        _tokens_of(*sample) for sample in zip(logits, labels, counted, strict=True)
    ]  # one at a time: they are wide
    loss, right = (np.array(values) for values in zip(*judged, strict=True))
    n = len(labels)
    return (
        Metric(name="cross entropy (nats a token)", higher_is_better=False, n=n, per_sample=loss),
        Metric(name="token accuracy", higher_is_better=True, n=n, per_sample=right),
    )


def _tokens_of(logits: Array, labels: Array, counted: Array) -> tuple[float, float]:
    """Return mean loss and share of right tokens of one sample, over the positions that count."""
    wide, target = logits[counted].astype(np.float64), labels[counted].astype(np.int64)
    top = wide.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(wide - top).sum(axis=1)) + top[:, 0]
    loss = log_sum - wide[np.arange(len(target)), target]
    return float(loss.mean()), float((wide.argmax(axis=1) == target).mean())


def _custom(name: str, outputs: Outputs, labels: Array | None) -> Metric:
    """Call the user's function; it returns one number a sample (its mean is the metric), the higher the better."""
    function = load_callable(name)
    n = len(next(iter(outputs.values())))
    values = np.asarray(function(dict(outputs), labels), dtype=np.float64)
    if values.ndim != 1 or not n >= len(values) > 0:
        raise UsageError(
            f"--metric {name} returned shape {list(values.shape)} for {n} samples",
            hint="return one number for each sample, higher for better",
        )
    if not np.isfinite(values).all():
        raise UsageError(f"--metric {name} returned NaN or infinity")
    binary = bool(np.isin(values, (0.0, 1.0)).all())
    return Metric(name=name, higher_is_better=True, n=len(values), per_sample=values, binary=binary)


def _fit(fits: bool, needs: str, outputs: Array, labels: Array) -> None:
    if not fits:
        raise UsageError(f"{needs}; the output is {list(outputs.shape)}, the labels are {list(labels.shape)}")
