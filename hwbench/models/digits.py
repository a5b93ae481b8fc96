"""scikit-learn's handwritten digits: 1797 images of 8x8 pixels, always split the same way.

The images are put in the order of the first 1797 words of numpy's ``PCG64(0)``; of that order the first 1079 are for
training, the next 359 for validation and the last 359 for the test. The data comes with scikit-learn; nothing is
downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

import numpy as np

from hwbench.errors import EngineError, UsageError

Split = Literal["train", "validation", "test"]
Array = np.ndarray[Any, np.dtype[Any]]

_COUNT, _TRAIN, _VALIDATION = 1797, 1079, 359
_CLASSES = 10


def split_indices() -> dict[Split, Array]:
    """Return the positions in scikit-learn's data set that belong to each part."""
    order = np.argsort(np.random.PCG64(0).random_raw(_COUNT), kind="stable")
    train, validation, test = np.split(order, [_TRAIN, _TRAIN + _VALIDATION])
    return {"train": train, "validation": validation, "test": test}


def load_digits_split() -> dict[Split, tuple[Array, Array]]:
    """Return ``(x, y)`` per part: x float32 (N, 1, 8, 8) in [0, 1], y int64 (N,) in 0..9.

    Raises:
        EngineError: scikit-learn is not installed.
    """
    try:
        data = import_module("sklearn.datasets").load_digits()
    except ModuleNotFoundError as error:
        if error.name != "sklearn":
            raise
        raise EngineError(
            "the digits come with scikit-learn, and it is not installed", hint="pip install scikit-learn"
        ) from error
    x = (data.images[:, None] / 16.0).astype(np.float32)
    y = data.target.astype(np.int64)
    return {part: (x[index], y[index]) for part, index in split_indices().items()}


def held_out() -> tuple[Array, Array]:
    """Return the test part, as ``hwbench verify --data hwbench.models.digits:held_out`` takes it."""
    return load_digits_split()["test"]


def accuracy(
    predict: Callable[[Array], Array], *, split: Split = "test", batch_size: int | None = None
) -> tuple[int, int]:
    """Count how many images of a part are classified right.

    Args:
        predict: images (N, 1, 8, 8) -> scores (N, 10); the largest score is the answer.
        split: the part.
        batch_size: N of every call, for a runtime built for one batch size; the last batch is filled up with copies of
            its last image, which are not counted. Default: all at once.

    Returns:
        Right answers, and images: 359 for the test part.

    Raises:
        UsageError: the scores have another shape.
        EngineError: scikit-learn is not installed.
    """
    x, y = load_digits_split()[split]
    size = batch_size or len(x)
    correct = 0
    for start in range(0, len(x), size):
        images, labels = x[start : start + size], y[start : start + size]
        filled = np.pad(images, ((0, size - len(images)), (0, 0), (0, 0), (0, 0)), mode="edge")
        scores = np.asarray(predict(filled))
        if scores.shape != (size, _CLASSES):
            raise UsageError(f"the scores of {size} digits have shape {scores.shape}, not {(size, _CLASSES)}")
        correct += int((scores[: len(images)].argmax(axis=1) == labels).sum())
    return correct, len(x)
