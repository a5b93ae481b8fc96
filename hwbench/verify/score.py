"""Judge the outputs of one run: metrics with intervals, agreement with the reference, and the certificate.

Runs as a child, since a metric may be the user's code.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from hwbench.children import Emit, serve
from hwbench.data.store import LABELS
from hwbench.errors import EngineError
from hwbench.records.base import Missing
from hwbench.records.verification import (
    Agreement,
    Certificate,
    OutputError,
    Score,
    ScoreJob,
    ScoreResult,
    Task,
    Word,
)
from hwbench.verify.distance import rows, smallest_cosine, sqnr_db
from hwbench.verify.intervals import (
    Z95_ONE_SIDED,
    bootstrap,
    clopper_pearson,
    paired_means,
    paired_shares,
    wilson,
)
from hwbench.verify.metrics import Metric, guess_task, metrics_of
from hwbench.verify.stores import OUTPUTS, Array, load_arrays

_IS_REFERENCE = Missing(code="is_reference", why="the others are held against this one")
_ALONE = Missing(
    code="no_reference", why="there is no reference to hold a built engine against", cure="--reference MODEL"
)
_HOPELESS = 1e9  # samples
_LEAST = 10  # samples for an interval by Student's t or by resampling


def work(job: ScoreJob, folder: Path, emit: Emit) -> ScoreResult:  # noqa: ARG001 - the child's signature
    """Load what the runs left, and judge."""
    emit({"event": "phase", "phase": "score"})
    outputs = load_arrays(Path(job.folder) / OUTPUTS)
    labels = np.load(Path(job.data_folder) / LABELS, allow_pickle=False) if job.labels else None
    task = job.task
    if job.metric is not None:
        task = "custom"
    elif task == "auto":
        task = guess_task(outputs, labels)
    if not _finite(outputs):
        return _not_finite(task, is_reference=job.reference_folder is None and not job.alone)
    mine = metrics_of(task, outputs, labels, job.metric)
    scores = tuple(score(metric, job.seed) for metric in mine)
    if job.reference_folder is None:
        reason = _ALONE if job.alone else _IS_REFERENCE
        return ScoreResult(task=task, scores=scores, agreement=reason, outputs=reason, certificate=reason)
    reference = load_arrays(Path(job.reference_folder) / OUTPUTS)
    if job.by_position and len(reference) == len(outputs):
        reference = dict(zip(outputs, reference.values(), strict=True))
    theirs = metrics_of(task, reference, labels, job.metric)
    return ScoreResult(
        task=task,
        scores=scores,
        agreement=agreement(outputs, reference, task),
        outputs=output_errors(outputs, reference),
        certificate=_certificate(mine, theirs, job),
    )


def _finite(outputs: dict[str, Array]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in outputs.values() if array.dtype.kind in "fc")


def _not_finite(task: Task, *, is_reference: bool) -> ScoreResult:
    """Return what can be said of outputs that hold NaN or infinity: that they are wrong.

    Raises:
        EngineError: they are the reference's.
    """
    if is_reference:
        raise EngineError(
            "the outputs of the reference hold NaN or infinity",
            hint="are the data preprocessed as the model wants them?",
        )
    reason = Missing(code="not_finite", why="the outputs hold NaN or infinity: this network is broken")
    return ScoreResult(task=task, scores=(), agreement=reason, outputs=reason, certificate=reason)


def score(metric: Metric, seed: int) -> Score:
    """Return a metric with its 95 % interval."""
    value = metric.value()
    if metric.per_sample is not None and metric.binary:
        low, high = wilson(int(metric.per_sample.sum()), metric.n)
        method = "Wilson"
    elif metric.per_sample is not None:
        low, high = paired_means(np.asarray(metric.per_sample, dtype=np.float64), 1.96)
        method = "Student"
    else:
        assert metric.whole is not None
        low, high = bootstrap(metric.whole, metric.n, seed=seed, alpha=0.05)
        method = "bootstrap over samples"
    finite = math.isfinite(low) and math.isfinite(high)
    return Score(
        name=metric.name,
        value=value,
        low=min(low, value) if finite else value,
        high=max(high, value) if finite else value,
        n=metric.n,
        higher_is_better=metric.higher_is_better,
        method=method if finite else "none: one sample",
    )


def agreement(outputs: dict[str, Array], reference: dict[str, Array], task: Task) -> Agreement | Missing:
    """Return on how many samples the largest output is another one than the reference's."""
    name = next(iter(outputs))
    if name not in reference or outputs[name].shape != reference[name].shape:
        return Missing(code="other_outputs", why=f"the reference has no output '{name}' of this shape")
    if task in {"regression", "embedding"} or outputs[name].ndim < 2 or outputs[name].shape[-1] < 2:
        return Missing(code="no_decision", why="the output is a value, not a choice among several")
    mine, theirs = (array[name].argmax(axis=-1).ravel() for array in (outputs, reference))
    different, n = int(np.sum(mine != theirs)), len(mine)
    low, high = clopper_pearson(different, n)
    what = f"index of the largest value of '{name}'"
    return Agreement(what=what, n=n, different=different, rate=different / n, low=low, high=high)


def output_errors(outputs: dict[str, Array], reference: dict[str, Array]) -> tuple[OutputError, ...] | Missing:
    """Return the error of each output, or why it has none."""
    if {name: array.shape for name, array in outputs.items()} != {n: a.shape for n, a in reference.items()}:
        return Missing(code="other_outputs", why="outputs of other names or shapes than the reference's")
    if not (_finite(outputs) and _finite(reference)):
        return Missing(code="not_finite", why="outputs hold NaN or infinity")
    return tuple(_error(name, outputs[name], reference[name]) for name in outputs)


def _error(name: str, mine: Array, theirs: Array) -> OutputError:
    a, b = rows(mine), rows(theirs)
    largest = float(np.abs(b).max(initial=0.0))
    absolute = float(np.abs(a - b).max(initial=0.0))
    return OutputError(
        output=name,
        max_absolute=absolute,
        max_relative=absolute / largest if largest else absolute,
        sqnr_db=sqnr_db(a, b),
        cosine=smallest_cosine(a, b),
    )


def _certificate(mine: tuple[Metric, ...], theirs: tuple[Metric, ...], job: ScoreJob) -> Certificate | Missing:
    if not mine:
        return Missing(
            code="no_labels", why="without labels there is agreement, and no accuracy to certify", cure="give labels"
        )
    if job.max_drop is None:
        return Missing(code="not_asked", why="no largest drop was given", cure="--max-drop 1pp")
    return certify(mine[0], theirs[0], job.max_drop, job.seed)


def certify(mine: Metric, theirs: Metric, max_drop: float, seed: int) -> Certificate:
    """Hold a metric against the reference's, sample by sample."""
    drop = _sign(mine) * (theirs.value() - mine.value())
    none = Missing(code="not_counted", why="the metric is not right or wrong on a sample")
    worse: int | Missing = none
    better: int | Missing = none
    if mine.per_sample is not None and theirs.per_sample is not None and mine.binary and theirs.binary:
        worse = int(np.sum(theirs.per_sample > mine.per_sample))
        better = int(np.sum(mine.per_sample > theirs.per_sample))
        low, high = paired_shares(worse, better, mine.n)
        method = "Tango's score interval of the paired difference"
    else:
        low, high, method = _interval(mine, theirs, seed)
    low, high = min(low, drop), max(high, drop)
    word: Word = "CERTIFIED" if high <= max_drop else "FAILED" if low > max_drop else "NOT ENOUGH DATA"
    settled = Missing(code="settled", why="it is")
    return Certificate(
        word=word,
        metric=mine.name,
        max_drop=max_drop,
        drop=drop,
        low=_bounded(low),
        high=_bounded(high),
        n=mine.n,
        worse=worse,
        better=better,
        enough=_enough(drop, high, max_drop, mine.n, worse) if word == "NOT ENOUGH DATA" else settled,
        method=f"{method}; each end holds with 95 %",
    )


def _sign(metric: Metric) -> float:
    return 1.0 if metric.higher_is_better else -1.0


def _interval(mine: Metric, theirs: Metric, seed: int) -> tuple[float, float, str]:
    """Return the interval of the drop of a metric that is not right or wrong on a sample.

    Samples that all agree say nothing of those not seen: each of these may differ by all that the metric spans, and
    as many of them may exist as Tango's interval allows when nothing was seen, z^2 / (n + z^2).
    """
    n, sign = mine.n, _sign(mine)
    if n < _LEAST:
        return -math.inf, math.inf, f"none: fewer than {_LEAST} samples"
    unseen = Z95_ONE_SIDED**2 / (n + Z95_ONE_SIDED**2)
    if mine.per_sample is not None and theirs.per_sample is not None:
        here, there = (np.asarray(metric.per_sample, dtype=np.float64) for metric in (mine, theirs))
        low, high = paired_means(sign * (there - here))
        span = float(max(here.max(), there.max()) - min(here.min(), there.min()))
        method = "Student's t over paired differences"
    else:
        whole, other = mine.whole, theirs.whole
        assert whole is not None
        assert other is not None
        low, high = bootstrap(lambda at: sign * (other(at) - whole(at)), n, seed=seed, alpha=0.10)
        span = mine.span
        method = "bootstrap over samples, the same ones in both"
    middle = sign * (theirs.value() - mine.value())
    return min(low, middle - unseen * span), max(high, middle + unseen * span), method


def _bounded(value: float) -> float:
    return max(-1e308, min(1e308, value))


def _enough(drop: float, high: float, max_drop: float, n: int, worse: int | Missing) -> int | Missing:
    """Return about how many samples would do: half-widths fall with the root of n, with n where none differed."""
    if not math.isfinite(high):
        return max(n + 1, _LEAST)
    room = abs(max_drop - drop)
    half = max(high - drop, 1e-12)
    if not room or n * (half / room) ** 2 > _HOPELESS:
        return Missing(code="at_the_limit", why="the drop seen is the largest allowed: no number of samples settles it")
    if worse == 0 and drop == 0:
        return max(n + 1, math.ceil(Z95_ONE_SIDED**2 / max_drop))
    return math.ceil(n * (half / room) ** 2)


if __name__ == "__main__":
    serve(work, ScoreJob)
