"""Do two engines compute the same? Compared on the same inputs, on the scale of the output."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwbench.records.base import Missing
from hwbench.records.measurement import Parity


def compare_outputs(reference: Path, other: Path, *, label: str) -> Parity | Missing:
    """Compare two ``.npz`` files of outputs; ``label`` names the reference.

    The error is ``max|y - r|`` and the same over ``max|r|``, the largest over all outputs; computed in float64.
    """
    with np.load(reference) as one, np.load(other) as two:
        expected = {name: one[name] for name in one.files}
        actual = {name: two[name] for name in two.files}
    text = sorted({name for arrays in (expected, actual) for name, array in arrays.items() if array.dtype.kind in "SU"})
    if text:
        why = f"outputs that are no numbers cannot be compared on a scale: {', '.join(text)}"
        return Missing(code="not_numbers", why=why)
    expected = {name: array.astype(np.float64) for name, array in expected.items()}
    actual = {name: array.astype(np.float64) for name, array in actual.items()}
    if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in actual.items()}:
        return Missing(
            code="other_outputs",
            why=f"{label} returned {_shapes(expected)}, this engine {_shapes(actual)}: they cannot be compared",
        )
    absolute = relative = 0.0
    finite = all(np.isfinite(array).all() for array in (*actual.values(), *expected.values()))
    if finite:
        for name, array in expected.items():
            if array.size:
                difference = float(np.abs(actual[name] - array).max())
                scale = float(np.abs(array).max())
                absolute = max(absolute, difference)
                relative = max(relative, difference / scale if scale else difference)
    return Parity(reference=label, max_absolute=absolute, max_relative=relative, finite=finite)


def _shapes(arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
