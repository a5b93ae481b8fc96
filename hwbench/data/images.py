"""A folder of pictures.

With sub-folders, each is a class, numbered in the order of their names, as most image data sets have it. The pictures
come one of each class in turn, each class in the order of its names, until the classes run out: the first N of them
are as even over the classes as can be, which matters where only some are taken. A hidden folder (``.cache``) is no
class; a class folder without pictures is an error, since leaving it out would shift the numbers of those after it.

Without sub-folders, ``labels.csv`` in the folder may give a class number for each picture (``file,label``, with or
without a heading); without that there are no labels, and the pictures come in the order of their names. Files that are
no pictures by their name are passed over; a picture that cannot be read is an error.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import zip_longest
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
    """Yield the pictures of ``folder`` in batches: one of each class in turn, or in the order of their names.

    Raises:
        UsageError: there are none, a class has none, one cannot be read, they differ in shape, or Pillow is not
            installed.
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
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    classes = [_pictures(each) for each in folders]
    if any(classes):
        return _in_turn(folders, classes)
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


def _in_turn(folders: Sequence[Path], classes: Sequence[Sequence[Path]]) -> list[tuple[Path, int]]:
    """Return the first picture of each class with its number, then the second of each that has one, and so on."""
    for each, pictures in zip(folders, classes, strict=True):
        if not pictures:
            raise UsageError(
                f"the class folder '{each}' holds no pictures",
                hint="classes are numbered in the order of their folders: fill it, or take it out if it is no class",
            )
    rounds = zip_longest(*classes)
    return [(path, number) for each in rounds for number, path in enumerate(each) if path is not None]


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
    with _opened(path) as picture:
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
