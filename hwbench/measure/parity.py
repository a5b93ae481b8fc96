"""Do two engines compute the same? Compared on the same inputs, on the scale of the output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.records.base import Missing
from hwbench.records.measurement import Parity

_Array = np.ndarray[Any, np.dtype[Any]]
_NUMBERS = "biufc"  # numpy's kinds: bool, integers, float, complex


def compare_outputs(reference: Path, other: Path, *, label: str, precision: str) -> Parity | Missing:
    """Compare two ``.npz`` files of outputs; ``label`` names the reference, which was built in ``precision``.

    The error is ``max|y - r|`` and the same over ``max|r|``, the largest over all outputs; computed in float64.

    Returns:
        The difference, or why there is none: ``other_outputs`` (other names or shapes), ``not_numeric`` (text, objects,
        and types that ``.npz`` keeps as bare bytes, such as bfloat16), ``reference_not_finite``.
    """
    expected, actual = _load(reference), _load(other)
    strange = {name: told for arrays in (actual, expected) for name, told in _strange(arrays).items()}
    if set(expected) == set(actual) and strange:
        listed = ", ".join(f"{name} ({told})" for name, told in sorted(strange.items()))
        return Missing(code="not_numeric", why=f"outputs that are no numbers cannot be compared on a scale: {listed}")
    if _shapes(expected) != _shapes(actual):
        return Missing(
            code="other_outputs",
            why=f"{label} returned {_told(expected)}, this engine {_told(actual)}: they cannot be compared",
        )
    if not _finite(expected):
        return Missing(code="reference_not_finite", why=f"the outputs of {label}, the reference, hold NaN or infinity")
    finite = _finite(actual)
    differences = [_difference(expected[name], actual[name]) for name in expected] if finite else []
    return Parity(
        reference=label,
        reference_precision=precision,
        max_absolute=max((absolute for absolute, _ in differences), default=0.0),
        max_relative=max((relative for _, relative in differences), default=0.0),
        finite=finite,
    )


def worst(found: Sequence[Parity | Missing]) -> Parity | Missing:
    """Return the gravest of several builds' comparisons with one reference."""
    return max(found, key=_gravity)


def _gravity(found: Parity | Missing) -> tuple[int, float]:
    if isinstance(found, Missing):
        return (2 if found.code == "other_outputs" else 0), 0.0
    return 1, found.max_relative if found.finite else math.inf


def _load(path: Path) -> dict[str, _Array]:
    """Return the arrays by name, numbers widened."""
    with np.load(path, allow_pickle=False) as file:
        return {name: _array(file, name) for name in file.files}


def _array(file: Mapping[str, _Array], name: str) -> _Array:
    try:
        array = file[name]
    except ValueError:  # numpy's word for an array that only unpickling could read
        return np.array(None, dtype=object)
    if array.dtype.kind not in _NUMBERS:
        return array
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _strange(arrays: Mapping[str, _Array]) -> dict[str, str]:
    return {name: str(array.dtype) for name, array in arrays.items() if array.dtype.kind not in _NUMBERS}


def _finite(arrays: Mapping[str, _Array]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays.values())


def _difference(expected: _Array, actual: _Array) -> tuple[float, float]:
    """Return the largest difference, and the same over the largest expected value (itself where that is zero)."""
    if not expected.size:
        return 0.0, 0.0
    largest, scale = float(np.abs(actual - expected).max()), float(np.abs(expected).max())
    return largest, largest / scale if scale else largest


def _shapes(arrays: Mapping[str, _Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def _told(arrays: Mapping[str, _Array]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()) or "nothing"
