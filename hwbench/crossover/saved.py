"""Tables, kept in the user's folder: by GPU, driver and kernels, one file each, which grows with every run.

A table of other kernels, or of another driver, is not taken for one of these. :mod:`hwbench.crossover.choose` reads
them, for planning too (:mod:`hwbench.planning_pipeline.ratios`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from hwbench.errors import StorageError
from hwbench.files import read_record, write_record
from hwbench.records.base import Missing
from hwbench.records.crossover import CROSSOVER_SCHEMA, Cell, Crossover, LeftOut
from hwbench.resources import user_folder

FOLDER = "crossover"


def _path(title: str, compute_capability: str, driver: str, sha256: str) -> Path:
    key = hashlib.sha256("\0".join([title, compute_capability, driver, sha256]).encode()).hexdigest()[:32]
    return user_folder() / FOLDER / f"{key}.json"


def keep(table: Crossover) -> Path:
    """Keep a measured table, joined with what was measured before of the same GPU, driver and kernels; return where.

    Raises:
        StorageError: it cannot be written, or is a model, which is made anew in no time.
    """
    if table.basis != "measured" or isinstance(table.driver, Missing):
        raise StorageError("only tables that were measured are kept")
    path = _path(table.title, table.compute_capability, table.driver, table.kernels_sha256)
    write_record(path, joined(_older(path), table))
    return path


def joined(older: Crossover | None, newer: Crossover) -> Crossover:
    """Return a table with the points of both; where both have one, the newer's.

    All that is not of a point is the newer's, but the control: the larger one holds for all points.
    """
    if older is None:
        return newer
    cells = {_point(cell): cell for cell in (*older.cells, *newer.cells)}
    contenders = {each.name: each for each in (*older.contenders, *newer.contenders)}
    out = {_point(one): one for one in (*older.left_out, *newer.left_out)}
    measured = {_point(cell) for cell in newer.cells}
    controls = [each for each in (older.control, newer.control) if not isinstance(each, Missing)]
    return msgspec.structs.replace(
        newer,
        cells=tuple(sorted(cells.values(), key=lambda cell: (cell.m, cell.k, cell.n))),
        contenders=tuple(contenders.values()),
        left_out=tuple(one for point, one in out.items() if point not in measured),
        control=max(controls) if controls else newer.control,
        warnings=tuple(dict.fromkeys((*older.warnings, *newer.warnings))),
    )


def _point(one: Cell | LeftOut) -> tuple[int | None, int | None, int | None, float | None, str]:
    return one.m, one.k, one.n, one.sparsity, one.contender


def _older(path: Path) -> Crossover | None:
    """Return the table that is there; one that cannot be read is no reason to lose the new one."""
    try:
        return read_record(path, Crossover, schema=CROSSOVER_SCHEMA) if path.exists() else None
    except StorageError:
        return None


def find(title: str, compute_capability: str, driver: str, kernels_sha256: str) -> Crossover | None:
    """Return the table of a GPU, a driver and the kernels as they are, or None where none was measured.

    Raises:
        StorageError: the file cannot be read.
    """
    path = _path(title, compute_capability, driver, kernels_sha256)
    return read_record(path, Crossover, schema=CROSSOVER_SCHEMA) if path.exists() else None
