"""A folder of pictures.

With sub-folders, each is a class, numbered in the order of their names, as most image data sets have it. Without,
``labels.csv`` in the folder may give a class number for each picture (``file,label``, with or without a heading);
without that there are no labels. Files that are no pictures by their name are passed over; a picture that cannot be
read is an error.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.data.preprocess import Prepare
from hwbench.data.store import Array
from hwbench.errors import UsageError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
_BATCH = 32
_LABELS = "labels.csv"


def read_images(folder: Path, prepare: Prepare) -> Iterator[tuple[dict[str, Array], Array | None]]:
    """Yield the pictures of ``folder`` in batches, in the order of their names.

    Raises:
        UsageError: there are none, one cannot be read, they differ in shape, or Pillow is not installed.
    """
    listed = _listed(folder)
    for start in range(0, len(listed), _BATCH):
        part = listed[start : start + _BATCH]
        arrays = [_sample(path, prepare) for path, _ in part]
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise UsageError(
                f"the pictures of '{folder}' differ in shape: {sorted(shapes)}", hint="resize and crop them to one"
            )
        labels = [label for _, label in part if label is not None]
        yield {"": np.stack(arrays)}, np.asarray(labels) if labels else None


def _listed(folder: Path) -> Sequence[tuple[Path, int | None]]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and _pictures(path))
    if classes:
        return [(path, number) for number, each in enumerate(classes) for path in _pictures(each)]
    pictures = _pictures(folder)
    if not pictures:
        raise UsageError(f"'{folder}' holds no pictures", hint=f"looked for {', '.join(sorted(_SUFFIXES))}")
    if not (folder / _LABELS).exists():
        return [(path, None) for path in pictures]
    labels = _labels(folder / _LABELS)
    absent = [path.name for path in pictures if path.name not in labels]
    if absent:
        raise UsageError(f"'{folder / _LABELS}' has no label for {len(absent)} pictures, such as '{absent[0]}'")
    return [(path, labels[path.name]) for path in pictures]


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())


def _labels(path: Path) -> dict[str, int]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = [row for row in csv.reader(stream) if row]
    heading = rows[:1] if rows and not _is_label(rows[0]) else []
    for row in rows[len(heading) :]:
        if not _is_label(row):
            raise UsageError(f"'{path}': '{','.join(row)[:60]}' is no 'file,label'", hint="a label is a class number")
    return {row[0].strip(): int(row[1]) for row in rows[len(heading) :]}


def _is_label(row: Sequence[str]) -> bool:
    return len(row) >= 2 and row[1].strip().isdecimal()


def _sample(path: Path, prepare: Prepare) -> Array:
    picture = _opened(path)
    try:
        return prepare(picture)
    except UsageError as error:
        raise UsageError(f"'{path}': {error.message}", hint=error.hint) from error
    except Exception as error:
        raise UsageError(f"'{path}' cannot be read or prepared: {type(error).__name__}: {error}") from error


def _opened(path: Path) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError(
            "reading pictures needs Pillow, which is not installed", hint="pip install '.[images]' from the checkout"
        ) from error
    try:
        return Image.open(path)
    except Exception as error:
        raise UsageError(f"'{path}' is no picture that can be read: {error}") from error
