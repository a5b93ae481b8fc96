"""Where samples come from: an ``.npz``, a folder of images, or a function of the user's; batch by batch.

In an ``.npz``, an array named like each input holds the samples along its first axis, already preprocessed; ``labels``
(or ``label``, ``y``) holds the labels, unless an input has that name. With one input, the one other array is taken
whatever its name. A function (``file.py:function``, ``package.module:function``) returns ``(inputs, labels)``, or gives
such pairs one after another (a generator, a torch ``DataLoader``, any iterable that is no tuple, list, mapping or
array); ``inputs`` is an array, or a dictionary of arrays by name; ``labels`` may be None. A folder of images is read by
:mod:`hwbench.data.images`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.data.callables import load_callable
from hwbench.data.images import read_images
from hwbench.data.preprocess import read_preprocessing
from hwbench.data.store import Array
from hwbench.errors import UsageError

Batch = tuple[dict[str, Array], Array | None]  # an array without a name has the name ""

_LABEL_NAMES = ("labels", "label", "y")


def open_source(name: str, preprocess: str | None, inputs: Collection[str] = ()) -> Iterator[Batch]:
    """Return the batches of what the user named; ``inputs`` are the names of the model's inputs, never labels.

    Raises:
        UsageError: it is nothing of the known kinds, cannot be read, or ``preprocess`` does not belong to it.
    """
    path = Path(name)
    if path.is_dir():
        if preprocess is None:
            raise UsageError(
                f"'{name}' is a folder of images, and nothing says how a pixel becomes a number",
                hint="give --preprocess preprocess.toml (or file.py:function); docs/data.md shows one",
            )
        return read_images(path, read_preprocessing(preprocess))
    if preprocess is not None:
        raise UsageError(f"--preprocess is for a folder of images, and '{name}' is none", hint="leave it out")
    if path.suffix.lower() == ".npz":
        return _from_file(path, inputs)
    if ":" in name:
        return _from_function(name)
    raise UsageError(
        f"'{name}' is neither an .npz file, nor a folder of images, nor a function",
        hint="give data.npz, images/, or file.py:function returning arrays",
    )


def _from_file(path: Path, inputs: Collection[str]) -> Iterator[Batch]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:
        raise UsageError(f"'{path}' cannot be read: {error}", hint="write it with numpy.savez") from error
    found = [name for name in _LABEL_NAMES if name in arrays and name not in inputs]
    yield arrays, arrays.pop(found[0]) if found else None


def _from_function(name: str) -> Iterator[Batch]:
    try:
        made = load_callable(name)()
        if isinstance(made, Iterable) and not isinstance(made, (tuple, list, Mapping, np.ndarray)):
            for pair in made:  # a DataLoader gives lists
                yield _pair(tuple(pair) if isinstance(pair, list) else pair, name)
        else:
            yield _pair(made, name)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"'{name}' failed: {type(error).__name__}: {error}") from error


def _pair(pair: Any, name: str) -> Batch:
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise UsageError(f"'{name}' gave a {type(pair).__name__}", hint="return (inputs, labels); labels may be None")
    inputs, labels = pair
    named = inputs if isinstance(inputs, Mapping) else {"": inputs}
    # Inputs are laid down before the next batch is asked for; labels are kept, and a generator may reuse its buffer.
    # No np.array(labels): it warns where a type (torch.Tensor) does not know how to copy itself.
    kept = None if labels is None else np.asarray(labels).copy()
    return {key: np.asarray(value) for key, value in named.items()}, kept
