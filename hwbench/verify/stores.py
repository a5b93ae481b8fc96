"""Where a verification keeps its arrays between one child and the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

OUTPUTS = "outputs.npz"


def load_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of an ``.npz`` by name."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
