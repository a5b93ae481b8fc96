"""Example inputs and expected outputs: an ``.npz`` whose arrays lie in it as they are."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hwbench.bundles.layout import REFUSED
from hwbench.errors import ModelError
from hwbench.records.model import TensorSpec

Arrays = dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]

_NUMBERS = "biufc"


def read_arrays(path: Path, where: str) -> Arrays:
    """Read an ``.npz`` that may be damaged, or made to hurt: nothing is unpickled, nothing is larger than the file.

    Raises:
        ModelError: it cannot be read, or its arrays are compressed or no numbers; ``where`` names it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        found: Arrays = {}
        if not packed:
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # numpy and zipfile raise nearly anything on files made to hurt
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"{where} cannot be read: {text}", hint="it is damaged") from error
    if packed:
        raise ModelError(f"{where}: {packed[0]!a} is compressed", hint=REFUSED)
    strange = [name for name, array in found.items() if array.dtype.kind not in _NUMBERS]
    if strange:
        raise ModelError(f"{where}: '{strange[0]}' holds no numbers ({found[strange[0]].dtype})")
    return found


def require_fit(arrays: Arrays, specs: Iterable[TensorSpec], where: str) -> None:
    """Refuse arrays that are not those of the model, by name, shape and type.

    Raises:
        ModelError: they differ; the message lists both sides.
    """
    wanted = {spec.name: (spec.dtype, spec.shape) for spec in specs}
    there = {name: (array.dtype.name, tuple(array.shape)) for name, array in arrays.items()}
    if wanted != there:
        raise ModelError(f"{where} holds {_told(there)}, the manifest says {_told(wanted)}", hint=REFUSED)


def _told(found: dict[str, tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {dtype}{list(shape)}" for name, (dtype, shape) in found.items()) or "nothing"
